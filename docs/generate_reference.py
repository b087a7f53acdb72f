"""Generate the parts of the manual that follow the code: reference/cli.md, reference/published_presets.md, and the
layers in design/architecture.md.

    python docs/generate_reference.py

tests/test_docs.py fails while the files on the disk differ from what this script writes.
"""

import ast
import contextlib
import copy
import importlib
import io
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CLI = ROOT / "docs/reference/cli.md"
ARCHITECTURE = ROOT / "docs/design/architecture.md"
COLUMNS = "120"  # below twice tyro's narrowest column, so that boxes stand one below the other
TRAINING_SECTIONS = r"pipeline(\.(datamanager\.dataparser|model|depth|curriculum|refiner(\.\w+)?))?"
MACHINE_DEPENDENT = "machine.device_type"

INTRODUCTION = """# Command line

This page is generated from the code by `python docs/generate_reference.py`. Every command prints the same text with
`--help`.
"""
METHODS_TEXT = """## Methods of ns-train

`ns-train METHOD --data SCENE` trains one of these methods ([Training](../guides/training.md),
[Stage 2](../guides/stage2.md)).
"""
TRAINING_TEXT = """## Options of training

Options of `ns-train` that configure the pipeline, with the defaults of `skyfall-idu`. Methods of stage 1 have those of
`pipeline.model`, `pipeline.depth` and `pipeline.datamanager.dataparser`. `ns-train METHOD --help` lists all options,
including those of Nerfstudio.
"""


@dataclass(frozen=True)
class Option:
    """One row of a table of options."""

    name: str
    default: str
    text: str


@dataclass(frozen=True)
class Section:
    """A box of a help text: its title, what it says first, and its options."""

    title: str
    text: str
    options: tuple[Option, ...]


def main() -> None:
    """Write the generated files."""
    from published_page import PAGE, page_text  # beside this script

    PAGE.write_text(page_text())
    CLI.write_text(cli_page())
    ARCHITECTURE.write_text(with_layers(ARCHITECTURE.read_text()))


def cli_page() -> str:
    """Text of reference/cli.md."""
    commands = [command_text(*entry) for entry in project()["scripts"].items()]
    parts = [INTRODUCTION, *commands, METHODS_TEXT, methods_text(), TRAINING_TEXT, *training_tables()]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def with_layers(text: str) -> str:
    """The page of the architecture with the order of imports that tests/test_layers.py checks."""
    lines = [", ".join(f"`{name}`" for name in layer if name != "__init__") for layer in import_layers()]
    listed = "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))
    return re.sub(r"(<!-- layers:.*?-->).*?(<!-- /layers -->)", rf"\1\n\n{listed}\n\n\2", text, flags=re.S)


