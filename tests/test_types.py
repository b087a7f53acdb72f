"""Pyright, as configured in pyproject.toml, reports no error."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run_pyright(*arguments: str) -> subprocess.CompletedProcess:
    """Run pyright in the root of the repository, without a search for a newer version."""
    command, env = [sys.executable, "-m", "pyright", *arguments], {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)


@pytest.mark.slow
def test_pyright_reports_no_error():
    assert importlib.util.find_spec("pyright"), "pyright, a development dependency, is not installed"
    if (version := run_pyright("--version")).returncode:
        pytest.skip(f"pyright cannot start; it needs node, or a network to install it: {version.stderr[-200:]}")
    result = run_pyright()
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-3000:]
