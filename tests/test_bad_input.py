"""Scenes that cannot be trained on are refused in two sentences before the first step, whichever image is bad."""

import copy
import dataclasses
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_cli_host import run

from skyfall_ns.errors import SceneError
from skyfall_ns.io.ply import read_ply, write_ply
from skyfall_ns.method_configs import skyfall
from skyfall_ns.scene.scene import Scene


def with_numbers(scene: Path, index: int, value: float) -> str:
    """A pixel of an image that holds no number."""
    image = Scene.load(scene).images[index]
    pixels = cv2.imread(str(scene / image.path), cv2.IMREAD_UNCHANGED).astype(np.float32)
    pixels[5, 7] = value
    # OpenCV's own choice for three bands of floats, LogLuv, knows numbers only
    assert cv2.imwrite(str(scene / image.path), pixels, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    return f"{image.name}.tif holds values that are no numbers. Process the vendor's file again."


def all_masked(scene: Path, index: int) -> str:
    image = Scene.load(scene).images[index]
    (scene / "masks").mkdir(exist_ok=True)
    assert cv2.imwrite(str(scene / f"masks/{image.name}.png"), np.zeros((image.height, image.width), np.uint8))
    data = Scene.load(scene)
    images = [dataclasses.replace(i, mask=f"masks/{i.name}.png") if i.name == image.name else i for i in data.images]
    dataclasses.replace(data, images=tuple(images)).save(scene)
    return f"{image.name}.png masks the whole image. Leave {image.name} out with --images, or mend the mask."


def no_points(scene: Path) -> str:
    cloud = read_ply(scene / "points.ply")
    fields = {f.name: getattr(cloud, f.name)[:0] for f in dataclasses.fields(cloud)}
    write_ply(scene / "points.ply", dataclasses.replace(cloud, **fields))
    return f"{scene} has no points to start from. Run skyfall-process again."


KINDS = {
    "a number that is none": lambda scene: with_numbers(scene, 0, np.nan),
    "an infinite number": lambda scene: with_numbers(scene, 1, np.inf),
    "one in the held-out image": lambda scene: with_numbers(scene, -1, np.nan),
    "a mask over everything": lambda scene: all_masked(scene, 2),
    "one over the held-out image": lambda scene: all_masked(scene, -1),
    "no points": no_points,
}


@pytest.fixture
def scene(city_scene, tmp_path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(city_scene, tmp_path / "scene", ignore=shutil.ignore_patterns("raw", "truth", "report"))


@pytest.mark.parametrize("kind", KINDS)
def test_training_does_not_begin(kind, scene, tmp_path):
    expected = KINDS[kind](scene)
    config = copy.deepcopy(skyfall.config)
    config.output_dir, config.experiment_name, config.timestamp = tmp_path, "bad", "t"
    config.vis, config.machine.device_type, config.logging.local_writer.enable = "tensorboard", "cpu", False
    config.pipeline.datamanager.data = scene
    trainer = config.setup(local_rank=0, world_size=1)
    with pytest.raises(SceneError) as caught:
        trainer.setup()  # the first step comes after it
    assert str(caught.value).endswith(expected) and str(caught.value).count(". ") == 1


def test_the_command_ends_in_the_message_and_code_1(scene, tmp_path):
    expected = KINDS["one over the held-out image"](scene)
    result = run("ns-train", "skyfall", "--data", scene, "--output-dir", tmp_path, "--experiment-name", "bad",
                 "--vis", "tensorboard", check=False)  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.strip().endswith(expected) and "Traceback" not in result.stderr
    assert not list((tmp_path / "bad").rglob("*.ckpt"))
