"""Log of processing: the current stage, the time of each stage, and notes for the user."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OnStage = Callable[[str], None]  # called with a line of text for each stage and note


class ProcessingLog:
    """Reports stages and notes as they come, and keeps the stages' seconds and the notes for the report."""

    def __init__(self, on_stage: OnStage) -> None:
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []
        self._on_stage = on_stage

    @contextmanager
    def time_stage(self, name: str, text: str) -> Iterator[None]:
        """Report a stage and add its time to that of the stages with the same name."""
        self._on_stage(text)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def add_note(self, text: str | None) -> None:
        """Report and keep a note; None is ignored."""
        if text is not None:
            self.notes.append(text)
            self._on_stage(f"Note: {text}")
