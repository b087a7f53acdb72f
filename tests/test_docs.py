"""Every command of the documents names a command and flags that exist."""

import re
import subprocess
from pathlib import Path

import pytest
from test_cli_host import BIN

from skyfall_ns.method_configs import skyfall

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands():
    for document in DOCUMENTS:
        for block in re.findall(r"```bash\n(.*?)```", document.read_text(), re.S):
            yield from (line.strip() for line in block.splitlines() if line.strip() and not line.startswith("#"))


def test_the_documents_hold_the_two_commands_of_a_newcomer():
    assert {"pip install uv && uv run skyfall-demo", "pip install uv && uv run pytest"} <= set(commands())


@pytest.mark.parametrize("command", sorted({c for c in commands() if c.split()[0].startswith("skyfall-")}))
def test_flags_exist(command):
    program, *words = command.split()
    subcommand = [w for w in words[:1] if not w.startswith("-") and w.islower() and "/" not in w]
    text = subprocess.run(
        [BIN / program, *subcommand, "--help"], capture_output=True, text=True, env={"COLUMNS": "200", "PATH": ""}
    ).stdout
    for flag in re.findall(r"--[a-z-]+", command):
        assert flag in text, f"{flag} of {command!r}"


def settings() -> set[str]:
    """Flags of ns-train that lead into the method's configuration."""
    pattern = r"--((?:pipeline|optimizers|machine|viewer|logging)\.[a-z0-9.-]*[a-z0-9])"
    return {flag for document in DOCUMENTS for flag in re.findall(pattern, document.read_text())}


@pytest.mark.parametrize("flag", sorted(settings()))
def test_flags_of_training_exist(flag):
    part = skyfall.config
    for name in flag.replace("-", "_").split("."):
        if isinstance(part, dict):
            assert name in part
            part = part[name]
            continue
        if not hasattr(part, name):
            part = part.schedule  # its flags have no prefix of their own
        assert hasattr(part, name)
        part = getattr(part, name)


@pytest.mark.parametrize("link", sorted({m for d in DOCUMENTS for m in re.findall(r"\]\(([^)#:]+)\)", d.read_text())}))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists() or (ROOT / "docs" / link).exists()
