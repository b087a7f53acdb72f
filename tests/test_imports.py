"""Which package may import what: each module alone in a fresh interpreter, and what that brought with it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import skyfall_ns

pytestmark = [pytest.mark.slow, pytest.mark.process]

ROOT = Path(skyfall_ns.__file__).parent
HEAVY = {"torch", "nerfstudio", "gsplat", "open3d"}
LIGHT = HEAVY | {"numpy", "scipy", "cv2", "numba", "rasterio", "pyproj"}
ON_DEMAND = {"diffusers", "transformers", "moge", "lpips"}  # imported where they are loaded
MAPS = {"rasterio", "pyproj"}  # a machine that only trains may lack them


def modules(pattern):
    """Names of the package's modules whose files match."""
    files = sorted(f for f in ROOT.glob(pattern) if f.suffix == ".py")
    names = [".".join(["skyfall_ns", *f.relative_to(ROOT).with_suffix("").parts]) for f in files]
    return [name.removesuffix(".__init__") for name in names]


PARTS = [f"skyfall_ns.models.{m}" for m in ("losses", "ssim", "rasterizers")]
DATA = [name for package in ("io", "scene", "processing", "synthetic_city") for name in modules(f"{package}/*.py")]
TRAINING = [
    *modules("dataparsers/*.py"), *modules("models/**/*.py"), *modules("priors/*.py"), *modules("idu/*.py"),
    *modules("pipelines/*.py"), *modules("scene/*.py"), *modules("io/*.py"), "skyfall_ns.method_configs",
]  # fmt: skip

RULES = {
    "the package itself": (["skyfall_ns", "skyfall_ns.errors"], LIGHT | ON_DEMAND),
    "commands": (modules("scripts/*.py"), LIGHT | ON_DEMAND),
    "geometry": (modules("geo/*.py"), HEAVY | ON_DEMAND),
    "data": (DATA, HEAVY | ON_DEMAND),
    "scenes can be read": (
        [*modules("scene/*.py"), *modules("io/*.py")],
        HEAVY | ON_DEMAND | MAPS,
    ),
    "parts of models": (PARTS, {"nerfstudio", "open3d"} | ON_DEMAND | MAPS),
    "refiners": (
        modules("refiners/**/*.py"),
        {"nerfstudio", "open3d", "accelerate"} | ON_DEMAND | MAPS,
    ),
    "depth priors": (modules("priors/*.py"), {"nerfstudio", "open3d"} | ON_DEMAND | MAPS),
}

PROBE = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.mark.parametrize("rule", RULES)
def test_modules_bring_only_what_they_may(rule):
    names, forbidden = RULES[rule]
    assert names
    done = subprocess.run([sys.executable, "-c", PROBE, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    brought = forbidden & set(json.loads(done.stdout.splitlines()[-1]))
    assert not brought, f"{rule}: {sorted(brought)} came with one of {names}"


def test_training_needs_no_map_libraries():
    """Where rasterio and pyproj are not installed, everything that trains is imported all the same."""
    block = "import sys\nsys.modules.update(rasterio=None, pyproj=None)\n"
    done = subprocess.run([sys.executable, "-c", block + PROBE, *TRAINING], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not {"diffusers", "moge", "lpips"} & set(json.loads(done.stdout.splitlines()[-1]))
