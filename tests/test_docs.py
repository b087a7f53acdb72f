"""The documents: commands and flags exist, links resolve, generated parts are up to date, and the site builds."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers.commands import BIN

from skyfall_ns.method_configs import skyfall_idu
from skyfall_ns.refiners.model_catalog import models_table

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.md"))
GENERATED = ROOT / "docs/reference/cli.md"
NAMING_FILES = [p for p in DOCUMENTS if p != GENERATED and p.parent.name != "extending"]  # there: files to be written


def load_script(name: str):
    """A Python file of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference():
    """docs/generate_reference.py."""
    return load_script("generate_reference")


def read_commands():
    """Lines of the bash blocks; continued lines are joined."""
    for document in DOCUMENTS:
        for block in re.findall(r"```bash\n(.*?)```", document.read_text().replace("\\\n", " "), re.S):
            yield from (line.strip() for line in block.splitlines() if line.strip() and not line.startswith("#"))


COMMANDS = sorted(set(read_commands()))


def test_the_documents_contain_the_two_commands_of_a_first_run():
    assert {"pip install uv && uv run skyfall-demo", "pip install uv && uv run pytest"} <= set(COMMANDS)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.split()[0].startswith("skyfall-")])
def test_flags_exist(command):
    program, *words = command.split()
    subcommand = [w for w in words[:1] if re.fullmatch(r"[a-z][a-z-]*", w)]
    done = subprocess.run(
        [BIN / program, *subcommand, "--help"], capture_output=True, text=True, env={"COLUMNS": "200", "PATH": ""}
    )
    assert done.returncode == 0, done.stderr
    for flag in re.findall(r"--[a-z][a-z0-9.-]*", command):
        assert flag in done.stdout, f"{flag} of {command!r}"


@pytest.mark.parametrize("program", sorted({c.split()[0] for c in COMMANDS} - {"pip", "uv", "hf", "rsync", "python"}))
def test_programs_are_installed(program):
    assert (BIN / program).exists()


def test_methods_exist(reference):
    registered = set(reference.project()["entry-points"]["nerfstudio.method_configs"])
    named = {name for d in DOCUMENTS for name in re.findall(r"ns-train (skyfall[a-z-]*)", d.read_text())}
    assert named and not named - registered


def read_training_flags() -> set[str]:
    """Flags of ns-train that lead into the method's configuration."""
    pattern = r"--((?:pipeline|optimizers|machine|viewer|logging)\.[a-z0-9.-]*[a-z0-9])"
    return {flag for document in DOCUMENTS for flag in re.findall(pattern, document.read_text())}


@pytest.mark.parametrize("flag", sorted(read_training_flags()))
def test_flags_of_training_exist(flag):
    part = skyfall_idu.config  # stage 2 has the options of stage 1 and its own
    for name in flag.replace("-", "_").split("."):
        if isinstance(part, dict):
            assert name in part
            part = part[name]
            continue
        if not hasattr(part, name):
            part = part.schedule  # its flags have no prefix of their own
        assert hasattr(part, name)
        part = getattr(part, name)


@pytest.mark.parametrize("document", [*DOCUMENTS, *BENCHMARKS], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(document):
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text()):
        assert "://" in link or (document.parent / link).exists(), link


@pytest.mark.parametrize("document", NAMING_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_the_text_names_exist(document):
    for path in re.findall(r"`((?:skyfall_ns|tests|benchmarks|docs)/[\w/.*-]+)`", document.read_text()):
        assert list(ROOT.glob(path)), path


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text()
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    pages |= {f"benchmarks/{path.name}" for path in BENCHMARKS} | {"changelog.md"}
    assert pages == set(re.findall(r"[\w/]+\.md", str(yaml.safe_load(text)["nav"])))


def test_the_site_builds(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "benchmarks/stage1/index.html").exists() and (tmp_path / "images/demo.jpg").exists()


def test_the_command_line_reference_is_up_to_date(reference):
    assert GENERATED.read_text() == reference.cli_page(), "run python docs/generate_reference.py"


def test_the_layers_are_up_to_date(reference):
    text = reference.ARCHITECTURE.read_text()
    assert text == reference.with_layers(text), "run python docs/generate_reference.py"


def test_options_of_a_help_text_are_found(reference):
    box = (
        "usage: x\n\nWhat it\ndoes.\n\n╭─ options ───╮\n│ -h, --help  show │\n│ --size METERS  Side, (with\n"
        "│                --center). (default: 1.5) │\n│ --images FILE │\n│          Files. (required) │\n╰───╯\n"
    )
    (section,) = reference.sections(box)
    assert [(o.name, o.default, o.text) for o in section.options] == [
        ("--size METERS", "`1.5`", "Side, (with --center)."),
        ("--images FILE", "required", "Files."),
    ]
    assert reference.description(box) == "What it does."


def test_the_licenses_are_those_of_the_catalog():
    text = (ROOT / "docs/guides/refiners.md").read_text()
    table = re.search(r"<!-- models.*?-->(.*?)<!-- /models -->", text, re.S)
    assert table and table[1].strip() == models_table()


def test_the_citation_names_version_and_license(reference):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = reference.project()
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


REFERENCE = """
    source_path sh_degree appearance_enabled iterations position_lr_init lambda_dssim start_sample_pseudo
    iterative_datasets_update start_checkpoint datasets_type idu_no_curriculum idu_episode_iterations
    idu_densify_until_iter idu_opacity_reset_interval idu_opacity_cooling_iterations idu_testing_interval idu_refine
    idu_random_ap idu_iter_full_train idu_num_cams idu_num_samples_per_view idu_train_ratio idu_params
    idu_position_lr_max_steps idu_render_size idu_grid_width idu_grid_height idu_grid_size idu_ddim_strength
    idu_ddim_eta idu_ddim_step idu_ddim_guidance_scale idu_use_flow_edit idu_flow_edit_n_min idu_flow_edit_n_max
    idu_flow_edit_n_max_end idu_flow_edit_n_avg idu_model_type idu_use_difix3d idu_use_dreamscene idu_use_sd21
    densify_grad_threshold densification_interval lambda_opacity lambda_depth lambda_pseudo_depth
"""


@pytest.mark.parametrize("option", REFERENCE.split())
def test_every_option_of_skyfall_gs_has_an_answer(option):
    lines = (ROOT / "docs/reference/skyfall_gs_options.md").read_text().splitlines()
    rows = [line for line in lines if f"`--{option}`" in line]
    assert any(line.startswith("|") and line.count(" | ") == 1 for line in rows)
