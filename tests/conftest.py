"""What every test runs under: one thread, and seeded generators."""

import random

import numpy as np
import pytest
import torch as th


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """The networks in the tests are so small that more threads only wait for each other."""
    th.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test that forgets to seed fails the same way each time."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - Stable-Baselines3 draws from this generator
    th.manual_seed(0)
