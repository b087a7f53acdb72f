"""The page reference/published_presets.md: published values of Skyfall-GS beside those of the methods."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from published_options import (
    FIXED_DIFFERENCES,
    NO_COUNTERPART,
    STAGE1_METHODS,
    STAGE1_ROWS,
    STAGE1_SCRIPTS,
    STAGE2_METHODS,
    STAGE2_ROWS,
    STAGE2_SCRIPTS,
    Row,
    is_equal,
    read_value,
)

PAGE = Path(__file__).parent / "reference/published_presets.md"

INTRODUCTION = """# Published presets

This page is generated from the code by `python docs/generate_reference.py`. It compares every option of
[Skyfall-GS](https://github.com/jayin92/Skyfall-GS), at the value of its scripts, with the methods of skyfall-ns that
follow it. A cell with one value is as published; *a, here b* is a difference, and the last column has its reason.
Options in parentheses are constants in Skyfall-GS. [Options of Skyfall-GS](skyfall_gs_options.md) has its defaults and
the defaults of the other methods.
"""


def page_text() -> str:
    """Text of the page."""
    return "\n".join(
        [
            INTRODUCTION,
            "## Stage 1\n",
            options_table(STAGE1_ROWS, STAGE1_METHODS, STAGE1_SCRIPTS),
            "\n## Stage 2\n",
            options_table(STAGE2_ROWS, STAGE2_METHODS, STAGE2_SCRIPTS),
            "\n## Differences without an option\n",
            markdown_table([("what", "Skyfall-GS", "skyfall-ns", "reason"), *FIXED_DIFFERENCES]),
            "\n## Options without a counterpart\n",
            markdown_table(
                [("reason", "options"), *((why, _as_flags(names)) for why, names in NO_COUNTERPART.items())]
            ),
            "",
        ]
    )


def options_table(rows: Sequence[Row], methods: Sequence[str], scripts: Sequence[str]) -> str:
    """Markdown table of options, one column per method."""
    configs = [load_method(name) for name in methods]
    columns = (f"`{method}` (`{script}.py`)" for method, script in zip(methods, scripts, strict=True))
    lines = [("Skyfall-GS", *columns, "option of ns-train", "reason")]
    for row in rows:
        cells = [
            cell_text(published, read_value(config, row.read))
            for published, config in zip(row.published, configs, strict=True)
        ]
        flags = ", ".join(f"`--{flag}`" for flag in row.flag.split(", ") if flag) or "constant"
        lines.append((option_text(row.option), *cells, flags, row.reason))
    return markdown_table(lines)


def load_method(name: str) -> Any:
    """Configuration of a method."""
    return getattr(importlib.import_module("skyfall_ns.method_configs"), name.replace("-", "_")).config


def option_text(option: str) -> str:
    """Name of an option as a flag; constants are in parentheses."""
    if option.startswith("("):
        return option
    for separator in (":", ",", " "):
        name, found, rest = option.partition(separator)
        if found:
            return f"`--{name}`{found}{rest}"
    return f"`--{option}`"


def cell_text(published: Any, effective: Any) -> str:
    """The value, or both values where they differ."""
    text = value_text(published)
    return text if is_equal(published, effective) else f"{text}, here {value_text(effective)}"


def value_text(value: Any) -> str:
    """A value for people."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(value_text(part) for part in value)
    return value if isinstance(value, str) else f"{value:g}"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table, the first one as its head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in lines)


def _as_flags(names: str) -> str:
    return ", ".join(f"`--{name}`" for name in names.split())
