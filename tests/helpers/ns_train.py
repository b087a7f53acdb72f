"""Runs of the command `ns-train` in processes of their own, which tests can kill."""

import json
import os
import subprocess
import sys
from pathlib import Path


class NsTrain:
    """Runs `ns-train` again and again, each time in a process of its own, which is forked from a server that has done
    the imports: they take longer than a short run."""

    def __init__(self) -> None:
        self._server = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def start(self, log: Path, *arguments: object) -> int:
        """Start a process whose output goes into `log`; returns its number."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps([str(log), *map(str, arguments)]).encode() + b"\n")
        self._server.stdin.flush()
        return self._read_number()

    def wait(self) -> int:
        """Exit code of the process that was started last, as subprocess returns it."""
        return self._read_number()

    def close(self) -> None:
        """End the server."""
        self._server.communicate(timeout=60)

    def _read_number(self) -> int:
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())


def serve_commands() -> None:
    """For each line of input (log file and arguments) start a process, print its number, and later its exit code."""
    from nerfstudio.scripts.train import entrypoint

    for line in iter(sys.stdin.readline, ""):
        log, *arguments = json.loads(line)
        process = os.fork()
        if process == 0:
            with open(log, "w") as file:
                os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
            sys.argv = ["ns-train", *arguments]
            sys.exit(entrypoint())
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    serve_commands()
