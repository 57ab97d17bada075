"""Saving and loading a model without pickle: what a model file keeps, and how a model is made of it again."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any, Self

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import check_for_correct_spaces

from sb3_llmdpd import checkpoint
from sb3_llmdpd.buffers import PromptReplayBuffer
from sb3_llmdpd.checkpoint import FileLike
from sb3_llmdpd.data.sources import DatasetLike
from sb3_llmdpd.envs import DatasetEnv
from sb3_llmdpd.policies import LLMDPDPolicy
from sb3_llmdpd.prompts.prompt import Prompt
from sb3_llmdpd.prompts.text_table import TextTable

SAVED_ARGUMENTS = (
    "learning_rate",
    "critic_learning_rate",
    "batch_size",
    "q_batch_size",
    "prompts_per_batch",
    "gamma",
    "tau",
    "ema_decay",
    "eta",
    "policy_objective",
    "max_grad_norm",
    "text_dropout",
    "trajectory_dropout",
    "prompt_noise",
    "text_encoder",
    "same_goal",
    "reward_scale",
    "n_candidates",
    "candidate_temperature",
    "policy_kwargs",
    "stats_window_size",
    "tensorboard_log",
    "verbose",
    "seed",
)
"""Arguments of the constructor that a model file keeps: all that are not the data, the environment or the device."""
COUNTERS = ("num_timesteps", "_total_timesteps", "_n_updates", "_current_progress_remaining")
GENERATORS = ("generator", "action_generator")
OPTIMIZERS = ("actor.optimizer", "critic.optimizer")


class SavedWithoutPickle(OffPolicyAlgorithm):
    """The saving half of `LLMDPD`."""

    policy: LLMDPDPolicy
    replay_buffer: PromptReplayBuffer | None
    text_table: TextTable | None
    _only_task: list[Prompt] | None

    def set_dataset(self, dataset: DatasetLike | PromptReplayBuffer) -> PromptReplayBuffer:
        """Train on other data from now on; see `LLMDPD.set_dataset`."""
        raise NotImplementedError

    def set_task(self) -> None:
        """Forget the task; see `LLMDPD.set_task`."""
        raise NotImplementedError

    def save(self, path: FileLike, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """Write the model with all that acting and going on with the training need; the data set stays outside.

        :param path: a path (``.zip`` is added where there is no suffix), or a binary file open for writing. A file is
            replaced whole or not at all.
        :param exclude: names of parts to leave out, among ``"actor.optimizer"``, ``"critic.optimizer"``.
        :param include: must be empty: what a model consists of is fixed.
        :raises ValueError: on other names.
        """
        left_out = set(exclude or ())
        if not left_out <= set(OPTIMIZERS) or include:
            raise ValueError(
                f"`exclude` may name {OPTIMIZERS} and `include` nothing, got exclude={exclude!r}, include={include!r}"
            )
        saved = checkpoint.Checkpoint(
            data={
                "arguments": {name: checkpoint.to_json(getattr(self, name)) for name in SAVED_ARGUMENTS},
                "policy": next((name for name, known in self.policy_aliases.items() if known is self.policy_class), None),
                "policy_class": f"{self.policy_class.__module__}.{self.policy_class.__qualname__}",
                "observation_space": checkpoint.space_to_json(self.observation_space),
                "action_space": checkpoint.space_to_json(self.action_space),
                "counters": {name: getattr(self, name) for name in COUNTERS},
                "only_task": None if self._only_task is None else [prompt.text for prompt in self._only_task],
                "text_table": None if self.text_table is None else self.text_table.to_dict(),
                "buffer_generator": None if self.replay_buffer is None else self.replay_buffer.generator.bit_generator.state,
                "optimizers": {},
            },
            tensors={
                "policy": self.policy.state_dict(),
                "generators": {name: getattr(self, name).get_state() for name in GENERATORS},
            },
        )
        if self.text_table is not None:
            saved.tensors["text_table"] = {name: th.tensor(array) for name, array in self.text_table.tensors().items()}
        for name in set(OPTIMIZERS) - left_out:
            state = _optimizer(self.policy, name).state_dict()
            saved.data["optimizers"][name], saved.tensors[name] = checkpoint.optimizer_to_parts(state)
        checkpoint.write(saved, path)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        """What SB3's `get_parameters` and `set_parameters` speak of."""
        return ["policy", *OPTIMIZERS], []

    @classmethod
    def load(  # type: ignore[override]  # the arguments that make sense here
        cls,
        path: FileLike,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        dataset: DatasetLike | PromptReplayBuffer | None = None,
        **overrides: Any,
    ) -> Self:
        """Read a model. Nothing in the file is executed.

        :param path: of `save`.
        :param env: an environment of the model's spaces, for callbacks that evaluate.
        :param device: where to.
        :param custom_objects: classes and functions of your own that the model was built with, by argument name.
        :param dataset: to go on with the training; the statistics that standardise observations stay those of before.
        :param overrides: arguments of the constructor to change, e.g. ``learning_rate=1e-4``.
        :return: the model.
        :raises FileNotFoundError: when there is no such file.
        :raises TypeError: on an unknown argument.
        :raises ValueError: when the file is damaged or foreign, or does not fit ``env`` or ``dataset``.
        """
        _refuse_unknown(overrides)
        saved = checkpoint.read(path)
        data = saved.data
        custom = _custom_object_finder({**(custom_objects or {}), **overrides})
        spaces_of_model = [checkpoint.space_from_json(data[name]) for name in ("observation_space", "action_space")]
        model = cls(
            data["policy"] or custom("policy", data["policy_class"]),
            env if env is not None else DatasetEnv(*spaces_of_model),
            device=device,
            _init_setup_model=False,  # type: ignore[call-arg]  # of LLMDPD's constructor
            **{**_arguments(data["arguments"], overrides, custom), **overrides},
        )
        if env is not None:
            check_for_correct_spaces(model.get_env(), *spaces_of_model)  # type: ignore[arg-type]  # there is one
        if data["text_table"] is not None:
            arrays = {name: tensor.numpy() for name, tensor in saved.tensors["text_table"].items()}
            model.text_table = TextTable.from_parts(data["text_table"], arrays)
        model._setup_model()
        model._restore(saved, dataset)
        return model

    def _restore(self, saved: checkpoint.Checkpoint, dataset: DatasetLike | PromptReplayBuffer | None) -> None:
        """Bring networks, optimisers, counters and generators to where they were."""
        data = saved.data
        self.policy.load_state_dict(saved.tensors["policy"])
        for name, groups in data["optimizers"].items():
            _optimizer(self.policy, name).load_state_dict(checkpoint.optimizer_from_parts(groups, saved.tensors[name]))
        for name in COUNTERS:
            setattr(self, name, data["counters"][name])
        if data["only_task"] is not None:
            self._only_task = [Prompt(text=text) for text in data["only_task"]]
            self.set_task()
        if dataset is not None:
            buffer = self.set_dataset(dataset)
            if data["buffer_generator"] is not None:
                buffer.generator.bit_generator.state = data["buffer_generator"]
        for name in GENERATORS:
            generator, state = getattr(self, name), saved.tensors["generators"][name]
            if len(state) == len(generator.get_state()):  # a GPU's state means nothing to a CPU
                generator.set_state(state)


