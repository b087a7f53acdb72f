"""Options: ranges are checked in one place, and options without effect are hidden and refused by name."""

import copy
import math
from dataclasses import dataclass, field
from typing import Annotated

import pytest
import torch
import tyro
from nerfstudio.engine.trainer import TrainerConfig

from skyfall_ns.errors import TrainingError
from skyfall_ns.method_configs import skyfall, skyfall_idu
from skyfall_ns.option_checks import COUNT, InRange, Unused, check_options


@dataclass
class Inner:
    angles: Annotated[tuple[float, ...] | None, InRange(0, 90, above=True)] = None
    width: Annotated[int, InRange(4, multiple_of=4)] = 8


@dataclass
class Options:
    steps: Annotated[int, COUNT] = 1
    inner: Inner = field(default_factory=Inner)
    merged: Annotated[Inner, tyro.conf.arg(name="")] = field(default_factory=Inner)
    old: Unused[bool] = False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(steps=0), "--a.steps is 0. Pass a number of at least 1."),
        (Options(inner=Inner((5.0, 0.0))), "--a.inner.angles is 5, 0. Pass a number above 0, at most 90."),
        (Options(inner=Inner((math.nan,))), "--a.inner.angles is nan. Pass a number above 0, at most 90."),
        (Options(merged=Inner(width=6)), "--a.width is 6. Pass a multiple of 4 of at least 4."),
        (Options(old=True), "--a.old does nothing in this method. Leave it out."),
    ],
)
def test_an_option_out_of_its_range_is_named_by_its_flag(options, message):
    with pytest.raises(TrainingError) as caught:
        check_options(options, "--a.")
    assert str(caught.value) == message


def test_options_in_their_ranges_pass():
    check_options(Options(inner=Inner((90.0,))), "--a.")


def parse(words, method=skyfall):
    return tyro.cli(
        TrainerConfig, default=copy.deepcopy(method.config), args=words, config=(tyro.conf.FlagConversionOff,)
    )


INHERITED = {
    "model.random-init": "True",
    "model.camera-optimizer.mode": "SO3xR3",
    "model.num-downscales": "2",
    "model.rasterize-mode": "antialiased",
    "datamanager.camera-res-scale-factor": "0.5",
    "datamanager.cache-images-type": "uint8",
}


@pytest.mark.parametrize("flag", INHERITED)
def test_inherited_options_that_do_nothing_are_refused_by_name(flag, capsys):
    with pytest.raises(SystemExit) as caught:
        parse([f"--pipeline.{flag}", INHERITED[flag]])
    assert caught.value.code == 2 and f"--pipeline.{flag}" in capsys.readouterr().err


def test_inherited_options_that_do_nothing_are_not_in_the_help(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    text = capsys.readouterr().out
    assert "--pipeline.model.max-scale-m" in text and not [flag for flag in INHERITED if f"--pipeline.{flag} " in text]


def test_a_configuration_that_sets_such_an_option_is_refused():
    pipeline = parse([]).pipeline
    pipeline.model.random_init = True
    with pytest.raises(TrainingError, match=r"--pipeline\.model\.random-init does nothing"):
        check_options(pipeline, "--pipeline.")


@pytest.mark.parametrize("method", [skyfall, skyfall_idu])
def test_defaults_of_the_methods_pass(method):
    check_options(parse([], method).pipeline, "--pipeline.")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--machine.num-devices", "2"], r"--machine\.num-devices is 2, but a scene is trained on one device\."),
        (["--machine.num-machines", "3"], r"--machine\.num-machines is 3, "),
        (
            ["--machine.device-type", "mps"],
            r"--machine\.device-type is mps, but PyTorch finds no such device here",
        ),
    ],
)
def test_machines_that_cannot_train_are_refused(words, message, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(TrainingError, match=message):
        parse(words)
