"""The refiner `flowedit` end to end on tiny pipelines, with the same loading code as for real models."""

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.plates import write_plate_renders
from helpers.views import make_view
from torch import Tensor

from skyfall_ns.errors import TrainingError
from skyfall_ns.idu.camera_placement import place_cameras
from skyfall_ns.idu.curriculum import Curriculum
from skyfall_ns.idu.episode_store import EpisodeStore
from skyfall_ns.idu.refinement import refine_episode
from skyfall_ns.refiners import batches, model_loading, prompts
from skyfall_ns.refiners.diffusion_models import ADAPTERS
from skyfall_ns.refiners.diffusion_models.flux import Flux1
from skyfall_ns.refiners.flowedit import FlowEditRefinerConfig
from skyfall_ns.refiners.model_catalog import KNOWN_MODELS, SOURCE_PROMPT, TARGET_PROMPT
from skyfall_ns.refiners.registry import FLUX
from skyfall_ns.refiners.resolved_options import edit_steps
from skyfall_ns.refiners.weights import find_weights

CPU = torch.device("cpu")
EPISODE = Path("episode_00")
FAMILIES = ("flux", "schnell", "sd3", "klein", "klein_base", "zimage")
SHORT_SCHEDULE = {"dtype": "float32", "steps": 6, "n_max": 4, "n_min": 2}


def refine(config: FlowEditRefinerConfig, *views) -> list[Tensor]:
    with config.load(CPU, EPISODE) as refiner:
        return refiner(list(views))


@pytest.fixture
def config(tiny):
    return FlowEditRefinerConfig(model=str(tiny("flux")), **SHORT_SCHEDULE)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_refines_and_a_batch_equals_its_single_views(tiny, family):
    config = FlowEditRefinerConfig(model=str(tiny(family)), **SHORT_SCHEDULE)
    views = [make_view(1), make_view(2)]
    with config.load(CPU, EPISODE) as refiner:
        together, apart = refiner(views), [refiner([view])[0] for view in views]
    for view, a, b in zip(views, together, apart, strict=True):
        assert a.shape == view.image.shape and a.dtype == torch.float32 and a.device == CPU and not a.requires_grad
        assert torch.isfinite(a).all() and not torch.allclose(a, view.image, atol=0.02)
        assert (a - b).abs().max() < 2e-5


def test_the_same_seed_gives_the_same_image(config):
    view = make_view(1)
    first, again, other = refine(config, view), refine(config, view), refine(config, replace(view, seed=2))
    assert torch.equal(first[0], again[0]) and not torch.allclose(first[0], other[0], atol=1e-3)


def test_zero_edit_steps_return_the_input(config):
    view = make_view(1, 50, 70)
    assert torch.equal(refine(replace(config, n_max=0, n_min=0), view)[0], view.image)
    assert torch.equal(refine(replace(config, n_max=0, n_min=None), view)[0], view.image)


def test_equal_prompts_and_guidance_leave_latents_unchanged(config):
    view, same = make_view(1), {"source_prompt": "a city", "target_prompt": "a city", "n_min": 0}
    equal = replace(config, source_guidance=2.0, target_guidance=2.0, **same)
    with equal.load(CPU, EPISODE) as refiner, torch.no_grad():
        latents = refiner.model.encode_images(batches.stack_images([view]))
        round_trip = refiner.model.decode_latents(latents)[0].permute(1, 2, 0)
        assert torch.equal(refiner([view])[0], round_trip)
    stronger = refine(replace(equal, target_guidance=6.0), view)[0]
    assert not torch.allclose(stronger, round_trip, atol=1e-4)


def test_sizes_that_are_not_multiples_are_padded_and_cropped(config):
    odd, small = make_view(1, 50, 70), make_view(2, 6, 64)
    with config.load(CPU, EPISODE) as refiner:
        refined = [refiner([view])[0] for view in (odd, small, make_view(3))]
    assert [tuple(image.shape[:2]) for image in refined] == [(50, 70), (6, 64), (64, 64)]
    assert all(torch.isfinite(image).all() for image in refined)
    with config.load(CPU, EPISODE) as refiner, torch.no_grad():
        padded = torch.nn.functional.pad(batches.stack_images([odd]), (0, 10, 0, 14), mode="reflect")
        assert refiner.model.encode_images(padded).shape[-2:] == (8, 10)


