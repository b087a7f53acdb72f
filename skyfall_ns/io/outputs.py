"""Checks of output files before work begins."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from skyfall_ns.errors import SkyfallError


def check_output_files(files: Mapping[str, Path | None]) -> None:
    """Check that output files (flag to path; None is not written) can be written, and create their directories.

    Raises SkyfallError for a path that is a directory, that two flags share, or that cannot be written.
    """
    paths = {flag: path for flag, path in files.items() if path is not None}
    for flag, path in paths.items():
        for other in paths:
            if other != flag and paths[other].resolve() == path.resolve():
                raise SkyfallError(f"{other} and {flag} name the same file, {path}. Give each a name of its own.")
        if path.is_dir():
            raise SkyfallError(f"{flag} {path} is a directory. Give the name of a file in it.")
        _check_directory(flag, path, path.parent)


def check_output_directory(flag: str, directory: Path | None) -> None:
    """Check that files can be written to a directory, and create it. Raises SkyfallError if they cannot, or if the path
    is that of a file."""
    if directory is None:
        return
    if directory.exists() and not directory.is_dir():
        raise SkyfallError(f"{flag} {directory} is a file. Give the name of a directory.")
    _check_directory(flag, directory, directory)


def _check_directory(flag: str, path: Path, directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise SkyfallError(
            f"{flag} {path} cannot be written ({error.strerror}). Choose a directory with write permission."
        ) from error
