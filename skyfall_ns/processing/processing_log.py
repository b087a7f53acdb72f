"""What processing says: the step under way, how long each took, and notes on what a person should know."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Announce = Callable[[str], None]


class ProcessingLog:
    """Announces steps and notes, and keeps the seconds of the steps and the notes for the report."""

    def __init__(self, announce: Announce) -> None:
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []
        self._announce = announce

    @contextmanager
    def step(self, name: str, text: str) -> Iterator[None]:
        """Time one step."""
        self._announce(text)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def note(self, text: str | None) -> None:
        """Announce and keep a note; None is none."""
        if text is not None:
            self.notes.append(text)
            self._announce(f"Note: {text}")
