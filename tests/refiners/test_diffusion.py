"""The FlowEdit refiner end to end on tiny pipelines, through the code that loads the large ones."""

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.plates import fill
from helpers.views import make_view
from torch import Tensor

from skyfall_ns.errors import TrainingError
from skyfall_ns.idu.curriculum import Curriculum, poses
from skyfall_ns.idu.episode_store import EpisodeFolder
from skyfall_ns.idu.refinement import refine_episode
from skyfall_ns.refiners import batches, diffusion, model_loading, prompts
from skyfall_ns.refiners.diffusion import FlowEditRefinerConfig
from skyfall_ns.refiners.diffusion_models.flux import Flux1
from skyfall_ns.refiners.model_catalog import KNOWN, SOURCE_PROMPT, TARGET_PROMPT
from skyfall_ns.refiners.registry import FLUX

CPU = torch.device("cpu")
EPISODE = Path("episode_00")
FAMILIES = ("flux", "schnell", "sd3", "klein", "klein_base", "zimage")
QUICK = {"dtype": "float32", "steps": 6, "n_max": 4, "n_min": 2}


def refine(config: FlowEditRefinerConfig, *views) -> list[Tensor]:
    with config.load(CPU, EPISODE) as refiner:
        return refiner(list(views))


@pytest.fixture
def config(tiny):
    return FlowEditRefinerConfig(model=str(tiny("flux")), **QUICK)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_refines_and_a_batch_is_its_views(tiny, family):
    config = FlowEditRefinerConfig(model=str(tiny(family)), **QUICK)
    views = [make_view(1), make_view(2)]
    with config.load(CPU, EPISODE) as refiner:
        together, apart = refiner(views), [refiner([view])[0] for view in views]
    for view, a, b in zip(views, together, apart, strict=True):
        assert a.shape == view.image.shape and a.dtype == torch.float32 and a.device == CPU and not a.requires_grad
        assert torch.isfinite(a).all() and not torch.allclose(a, view.image, atol=0.02)
        assert (a - b).abs().max() < 2e-5


def test_the_same_seed_gives_the_same_picture(config):
    view = make_view(1)
    first, again, other = refine(config, view), refine(config, view), refine(config, replace(view, seed=2))
    assert torch.equal(first[0], again[0]) and not torch.allclose(first[0], other[0], atol=1e-3)


def test_nothing_to_edit_returns_the_input_itself(config):
    view = make_view(1, 50, 70)
    assert torch.equal(refine(replace(config, n_max=0, n_min=0), view)[0], view.image)
    assert torch.equal(refine(replace(config, n_max=0, n_min=None), view)[0], view.image)


def test_one_prompt_and_one_guidance_change_latents_by_nothing(config):
    view, same = make_view(1), {"source_prompt": "a city", "target_prompt": "a city", "n_min": 0}
    equal = replace(config, source_guidance=2.0, target_guidance=2.0, **same)
    with equal.load(CPU, EPISODE) as refiner, torch.no_grad():
        round_trip = refiner.model.decode(refiner.model.encode(batches.stacked([view])))[0].permute(1, 2, 0)
        assert torch.equal(refiner([view])[0], round_trip)
    stronger = refine(replace(equal, target_guidance=6.0), view)[0]
    assert not torch.allclose(stronger, round_trip, atol=1e-4)


def test_sizes_that_are_no_multiples_are_padded_and_cropped(config):
    odd, small = make_view(1, 50, 70), make_view(2, 6, 64)
    with config.load(CPU, EPISODE) as refiner:
        refined = [refiner([view])[0] for view in (odd, small, make_view(3))]
    assert [tuple(image.shape[:2]) for image in refined] == [(50, 70), (6, 64), (64, 64)]
    assert all(torch.isfinite(image).all() for image in refined)
    with config.load(CPU, EPISODE) as refiner, torch.no_grad():
        padded = torch.nn.functional.pad(batches.stacked([odd]), (0, 10, 0, 14), mode="reflect")
        assert refiner.model.encode(padded).shape[-2:] == (8, 10)


