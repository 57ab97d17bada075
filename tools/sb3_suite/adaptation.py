"""Changes of SB3's tests, those that do not apply, and those that have to fail, with the reasons."""

from tools.sb3_suite.changes import Change

Substitution = tuple[str, str | None, str]
"""A regular expression, its replacement (None leaves the statement out), and the reason."""

CONTINUOUS = "SB3's example has discrete actions"
NO_VEC_NORMALIZE = "VecNormalize is refused; the policy standardises by statistics of the data"
NO_CODE = "files hold no code: the function is passed again"
OWN_NAME = "the folder bears the algorithm's name"
ACTOR_FEATURES = "the critic has no features extractor: it reads the averaged actor's features"
EMA = "the averaged actor has a rate of its own, `ema_decay`"
NO_EPISODES = "`StopTrainingOnMaxEpisodes` has no episodes to count"
NO_NEW_OBS = "there is no `new_obs`"
NO_ENTROPY = "there is no entropy coefficient"
NO_ROLLOUTS = "nothing is collected"
LEAVES_OUT_VEC_NORMALIZE = "no file of VecNormalize"


_SB3 = r"^(from stable_baselines3 import .*|import stable_baselines3 as sb3)$"
_STAND_IN = "from tools.sb3_suite import stand_in as sb3; from tools.sb3_suite.stand_in import *"
EVERYWHERE = Change(
    "*",
    _SB3,
    _STAND_IN,
    "each algorithm is LLMDPD, with data of random actions in the environment of the test",
)

_PENDULUM: Substitution = ("CartPole-v1", "Pendulum-v1", CONTINUOUS)
_UNNORMALISED: Substitution = (
    r"VecNormalize\((DummyVecEnv\(.*?\]\)|dummy_vec_env)\)",
    r"\1",
    NO_VEC_NORMALIZE,
)

