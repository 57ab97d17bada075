"""Measures a gradient step: beside one written by hand, with each acceleration, and as it grows."""

from collections.abc import Callable
from typing import Any

import torch as th
from common import FLOW, UNPROMPTED, data_in_memory, default_model_on, machine, model_on, table
from reference import ReferenceStep
from timing import by_turns

from sb3_llmdpd import LLMDPD

WAYS: dict[str, dict[str, Any]] = {
    "matmul_precision medium": {"matmul_precision": "medium"},
    "compile": {"compile": True},
    "compile, matmul_precision medium": {"compile": True, "matmul_precision": "medium"},
    "bfloat16": {"bfloat16": True},
    "compile, bfloat16": {"compile": True, "bfloat16": True},
}

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
ARITHMETIC = ("mul", "mul_", "sub", "add", "add_", "div", "div_", "rsub", "clamp")
ELEMENTWISE = (*ARITHMETIC, "sigmoid", "mish", "mish_backward")
"""Operations number by number; most of them are Mish."""


def step_of(model: LLMDPD) -> Callable[[], None]:
    """Make a function that takes a gradient step as `learn` does, but for callbacks and the log."""

    def step() -> None:
        with model.gradient_step.accelerated():
            model.train(1, model.batch_size)

    return step


def section(rounds: int) -> str:
    """Compare steps with the reference, on one thread and on two."""
    parts = []
    for n_threads in (1, 2):
        th.set_num_threads(n_threads)
        parts.append(_steps(n_threads, rounds))
    th.set_num_threads(1)
    return "\n\n".join(parts)


def _steps(n_threads: int, rounds: int) -> str:
    data = data_in_memory()
    models = {"prompted": model_on(data), "unprompted": model_on(data, **UNPROMPTED)}
    edp = {"policy_objective": "action_approximation"}
    models |= {
        "prompted, action_approximation": model_on(data, **edp),
        "unprompted, action_approximation": model_on(data, **edp, **UNPROMPTED),
        "prompted, one-step flow": model_on(data, **FLOW),
        "unprompted, one-step flow": model_on(data, **FLOW, **UNPROMPTED),
        "default settings": default_model_on(data),
        "default settings, one-step flow": default_model_on(data, **FLOW),
        **{f"unprompted, {name}": model_on(data, acceleration=w, **UNPROMPTED) for name, w in WAYS.items()},
    }
    calls: dict[str, Callable[[], object]] = {name: step_of(model) for name, model in models.items()}
    for name in ("prompted", "unprompted"):
        reference = ReferenceStep(models[name], name == "prompted")
        reference.pack(models[name], 10**5)
        calls[f"reference, {name}"] = reference
    times = by_turns(calls, rounds)
    pairs = [
        ("unprompted", "reference, unprompted"),
        ("prompted", "reference, prompted"),
        ("prompted", "unprompted"),
    ]
    pairs += [(f"{name}, action_approximation", name) for name in ("unprompted", "prompted")]
    pairs += [(f"{name}, one-step flow", f"reference, {name}") for name in ("unprompted", "prompted")]
    pairs += [("default settings", "prompted"), ("default settings, one-step flow", "default settings")]
    pairs += [(f"unprompted, {name}", "reference, unprompted") for name in WAYS]
    rows = [[one, f"{times.milliseconds(one):.1f}", other, times.ratio(one, other)] for one, other in pairs]
    head = f"A step on {n_threads} thread{'s' * (n_threads > 1)}, {machine()}; {rounds} rounds."
    return f"{head}\n\n{table(['step', 'ms', 'beside', 'ratio'], rows)}"


def profile(n_steps: int) -> str:
    """Measure the time of a step by kinds of operations."""
    th.set_num_threads(1)
    data, rows = data_in_memory(), []
    for name, how in {"unprompted": UNPROMPTED, "prompted": {}}.items():
        step = step_of(model_on(data, **how))
        for _ in range(5):
            step()
        with th.profiler.profile(activities=[th.profiler.ProfilerActivity.CPU]) as profiler:
            for _ in range(n_steps):
                step()
        events = profiler.key_averages()
        spent = {event.key.removeprefix("aten::"): event.self_cpu_time_total for event in events}
        of_kinds = [sum(spent.get(key, 0.0) for key in keys) for keys in (PRODUCTS, ELEMENTWISE)]
        shares = [f"{seconds / sum(spent.values()):.0%}" for seconds in of_kinds]
        rows.append([name, *shares, f"{sum(event.count for event in events) / n_steps:,.0f}"])
    head = f"A step on one thread, {machine()}, by PyTorch's profiler; {n_steps} steps."
    columns = ["step", "products of matrices", "number by number", "operations, nested ones too"]
    return f"{head}\n\n{table(columns, rows)}"


def growth(rounds: int) -> str:
    """Compare steps with more of one thing with those that have the least of it."""
    th.set_num_threads(1)
    data = data_in_memory()
    families: dict[str, tuple[Callable[[int], LLMDPD], tuple[int, ...]]] = {
        "diffusion steps K": (lambda n: model_on(data, policy_kwargs={"n_diffusion_steps": n}), (5, 10, 20)),
        "transitions in a batch": (lambda n: model_on(data, batch_size=n), (256, 1_024, 2_048)),
        "prompts in a batch of 256": (lambda n: model_on(data, prompts_per_batch=n), (8, 32, 128)),
        "tasks": (lambda n: model_on(data_in_memory(10**5, n)), (10, 50, 500)),
        "transitions in memory": (lambda n: model_on(data_in_memory(n)), (10**5, 10**6, 10**7)),
    }
    rows: list[list[object]] = []
    for family, (make, sizes) in families.items():
        times = by_turns({f"{n:,}": step_of(make(n)) for n in sizes}, rounds)
        first, *others = (f"{n:,}" for n in sizes)
        ratios = {first: "1", **{name: str(times.ratio(name, first)) for name in others}}
        rows += [[family, name, f"{times.milliseconds(name):.1f}", ratio] for name, ratio in ratios.items()]
    head = f"A prompted step on one thread, {machine()}; {rounds} rounds."
    return f"{head}\n\n{table(['of what', 'how many', 'ms', 'beside the first'], rows)}"
