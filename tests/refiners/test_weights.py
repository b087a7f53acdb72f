"""Missing, gated, damaged or unsuitable weights: the message has the model, its license and the remedies."""

import importlib.metadata
import importlib.util
import json
import shutil
import socket

import pytest

from skyfall_ns.errors import MissingExtraError, TrainingError
from skyfall_ns.refiners.diffusion_models import ADAPTERS
from skyfall_ns.refiners.flowedit import FlowEditRefinerConfig
from skyfall_ns.refiners.img2img import Img2ImgRefinerConfig
from skyfall_ns.refiners.instruct import InstructRefinerConfig
from skyfall_ns.refiners.model_catalog import FLUX1_DEV, FLUX2_KLEIN_BASE, KNOWN_MODELS, PIPELINE_PRESETS, preset_for
from skyfall_ns.refiners.resolved_options import resolve_options
from skyfall_ns.refiners.weights import find_weights

CONFIGS = (FlowEditRefinerConfig, Img2ImgRefinerConfig, InstructRefinerConfig)


@pytest.fixture(autouse=True)
def empty_hub(tmp_path, monkeypatch):
    """An empty cache of the hub, and no network."""
    pytest.importorskip("huggingface_hub")
    import huggingface_hub.file_download as hub

    directory = tmp_path / "hub"
    directory.mkdir()
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(directory))

    def fail(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", fail)
    return directory


@pytest.fixture
def damaged(tiny, tmp_path, monkeypatch):
    """A copy of a tiny pipeline to damage, without cached prompts."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return shutil.copytree(tiny("flux"), tmp_path / "flux")


@pytest.mark.parametrize("config_class", CONFIGS)
def test_a_missing_model_with_a_free_license(config_class):
    with pytest.raises(MissingExtraError) as caught:
        config_class().check()
    message = str(caught.value)
    assert message.startswith(f"{config_class().model} is not on this machine (license: Apache-2.0; about ")
    remedies = (
        f"Run `hf download {config_class().model} --include '*/*' --include model_index.json`",
        "pass a directory",
        "`denoiser`",
    )
    for part in ("GB to download", "GB of GPU memory", *remedies):
        assert part in message


def test_a_missing_gated_model():
    with pytest.raises(MissingExtraError) as caught:
        FlowEditRefinerConfig(model=FLUX1_DEV).check()
    message = str(caught.value)
    assert "license: the FLUX.1 [dev] Non-Commercial License; about 34 GB to download, 24 GB of GPU memory" in message
    assert f"Accept the license at https://huggingface.co/{FLUX1_DEV}, run `hf auth login` and `hf download" in message
    assert "`denoiser`" in message


def test_unknown_models_and_directories():
    with pytest.raises(MissingExtraError, match=r"some/model is not on this machine \(its license and size: https://"):
        FlowEditRefinerConfig(model="some/model").check()
    with pytest.raises(MissingExtraError, match=r"no such directory, and it is not a name on the hub\. Pass a "):
        FlowEditRefinerConfig(model="/no/such/directory").check()
    with pytest.raises(MissingExtraError, match=r"a\.\.b/c is not on this machine"):
        FlowEditRefinerConfig(model="a..b/c").check()


def test_a_directory_that_is_not_a_pipeline(tmp_path):
    with pytest.raises(TrainingError, match=r"is not a diffusers pipeline: it has no readable model_index\.json"):
        FlowEditRefinerConfig(model=str(tmp_path)).check()
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(TrainingError, match="is not a diffusers pipeline"):
        FlowEditRefinerConfig(model=str(tmp_path)).check()
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(TrainingError, match=r"a StableDiffusionPipeline, which this refiner cannot use\. .*FluxPipe"):
        FlowEditRefinerConfig(model=str(tmp_path)).check()


def test_pipeline_classes_of_other_refiners_are_refused(tiny):
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
def test_a_missing_file_is_named(damaged, file):
    config = FlowEditRefinerConfig(model=str(damaged))
    config.check()
    (damaged / file).unlink()
    directory, name = file.split("/")
    shown = r"\*\.safetensors" if name.endswith("safetensors") else name
    with pytest.raises(MissingExtraError, match=rf"is incomplete: {directory}/{shown} is missing"):
        config.check()


def test_a_missing_shard_is_named(damaged):
    single = damaged / "transformer/diffusion_pytorch_model.safetensors"
    shards = [
        "diffusion_pytorch_model-00001-of-00002.safetensors",
        "diffusion_pytorch_model-00002-of-00002.safetensors",
    ]
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    (damaged / "transformer/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    single.rename(damaged / "transformer" / shards[0])
    config = FlowEditRefinerConfig(model=str(damaged))
    with pytest.raises(MissingExtraError, match=rf"incomplete: transformer/{shards[1]} is missing"):
        config.check()
    (damaged / "transformer" / shards[1]).touch()
    config.check()


def test_text_encoders_are_not_needed_once_prompts_are_cached(damaged):
    import torch
    from helpers.views import make_view

    config = FlowEditRefinerConfig(model=str(damaged), dtype="float32", steps=2, n_max=1, n_min=0)
    with config.load(torch.device("cpu"), damaged) as refiner:
        first = refiner([make_view(1)])
    (damaged / "vae/config.json").touch()  # does not affect the cache of prompts
    for name in ("text_encoder", "text_encoder_2"):
        (damaged / name / "model.safetensors").rename(damaged / name / "elsewhere")
    with pytest.raises(MissingExtraError, match="text_encoder/"):
        config.check()  # changed files invalidate the cache
    for name in ("text_encoder", "text_encoder_2"):
        (damaged / name / "elsewhere").rename(damaged / name / "model.safetensors")
    with config.load(torch.device("cpu"), damaged) as refiner:
        assert torch.equal(refiner([make_view(1)])[0], first[0])


def test_a_hub_model_is_found_in_the_cache_by_its_commit(tiny, empty_hub, tmp_path, monkeypatch):
    """Text encoders of a hub model may be deleted once prompts are cached: the commit identifies them."""
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
    assert identity["revision"] == commit and identity["license"] == "Apache-2.0"
    with config.load(torch.device("cpu"), tmp_path) as refiner:
        first = refiner([make_view(1)])
    shutil.rmtree(repo / "snapshots" / commit / "text_encoder")
    with config.load(torch.device("cpu"), tmp_path) as refiner:
        assert torch.equal(refiner([make_view(1)])[0], first[0])
    with pytest.raises(MissingExtraError, match="incomplete: text_encoder/"):
        FlowEditRefinerConfig(target_prompt="another").check()
    with pytest.raises(MissingExtraError, match="is not on this machine"):
        FlowEditRefinerConfig(revision="other").check()


@pytest.mark.parametrize("package", ["diffusers", "transformers", "accelerate"])
def test_missing_packages(package, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    for config_class in CONFIGS:
        with pytest.raises(MissingExtraError, match=rf"{package}.*pip install 'skyfall-ns\[diffusion\]'.*`denoiser`"):
            config_class().check()


def test_outdated_packages(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.36.0")
    with pytest.raises(MissingExtraError, match=r"need diffusers 0\.42 or newer, and 0\.36\.0 is installed"):
        FlowEditRefinerConfig().check()


def test_every_pipeline_class_has_a_preset(tiny):
    for family in ("flux", "schnell", "sd3", "klein", "klein_base", "zimage"):
        weights = find_weights(FlowEditRefinerConfig(model=str(tiny(family))), ADAPTERS)
        assert (weights.pipeline_class, weights.read_guidance()) in PIPELINE_PRESETS
    distilled = FlowEditRefinerConfig(model=str(tiny("klein")))
    weights = find_weights(distilled, ADAPTERS)
    assert resolve_options(distilled, weights).steps == 50  # 4 steps are too coarse for editing
    assert resolve_options(distilled, weights, editing=False).steps == 4
    assert preset_for(FLUX1_DEV, "", "none") is KNOWN_MODELS[FLUX1_DEV].preset