def test_cached_prompts_need_no_text_encoders(config, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = refine(config, make_view(1))
    assert len(list(prompts.cache_folder().glob("*.safetensors"))) == 2 == len(list(prompts.cache_folder().iterdir()))

    def never(*_, **__):
        raise AssertionError("text encoders were loaded")

    monkeypatch.setattr(prompts, "lend_text_encoders", never)
    with config.load(CPU, EPISODE) as refiner:
        parts = refiner.model.pipe.components
        assert parts["text_encoder"] is None and parts["tokenizer_2"] is None and parts["transformer"] is not None
        assert torch.equal(refiner([make_view(1)])[0], first[0])
    with pytest.raises(AssertionError, match="were loaded"):
        refine(replace(config, target_prompt="another city"), make_view(1))


def test_a_broken_save_leaves_no_file(tmp_path):
    with pytest.raises((AttributeError, ValueError)):
        prompts.save({"bad": "no tensor"}, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_other_weights_other_embeddings(tiny, tmp_path, config):
    from helpers import tiny_pipelines

    other = tiny_pipelines.build("flux", tmp_path / "other", seed=1)
    a, b = (diffusion.find_weights(replace(config, model=str(m)), diffusion.ADAPTERS) for m in (tiny("flux"), other))
    parts = ("text_encoder",)
    names = {prompts.cache_file(w, parts, d, p) for w in (a, b) for d in ("float32", "bfloat16") for p in ("x", "y")}
    assert len(names) == 8


def test_memory_is_given_back(config):
    with config.load(CPU, EPISODE) as refiner:
        transformer = weakref.ref(refiner.model.pipe.transformer)
    gc.collect()
    assert transformer() is None and refiner is not None


@pytest.fixture
def folder(tmp_path):
    """An episode of four rendered views of 32 pixels."""
    box_m, curriculum = np.array([[-30.0, -30.0, 0.0], [30.0, 30.0, 12.0]]), Curriculum(grid=1, azimuths=4, size_px=32)
    episode = curriculum.episodes(box_m)[0]
    views = poses(curriculum, episode, box_m, lambda x, y: 0.0, lambda eye, target: True)
    return fill(EpisodeFolder.begin(tmp_path, episode, views, 32, {"run": 1}, 500.0))


@pytest.mark.parametrize("odd", [torch.nan, torch.inf])
def test_an_answer_that_is_none_is_told_in_the_manifest(config, folder, monkeypatch, odd):
    decode = Flux1.decode

    def broken(self, z):
        images = decode(self, z)
        images[1, 0, 3, 3] = odd
        return images

    monkeypatch.setattr(Flux1, "decode", broken)
    with pytest.warns(UserWarning, match="view 00[13] has numbers that are none; its render is kept") as told:
        report = refine_episode(folder, replace(config, batch=2), CPU, progress=False)
    assert (report.refined, report.kept, len(told)) == (4, 2, 2)
    again = EpisodeFolder.open(folder.path)
    assert [name for name, view in again.manifest.views.items() if view.kept_render] == ["001", "003"]
    for name in again.names:
        assert torch.equal(again.refined(name), again.view(name).image) == again.manifest.views[name].kept_render


def test_batches_shrink_when_memory_runs_out(config, folder, monkeypatch):
    """One view at a time gives the same pictures; if even that is too much, it is said how to need less."""
    encode, tried, most = Flux1.encode, [], 4

    def tight(self, image):
        tried.append(len(image))
        if len(image) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(self, image)

    monkeypatch.setattr(Flux1, "encode", tight)
    refine_episode(folder, replace(config, batch=4), CPU, progress=False)
    whole = [folder.refined(name) for name in folder.names]
    for name in folder.names:
        folder.file("refined", name).unlink()
    most, tried[:] = 1, []
    with pytest.warns(UserWarning, match="Memory ran out with [42] views at once; going on with [21]") as told:
        assert refine_episode(folder, replace(config, batch=4), CPU, progress=False).refined == 4
    assert tried == [4, 2, 1, 1, 1, 1] and len(told) == 2
    for name, image in zip(folder.names, whole, strict=True):
        assert (folder.refined(name) - image).abs().max() < 1.5 / 255
    folder.file("refined", "002").unlink()
    most = 0
    with pytest.raises(TrainingError, match=r"too little memory .* even a single view\. Pass .*offload") as error:
        refine_episode(folder, replace(config, batch=4), CPU, progress=False)
    assert str(error.value).count(". ") == 1


def test_a_model_too_large_to_load(config, monkeypatch):
    def too_large(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    refine(config, make_view(1))  # prompts are cached
    monkeypatch.setattr(model_loading, "_from_disk", too_large)
    with pytest.raises(TrainingError, match=r"does not fit into the memory of the GPU\. Pass .*offload model or group"):
        refine(config, make_view(1))


def test_noise_levels_choose_the_steps(tiny):
    """Skyfall-GS's counts at 1024 pixels come out of the default noise levels."""
    config = FlowEditRefinerConfig(model=str(tiny("flux")), dtype="float32")
    with config.load(CPU, EPISODE) as refiner:
        numbers, model = refiner.numbers, refiner.model
        steps = diffusion.edit_steps(numbers, model.sigmas((1024, 1024), numbers.steps))
        smaller = diffusion.edit_steps(numbers, model.sigmas((512, 512), numbers.steps))
        with pytest.warns(UserWarning, match=r"starts at noise level 0\.\d+ instead of 0\.64: 2 steps are too few"):
            diffusion.edit_steps(numbers, model.sigmas((1024, 1024), 2))
        with pytest.warns(UserWarning, match=r"starts at noise level 0\.00 instead of 0\.04: 28 steps are too few"):
            gentle = replace(numbers, edit_start_sigma=0.04, edit_end_sigma=0.0)
            diffusion.edit_steps(gentle, model.sigmas((1024, 1024), 28))
    assert (steps.n_max, steps.n_min, steps.n_avg) == (10, 4, 1)
    assert smaller.n_max > 10 and smaller.n_min > 4


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_is_close(config, name):
    view = make_view(1)
    exact, half = refine(config, view)[0], refine(replace(config, dtype=name), view)[0]
    assert 0 < (exact - half).abs().mean() < 0.05


def test_eight_bit_weights_run_anywhere(config):
    view = make_view(1)
    exact, eight = refine(config, view)[0], refine(replace(config, quantize="fp8"), view)[0]
    assert 0 < (exact - eight).abs().mean() < 0.1


def test_anchored_noise_is_used_and_belongs_to_the_episode(config, tmp_path):
    """Whatever its folder is called."""
    view = make_view(1)
    anchored = replace(config, noise="anchored")

    def refined_in(folder, number):
        folder.mkdir()
        (folder / "poses.json").write_text(json.dumps({"episode": {"number": number}}))
        with anchored.load(CPU, folder) as refiner:
            return refiner([view])[0]

    one = refined_in(tmp_path / "episode_01", 1)
    assert torch.equal(refined_in(tmp_path / "copy", 1), one)
    assert not torch.equal(refined_in(tmp_path / "episode_02", 2), one)
    assert not torch.equal(refine(config, view)[0], one)


def test_identity_says_what_changes_pictures(config):
    identity = json.loads(json.dumps(config.identity()))
    assert identity["name"] == "flowedit" and identity["licence"] == "unknown to skyfall-ns"
    assert identity["target_prompt"] == TARGET_PROMPT and identity["source_guidance"] == 1.5
    assert replace(config, batch=4).identity() == config.identity()
    for change in ({"n_max": 3}, {"target_prompt": "x"}, {"noise": "anchored"}, {"dtype": "float16"}):
        assert replace(config, **change).identity() != config.identity()
    assert config.generative


def test_the_published_recipe():
    recipe = FLUX.choose()
    assert (recipe.steps, recipe.n_max, recipe.n_min, recipe.n_avg) == (28, 10, 4, 1)
    assert (recipe.source_guidance, recipe.target_guidance) == (1.5, 5.5)
    assert (recipe.source_prompt, recipe.target_prompt) == (SOURCE_PROMPT, TARGET_PROMPT)
    assert KNOWN[recipe.model].gated and "Non-Commercial" in KNOWN[recipe.model].licence
