"""The registered methods: all can be found, and the reference's has its published numbers."""

import copy
import re
import shlex
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import tyro
from nerfstudio.engine.trainer import TrainerConfig

from skyfall_ns.errors import TrainingError
from skyfall_ns.idu.curriculum import REFERENCE_JAX, Curriculum
from skyfall_ns.method_configs import (
    skyfall,
    skyfall_fast,
    skyfall_idu,
    skyfall_idu_flux,
    skyfall_idu_klein,
    skyfall_reference,
)
from skyfall_ns.refiners.model_catalog import KNOWN
from skyfall_ns.scene.model_space import MODEL_PER_METRE


@pytest.mark.parametrize(
    "specification", [skyfall, skyfall_fast, skyfall_reference, skyfall_idu, skyfall_idu_klein, skyfall_idu_flux]
)
def test_every_method_is_registered_under_its_name(specification):
    name = specification.config.method_name
    found = [e for e in entry_points(group="nerfstudio.method_configs") if e.name == name]
    assert len(found) == 1 and found[0].load() is specification


def test_the_reference_has_the_published_rates_and_thresholds():
    """Skyfall-GS' run_jax.sh; lengths there are metres of a scene whose extent is 128."""
    table = skyfall_reference.config.optimizers
    means, scheduler = table["means"]["optimizer"].lr, table["means"]["scheduler"]
    assert means / MODEL_PER_METRE == pytest.approx(0.02048)
    assert scheduler.lr_final / MODEL_PER_METRE == pytest.approx(2.048e-4) and scheduler.max_steps == 30_000
    rates = {"features_dc": 0.0025, "features_rest": 1.25e-4, "opacities": 0.05, "scales": 0.001, "quats": 0.001,
             "embeddings": 0.005, "image_embeddings": 0.001, "appearance": 0.0005}  # fmt: skip
    assert {name: table[name]["optimizer"].lr for name in rates} == pytest.approx(rates)
    model, depth = skyfall_reference.config.pipeline.model, skyfall_reference.config.pipeline.depth
    assert (model.entropy_weight, model.sh_degree, model.appearance) == (10.0, 1, "perceptron")
    assert (model.warmup_length, model.stop_split_at, model.refine_every) == (1000, 21_000, 100)
    assert model.reset_alpha_every * model.refine_every == 3000
    assert (model.densify_grad_thresh, model.densify_size_thresh, model.cull_scale_thresh) == (1e-4, 1.28, 12.8)
    assert (depth.prior, depth.weight, depth.loss) == ("moge", 0.5, "pearson")
    assert (depth.schedule.start, depth.schedule.end, depth.schedule.interval) == (1000, 21_000, 10)
    assert skyfall_reference.config.max_num_iterations == 30_000


def test_methods_do_not_share_what_they_configure():
    assert skyfall.config.pipeline.model is not skyfall_fast.config.pipeline.model
    assert skyfall.config.pipeline.model == skyfall_fast.config.pipeline.model
    assert skyfall_fast.config.max_num_iterations < skyfall.config.max_num_iterations


@pytest.mark.parametrize("specification", [skyfall_idu_flux, skyfall_idu_klein])
def test_published_stage_2(specification):
    """Skyfall-GS' run_jax_idu.py: its rates really rule, its curriculum is whole."""
    config, pipeline = specification.config, specification.config.pipeline
    assert config.optimizers["scales"]["optimizer"].lr == 0.001 and pipeline.episode_rates == 1
    assert config.optimizers["means"]["optimizer"].lr / MODEL_PER_METRE == pytest.approx(0.02048)
    shares = (pipeline.synthetic_share, pipeline.keep_earlier, pipeline.moves, pipeline.agreement)
    assert shares == (0.75, 0, 1, False)
    assert (pipeline.grow_share, pipeline.grow_thresh, pipeline.reset_share) == (0.9, 2e-4, 0.5)
    assert (pipeline.episode_depth, pipeline.depth.prior, pipeline.model.entropy_weight) == (0.5, "moge", 0)
    curriculum = pipeline.curriculum
    assert curriculum.elevations_deg == (85, 75, 65, 55, 45) and curriculum.radii_m == (300, 275, 275, 250, 250)
    assert (curriculum.steps, curriculum.size_px, curriculum.samples_per_view) == ((10_000,), 1024, 2)


def given(specification, words):
    """The pipeline's configuration, as ns-train reads it."""
    return tyro.cli(TrainerConfig, default=copy.deepcopy(specification.config), args=words).pipeline


def test_what_is_given_replaces_a_number_of_the_method():
    """Also by what another method has."""
    words = ["--pipeline.curriculum.size-px", "384", "--pipeline.curriculum.radii-m", "None",
             "--pipeline.curriculum.grid-extent-m", "None"]  # fmt: skip
    wanted = replace(REFERENCE_JAX, size_px=384, radii_m=None, grid_extent_m=None)
    assert given(skyfall_idu_flux, words).curriculum == wanted
    assert given(skyfall_idu_flux, []).curriculum == REFERENCE_JAX


def test_a_preset_replaces_all_and_goes_with_no_option():
    for specification in (skyfall_idu, skyfall_idu_flux):
        assert given(specification, ["--pipeline.preset", "fitted"]).chosen_curriculum() == Curriculum()
        assert given(specification, []).chosen_curriculum() == given(specification, []).curriculum
    both = given(skyfall_idu, ["--pipeline.preset", "reference-jax", "--pipeline.curriculum.size-px", "512"])
    with pytest.raises(TrainingError, match=r"--pipeline.preset reference-jax .* exclude each other\. Leave one out"):
        both.check()


def test_the_command_for_new_york():
    """Skyfall-GS' nyc_v1 and NYC's weights, as docs/stage2.md has them."""
    text = (Path(__file__).parents[1] / "docs/stage2.md").read_text()
    (command,) = re.findall(r"ns-train skyfall-idu-flux (.*?)\n```", text.replace("\\\n", " "), re.S)
    pipeline = given(skyfall_idu_flux, shlex.split(command))
    pipeline.check()
    assert pipeline.chosen_curriculum() == replace(
        REFERENCE_JAX, elevations_deg=(85, 75, 65, 55, 45, 25), radii_m=(600,) * 6, fov_deg=(20,), grid=4
    )
    assert (pipeline.model.entropy_weight, pipeline.episode_depth) == (10, 0)


def test_models_differ_in_their_licence():
    flux, klein = skyfall_idu_flux.config.pipeline.refiner, skyfall_idu_klein.config.pipeline.refiner
    assert flux.name == klein.name == "flowedit"
    assert KNOWN[flux.diffusion.model].gated and KNOWN[klein.diffusion.model].licence == "Apache-2.0"
