"""Georegistration of runs from the files that Nerfstudio writes, without importing it."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from skyfall_ns.errors import SceneError, TrainingError
from skyfall_ns.export.run_transform import read_run_transform
from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.scene.scene import Scene, SceneImage, Tone


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    directory = tmp_path / "my scene"
    directory.mkdir()
    (directory / "a.tif").touch()
    camera = AffineCamera(np.array([[2.0, 0, 0, 2], [0, -2.0, 0, 2]]), None, (4, 4))
    image = SceneImage("a", "a.tif", 4, 4, camera, Tone((0.0,), (1.0,)))
    box = np.array([[-100.0, -50.0, -5.0], [120.0, 60.0, 40.0]])
    scene = Scene(LocalFrame("EPSG:32637", (3e5, 4e6, 700.0)), box, (image,), points=None, directory=directory)
    scene.save_to(directory)
    return scene


def write_run(directory: Path, scene: Path, by_dataparser: bool = False, matrix: np.ndarray | None = None) -> Path:
    """config.yml as Nerfstudio saves it, and the transform beside it."""
    from skyfall_ns.method_configs import skyfall

    config = copy.deepcopy(skyfall.config)
    if by_dataparser:
        config.pipeline.datamanager.dataparser.data = scene
    else:
        config.data = config.pipeline.datamanager.data = scene
    directory.mkdir()
    (directory / "config.yml").write_text(yaml.dump(config))
    matrix = np.eye(4)[:3] if matrix is None else matrix
    matrix = matrix + np.array([0, 0, 0, -10.0]) * [[1], [-0.5], [0]]
    transforms = {"transform": matrix.tolist(), "scale": 0.01}
    (directory / "dataparser_transforms.json").write_text(json.dumps(transforms))
    return directory / "config.yml"


@pytest.mark.parametrize("by_dataparser", [False, True])
def test_reads_the_files_that_nerfstudio_writes(scene, tmp_path, by_dataparser):
    transform = read_run_transform(write_run(tmp_path / "run", scene.directory, by_dataparser))
    assert transform.scene.directory == scene.directory
    assert [image.name for image in transform.scene.images] == ["a"]
    assert transform.local_frame.crs == "EPSG:32637"
    np.testing.assert_allclose(transform.model_from_local([10.0, -5.0, 100.0]), [0, 0, 1])
    pose = np.eye(4)[None].copy()
    pose[0, :3, 3] = (20.0, 5.0, 0.0)
    poses = transform.poses_from_local(pose)
    np.testing.assert_allclose(poses[0, :3, 3], [0.1, 0.1, 0])
    np.testing.assert_allclose(poses[0, :3, :3], np.eye(3))


def test_loading_a_config_runs_no_code(scene, tmp_path):
    """A config is loaded as data: nothing that it names is called."""
    config = write_run(tmp_path / "run", scene.directory)
    trap = tmp_path / "trap"
    config.write_text(config.read_text() + f"evil: !!python/object/apply:os.mkdir ['{trap}']\n")
    read_run_transform(config)
    assert not trap.exists()


def test_errors_name_the_file_and_the_remedy(scene, tmp_path):
    with pytest.raises(TrainingError, match="does not exist"):
        read_run_transform(tmp_path / "config.yml")
    config = write_run(tmp_path / "run", scene.directory)
    valid = config.read_text()
    for damaged in ("method_name: other\n", "{", "- 1\n"):
        config.write_text(damaged)
        with pytest.raises(TrainingError, match="is not a run of ns-train skyfall"):
            read_run_transform(config)
    config.write_text(valid)
    (scene.directory / "a.tif").unlink()
    with pytest.raises(SceneError, match="is missing"):
        read_run_transform(config)
    config.with_name("dataparser_transforms.json").unlink()
    with pytest.raises(TrainingError, match="is missing"):
        read_run_transform(config)


def test_a_rotated_scene_is_refused(scene, tmp_path):
    rotated = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]])
    with pytest.raises(TrainingError, match="rotates the scene"):
        read_run_transform(write_run(tmp_path / "run", scene.directory, matrix=rotated))
