"""What every command shares: errors that end in one message and exit code 1, and reports written whole."""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from skyfall_ns.errors import SkyfallError, disk_message


def run(command: Callable[[], Any]) -> None:
    """Call `command`; bad input and disk trouble print one message on stderr and exit with code 1."""
    try:
        _refuse_twice(sys.argv[1:])
        command()
        sys.stdout.flush()
    except SkyfallError as error:
        _fail(str(error))
    except BrokenPipeError:  # `| head` has seen enough; what is still buffered must go nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except OSError as error:
        message = disk_message(error)
        if message is None:
            raise
        _fail(message)
    except KeyboardInterrupt:
        _fail("Interrupted.", code=130)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write JSON by way of a temporary file, in a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.write_text(json.dumps(data, indent=1) + "\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_outputs(files: Mapping[str, Path | None]) -> None:
    """Make the folders of files to be written (flag to path), before work begins.

    Raises SkyfallError for a path that is a folder, that two flags share, or that cannot be written.
    """
    given = {flag: path for flag, path in files.items() if path is not None}
    for flag, path in given.items():
        for other in given:
            if other != flag and given[other].resolve() == path.resolve():
                raise SkyfallError(f"{other} and {flag} name the same file, {path}. Give each a name of its own.")
        if path.is_dir():
            raise SkyfallError(f"{flag} {path} is a folder. Give the name of a file in it.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path.parent).close()
        except OSError as error:
            raise SkyfallError(
                f"{flag} {path} cannot be written ({error.strerror}). Choose a place that you may write to."
            ) from error


def _refuse_twice(words: list[str]) -> None:
    """SkyfallError for a flag that stands twice among a command's words: the parser would keep its last values only."""
    flags = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")]
    for flag in flags:
        times = flags.count(flag)
        if times > 1:
            raise SkyfallError(f"{flag} is given {times} times. Give it once, with all its values behind it.")


def _fail(message: str, code: int = 1) -> None:
    print(f"Error: {message}", file=sys.stderr)
    raise SystemExit(code)
