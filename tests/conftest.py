"""Sets up every test: one thread, seeded generators, and folders of its own."""

import os
import random
import signal
from collections.abc import Iterator

import numpy as np
import pytest
import torch as th
from hypothesis import settings

settings.register_profile("same_examples_each_time", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("same_examples_each_time")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Use one thread: the networks are so small that more threads only wait for each other."""
    th.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def in_the_foreground() -> Iterator[None]:
    """Let Ctrl-C interrupt: a process in the background ignores it, and so would what a test starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def folders_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep away from the cache of whoever runs the tests, and leave no logs of Stable-Baselines3."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SB3_LLMDPD_CACHE", os.fspath(tmp_path_factory.mktemp("cache")))
        patch.setenv("SB3_LOGDIR", os.fspath(tmp_path_factory.mktemp("logs")))
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed all generators, so that a test that forgets to seed fails the same way each time."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - Stable-Baselines3 draws from this generator
    th.manual_seed(0)
