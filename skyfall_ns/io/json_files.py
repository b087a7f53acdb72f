"""Reading of JSON files of unknown origin: their size is bounded before memory is taken."""

import json
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 64_000_000  # a scene of a thousand images has 5 MB, a path of an hour 30 MB


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Content of a JSON file.

    Raises ValueError if it is larger than `max_bytes`, no JSON, not UTF-8 or nested too deeply, and OSError."""
    if path.stat().st_size > max_bytes:
        raise ValueError(f"it has more than {max_bytes / 1e6:.0f} MB")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