def _refuse_unknown(overrides: dict[str, Any]) -> None:
    unknown = set(overrides) - set(SAVED_ARGUMENTS)
    if unknown:
        name = min(unknown)
        nearest = difflib.get_close_matches(name, SAVED_ARGUMENTS, n=1)
        raise TypeError(
            f"LLMDPD.load got an unknown argument {name!r}{f', did you mean {nearest[0]!r}?' if nearest else '.'}"
            f" Known: {', '.join(SAVED_ARGUMENTS)}"
        )


def _arguments(saved: dict[str, Any], overrides: dict[str, Any], custom: Callable[[str, str], Any]) -> dict[str, Any]:
    """Arguments of the constructor that a file holds and nobody overrides."""
    newer = set(saved) - set(SAVED_ARGUMENTS)
    if newer:
        raise ValueError(
            f"the model file holds arguments that this version of sb3_llmdpd does not know: {', '.join(sorted(newer))};"
            " install the version that wrote it"
        )
    return {name: checkpoint.from_json(value, name, custom) for name, value in saved.items() if name not in overrides}


def _optimizer(policy: LLMDPDPolicy, name: str) -> th.optim.Optimizer:
    network = policy.get_submodule(name.removesuffix(".optimizer"))
    assert isinstance(network.optimizer, th.optim.Optimizer)
    return network.optimizer


def _custom_object_finder(known: dict[str, Any]) -> Callable[[str, str], Any]:
    """Answers for what the file can only name."""

    def find(name: str, what: str) -> Any:
        if name not in known:
            raise ValueError(
                f"the model was built with {what} of its user for `{name}`, which a model file does not hold:"
                f" pass custom_objects={{{name!r}: ...}} to LLMDPD.load"
            )
        return known[name]

    return find
