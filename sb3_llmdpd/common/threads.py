"""The threads that PyTorch computes on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch as th


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, which small matrices are faster on; afterwards on as many as before."""
    before = th.get_num_threads()
    th.set_num_threads(1)
    try:
        yield
    finally:
        th.set_num_threads(before)
