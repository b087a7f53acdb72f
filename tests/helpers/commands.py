"""Installed commands, run as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent


def run_command(*command: object, check: bool = True) -> subprocess.CompletedProcess:
    """Run an installed command without a network; with `check`, AssertionError with its last output if it fails."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    arguments = [str(BIN / str(command[0])), *map(str, command[1:])]
    result = subprocess.run(arguments, capture_output=True, text=True, env=env, timeout=600)
    if check:
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result
