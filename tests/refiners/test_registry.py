"""The table of refiners, and options in manifests."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from skyfall_ns.refiners.bilateral_options import BilateralOptions
from skyfall_ns.refiners.denoiser_options import DenoiserOptions
from skyfall_ns.refiners.options import DiffusionOptions
from skyfall_ns.refiners.registry import FLUX, KLEIN, REFINERS, RefinerOptions, _field_value

PROBE = """
import sys
import skyfall_ns.refiners.registry
print(sorted(name for name in sys.modules if name.startswith("skyfall_ns.refiners.") or name == "torch"))
"""


@pytest.mark.parametrize("name", REFINERS)
def test_every_refiner_is_built_from_the_table(name):
    config, entry = RefinerOptions(name).build(), REFINERS[name]
    assert (type(config).__module__, type(config).__name__) == (entry.module, entry.config_class)
    assert config.batch >= 1 and isinstance(config.generative, bool)


def test_options_reach_the_refiner_they_belong_to():
    options = RefinerOptions(
        "bilateral", BilateralOptions(color=0.5), DenoiserOptions(pairs=7), DiffusionOptions(steps=9, model="a/b")
    )
    built = {name: RefinerOptions(name, options.bilateral, options.denoiser, options.diffusion).build()
             for name in REFINERS}  # fmt: skip
    assert built["bilateral"].options.color == 0.5 and built["denoiser"].options.pairs == 7
    for name in ("flowedit", "img2img", "instruct"):
        assert (built[name].steps, built[name].model) == (9, "a/b")


def test_diffusion_refiners_keep_their_own_model_unless_one_is_set():
    models = {name: RefinerOptions(name).build().model for name in ("flowedit", "img2img", "instruct")}
    assert len(set(models.values())) == 3 and None not in models.values()


def test_only_the_denoiser_needs_training_pairs():
    pairs = {name: RefinerOptions(name, denoiser=DenoiserOptions(pairs=7)).build().training_pairs for name in REFINERS}
    assert pairs == {**dict.fromkeys(REFINERS, 0), "denoiser": 7}


def test_importing_the_table_imports_no_refiner():
    modules = subprocess.check_output([sys.executable, "-c", PROBE], text=True)
    assert "registry" in modules and "torch" not in modules
    assert not [entry.module for entry in REFINERS.values() if f"'{entry.module}'" in modules]


@pytest.mark.parametrize("options", [RefinerOptions(), FLUX, KLEIN])
def test_manifests_restore_options(options):
    assert RefinerOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options


def test_manifests_restore_tuples_and_paths():
    assert _field_value(tuple[int, ...], [1, 2]) == (1, 2)
    assert _field_value(Path | None, "a/b") == Path("a/b") and _field_value(Path | None, None) is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "magic"}, "the refiner 'magic' is unknown"),
        ({"brush": 1}, "the option 'brush' is unknown"),
        ({"denoiser": 3}, "DenoiserOptions is not an object of options by name"),
    ],
)
def test_manifests_of_other_versions_are_an_error(data, message):
    with pytest.raises(ValueError, match=message):
        RefinerOptions.from_dict(data)
