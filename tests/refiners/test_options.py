"""Wrong options: each message has the flag and the remedy, before anything is loaded."""

import pytest
import torch

from skyfall_ns.errors import MissingExtraError, TrainingError
from skyfall_ns.refiners.flowedit import FlowEditRefinerConfig
from skyfall_ns.refiners.img2img import Img2ImgRefinerConfig
from skyfall_ns.refiners.instruct import InstructRefinerConfig
from skyfall_ns.refiners.model_loading import require_device

CONFIGS = {"flowedit": FlowEditRefinerConfig, "img2img": Img2ImgRefinerConfig, "instruct": InstructRefinerConfig}

UNUSED = [
    ("flowedit", "flux", {"instruction": "sharpen"}, "instruction has no effect on flowedit"),
    ("flowedit", "flux", {"negative_prompt": "blur"}, "negative-prompt has no effect on .* no classifier-free"),
    ("flowedit", "schnell", {"target_guidance": 3.0}, "target-guidance has no effect on .* no guidance"),
    ("flowedit", "klein", {"source_guidance": 3.0}, "source-guidance has no effect on .* no guidance"),
    ("img2img", "sd3", {"noise": "anchored"}, "noise has no effect on img2img"),
    ("img2img", "sd3", {"source_prompt": "blur"}, "source-prompt has no effect on img2img"),
    ("img2img", "sd3", {"n_avg": 2}, "n-avg has no effect on img2img"),
    ("instruct", "klein", {"edit_start_sigma": 0.5}, "edit-start-sigma has no effect on instruct"),
    ("instruct", "klein", {"target_prompt": "sharp"}, "target-prompt has no effect on instruct"),
    ("instruct", "kontext", {"negative_prompt": "blur"}, "negative-prompt has no effect on .* no classifier-free"),
    ("flowedit", "flux", {"revision": "main"}, "revision has no effect on the directory"),
    ("instruct", "klein", {"batch": 2}, "one view at a time"),
]

OUT_OF_RANGE = [
    ({"batch": 0}, "batch is 0"),
    ({"steps": 0}, "steps is 0"),
    ({"edit_start_sigma": 1.2}, "edit-start-sigma is 1.2"),
    ({"edit_end_sigma": 0.5, "edit_start_sigma": 0.4}, "start at noise level 0.4 and end at a higher one, 0.5"),
    ({"target_guidance": float("nan")}, "target-guidance is nan"),
    ({"n_max": 10, "edit_start_sigma": 0.5}, "n-max and --pipeline.refiner.diffusion.edit-start-sigma exclude"),
    ({"n_max": 3, "n_min": 4}, "n-min is 4"),
    ({"n_max": 29}, "n-max is 29, but the schedule has only 28"),
    ({"n_min": 2}, "n-min is set without"),
    ({"n_avg": 0}, "n-avg is 0"),
]


@pytest.mark.parametrize(("refiner", "family", "options", "message"), UNUSED)
def test_unused_options_are_refused(tiny, refiner, family, options, message):
    with pytest.raises(TrainingError, match=rf"{message}.*\. (Leave it out|Pass)"):
        CONFIGS[refiner](model=str(tiny(family)), **options).check()


@pytest.mark.parametrize(("options", "message"), OUT_OF_RANGE)
def test_options_out_of_range_are_refused(tiny, options, message):
    with pytest.raises(TrainingError, match=rf"{message}.*\. Pass"):
        FlowEditRefinerConfig(model=str(tiny("flux")), **options).check()


def test_valid_options_are_accepted(tiny):
    FlowEditRefinerConfig(model=str(tiny("flux")), n_max=28, n_min=28, n_avg=2, batch=3).check()
    FlowEditRefinerConfig(model=str(tiny("sd3")), negative_prompt="blur", edit_start_sigma=0.2).check()
    Img2ImgRefinerConfig(model=str(tiny("zimage")), n_max=5).check()
    InstructRefinerConfig(model=str(tiny("klein_base")), negative_prompt="blur", target_guidance=2.0).check()


def test_missing_quantization_package_is_an_error(tiny, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    with pytest.raises(MissingExtraError, match=r"needs the package bitsandbytes.*pip install bitsandbytes"):
        FlowEditRefinerConfig(model=str(tiny("flux")), quantize="nf4").check()


@pytest.mark.parametrize("options", [{"offload": "model"}, {"offload": "group"}, {"quantize": "nf4"}])
def test_options_for_gpus_are_refused_on_the_cpu(options):
    options = FlowEditRefinerConfig(**options)
    with pytest.raises(TrainingError, match=r"needs a CUDA device, and this is cpu\. Pass .* none"):
        require_device(options, torch.device("cpu"))
    require_device(options, torch.device("cuda"))


@pytest.mark.parametrize("config_class", CONFIGS.values())
def test_every_option_is_on_the_command_line(config_class):
    import tyro

    options = ["--model", "a/b", "--dtype", "float16", "--quantize", "fp8", "--offload", "group", "--n-max", "7"]
    config = tyro.cli(config_class, args=[*options, "--target-prompt", "sharp", "--noise", "anchored", "--batch", "2"])
    assert (config.model, config.n_max, config.batch, config.edit_start_sigma) == ("a/b", 7, 2, None)
    assert tyro.cli(config_class, args=[]) == config_class()