def import_layers() -> tuple[tuple[str, ...], ...]:
    """LAYERS of tests/test_layers.py."""
    for node in ast.parse((ROOT / "tests/test_layers.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS":
            return ast.literal_eval(node.value)
    raise LookupError("tests/test_layers.py has no LAYERS")


def project() -> dict[str, Any]:
    """The [project] table of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def load_object(reference: str) -> Any:
    """The object behind "module:name"."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def help_text(command: Callable[[], object], *words: str) -> str:
    """What a command prints for `--help`, without colors, at a fixed width."""
    environment, arguments = dict(os.environ), sys.argv
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # boxes are drawn in Unicode
    os.environ.update(COLUMNS=COLUMNS, NO_COLOR="1", TERM="dumb")
    sys.argv = [arguments[0], *words, "--help"]
    try:
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            command()
    finally:
        sys.argv = arguments
        os.environ.clear()
        os.environ.update(environment)
    output.seek(0)
    return output.read()


def command_text(name: str, reference: str) -> str:
    """A command with its subcommands as Markdown."""
    command = load_object(reference)
    top = help_text(command)
    parts = [f"## {name}\n", description(top) + "\n"]
    subcommands = re.findall(r"│ +• (\w+)", top)
    if not subcommands:
        return "\n".join([*parts, options_table(sections(top))])
    for subcommand in subcommands:
        text = help_text(command, subcommand)
        parts += [f"### {name} {subcommand}\n", description(text) + "\n", options_table(sections(text))]
    return "\n".join(parts)


def description(text: str) -> str:
    """What a help text says between usage and options."""
    above = text.partition("╭─")[0].strip()
    paragraphs = [" ".join(p.split()) for p in above.split("\n\n")]
    return "\n\n".join(p for p in paragraphs if not p.startswith("usage:"))


def sections(text: str) -> list[Section]:
    """The boxes of a help text."""
    found = []
    for title, box in re.findall(r"╭─ ([\w. -]+?) ─*╮\n(.*?)╰─*╯", text, re.S):
        lines = [line.strip().removeprefix("│").removesuffix("│") for line in box.splitlines()]
        rule = next((i for i, line in enumerate(lines) if set(line.strip()) == {"─"}), -1)
        head = " ".join(" ".join(lines[:rule]).split()) if rule >= 0 else ""
        found.append(Section(title.removesuffix(" options"), head, tuple(options(lines[rule + 1 :]))))
    return found


def options(lines: list[str]) -> Iterator[Option]:
    """Entries of a box: they begin at its left edge, and their texts are indented."""
    entries: list[list[str]] = []
    for line in lines:
        if line.startswith(" ") and not line.startswith("  "):
            entries.append(re.split(r"\s{2,}", line.strip(), maxsplit=1))
        elif entries and line.strip():
            entries[-1].append(line.strip())
    for name, *texts in entries:
        text, default = split_default(" ".join(texts))
        if name != "-h, --help":
            yield Option(name.replace("{None}|", ""), default, text)


def split_default(text: str) -> tuple[str, str]:
    """(text, default) of a help text that ends in "(default: ...)" or "(required)"."""
    found = re.search(r"\s*\((?:default: (.*?)|required)\)$", text)
    if found is None:
        return text, ""
    if found[1] is None:
        return text[: found.start()], "required"
    return text[: found.start()], "none" if found[1] == "None" else f"`{found[1]}`" if found[1] else ""


def options_table(boxes: list[Section]) -> str:
    """Options as Markdown tables: one for the boxes without a text, and one per box with a text."""
    plain = tuple(option for box in boxes if not box.text for option in box.options)
    parts = []
    for box in (Section("", "", plain), *(box for box in boxes if box.text)):
        if box.options:
            head = [f"{cell(box.text)}\n"] if box.text else []
            rows = [f"| `{o.name}` | {o.default} | {cell(o.text)} |" for o in box.options]
            parts.append("\n".join([*head, "| option | default | meaning |", "|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def cell(text: str) -> str:
    """Text that may stand in a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def training_tables() -> Iterator[str]:
    """Tables of the options of ns-train that this package defines."""
    import tyro

    from skyfall_ns.method_configs import skyfall_idu

    as_nerfstudio = (tyro.conf.SuppressFixed, tyro.conf.FlagConversionOff)
    default = copy.deepcopy(skyfall_idu.config)
    text = help_text(lambda: tyro.cli(type(default), default=default, config=as_nerfstudio))
    for box in sections(text):
        if box.options and re.fullmatch(TRAINING_SECTIONS, box.title):
            yield f"### {box.title}\n\n{options_table([box])}"


def methods_text() -> str:
    """The registered methods, and the options in which they differ from the first of their stage."""
    entries = project()["entry-points"]["nerfstudio.method_configs"]
    methods = {name: load_object(reference) for name, reference in entries.items()}
    table = [f"| `{name}` | {cell(method.description)} |" for name, method in methods.items()]
    parts = ["| method | description |", "|---|---|", *table, ""]
    first: dict[type, str] = {}
    for name, method in methods.items():
        base = first.setdefault(type(method.config.pipeline), name)
        if base != name:
            rows = differences(method.config, methods[base].config)
            parts += [f"### {name}\n", f"Differences from `{base}`:\n", "| option | value |", "|---|---|",
                      *(f"| `{flag}` | `{value}` |" for flag, value in rows), ""]  # fmt: skip
    return "\n".join(parts)


def differences(config: Any, base: Any) -> list[tuple[str, str]]:
    """(flag, value) of every option of a method that has another value than in the base."""
    ours, theirs = dict(flatten(config)), dict(flatten(base))
    return [
        (flag, shown(value)) for flag, value in ours.items() if flag != "--method-name" and value != theirs.get(flag)
    ]


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(flag, value) of all options below a config."""
    items = [(f.name, getattr(value, f.name)) for f in fields(value)] if is_dataclass(value) else list(value.items())
    for name, item in items:
        path = f"{prefix}.{name}" if prefix else name
        if name.startswith("_") or path == MACHINE_DEPENDENT:
            continue
        if is_dataclass(item) or (isinstance(item, dict) and item):
            yield from flatten(item, path.removesuffix(".schedule") if path == "pipeline.depth.schedule" else path)
        else:
            yield "--" + path.replace("_", "-"), item


def shown(value: Any) -> str:
    """A value as on the command line."""
    if isinstance(value, tuple | list):
        return " ".join(shown(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
