"""Threads for NumPy and OpenCV work, which releases the global interpreter lock."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

MAX_THREADS = 8


@contextmanager
def thread_pool() -> Iterator[ThreadPoolExecutor]:
    """A pool with one thread per core (at most MAX_THREADS), in which BLAS uses one thread.

    BLAS threads wait for each other in a busy loop: with two of them, small matrix products took eight times the
    processor time while other work occupied the cores (measured with OpenBLAS on two cores).
    """
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS)) as pool:
        yield pool