SUBSTITUTIONS: dict[str, list[Substitution]] = {
    "test_callbacks.py::select_env": [_PENDULUM],
    "test_callbacks.py::test_callbacks": [
        (r", callback_max_episodes\]", "]", NO_EPISODES),
        (r"\bnew_obs\b", None, NO_NEW_OBS),
    ],
    "test_callbacks.py::test_eval_callback_vec_env": [
        (r"IdentityEnv\(\)", "IdentityEnvBox()", CONTINUOUS),
        ("== 100.0", "> 0.0", "how well is asked by `test_continuous`"),
    ],
    "test_callbacks.py::test_eval_success_logging": [
        ("n_bits=n_bits", "n_bits=n_bits, continuous=True", CONTINUOUS),
        ("> 0.5", None, "the data are random and few"),
    ],
    "test_callbacks.py::test_eval_callback_logs_are_written_with_the_correct_timestep": [
        ("DQN_1", "LLMDPD_1", OWN_NAME)
    ],
    "test_callbacks.py::test_eval_friendly_error": [_PENDULUM],
    "test_callbacks.py::test_checkpoint_additional_info": [
        _PENDULUM,
        _UNNORMALISED,
        ("save_vecnormalize=True,", "", LEAVES_OUT_VEC_NORMALIZE),
        ("rl_model_vecnormalize", None, LEAVES_OUT_VEC_NORMALIZE),
    ],
    "test_cnn.py::test_vec_transpose_skip": [(r"model_class not in \{SAC, TD3\}", "False", CONTINUOUS)],
    "test_cnn.py::test_features_extractor_target_net": [
        ('"share_features_extractor"', None, ACTOR_FEATURES),
        (r"critic(_target)?\.features_extractor", None, ACTOR_FEATURES),
        (r"td3_features_extractor_check\(", None, ACTOR_FEATURES),
        (r"params_should_match\(original_actor_target", None, EMA),
        (
            "learning_rate=1e-3,",
            "learning_rate=1e-3, text_dropout=0.5, trajectory_dropout=0.5,",
            "what stands for a missing prompt learns only where one is left out, which is made frequent",
        ),
        (
            "model.lr_schedule =",
            "model.lr_schedule = model.critic_lr_schedule =",
            "the critic has a learning rate of its own",
        ),
    ],
    "test_cnn.py::test_channel_first_env": [("discrete=True", "discrete=False", CONTINUOUS)],
    "test_cnn.py::test_image_like_input": [_UNNORMALISED],
    "test_custom_policy.py::test_dqn_custom_policy": [_PENDULUM],
    "test_dict_env.py::test_policy_hint": [("n_bits=4", "n_bits=4, continuous=True", CONTINUOUS)],
    "test_dict_env.py::test_goal_env": [("n_bits=4", "n_bits=4, continuous=True", CONTINUOUS)],
    "test_logger.py::test_set_logger": [_PENDULUM],
    "test_logger.py::TimeDelayEnv": [(r"spaces\.Discrete\(2\)", "spaces.Box(-1, 1, (2,))", CONTINUOUS)],
    "test_logger.py::test_fps_no_div_zero": [_PENDULUM],
    "test_logger.py::test_ep_buffers_stats_window_size": [_PENDULUM],
    "test_predict.py::test_mixing_gym_vecenv_api": [
        _PENDULUM,
        ("mixing Gym API", r"env\\.reset\\(\\)", "another sentence"),
    ],
    "test_run.py::test_dqn": [_PENDULUM],
    "test_run.py::test_offpolicy_multi_env": [
        (
            r"model\.logger.*\* env\.num_envs",
            "model._n_updates == train_freq",
            "one timestep is one gradient step, for any number of environments, which collect nothing",
        )
    ],
    "test_save_load.py::test_set_env": [
        (r"set_env\(env4\)", None, "another number of environments is no error"),
        (
            r"(load\(.*force_reset=False\)\n).*_last_obs.*\n",
            r"\1",
            "after `load` there is no last observation",
        ),
    ],
    "test_save_load.py::test_save_load_replay_buffer": [
        ('"cpu", "cuda"', '"cpu"', "a buffer moves to the device, which has to be there"),
        (r"replay_buffer\.extend", None, "no `extend`"),
    ],
    "test_save_load.py::test_save_load_policy": [
        (r"policy\.actor$", "policy.actor_target", "what acts is the averaged actor"),
        (r"(\w+_class\.load\(.*\))", r"prompted(model, \1)", "the prompt, no part of a policy, is set again"),
    ],
    "test_save_load.py::test_no_resource_warning": [_PENDULUM],
    "test_save_load.py::test_cast_lr_schedule": [
        (
            r"PPO\.load\((.*)\)",
            r"PPO.load(\1, custom_objects={'learning_rate': model.learning_rate})",
            NO_CODE,
        )
    ],
    "test_save_load.py::test_save_load_net_arch_none": [_PENDULUM],
    "test_save_load.py::test_save_load_backward_compatible": [
        (r"env=env\)", "env=env, custom_objects={'learning_rate': model.learning_rate})", NO_CODE),
        (", clip_range=lambda _: 0.3", "", "there is no `clip_range`"),
        (r"model\.clip_range", None, "there is no `clip_range`"),
    ],
    "test_spaces.py::test_multidim_binary_not_supported": [
        ('match=r".*"', 'match="only supports"', "another sentence")
    ],
    "test_tensorboard.py::test_tensorboard": [(r"model_name\.upper\(\)", '"LLMDPD"', OWN_NAME)],
    "test_train_eval_mode.py::clone_td3_batch_norm_stats": [
        (r"model\.critic", "model.actor", ACTOR_FEATURES)
    ],
    "test_train_eval_mode.py::clone_sac_batch_norm_stats": [
        (r"model\.critic", "model.actor", ACTOR_FEATURES)
    ],
    "test_train_eval_mode.py::test_td3_train_with_batch_norm": [("isclose.*_target_bias_after", None, EMA)],
    "test_train_eval_mode.py::test_sac_train_with_batch_norm": [("isclose.*_target_bias_after", None, EMA)],
    "test_utils.py": [
        (r"^(import ale_py|gym\.register_envs\(ale_py\))$", "", "no algorithm plays Atari games")
    ],
    "test_utils.py::test_evaluate_vector_env": [_PENDULUM],
    "test_utils.py::test_evaluate_policy_monitors": [
        _PENDULUM,
        (r"> 0\.0", "!= 0.0", "returns of Pendulum are negative"),
    ],
    "test_utils.py::test_policy_is_vectorized_obs": [_PENDULUM],
    "test_vec_envs.py::test_video_recorder": [_PENDULUM],
    "test_vec_extract_dict_obs.py::DictObsVecEnv": [
        (r"spaces\.Discrete\(2\)", "spaces.Box(-1, 1, (2,))", CONTINUOUS),
        (
            r"infos = \[\]",
            "infos = [{}] * self.num_envs",
            "data are recorded from an environment that answers as SB3 says",
        ),
    ],
    "test_vec_monitor.py::test_vec_monitor_ppo": [_PENDULUM],
}
"""By file and function or class of the file; by a file alone for all of it."""

CHANGES = [EVERYWHERE, *(Change(where, *each) for where, listed in SUBSTITUTIONS.items() for each in listed)]


DISCRETE = "of discrete actions"
ON_POLICY = "of A2C and PPO"
OF_DQN = "of DQN"

