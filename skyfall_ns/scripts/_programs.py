"""Programs of the installed packages, as the commands of this package call them."""

import shutil
import sys
from pathlib import Path

from skyfall_ns.errors import SkyfallError


def find_program(name: str) -> str:
    """Path of a program, beside this Python or on the PATH. Raises SkyfallError if there is none."""
    installed = Path(sys.executable).with_name(name)
    program = str(installed) if installed.exists() else shutil.which(name)
    if program is None:
        raise SkyfallError(f"The command {name} is not installed. Install this package again.")
    return program
