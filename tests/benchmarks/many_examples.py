"""Measures `predict` with one example and with 25, for one environment and for fifty."""

from collections.abc import Callable

import numpy as np
import torch as th
from common import ACTION, OBSERVATION, data_in_memory, machine, model_on, table
from timing import by_turns

from sb3_llmdpd import Prompt

FEW, MANY = 1, 25
LENGTH = 200
"""Steps of an example."""


def section(rounds: int) -> str:
    """Time actions with a prompt for all environments, and with one for each."""
    th.set_num_threads(1)
    networks = {"conditioning": "retrieval"}
    data = data_in_memory()
    # A model each, since one remembers the last prompts alone, and would encode them at every turn.
    models = {n: model_on(data, policy_kwargs=networks) for n in (FEW, MANY)}
    rng = np.random.default_rng(0)

    def prompt(n_examples: int) -> Prompt:
        steps = [
            (
                rng.standard_normal((LENGTH, OBSERVATION)).astype(np.float32),
                rng.uniform(-1, 1, (LENGTH, ACTION)).astype(np.float32),
            )
            for _ in range(n_examples)
        ]
        return Prompt(trajectories=steps)

    def predict(n: int, n_examples: int, a_prompt_each: bool) -> Callable[[], object]:
        observations = rng.standard_normal((n, OBSERVATION)).astype(np.float32)
        prompts = [prompt(n_examples) for _ in range(n if a_prompt_each else 1)]
        return lambda: models[n_examples].predict(observations, deterministic=True, prompt=prompts)

    lines = []
    for name, n, a_prompt_each in (
        ("1 environment", 1, False),
        ("50 environments, one prompt", 50, False),
        ("50 environments, a prompt each", 50, True),
    ):
        calls = {str(n_examples): predict(n, n_examples, a_prompt_each) for n_examples in (FEW, MANY)}
        times = by_turns(calls, rounds, seconds=0.1)
        milliseconds = (f"{times.milliseconds(str(n_examples)):.2f}" for n_examples in (FEW, MANY))
        lines.append([name, *milliseconds, str(times.ratio(str(MANY), str(FEW)))])
    head = (
        f"An action on one thread, with examples of {LENGTH} steps each, {machine()}; {rounds} rounds. The"
        " prompt is encoded once and kept."
    )
    return f"{head}\n\n{table(['what', f'ms, {FEW} example', f'ms, {MANY} examples', 'ratio'], lines)}"
