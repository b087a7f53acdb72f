"""Runs placed on Earth from their files alone, as the host writes them."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from skyfall_ns.errors import SceneError, TrainingError
from skyfall_ns.export.run_transform import read_placement
from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.scene.scene import Scene, SceneImage, Tone


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    folder = tmp_path / "my scene"
    folder.mkdir()
    (folder / "a.tif").touch()
    camera = AffineCamera(np.array([[2.0, 0, 0, 2], [0, -2.0, 0, 2]]), None, (4, 4)).to_dict()
    image = SceneImage("a", "a.tif", 4, 4, camera, Tone((0.0,), (1.0,)))
    box = np.array([[-100.0, -50.0, -5.0], [120.0, 60.0, 40.0]])
    scene = Scene({"crs": "EPSG:32637", "origin": [3e5, 4e6, 700.0]}, box, (image,), points=None, folder=folder)
    scene.save(folder)
    return scene


def write_run(folder: Path, scene: Path, by_dataparser: bool = False, matrix: np.ndarray | None = None) -> Path:
    """config.yml as the host saves it, and the transform beside it."""
    from skyfall_ns.method_configs import skyfall

    config = copy.deepcopy(skyfall.config)
    if by_dataparser:
        config.pipeline.datamanager.dataparser.data = scene
    else:
        config.data = config.pipeline.datamanager.data = scene
    folder.mkdir()
    (folder / "config.yml").write_text(yaml.dump(config))
    matrix = np.eye(4)[:3] if matrix is None else matrix
    matrix = matrix + np.array([0, 0, 0, -10.0]) * [[1], [-0.5], [0]]
    transforms = {"transform": matrix.tolist(), "scale": 0.01}
    (folder / "dataparser_transforms.json").write_text(json.dumps(transforms))
    return folder / "config.yml"


@pytest.mark.parametrize("by_dataparser", [False, True])
def test_reads_what_the_host_writes(scene, tmp_path, by_dataparser):
    placement = read_placement(write_run(tmp_path / "run", scene.folder, by_dataparser))
    assert placement.scene.folder == scene.folder and placement.scene.images == scene.images
    assert placement.frame.crs == "EPSG:32637"
    np.testing.assert_allclose(placement.model_from_local([10.0, -5.0, 100.0]), [0, 0, 1])
    pose = np.eye(4)[None].copy()
    pose[0, :3, 3] = (20.0, 5.0, 0.0)
    moved = placement.poses_from_local(pose)
    np.testing.assert_allclose(moved[0, :3, 3], [0.1, 0.1, 0])
    np.testing.assert_allclose(moved[0, :3, :3], np.eye(3))


def test_no_code_runs(scene, tmp_path):
    """A config is data here: nothing it names is called."""
    config = write_run(tmp_path / "run", scene.folder)
    trap = tmp_path / "trap"
    config.write_text(config.read_text() + f"evil: !!python/object/apply:os.mkdir ['{trap}']\n")
    read_placement(config)
    assert not trap.exists()


def test_errors_name_the_file_and_the_mend(scene, tmp_path):
    with pytest.raises(TrainingError, match="does not exist"):
        read_placement(tmp_path / "config.yml")
    config = write_run(tmp_path / "run", scene.folder)
    good = config.read_text()
    for bad in ("method_name: other\n", "{", "- 1\n"):
        config.write_text(bad)
        with pytest.raises(TrainingError, match="cannot be understood"):
            read_placement(config)
    config.write_text(good)
    (scene.folder / "a.tif").unlink()
    with pytest.raises(SceneError, match="is missing"):
        read_placement(config)
    config.with_name("dataparser_transforms.json").unlink()
    with pytest.raises(TrainingError, match="is missing"):
        read_placement(config)


def test_a_turned_scene_is_refused(scene, tmp_path):
    turned = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]])
    with pytest.raises(TrainingError, match="turns the scene"):
        read_placement(write_run(tmp_path / "run", scene.folder, matrix=turned))
