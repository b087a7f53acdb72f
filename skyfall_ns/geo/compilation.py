"""Compiled functions that work in read-only installations too."""

import warnings
from collections.abc import Callable
from typing import Any

import numba


def njit(*args: Any, **options: Any) -> Any:
    """`numba.njit`, without its cache of compiled code (and with one warning) where that cannot be stored.

    Numba stores it beside the source file, or in the user's cache directory; where neither can be written, it refuses
    to compile at all."""
    if args:
        return numba.njit(*args, **options)

    def compile_function(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(**options)(function)
        except RuntimeError as error:
            if "no locator available" not in str(error):
                raise
        _warn_once()
        uncached: dict[str, Any] = {**options, "cache": False}
        return numba.njit(**uncached)(function)

    return compile_function


def _warn_once() -> None:
    """Warn that compiled code is not stored; Python shows a warning of one place only once."""
    warnings.warn(
        "compiled code cannot be stored, because the installation and the user's cache directory are read-only: each "
        "command compiles again for up to a minute. Set NUMBA_CACHE_DIR to a directory with write permission.",
        stacklevel=2,
    )
