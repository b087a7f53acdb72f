"""Every command of the documents names a command and flags that exist."""

import re
import subprocess
from pathlib import Path

import pytest
from test_cli_host import BIN

from skyfall_ns import method_configs
from skyfall_ns.method_configs import skyfall_idu
from skyfall_ns.refiners.model_catalog import models_table

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
    for flag in re.findall(r"--[a-z][a-z0-9.-]*", command):
        assert flag in text, f"{flag} of {command!r}"


def test_methods_exist():
    methods = {"skyfall_" + name for d in DOCUMENTS for name in re.findall(r"ns-train skyfall-([a-z]+)", d.read_text())}
    assert methods and not [name for name in methods if not hasattr(method_configs, name)]


def settings() -> set[str]:
    """Flags of ns-train that lead into the method's configuration."""
    pattern = r"--((?:pipeline|optimizers|machine|viewer|logging)\.[a-z0-9.-]*[a-z0-9])"
    return {flag for document in DOCUMENTS for flag in re.findall(pattern, document.read_text())}


@pytest.mark.parametrize("flag", sorted(settings()))
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


@pytest.mark.parametrize("link", sorted({m for d in DOCUMENTS for m in re.findall(r"\]\(([^)#:]+)\)", d.read_text())}))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists() or (ROOT / "docs" / link).exists()


def test_the_licences_are_those_of_the_catalogue():
    table = re.search(r"<!-- models.*?-->(.*?)<!-- /models -->", (ROOT / "docs/stage2.md").read_text(), re.S)
    assert table and table[1].strip() == models_table()


REFERENCE = """
    iterative_datasets_update start_checkpoint datasets_type idu_no_curriculum idu_episode_iterations
    idu_densify_until_iter idu_opacity_reset_interval idu_opacity_cooling_iterations idu_testing_interval idu_refine
    idu_random_ap idu_iter_full_train idu_num_cams idu_num_samples_per_view idu_train_ratio idu_params
    idu_position_lr_max_steps idu_render_size idu_grid_width idu_grid_height idu_grid_size idu_ddim_strength
    idu_ddim_eta idu_ddim_step idu_ddim_guidance_scale idu_use_flow_edit idu_flow_edit_n_min idu_flow_edit_n_max
    idu_flow_edit_n_max_end idu_flow_edit_n_avg idu_model_type idu_use_difix3d idu_use_dreamscene idu_use_sd21
    densify_grad_threshold densification_interval lambda_opacity lambda_depth lambda_pseudo_depth
"""


@pytest.mark.parametrize("option", REFERENCE.split())
def test_every_option_of_the_reference_has_an_answer(option):
    rows = [line for line in (ROOT / "docs/stage2.md").read_text().splitlines() if f"`--{option}`" in line]
    assert any(line.startswith("|") and line.count(" | ") == 1 for line in rows)
