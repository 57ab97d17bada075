"""What every test runs under: one thread, seeded generators, and folders of its own."""

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
    """The networks in the tests are so small that more threads only wait for each other."""
    th.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def in_the_foreground() -> Iterator[None]:
    """A process in the background inherits that Ctrl-C is ignored, and so would what is stopped in a test."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def folders_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither read nor fill the cache of whoever runs the tests, nor leave Stable-Baselines3's logs behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SB3_LLMDPD_CACHE", os.fspath(tmp_path_factory.mktemp("cache")))
        patch.setenv("SB3_LOGDIR", os.fspath(tmp_path_factory.mktemp("logs")))
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test that forgets to seed fails the same way each time."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - Stable-Baselines3 draws from this generator
    th.manual_seed(0)
