"""The example of docs/extending/add_a_depth_prior.md, run as it is printed."""

import copy
from pathlib import Path
from typing import get_args

import pytest
import torch
import tyro
from helpers.documents import load_example, python_blocks, table_entry

from skyfall_ns.errors import TrainingError
from skyfall_ns.method_configs import skyfall
from skyfall_ns.pipelines.depth_supervision import DepthSupervision, DepthSupervisionConfig
from skyfall_ns.priors import registry
from skyfall_ns.priors.pseudo_cameras import PseudoSchedule
from skyfall_ns.priors.registry import PRIORS, PriorName, build_prior

MODULE = "skyfall_ns.priors.exported"
SCHEDULE = PseudoSchedule(
    start=10, end=1000, ramp=0, size_px=96, elevations_deg=(70.0, 45.0), radii_m=(90.0, 80.0), target_std_m=8.0
)
STEP = 500


class Disparity(torch.nn.Module):
    """Disparity that decreases from the lowest to the highest row, so that the ground is nearest at the bottom."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        rows = torch.linspace(0.5, 1.0, image.shape[2])
        return rows[None, :, None].expand(1, image.shape[2], image.shape[3])


@pytest.fixture
def exported(tmp_path_factory, monkeypatch):
    """The module of the page, whose prior is in the table during the test."""
    source, line = python_blocks("extending/add_a_depth_prior.md")
    module = load_example(source, MODULE, tmp_path_factory.mktemp("example"), monkeypatch)
    name, entry = table_entry(line, registry)
    monkeypatch.setitem(PRIORS, name, entry)
    return module


@pytest.fixture
def network_file(tmp_path):
    """File of a network for images of 96 pixels."""
    path, size = tmp_path / "network.pt2", SCHEDULE.size_px
    torch.export.save(torch.export.export(Disparity(), (torch.zeros(1, 3, size, size),)), path)
    return path


@pytest.fixture(scope="module")
def model(city_scene):
    """A model as it is initialized."""
    torch.manual_seed(0)
    config = copy.deepcopy(skyfall.config.pipeline)
    config.datamanager.data, config.depth.prior = city_scene, "none"
    return config.setup(device="cpu").train().model


def test_the_example_supervises_depth(exported, network_file, model):
    config = DepthSupervisionConfig(prior="exported", weights=str(network_file), schedule=SCHEDULE, loss="pearson")
    assert isinstance(config.build_prior(model.normalized), exported.ExportedPriorConfig)
    depth = DepthSupervision.from_config(config, model.normalized, seed=0)
    loss = depth.step_losses(model.renderer, STEP)["depth"]
    loss.backward()
    assert 0 < loss.item() < 0.15  # weight 0.15: larger disparity is nearer, as in the scene
    assert model.gauss_params["means"].grad.abs().max() > 0
    depth.release_prior()


def test_a_missing_file_is_an_error_before_training(exported, model):
    for weights in (None, "nowhere.pt2"):
        config = DepthSupervisionConfig(prior="exported", weights=weights, schedule=SCHEDULE)
        with pytest.raises(TrainingError, match=r"exported has no file .*\. Pass --pipeline\.depth") as error:
            DepthSupervision.from_config(config, model.normalized, seed=0)
        assert str(error.value).count(". ") == 1


@pytest.mark.usefixtures("exported")
def test_the_line_in_the_table_is_a_choice_of_the_command_line(tmp_path, monkeypatch):
    """Checked with a copy of the registry, whose choices are made when it is imported."""
    _, line = python_blocks("extending/add_a_depth_prior.md")
    source = Path(registry.__file__).read_text()
    assert source.count("] = {\n") == 1
    changed = load_example(source.replace("] = {\n", "] = {\n" + line), "registry_copy", tmp_path, monkeypatch)
    assert tyro.cli(changed.PriorName, args=["exported"]) == "exported"


def test_choices_are_the_table_and_unknown_names_an_error(model):
    assert get_args(PriorName) == ("auto", "none", *PRIORS)
    with pytest.raises(TrainingError, match=r"There is no depth prior 'magic'\. Pass one of auto, none, surface"):
        build_prior("magic", DepthSupervisionConfig(), model.normalized)


@pytest.mark.parametrize("name", PRIORS)
def test_every_prior_is_built_from_the_options(name, model):
    prior = build_prior(name, DepthSupervisionConfig(), model.normalized)
    assert type(prior).__name__ == PRIORS[name].config_class and type(prior).__module__ == PRIORS[name].module
