"""Threads for kernels that release Python's lock."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item, Result = TypeVar("Item"), TypeVar("Result")


def map_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Results in the order of the items; at most as many threads as cores, and at most eight."""
    with ThreadPoolExecutor(max(1, min(os.cpu_count() or 1, 8))) as pool:
        return list(pool.map(function, items))
