"""Compiled functions work where compiled code cannot be stored."""

import numba
import pytest
from numba.core import caching

from skyfall_ns.geo.compilation import njit


def test_functions_are_those_of_numba():
    @njit(cache=True)
    def add(a, b):
        return a + b

    assert add(1, 2) == 3 and isinstance(add, numba.core.registry.CPUDispatcher)


def test_other_errors_of_numba_are_not_hidden():
    with pytest.raises(TypeError):
        njit(parallel=True)(5)


def test_without_a_place_for_compiled_code_a_warning_is_given(monkeypatch):
    """As in a read-only installation with a home that cannot be made: Numba finds no place for its files."""
    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])
    with pytest.warns(UserWarning, match=r"compiled code cannot be stored.*\. Set NUMBA_CACHE_DIR"):

        @njit(cache=True)
        def add(a, b):
            return a + b

    assert add(1, 2) == 3
