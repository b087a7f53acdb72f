"""Comparison of checkpoints to the last bit."""

from typing import Any

import torch


def assert_identical(found: Any, expected: Any, name: str = "checkpoint") -> None:
    """Fail with the name of the first entry of nested dictionaries and lists that differs."""
    assert type(found) is type(expected), name
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), name
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), name
        for key in expected:
            assert_identical(found[key], expected[key], f"{name}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), name
        for index, pair in enumerate(zip(found, expected, strict=True)):
            assert_identical(*pair, f"{name}[{index}]")
    else:
        assert found == expected, name
