"""Worker processes that leave Ctrl-C to their parent and end with it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any


def n_cores() -> int:
    """Count the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def worker_pool(
    n_processes: int, initializer: Callable[..., object] | None = None, *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """Open a pool whose waiting jobs are dropped when the block ends early.

    The processes are spawned, not forked: a fork would copy the locks that the threads of torch and of a
    progress bar hold. A script that opens a pool therefore needs its ``if __name__ == "__main__":``.

    :param n_processes: number of processes.
    :param initializer: function called once in each process, before its first job.
    :param arguments: arguments of the initializer.
    :return: a context that yields the pool.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(n_processes, context, _start_worker, (initializer, arguments))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(initializer: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if initializer is not None:
        initializer(*arguments)
