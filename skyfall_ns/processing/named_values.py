"""Flags that give values to images by name: NAME=VALUE, where NAME is an image's name or a glob."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from skyfall_ns.errors import RasterError


def assign_values(texts: Sequence[str], names: Sequence[str], flag: str) -> dict[str, str]:
    """Values by image name from "NAME=VALUE" texts; later texts take precedence.

    Raises RasterError for a text of another form, and for a NAME that matches none of the images."""
    values: dict[str, str] = {}
    for text in texts:
        pattern, separator, value = text.partition("=")
        if not separator or not pattern or not value:
            raise RasterError(
                f"{flag} {text} is not of the form NAME=VALUE. Write, for example, {flag} {names[0]}=FILE."
            )
        chosen = [name for name in names if name == pattern] or fnmatch.filter(names, pattern)
        if not chosen:
            raise RasterError(f"{flag} {text} matches none of the images. They are: {', '.join(names)}.")
        values |= dict.fromkeys(chosen, value)
    return values


def assign_files(texts: Sequence[str], names: Sequence[str], flag: str) -> dict[str, Path]:
    """Files by image name from "NAME=FILE" texts; RasterError for those of `assign_values`, and for a missing file."""
    files = {name: Path(value) for name, value in assign_values(texts, names, flag).items()}
    for file in files.values():
        if not file.is_file():
            raise RasterError(f"{file} does not exist. Check the path given to {flag}.")
    return files
