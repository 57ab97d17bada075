"""Writes the golden model files of a format version: run it once for a version, and never again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from factories import make_episodes, tiny_model, with_dicts
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import nn
from toys import ActionEnv

from sb3_llmdpd import LLMDPD, CosineSchedule, Episode, Prompt
from sb3_llmdpd.checkpoint import FORMAT_VERSION, container

GOLDEN = Path(__file__).parent / "golden"
SENTENCES = (None, "do task number 1", "a sentence of no task")


def golden_episodes(kind: str) -> list[Episode]:
    """Make the episodes that the golden models were trained on.

    :param kind: ``"mlp"`` for observations that are arrays, ``"dict"`` for dicts
    """
    # Far from their bounds, where all actions look the same.
    episodes = [replace(episode, actions=0.3 * episode.actions) for episode in make_episodes()]
    return episodes if kind == "mlp" else with_dicts(episodes)


def golden_actions(model: LLMDPD, kind: str) -> list[Any]:
    """Act as a golden model on four observations, for each of the sentences, without and with an example.

    :param model: golden model
    :param kind: ``"mlp"`` or ``"dict"``
    :return: (3, 2, 4, 2), as lists
    """
    example = golden_episodes(kind)[0]
    observations: Any = (np.arange(20.0, dtype=np.float32) / 7 - 1).reshape(4, 5)
    if kind == "dict":
        observations = {"a": observations[:, :2], "b": observations[:, 2:]}

    def act(*prompt: Any) -> Any:
        return model.predict(observations, deterministic=True, prompt=Prompt(*prompt))[0].tolist()

    return [[act(sentence), act(sentence, example)] for sentence in SENTENCES]


def _make(kind: str) -> LLMDPD:
    shared = dict(dataset=golden_episodes(kind), text_encoder="hashing:16")
    if kind == "mlp":
        rates = dict(learning_rate=CosineSchedule(1e-2, warmup=0.1), critic_learning_rate="lin_0.01")
        kwargs = dict(optimizer_class=RMSpropTFLike)  # whose state has a number, and no tensor of it
        model = tiny_model(**shared, **rates, eta=0.1, n_candidates=2, policy_kwargs=kwargs)
        model.set_task(task_text=SENTENCES[1])
        evaluation = EvalCallback(Monitor(ActionEnv()), eval_freq=200, n_eval_episodes=1, verbose=0)
        return model.learn(300, callback=evaluation)
    kwargs = dict(conditioning="cross_attention", activation_fn=nn.ReLU, layer_norm=True)
    kwargs |= dict(optimizer_class=th.optim.AdamW, optimizer_kwargs=dict(betas=(0.9, 0.999)))
    shared |= dict(policy_kwargs=kwargs, learning_rate=1e-2, eta=0.0)
    shared |= dict(ema_decay=0.95, text_dropout=0.0, trajectory_dropout=0.0)  # so that the prompts matter
    return tiny_model(**shared, policy="MultiInputPolicy").learn(300)


if __name__ == "__main__":
    container.get_system_info = lambda **_: ({}, "written for the tests")  # the same wherever they are made
    GOLDEN.mkdir(exist_ok=True)
    for kind in ("mlp", "dict"):
        place = GOLDEN / f"v{FORMAT_VERSION}_{kind}"
        if place.with_suffix(".zip").exists():
            raise SystemExit(f"{place}.zip is there, and a golden file is never written anew")
        model = _make(kind)
        model.save(place)
        place.with_suffix(".json").write_text(json.dumps(golden_actions(model, kind)))
