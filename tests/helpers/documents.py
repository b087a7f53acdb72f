"""Examples of documentation pages, run as they are printed."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def python_blocks(page: str) -> list[str]:
    """The Python blocks of a page, given relative to docs/."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)


def load_example(source: str, name: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Write the source of an example to a directory and import it as the module `name`, for the duration of a test."""
    path = directory / f"{name.rpartition('.')[2]}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def table_entry(line: str, module: ModuleType) -> tuple[str, object]:
    """Key and value of a printed line of a table, with the names of a module."""
    ((key, value),) = eval(f"{{{line}}}", vars(module)).items()
    return key, value
