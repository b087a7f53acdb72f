"""Damaged scenes are refused with two sentences before the first training step, whichever image is damaged."""

import copy
import dataclasses
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.commands import run_command

from skyfall_ns.errors import SceneError
from skyfall_ns.io.ply import read_ply, write_ply
from skyfall_ns.method_configs import skyfall
from skyfall_ns.scene.scene import Scene


def set_pixel(scene: Path, index: int, value: float) -> str:
    """Set a pixel of an image to NaN or infinity; return the expected message."""
    image = Scene.from_directory(scene).images[index]
    pixels = cv2.imread(str(scene / image.path), cv2.IMREAD_UNCHANGED).astype(np.float32)
    pixels[5, 7] = value
    # OpenCV's default for three float bands, LogLuv, cannot store NaN
    assert cv2.imwrite(str(scene / image.path), pixels, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    return f"{image.name}.tif contains NaN or infinity. Process the vendor's file again."


def mask_everything(scene: Path, index: int) -> str:
    image = Scene.from_directory(scene).images[index]
    (scene / "masks").mkdir(exist_ok=True)
    assert cv2.imwrite(str(scene / f"masks/{image.name}.png"), np.zeros((image.height, image.width), np.uint8))
    data = Scene.from_directory(scene)
    images = [dataclasses.replace(i, mask=f"masks/{i.name}.png") if i.name == image.name else i for i in data.images]
    dataclasses.replace(data, images=tuple(images)).save_to(scene)
    flag = "--pipeline.datamanager.dataparser.images"
    return f"{image.name}.png masks the whole image. Leave {image.name} out with {flag}, or fix the mask."


def remove_points(scene: Path) -> str:
    cloud = read_ply(scene / "points.ply")
    fields = {f.name: getattr(cloud, f.name)[:0] for f in dataclasses.fields(cloud)}
    write_ply(scene / "points.ply", dataclasses.replace(cloud, **fields))
    return f"{scene} has no points for initialization. Run skyfall-process again."


DAMAGES = {
    "NaN": lambda scene: set_pixel(scene, 0, np.nan),
    "infinity": lambda scene: set_pixel(scene, 1, np.inf),
    "NaN in the held-out image": lambda scene: set_pixel(scene, -1, np.nan),
    "a mask over the whole image": lambda scene: mask_everything(scene, 2),
    "a mask over the held-out image": lambda scene: mask_everything(scene, -1),
    "no points": remove_points,
}


@pytest.fixture
def scene(city_scene, tmp_path) -> Path:
    """A copy of the scene that a test may damage."""
    return shutil.copytree(city_scene, tmp_path / "scene", ignore=shutil.ignore_patterns("raw", "truth", "report"))


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_training_does_not_start(damage, scene, tmp_path):
    expected = DAMAGES[damage](scene)
    config = copy.deepcopy(skyfall.config)
    config.output_dir, config.experiment_name, config.timestamp = tmp_path, "bad", "t"
    config.vis, config.machine.device_type, config.logging.local_writer.enable = "tensorboard", "cpu", False
    config.pipeline.datamanager.data = scene
    trainer = config.setup(local_rank=0, world_size=1)
    with pytest.raises(SceneError) as raised:
        trainer.setup()  # the first step comes after it
    assert str(raised.value).endswith(expected) and str(raised.value).count(". ") == 1


@pytest.mark.slow
def test_the_command_prints_the_message_and_exits_with_1(scene, tmp_path):
    expected = DAMAGES["a mask over the held-out image"](scene)
    result = run_command("ns-train", "skyfall", "--data", scene, "--output-dir", tmp_path, "--experiment-name", "bad",
                 "--vis", "tensorboard", check=False)  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.strip().endswith(expected) and "Traceback" not in result.stderr
    assert not list((tmp_path / "bad").rglob("*.ckpt"))
