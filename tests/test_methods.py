"""The registered methods: entry points, and the published numbers of Skyfall-GS in the reference methods."""

import copy
from dataclasses import replace
from importlib.metadata import entry_points

import pytest
import tyro
from nerfstudio.engine.trainer import TrainerConfig

from skyfall_ns.idu.curriculum import REFERENCE_JAX
from skyfall_ns.method_configs import (
    skyfall,
    skyfall_fast,
    skyfall_idu,
    skyfall_idu_flux,
    skyfall_idu_flux_nyc,
    skyfall_idu_klein,
    skyfall_naive,
    skyfall_reference,
)
from skyfall_ns.refiners.model_catalog import KNOWN_MODELS
from skyfall_ns.scene.model_space import MODEL_PER_METER


@pytest.mark.parametrize(
    "specification",
    [
        skyfall,
        skyfall_fast,
        skyfall_reference,
        skyfall_naive,
        skyfall_idu,
        skyfall_idu_klein,
        skyfall_idu_flux,
        skyfall_idu_flux_nyc,
    ],
)
def test_every_method_is_registered_under_its_name(specification):
    name = specification.config.method_name
    found = [e for e in entry_points(group="nerfstudio.method_configs") if e.name == name]
    assert len(found) == 1 and found[0].load() is specification


def test_reference_has_the_published_learning_rates_and_thresholds():
    """Those of Skyfall-GS' run_jax.sh, whose lengths are meters in a scene with an extent of 128."""
    table = skyfall_reference.config.optimizers
    means, scheduler = table["means"]["optimizer"].lr, table["means"]["scheduler"]
    assert means / MODEL_PER_METER == pytest.approx(0.02048)
    assert scheduler.lr_final / MODEL_PER_METER == pytest.approx(2.048e-4) and scheduler.max_steps == 30_000
    rates = {"features_dc": 0.0025, "features_rest": 1.25e-4, "opacities": 0.05, "scales": 0.001, "quats": 0.001,
             "embeddings": 0.005, "image_embeddings": 0.001, "appearance_decoder": 0.0005}  # fmt: skip
    assert {name: table[name]["optimizer"].lr for name in rates} == pytest.approx(rates)
    model, depth = skyfall_reference.config.pipeline.model, skyfall_reference.config.pipeline.depth
    assert (model.entropy_weight, model.sh_degree, model.appearance) == (10.0, 1, "perceptron")
    assert (model.warmup_length, model.stop_split_at, model.refine_every) == (1000, 21_000, 100)
    assert model.reset_alpha_every * model.refine_every == 3000
    assert (model.densify_grad_thresh, model.densify_size_thresh, model.cull_scale_thresh) == (1e-4, 1.28, 12.8)
    assert (depth.prior, depth.weight, depth.loss) == ("moge", 0.5, "pearson")
    assert (depth.schedule.start, depth.schedule.end, depth.schedule.interval) == (1000, 21_000, 10)
    assert skyfall_reference.config.max_num_iterations == 30_000


def test_methods_do_not_share_configuration_objects():
    assert skyfall.config.pipeline.model is not skyfall_fast.config.pipeline.model
    assert skyfall.config.pipeline.model == skyfall_fast.config.pipeline.model
    assert skyfall_fast.config.max_num_iterations < skyfall.config.max_num_iterations


@pytest.mark.parametrize("specification", [skyfall_idu_flux, skyfall_idu_klein])
def test_stage_2_has_the_published_numbers(specification):
    """Those of Skyfall-GS' run_jax_idu.py; its learning rates have effect, and its curriculum is complete."""
    config, pipeline = specification.config, specification.config.pipeline
    assert config.optimizers["scales"]["optimizer"].lr == 0.001 and pipeline.episode_lr_scale == 1
    assert config.optimizers["means"]["optimizer"].lr / MODEL_PER_METER == pytest.approx(0.02048)
    shares = (
        pipeline.synthetic_share,
        pipeline.replay_decay,
        pipeline.geometry_gradient_scale,
        pipeline.consistency_weighting,
    )
    assert shares == (0.75, 0, 1, False)
    assert (pipeline.densify_fraction, pipeline.densify_grad_thresh, pipeline.opacity_reset_fraction) == (
        0.9,
        2e-4,
        0.5,
    )
    assert (pipeline.episode_depth, pipeline.depth.prior) == (0.5, "moge")
    assert (pipeline.model.entropy_weight, pipeline.episode_entropy_weight) == (10, 0)
    curriculum = pipeline.curriculum
    assert curriculum.elevations_deg == (85, 75, 65, 55, 45) and curriculum.radii_m == (300, 275, 275, 250, 250)
    assert (curriculum.steps, curriculum.size_px, curriculum.samples_per_view) == ((10_000,), 1024, 2)


def parse_pipeline(specification, flags):
    """Configuration of the pipeline, as ns-train parses it."""
    return tyro.cli(TrainerConfig, default=copy.deepcopy(specification.config), args=flags).pipeline


def test_flags_replace_numbers_of_the_method():
    """Also by the value that the class has as default."""
    flags = ["--pipeline.curriculum.size-px", "384", "--pipeline.curriculum.radii-m", "None",
             "--pipeline.curriculum.grid-extent-m", "None"]  # fmt: skip
    expected = replace(REFERENCE_JAX, size_px=384, radii_m=None, grid_extent_m=None)
    assert parse_pipeline(skyfall_idu_flux, flags).curriculum == expected
    assert parse_pipeline(skyfall_idu_flux, []).curriculum == REFERENCE_JAX


def test_nyc_method_has_the_published_cameras_and_weights():
    """Those of Skyfall-GS' nyc_v1."""
    pipeline = skyfall_idu_flux_nyc.config.pipeline
    assert pipeline.curriculum == replace(
        REFERENCE_JAX, elevations_deg=(85, 75, 65, 55, 45, 25), radii_m=(600,) * 6, fov_deg=(20,), grid=4
    )
    assert (pipeline.model.entropy_weight, pipeline.episode_entropy_weight, pipeline.episode_depth) == (10, 10, 0)


def test_licenses_of_the_diffusion_models():
    flux, klein = skyfall_idu_flux.config.pipeline.refiner, skyfall_idu_klein.config.pipeline.refiner
    assert flux.name == klein.name == "flowedit"
    assert KNOWN_MODELS[flux.diffusion.model].gated and KNOWN_MODELS[klein.diffusion.model].license == "Apache-2.0"
