"""The registered methods: all can be found, and the reference's has its published numbers."""

from importlib.metadata import entry_points

import pytest

from skyfall_ns.dataparsers.skyfall_dataparser import MODEL_PER_METRE
from skyfall_ns.method_configs import skyfall, skyfall_fast, skyfall_reference


@pytest.mark.parametrize("specification", [skyfall, skyfall_fast, skyfall_reference])
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
    assert (model.entropy_weight, model.sh_degree, model.appearance) == (10.0, 1, "embedding")
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