def test_cached_prompts_need_no_text_encoders(config, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = refine(config, make_view(1))
    files = list(prompts.cache_directory().iterdir())
    assert [file.suffix for file in files] == [".safetensors"] * 2

    def fail(*_, **__):
        raise AssertionError("text encoders were loaded")

    monkeypatch.setattr(prompts, "load_text_encoders", fail)
    with config.load(CPU, EPISODE) as refiner:
        parts = refiner.model.pipe.components
        assert parts["text_encoder"] is None and parts["tokenizer_2"] is None and parts["transformer"] is not None
        assert torch.equal(refiner([make_view(1)])[0], first[0])
    with pytest.raises(AssertionError, match="were loaded"):
        refine(replace(config, target_prompt="another city"), make_view(1))


def test_a_failed_save_leaves_no_file(tmp_path):
    with pytest.raises((AttributeError, ValueError)):
        prompts.save_embedding({"bad": "no tensor"}, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_embeddings_are_cached_by_weights_format_and_prompt(tiny, tmp_path, config):
    from helpers import tiny_pipelines

    other = tiny_pipelines.build_tiny_pipeline("flux", tmp_path / "other", seed=1)
    a, b = (find_weights(replace(config, model=str(m)), ADAPTERS) for m in (tiny("flux"), other))
    parts = ("text_encoder",)
    names = {prompts.cache_file(w, parts, d, p) for w in (a, b) for d in ("float32", "bfloat16") for p in ("x", "y")}
    assert len(names) == 8


def test_memory_is_released(config):
    with config.load(CPU, EPISODE) as refiner:
        transformer = weakref.ref(refiner.model.pipe.transformer)
    gc.collect()
    assert transformer() is None and refiner is not None


@pytest.fixture
def store(tmp_path):
    """An episode with four rendered views of 32 pixels."""
    box_m, curriculum = np.array([[-30.0, -30.0, 0.0], [30.0, 30.0, 12.0]]), Curriculum(grid=1, azimuths=4, size_px=32)
    episode = curriculum.plan_episodes(box_m)[0]
    views, _ = place_cameras(curriculum, episode, box_m, lambda x, y: 0.0, lambda eye, target: None)
    return write_plate_renders(EpisodeStore.create(tmp_path, episode, views, 32, {"run": 1}, 500.0))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_keeps_the_render_and_is_recorded_in_the_manifest(config, store, monkeypatch, value):
    decode_latents = Flux1.decode_latents

    def broken(self, z):
        images = decode_latents(self, z)
        images[1, 0, 3, 3] = value
        return images

    monkeypatch.setattr(Flux1, "decode_latents", broken)
    with pytest.warns(UserWarning, match="view 00[13] has NaN or infinity; its render is kept") as warned:
        report = refine_episode(store, replace(config, batch=2), CPU, progress=False)
    assert (report.refined_count, report.kept_count, len(warned)) == (4, 2, 2)
    again = EpisodeStore.open(store.path)
    assert [name for name, view in again.manifest.views.items() if view.kept_render] == ["001", "003"]
    for name in again.view_names:
        kept = torch.equal(again.read_refined(name), again.rendered_view(name).image)
        assert kept == again.manifest.views[name].kept_render


def test_batches_shrink_when_memory_runs_out(config, store, monkeypatch):
    """One view at a time gives the same images; if that is still too much, the message has the options that help."""
    encode_images, batches_tried, limit = Flux1.encode_images, [], 4

    def encode_limited(self, image):
        batches_tried.append(len(image))
        if len(image) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode_images(self, image)

    monkeypatch.setattr(Flux1, "encode_images", encode_limited)
    refine_episode(store, replace(config, batch=4), CPU, progress=False)
    expected = [store.read_refined(name) for name in store.view_names]
    for name in store.view_names:
        store.image_path("refined", name).unlink()
    limit, batches_tried[:] = 1, []
    with pytest.warns(UserWarning, match="Memory ran out with [42] views per batch; continuing with [21]") as warned:
        assert refine_episode(store, replace(config, batch=4), CPU, progress=False).refined_count == 4
    assert batches_tried == [4, 2, 1, 1, 1, 1] and len(warned) == 2
    for name, image in zip(store.view_names, expected, strict=True):
        assert (store.read_refined(name) - image).abs().max() < 1.5 / 255
    store.image_path("refined", "002").unlink()
    limit = 0
    with pytest.raises(TrainingError, match=r"too little memory .* even a single view\. Pass .*offload") as error:
        refine_episode(store, replace(config, batch=4), CPU, progress=False)
    assert str(error.value).count(". ") == 1


def test_a_model_too_large_for_the_gpu_is_an_error(config, monkeypatch):
    def too_large(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    refine(config, make_view(1))  # prompts are cached
    monkeypatch.setattr(model_loading, "_read_components", too_large)
    with pytest.raises(TrainingError, match=r"does not fit into the memory of the GPU\. Pass .*offload model or group"):
        refine(config, make_view(1))


def test_noise_levels_determine_the_steps(tiny):
    """The default noise levels give the counts of Skyfall-GS at 1024 pixels."""
    config = FlowEditRefinerConfig(model=str(tiny("flux")), dtype="float32")
    with config.load(CPU, EPISODE) as refiner:
        options, model = refiner.options, refiner.model
        steps = edit_steps(options, model.noise_levels((1024, 1024), options.steps))
        smaller = edit_steps(options, model.noise_levels((512, 512), options.steps))
        with pytest.warns(UserWarning, match=r"starts at noise level 0\.\d+ instead of 0\.64: 2 steps are too few"):
            edit_steps(options, model.noise_levels((1024, 1024), 2))
        with pytest.warns(UserWarning, match=r"starts at noise level 0\.00 instead of 0\.04: 28 steps are too few"):
            weak = replace(options, edit_start_sigma=0.04, edit_end_sigma=0.0)
            edit_steps(weak, model.noise_levels((1024, 1024), 28))
    assert (steps.n_max, steps.n_min, steps.n_avg) == (10, 4, 1)
    assert smaller.n_max > 10 and smaller.n_min > 4


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_is_close_to_full_precision(config, name):
    view = make_view(1)
    exact, half = refine(config, view)[0], refine(replace(config, dtype=name), view)[0]
    assert 0 < (exact - half).abs().mean() < 0.05


def test_eight_bit_weights_run_on_the_cpu(config):
    view = make_view(1)
    exact, quantized = refine(config, view)[0], refine(replace(config, quantize="fp8"), view)[0]
    assert 0 < (exact - quantized).abs().mean() < 0.1


def test_anchored_noise_depends_on_the_episode_number_only(config, tmp_path):
    """Not on the name of the directory."""
    view = make_view(1)
    anchored = replace(config, noise="anchored")

    def refine_in(directory, number):
        directory.mkdir()
        (directory / "poses.json").write_text(json.dumps({"episode": {"number": number}}))
        with anchored.load(CPU, directory) as refiner:
            return refiner([view])[0]

    one = refine_in(tmp_path / "episode_01", 1)
    assert torch.equal(refine_in(tmp_path / "copy", 1), one)
    assert not torch.equal(refine_in(tmp_path / "episode_02", 2), one)
    assert not torch.equal(refine(config, view)[0], one)


def test_identity_has_everything_that_changes_images(config):
    identity = json.loads(json.dumps(config.identity()))
    assert identity["name"] == "flowedit" and identity["license"] == "unknown to skyfall-ns"
    assert identity["target_prompt"] == TARGET_PROMPT and identity["source_guidance"] == 1.5
    assert replace(config, batch=4).identity() == config.identity()
    for change in ({"n_max": 3}, {"target_prompt": "x"}, {"noise": "anchored"}, {"dtype": "float16"}):
        assert replace(config, **change).identity() != config.identity()
    assert config.generative


def test_the_published_options():
    config = FLUX.build()
    assert (config.steps, config.n_max, config.n_min, config.n_avg) == (28, 10, 4, 1)
    assert (config.source_guidance, config.target_guidance) == (1.5, 5.5)
    assert (config.source_prompt, config.target_prompt) == (SOURCE_PROMPT, TARGET_PROMPT)
    assert KNOWN_MODELS[config.model].gated and "Non-Commercial" in KNOWN_MODELS[config.model].license
