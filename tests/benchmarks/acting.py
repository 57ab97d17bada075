"""Measures `predict` beside its bare networks and a sampler by hand, for one environment and for many."""

from collections.abc import Callable

import numpy as np
import torch as th
from common import FLOW, OBSERVATION, data_in_memory, machine, model_on, table
from reference import ReferenceActing
from stable_baselines3 import TD3
from timing import by_turns

from sb3_llmdpd import Prompt
from sb3_llmdpd.llmdpd.prompter import _Weights

TEXT = "do task number 3"
BY_HAND = ("a sampler by hand, 1 candidate", "a sampler by hand, 50 candidates")
NOTICE = "noticing that no weight changed"
BESIDE = {
    "1 observation, 1 candidate": ("K forward passes by hand", BY_HAND[0], "TD3 of Stable-Baselines3"),
    "1 observation, 50 candidates": (BY_HAND[1],),
    "10 observations, 1 candidate": ("10 calls, 1 candidate",),
    "10 observations, 50 candidates": ("10 calls, 50 candidates",),
    "50 observations of 50 tasks, 1 candidate": ("50 observations, 1 candidate",),
    NOTICE: ("1 observation, 1 candidate",),
    "1 observation, DDIM in 2 steps": ("1 observation, 1 candidate",),
    "1 observation, DPM-Solver++ in 3 steps": ("1 observation, 1 candidate",),
    "1 observation, one-step flow": ("1 observation, 1 candidate",),
    "1 observation, 50 candidates, one-step flow": (BY_HAND[1], "1 observation, 50 candidates"),
}
"""Calls that others are compared with."""


def section(rounds: int) -> str:
    """Time one observation and many, one candidate and many, DDPM and fewer steps."""
    th.set_num_threads(1)
    data = data_in_memory()
    model = model_on(data)
    model.set_task(task_text=TEXT)
    rows = np.random.default_rng(0).standard_normal((50, OBSERVATION)).astype(np.float32)
    texts = [f"do task number {i}" for i in range(50)]
    tensor, actions = th.from_numpy(rows[:1]), th.randn(1, model.action_space.shape[0])
    reference = ReferenceActing(model, model.prompter.encode([Prompt(TEXT)]).vectors)
    nets = {"net_arch": [256, 256, 256]}
    td3 = TD3("MlpPolicy", model.env, policy_kwargs=nets, buffer_size=1, device="cpu")

    def predict(
        observations: np.ndarray,
        n_candidates: int = 1,
        sampler: str = "ddpm",
        n_steps: int | None = None,
        **task: object,
    ) -> Callable[[], object]:
        def call() -> object:
            model.n_candidates, model.sampler, model.n_sampling_steps = n_candidates, sampler, n_steps
            return model.predict(observations, **task)

        return call

    flow = model_on(data, **FLOW)
    flow.set_task(task_text=TEXT)

    def jump(n_candidates: int) -> object:
        flow.n_candidates = n_candidates
        return flow.predict(rows[0])

    def one_by_one(n_candidates: int) -> Callable[[], object]:
        calls = [predict(row, n_candidates) for row in rows[:10]]
        return lambda: [call() for call in calls]

    calls: dict[str, Callable[[], object]] = {
        "K forward passes by hand": lambda: reference.forwards(tensor, actions),
        BY_HAND[0]: lambda: reference.best_of(tensor, 1),
        BY_HAND[1]: lambda: reference.best_of(tensor, 50),
        "TD3 of Stable-Baselines3": lambda: td3.predict(rows[0]),
        **{f"1 observation, {candidates(n)}": predict(rows[0], n) for n in (1, 10, 50)},
        **{f"10 observations, {candidates(n)}": predict(rows[:10], n) for n in (1, 10, 50)},
        **{f"50 observations, {candidates(n)}": predict(rows, n) for n in (1, 10)},
        "50 observations of 50 tasks, 1 candidate": predict(rows, task_text=texts),
        **{f"10 calls, {candidates(n)}": one_by_one(n) for n in (1, 50)},
        NOTICE: _Weights(model.policy.actor_target.encodes_prompts()).are_unchanged,
        "1 observation, DDIM in 2 steps": predict(rows[0], 1, "ddim", 2),
        "1 observation, DPM-Solver++ in 3 steps": predict(rows[0], 1, "dpm_solver++", 3),
        "1 observation, one-step flow": lambda: jump(1),
        "1 observation, 50 candidates, one-step flow": lambda: jump(50),
    }
    times = by_turns(calls, rounds, seconds=0.1)
    lines = [
        [
            name,
            f"{times.milliseconds(name):.2f}",
            "; ".join(f"{times.ratio(name, other)} of {other}" for other in BESIDE.get(name, ())),
        ]
        for name in calls
    ]
    head = f"An action on one thread, {machine()}; {rounds} rounds. The prompt is encoded once and kept."
    return f"{head}\n\n{table(['what', 'ms', 'ratio'], lines)}"


def candidates(n: int) -> str:
    """So many candidates, in words."""
    return f"{n} candidate{'s' * (n > 1)}"
