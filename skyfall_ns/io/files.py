"""Atomic writing of files (a temporary file beside the target, then a rename), JSON, and checksums."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def atomic_write(path: Path, data: bytes | memoryview) -> None:
    """Write a file through a temporary file beside it; missing parent directories are created.

    An OSError (which then has the file's name) leaves the previous file unchanged, and no temporary file.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # errors of a full disk have no file name
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write an object as indented JSON with `atomic_write`."""
    atomic_write(path, (json.dumps(data, indent=1) + "\n").encode())


def sha256_of_bytes(data: bytes) -> str:
    """SHA-256 of bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's content, as 64 hexadecimal digits; the file is read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
