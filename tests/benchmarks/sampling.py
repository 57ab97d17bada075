"""Measures `PromptReplayBuffer.sample` beside that of Stable-Baselines3, in memory and mapped from a file."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch as th
from common import ACTION, FOLDER, OBSERVATION, Synthetic, data_in_memory, machine, table
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from timing import by_turns

from sb3_llmdpd.data.episodes import OfflineDataset
from sb3_llmdpd.data.memory_mapping import memory_mapped
from sb3_llmdpd.replay.buffer import PromptReplayBuffer

BATCH = 256
TEXT_DIM = 384
"""Size of MiniLM's vectors."""


def prompted_buffer(data: OfflineDataset) -> PromptReplayBuffer:
    """A buffer with default settings, and sentences of MiniLM's size."""
    buffer = PromptReplayBuffer(data, "cpu", seed=0)
    buffer.set_text_vectors(np.random.default_rng(0).standard_normal((len(buffer.texts), TEXT_DIM)))
    return buffer


def plain_buffer(n_transitions: int) -> ReplayBuffer:
    """A buffer of SB3, full of numbers of the same sizes."""
    box = spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float32)
    buffer = ReplayBuffer(n_transitions, box, spaces.Box(-1.0, 1.0, (ACTION,), np.float32), "cpu")
    for name in ("observations", "next_observations", "actions", "rewards", "dones"):
        getattr(buffer, name)[:] = 0.5  # pages that were never written to would cost nothing to read
    buffer.full = True
    return buffer


def bare_gathers(buffer: PromptReplayBuffer, n_transitions: int) -> Callable[[], object]:
    """The rows of a batch of ours, at random places of one packed array: the least that a batch can take."""
    width = OBSERVATION + ACTION + 2
    packed, texts = th.full((n_transitions, width), 0.5), buffer.text_vectors
    with_next = packed.as_strided((n_transitions - 1, 2 * width), (width, 1))  # each row and the next one
    n_shown = buffer.prompts_per_batch * buffer.prompt_window

    def gather() -> object:
        rows = [th.randint(n_transitions - 1, (n,)) for n in (BATCH, n_shown)]
        sentences = th.randint(len(texts), (buffer.prompts_per_batch,))
        return (
            with_next.index_select(0, rows[0]),
            packed.index_select(0, rows[1]),
            texts.index_select(0, sentences),
        )

    return gather


def section(rounds: int) -> str:
    """Compare buffers of three sizes."""
    th.set_num_threads(1)
    rows: list[list[object]] = []
    for n_transitions in (10**5, 10**6, 10**7):
        buffers = {
            "in memory": prompted_buffer(data_in_memory(n_transitions)),
            "mapped": prompted_buffer(memory_mapped(Synthetic(n_transitions), cache=FOLDER)),
        }
        plain = plain_buffer(n_transitions)
        calls: dict[str, Callable[[], object]] = {
            name: lambda b=b: b.sample(BATCH) for name, b in buffers.items()
        }
        calls["bare gathers"] = bare_gathers(buffers["in memory"], n_transitions)
        times = by_turns({**calls, "SB3": partial(plain.sample, BATCH)}, rounds, seconds=0.1)
        for name in calls:
            numbers = [f"{times.milliseconds(variant):.3f}" for variant in (name, "SB3")]
            rows.append([f"{n_transitions:,}", name, *numbers, times.ratio(name, "SB3")])
    window, n_prompts = buffers["in memory"].prompt_window, buffers["in memory"].prompts_per_batch
    head = (
        f"A batch of {BATCH} transitions on one thread, {machine()}; {rounds} rounds. Ours comes with"
        f" {n_prompts} sentences of {TEXT_DIM} numbers and {n_prompts} examples of {window} steps, which are"
        f" {n_prompts * window} rows more; the bare gathers are one `index_select` for each of the three, and"
        " nothing else."
    )
    return f"{head}\n\n{table(['transitions', 'where', 'ms', 'SB3 in memory, ms', 'ratio'], rows)}"
