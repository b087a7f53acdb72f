"""Threads for NumPy and OpenCV work, which releases Python's lock."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

MAX_THREADS = 8


@contextmanager
def thread_pool() -> Iterator[ThreadPoolExecutor]:
    """One thread per core, each with a BLAS of one thread.

    The threads of a BLAS wait actively for one another: small products took eight times the processor time with two
    BLAS threads where other work kept the cores busy (measured with OpenBLAS on two cores).
    """
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS)) as pool:
        yield pool
