"""Error handling of all commands: bad input ends in one message and exit code 1."""

import os
import sys
from collections.abc import Callable
from typing import Any

from skyfall_ns.errors import SkyfallError, disk_message


def run_command(command: Callable[[], Any]) -> None:
    """Call `command`; bad input and disk errors print one message on stderr and exit with code 1."""
    try:
        _check_repeated_flags(sys.argv[1:])
        command()
        sys.stdout.flush()
    except SkyfallError as error:
        _exit_with_error(str(error))
    except BrokenPipeError:  # the reader (`| head`) has closed the pipe; discard what is still buffered
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except OSError as error:
        message = disk_message(error)
        if message is None:
            raise
        _exit_with_error(message)
    except KeyboardInterrupt:
        _exit_with_error("Interrupted.", code=130)


def _check_repeated_flags(words: list[str]) -> None:
    """Raise SkyfallError for a flag that is given twice: the parser would silently keep its last values only."""
    flags = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")]
    for flag in flags:
        times = flags.count(flag)
        if times > 1:
            raise SkyfallError(f"{flag} is given {times} times. Give it once, followed by all its values.")


def _exit_with_error(message: str, code: int = 1) -> None:
    print(f"Error: {message}", file=sys.stderr)
    raise SystemExit(code)
