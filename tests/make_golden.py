"""Writes the golden model files of a format version: run once, `python tests/make_golden.py`, and never again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from factories import make_episodes, tiny_model
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor
from torch import nn
from toys import ActionEnv

from sb3_llmdpd import LLMDPD, CosineSchedule, Episode, Prompt
from sb3_llmdpd.checkpoint import FORMAT_VERSION, container

GOLDEN = Path(__file__).parent / "golden"
SENTENCES = (None, "do task number 1", "a sentence of no task")


def golden_episodes(kind: str) -> list[Episode]:
    """What the golden models were trained on: `make_episodes`, of arrays or of dicts.

    :param kind: ``"mlp"`` or ``"dict"``.
    :return: the episodes.
    """
    return [
        Episode(
            e.observations if kind == "mlp" else {"a": e.observations[:, :2], "b": e.observations[:, 2:]},
            0.3 * e.actions,  # far from the bounds, where all actions look the same
            e.rewards,
            e.task,
            e.task_texts,
        )
        for e in make_episodes()
    ]


def golden_observations(kind: str) -> Any:
    """Four observations to act on.

    :param kind: ``"mlp"`` or ``"dict"``.
    :return: (4, 5), or the same as a dict.
    """
    observations = (np.arange(20.0, dtype=np.float32) / 7 - 1).reshape(4, 5)
    return observations if kind == "mlp" else {"a": observations[:, :2], "b": observations[:, 2:]}


def golden_actions(model: LLMDPD, kind: str) -> list[Any]:
    """What a golden model does, told each of the sentences, without and with an example.

    :param model: golden.
    :param kind: ``"mlp"`` or ``"dict"``.
    :return: (3, 2, 4, 2), as lists.
    """
    example = golden_episodes(kind)[0]
    prompts = [[Prompt(sentence), Prompt(sentence, example)] for sentence in SENTENCES]
    observations = golden_observations(kind)
    return [
        [model.predict(observations, deterministic=True, prompt=prompt)[0].tolist() for prompt in pair]
        for pair in prompts
    ]


def _make(kind: str) -> LLMDPD:
    shared = dict(dataset=golden_episodes(kind), text_encoder="hashing:16")
    if kind == "mlp":
        model = tiny_model(**shared, learning_rate=CosineSchedule(1e-2, warmup=0.1), eta=0.1, n_candidates=2)
        model.set_task(task_text=SENTENCES[1])
        return model.learn(
            300, callback=EvalCallback(Monitor(ActionEnv()), eval_freq=200, n_eval_episodes=1, verbose=0)
        )
    kwargs = dict(
        conditioning="cross_attention", activation_fn=nn.ReLU, layer_norm=True, optimizer_class=th.optim.AdamW
    )
    model = tiny_model(**shared, policy="MultiInputPolicy", learning_rate=1e-2, eta=0.0, policy_kwargs=kwargs)
    return model.learn(300)


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