NOT_APPLICABLE = {
    "test_buffers.py::test_custom_rollout_buffer": "of the rollout buffers of A2C and PPO",
    "test_cnn.py::test_cnn[True]": ON_POLICY,
    "test_cnn.py::test_features_extractor_target_net[True]": "no choice of `share_features_extractor`",
    "test_custom_policy.py::test_flexible_mlp": f"{ON_POLICY}; `test_custom_offpolicy` asks the same",
    "test_identity.py::test_discrete": DISCRETE,
    "test_logger.py::test_rollout_success_rate_onpolicy_algo": f"of rollouts, and {NO_ROLLOUTS}",
    "test_predict.py::test_dqn_epsilon_greedy": OF_DQN,
    "test_predict.py::test_predict[CartPole-v1]": DISCRETE,
    "test_run.py::test_a2c": ON_POLICY,
    "test_run.py::test_advantage_normalization": ON_POLICY,
    "test_run.py::test_ppo": ON_POLICY,
    "test_run.py::test_ppo_warnings": ON_POLICY,
    "test_run.py::test_sac": NO_ENTROPY,
    "test_run.py::test_train_freq": f"of `train_freq`, and {NO_ROLLOUTS}",
    "test_run.py::test_train_freq_fail": f"of `train_freq`, and {NO_ROLLOUTS}",
    "test_run.py::test_warn_dqn_multi_env": OF_DQN,
    "test_save_load.py::test_dqn_target_update_interval": OF_DQN,
    "test_save_load.py::test_save_load_clip_range_portable": "of PPO's `clip_range`",
    "test_save_load.py::test_save_load_large_model": "it writes 2 GiB; the limit is lowered instead",
    "test_save_load.py::test_save_load_no_target_params": "there are no models as old as SB3 2.3",
    "test_save_load.py::test_save_load_policy[True]": "of exploration with `use_sde`",
    "test_save_load.py::test_save_load_pytorch_var": NO_ENTROPY,
    "test_save_load.py::test_save_load_q_net": "of DQN's network, which acts; a critic gives values",
    "test_spaces.py::test_discrete_obs_space": DISCRETE,
    "test_spaces.py::test_sde_multi_dim": "of exploration with `use_sde`",
    "test_train_eval_mode.py::test_a2c_ppo_collect_rollouts_with_batch_norm": ON_POLICY,
    "test_train_eval_mode.py::test_a2c_ppo_train_with_batch_norm": ON_POLICY,
    "test_train_eval_mode.py::test_dqn_train_with_batch_norm": OF_DQN,
    "test_train_eval_mode.py::test_offpolicy_collect_rollout_batch_norm": NO_ROLLOUTS,
    "test_train_eval_mode.py::test_predict_with_dropout_batch_norm[CartPole-v1]": DISCRETE,
    "test_distributions.py": "a diffusion policy has no density to ask for",
    "test_gae.py": "advantages of on-policy algorithms",
    "test_her.py": "goals are relabelled in steps that were just taken; here they are logged",
    "test_n_step_replay.py": "targets are of one step, as in the paper",
    "test_sde.py": "exploration; nothing is explored",
}
"""Tests that are not run. A part in brackets names instances that have it among their parameters."""

REFUSED_VEC_NORMALIZE = (r"`env` is wrapped in .*VecNormalize|VecNormalize cannot serve", NO_VEC_NORMALIZE)
DIFFERENT = {
    "test_callbacks.py::test_eval_friendly_error": REFUSED_VEC_NORMALIZE,
    "test_cnn.py::test_image_like_input[True]": (
        "DID NOT RAISE",
        "bytes that no VecNormalize made floats of are an image",
    ),
    "test_dict_env.py::test_vec_normalize": REFUSED_VEC_NORMALIZE,
    "test_logger.py::test_fps_logger": (
        "time/fps|<= 0.0",
        "`time/gradient_steps_per_s` in place of `time/fps`",
    ),
    "test_save_load.py::test_load_invalid_object": (
        "KeyError: 'learning_rate'|:serialized:",
        "a file holds no pickle that could be damaged; what it lacks is an error, not a warning",
    ),
    "test_save_load.py::test_warn_buffer[True]": (
        "assert 0 == 1",
        "`optimize_memory_usage` does not exist: rows are stored once as it is",
    ),
    "test_vec_envs.py::test_video_recorder": REFUSED_VEC_NORMALIZE,
    "test_vec_normalize.py::test_her_normalization": REFUSED_VEC_NORMALIZE,
    "test_vec_normalize.py::test_offpolicy_normalization": REFUSED_VEC_NORMALIZE,
}
"""Tests that are run and have to fail, with an error in which the expression is found."""
