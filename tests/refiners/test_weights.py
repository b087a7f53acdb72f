"""Weights that are missing, gated, broken or of no use: one message says which model, its terms, and the ways on."""

import importlib.metadata
import importlib.util
import json
import shutil
import socket

import pytest

from skyfall_ns.errors import MissingExtraError, TrainingError
from skyfall_ns.refiners.diffusion import FlowEditRefinerConfig
from skyfall_ns.refiners.diffusion_models import ADAPTERS
from skyfall_ns.refiners.img2img import Img2ImgRefinerConfig
from skyfall_ns.refiners.instruct import InstructRefinerConfig
from skyfall_ns.refiners.model_catalog import FAMILIES, FLUX1_DEV, FLUX2_KLEIN_BASE, KNOWN, numbers_for
from skyfall_ns.refiners.resolved_options import resolve
from skyfall_ns.refiners.weights import find_weights

CONFIGS = (FlowEditRefinerConfig, Img2ImgRefinerConfig, InstructRefinerConfig)


@pytest.fixture(autouse=True)
def empty_hub(tmp_path, monkeypatch):
    """A cache of the hub without models, and no network at all."""
    pytest.importorskip("huggingface_hub")
    import huggingface_hub.file_download as hub

    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(folder))

    def no_network(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    return folder


@pytest.fixture
def broken(tiny, tmp_path, monkeypatch):
    """A copy to break, with no prompts cached."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return shutil.copytree(tiny("flux"), tmp_path / "flux")


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_free_model_that_is_not_here(kind):
    with pytest.raises(MissingExtraError) as caught:
        kind().check()
    said = str(caught.value)
    assert said.startswith(f"{kind().model} is not on this machine (licence: Apache-2.0; about ")
    for part in ("GB to download", "GB of GPU memory", f"Run `hf download {kind().model}`", "pass a folder", "`scene`"):
        assert part in said


def test_a_gated_model_that_is_not_here():
    with pytest.raises(MissingExtraError) as caught:
        FlowEditRefinerConfig(model=FLUX1_DEV).check()
    said = str(caught.value)
    assert "licence: the FLUX.1 [dev] Non-Commercial License; about 34 GB to download, 24 GB of GPU memory" in said
    assert f"Accept the licence at https://huggingface.co/{FLUX1_DEV}, run `hf auth login` and `hf download" in said
    assert "`scene`" in said


def test_models_and_folders_that_nobody_knows():
    with pytest.raises(MissingExtraError, match=r"some/model is not on this machine \(its licence and size: https://"):
        FlowEditRefinerConfig(model="some/model").check()
    with pytest.raises(MissingExtraError, match=r"there is no such folder, and it is no name on the hub\. Pass a "):
        FlowEditRefinerConfig(model="/no/such/folder").check()
    with pytest.raises(MissingExtraError, match=r"a\.\.b/c is not on this machine"):
        FlowEditRefinerConfig(model="a..b/c").check()


def test_a_folder_that_is_no_pipeline(tmp_path):
    with pytest.raises(TrainingError, match=r"holds no diffusers pipeline: a readable model_index\.json is missing"):
        FlowEditRefinerConfig(model=str(tmp_path)).check()
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(TrainingError, match="holds no diffusers pipeline"):
        FlowEditRefinerConfig(model=str(tmp_path)).check()
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(TrainingError, match=r"a StableDiffusionPipeline, which this refiner cannot use\. .*FluxPipe"):
        FlowEditRefinerConfig(model=str(tmp_path)).check()


def test_families_of_other_refiners(tiny):
    with pytest.raises(TrainingError, match=r"FluxKontextPipeline, which this refiner cannot use"):
        FlowEditRefinerConfig(model=str(tiny("kontext"))).check()
    with pytest.raises(TrainingError, match=r"Flux2KleinPipeline, which this refiner cannot use"):
        Img2ImgRefinerConfig(model=str(tiny("klein"))).check()
    with pytest.raises(TrainingError, match=r"FluxPipeline, which this refiner cannot use"):
        InstructRefinerConfig(model=str(tiny("flux"))).check()


@pytest.mark.parametrize(
    "file",
    [
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        "vae/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "text_encoder_2/model.safetensors",
    ],
)
def test_files_that_are_missing_are_named(broken, file):
    config = FlowEditRefinerConfig(model=str(broken))
    config.check()
    (broken / file).unlink()
    folder, name = file.split("/")
    shown = r"\*\.safetensors" if name.endswith("safetensors") else name
    with pytest.raises(MissingExtraError, match=rf"is not whole: {folder}/{shown} is missing"):
        config.check()


def test_every_shard_must_be_there(broken):
    whole = broken / "transformer/diffusion_pytorch_model.safetensors"
    shards = [
        "diffusion_pytorch_model-00001-of-00002.safetensors",
        "diffusion_pytorch_model-00002-of-00002.safetensors",
    ]
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    (broken / "transformer/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    whole.rename(broken / "transformer" / shards[0])
    config = FlowEditRefinerConfig(model=str(broken))
    with pytest.raises(MissingExtraError, match=rf"not whole: transformer/{shards[1]} is missing"):
        config.check()
    (broken / "transformer" / shards[1]).touch()
    config.check()


def test_text_encoders_may_go_once_prompts_are_cached(broken):
    import torch
    from helpers.views import make_view

    config = FlowEditRefinerConfig(model=str(broken), dtype="float32", steps=2, n_max=1, n_min=0)
    with config.load(torch.device("cpu"), broken) as refiner:
        first = refiner([make_view(1)])
    (broken / "vae/config.json").touch()  # of no concern to prompts
    for name in ("text_encoder", "text_encoder_2"):
        (broken / name / "model.safetensors").rename(broken / name / "elsewhere")
    with pytest.raises(MissingExtraError, match="text_encoder/"):
        config.check()  # other files, other embeddings
    for name in ("text_encoder", "text_encoder_2"):
        (broken / name / "elsewhere").rename(broken / name / "model.safetensors")
    with config.load(torch.device("cpu"), broken) as refiner:
        assert torch.equal(refiner([make_view(1)])[0], first[0])


def test_a_hub_model_is_found_in_the_cache_with_its_commit(tiny, empty_hub, tmp_path, monkeypatch):
    """Text encoders of a hub model may be deleted once prompts are cached: its commit vouches for them."""
    import torch
    from helpers.views import make_view

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "prompts"))
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = empty_hub / "models--black-forest-labs--FLUX.2-klein-base-4B"
    shutil.copytree(tiny("klein_base"), repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(commit)
    config = FlowEditRefinerConfig(dtype="float32", steps=4, n_max=1, n_min=0)
    assert config.model == FLUX2_KLEIN_BASE
    identity = config.identity()
    assert identity["revision"] == commit and identity["licence"] == "Apache-2.0"
    with config.load(torch.device("cpu"), tmp_path) as refiner:
        first = refiner([make_view(1)])
    shutil.rmtree(repo / "snapshots" / commit / "text_encoder")
    with config.load(torch.device("cpu"), tmp_path) as refiner:
        assert torch.equal(refiner([make_view(1)])[0], first[0])
    with pytest.raises(MissingExtraError, match="not whole: text_encoder/"):
        FlowEditRefinerConfig(target_prompt="another").check()
    with pytest.raises(MissingExtraError, match="is not on this machine"):
        FlowEditRefinerConfig(revision="other").check()


@pytest.mark.parametrize("package", ["diffusers", "transformers", "accelerate"])
def test_packages_that_are_missing(package, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    for kind in CONFIGS:
        with pytest.raises(MissingExtraError, match=rf"{package}.*pip install 'skyfall-ns\[diffusion\]'.*`scene`"):
            kind().check()


def test_packages_that_are_too_old(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.36.0")
    with pytest.raises(MissingExtraError, match=r"need diffusers 0\.42 or newer, and 0\.36\.0 is installed"):
        FlowEditRefinerConfig().check()


def test_every_family_has_numbers(tiny):
    for family in ("flux", "schnell", "sd3", "klein", "klein_base", "zimage"):
        weights = find_weights(FlowEditRefinerConfig(model=str(tiny(family))), ADAPTERS)
        assert (weights.family, weights.guidance()) in FAMILIES
    distilled = FlowEditRefinerConfig(model=str(tiny("klein")))
    assert resolve(distilled, find_weights(distilled, ADAPTERS)).steps == 50  # four are too coarse to edit with
    assert resolve(distilled, find_weights(distilled, ADAPTERS), editing=False).steps == 4
    assert numbers_for(FLUX1_DEV, "", "none") is KNOWN[FLUX1_DEV].numbers
