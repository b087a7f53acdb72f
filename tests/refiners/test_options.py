"""Bad options: each message names the flag and what to do, before anything is loaded."""

import pytest
import torch

from skyfall_ns.errors import MissingExtraError, TrainingError
from skyfall_ns.refiners.diffusion import FlowEditRefinerConfig
from skyfall_ns.refiners.img2img import Img2ImgRefinerConfig
from skyfall_ns.refiners.instruct import InstructRefinerConfig
from skyfall_ns.refiners.model_loading import require_device

CONFIGS = {"flowedit": FlowEditRefinerConfig, "img2img": Img2ImgRefinerConfig, "instruct": InstructRefinerConfig}

IDLE = [
    ("flowedit", "flux", {"instruction": "sharpen"}, "instruction does nothing for flowedit"),
    ("flowedit", "flux", {"negative_prompt": "blur"}, "negative-prompt does nothing for .* no classifier-free"),
    ("flowedit", "schnell", {"target_guidance": 3.0}, "target-guidance does nothing for .* no guidance"),
    ("flowedit", "klein", {"source_guidance": 3.0}, "source-guidance does nothing for .* no guidance"),
    ("img2img", "sd3", {"noise": "anchored"}, "noise does nothing for img2img"),
    ("img2img", "sd3", {"source_prompt": "blur"}, "source-prompt does nothing for img2img"),
    ("img2img", "sd3", {"n_avg": 2}, "n-avg does nothing for img2img"),
    ("instruct", "klein", {"edit_start_sigma": 0.5}, "edit-start-sigma does nothing for instruct"),
    ("instruct", "klein", {"target_prompt": "sharp"}, "target-prompt does nothing for instruct"),
    ("instruct", "kontext", {"negative_prompt": "blur"}, "negative-prompt does nothing for .* no classifier-free"),
    ("flowedit", "flux", {"revision": "main"}, "revision does nothing for the folder"),
    ("instruct", "klein", {"batch": 2}, "one view at a time"),
]

WRONG = [
    ({"batch": 0}, "batch is 0"),
    ({"steps": 0}, "steps is 0"),
    ({"edit_start_sigma": 1.2}, "edit-start-sigma is 1.2, no noise level"),
    ({"edit_end_sigma": 0.5, "edit_start_sigma": 0.4}, "start at noise level 0.4 and end above it"),
    ({"target_guidance": float("nan")}, "target-guidance is nan"),
    ({"n_max": 10, "edit_start_sigma": 0.5}, "n-max and --pipeline.refiner.diffusion.edit-start-sigma say the same"),
    ({"n_max": 3, "n_min": 4}, "n-min is 4"),
    ({"n_max": 29}, "n-max is 29, but the schedule has only 28"),
    ({"n_min": 2}, "n-min is given without"),
    ({"n_avg": 0}, "n-avg is 0"),
]


@pytest.mark.parametrize(("refiner", "family", "given", "says"), IDLE)
def test_what_does_nothing_is_refused(tiny, refiner, family, given, says):
    with pytest.raises(TrainingError, match=rf"{says}.*\. (Leave it out|Pass)"):
        CONFIGS[refiner](model=str(tiny(family)), **given).check()


@pytest.mark.parametrize(("given", "says"), WRONG)
def test_what_makes_no_sense_is_refused(tiny, given, says):
    with pytest.raises(TrainingError, match=rf"{says}.*\. Pass"):
        FlowEditRefinerConfig(model=str(tiny("flux")), **given).check()


def test_what_makes_sense_is_not(tiny):
    FlowEditRefinerConfig(model=str(tiny("flux")), n_max=28, n_min=28, n_avg=2, batch=3).check()
    FlowEditRefinerConfig(model=str(tiny("sd3")), negative_prompt="blur", edit_start_sigma=0.2).check()
    Img2ImgRefinerConfig(model=str(tiny("zimage")), n_max=5).check()
    InstructRefinerConfig(model=str(tiny("klein_base")), negative_prompt="blur", target_guidance=2.0).check()


def test_quantisation_that_is_not_installed(tiny, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    with pytest.raises(MissingExtraError, match=r"needs the package bitsandbytes.*pip install bitsandbytes"):
        FlowEditRefinerConfig(model=str(tiny("flux")), quantize="nf4").check()


@pytest.mark.parametrize("given", [{"offload": "model"}, {"offload": "group"}, {"quantize": "nf4"}])
def test_what_needs_a_gpu_says_so(given):
    options = FlowEditRefinerConfig(**given)
    with pytest.raises(TrainingError, match=r"needs a CUDA device, and this is cpu\. Pass .* none"):
        require_device(options, torch.device("cpu"))
    require_device(options, torch.device("cuda"))


@pytest.mark.parametrize("kind", CONFIGS.values())
def test_command_lines_take_every_option(kind):
    import tyro

    given = ["--model", "a/b", "--dtype", "float16", "--quantize", "fp8", "--offload", "group", "--n-max", "7"]
    config = tyro.cli(kind, args=[*given, "--target-prompt", "sharp", "--noise", "anchored", "--batch", "2"])
    assert (config.model, config.n_max, config.batch, config.edit_start_sigma) == ("a/b", 7, 2, None)
    assert tyro.cli(kind, args=[]) == kind()
