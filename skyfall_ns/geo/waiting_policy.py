"""How OpenMP threads wait for work: briefly, so that other programs get the cores.

GNU's OpenMP library, which PyTorch and Numba use on Linux, lets idle threads spin for some milliseconds before they
sleep. On cores that other programs share, the spinning threads keep those that have work from running: a training step
took ten times as long beside one busy process per core. `OMP_WAIT_POLICY` would change that, but it is read when the
library is loaded, before any plugin is imported. The library also spins much shorter (1,000 instead of 300,000
iterations) as soon as the process has more OpenMP threads than cores (`gomp_throttled_spin_count` in libgomp's wait.h):
so one more pool of threads is opened here, which sleeps. Figures: benchmarks/README.md.
"""

import threading
from functools import cache

import numpy as np
from numba import prange

from skyfall_ns.geo.compilation import njit


@cache
def shorten_busy_waiting() -> None:
    """Open a pool of OpenMP threads that sleeps until the process ends; without effect after the first call, and where
    Numba does not use OpenMP."""
    opened = threading.Event()
    threading.Thread(target=_open_pool, args=(opened,), name="openmp-waiting-policy", daemon=True).start()
    opened.wait()


def _open_pool(opened: threading.Event) -> None:
    """Open the pool of this thread, and keep the thread."""
    _sum_in_parallel(np.ones(64))
    opened.set()
    threading.Event().wait()


@njit(parallel=True, cache=True, nogil=True)
def _sum_in_parallel(values):
    total = 0.0
    for i in prange(len(values)):
        total += values[i]
    return total
