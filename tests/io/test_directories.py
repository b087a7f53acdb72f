"""Atomic creation of a scene directory: failures, killed processes, full disks, what --force may replace."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from skyfall_ns.errors import SceneError
from skyfall_ns.io.directories import atomic_directory


def make_scene(target, force=False, text="new", inputs=()):
    with atomic_directory(target, force, inputs) as directory:
        assert directory != target
        (directory / "scene.json").write_text(text)


def file_names(directory):
    return sorted(p.name for p in directory.iterdir())


def test_directory_appears_at_the_end_with_its_parents(tmp_path):
    target = tmp_path / "a/b/scene"
    with atomic_directory(target, force=False) as directory:
        (directory / "scene.json").write_text("new")
        assert not target.exists() and directory.parent == target.parent  # one disk: the rename is atomic
    assert file_names(target) == ["files.txt", "scene.json"] and file_names(target.parent) == ["scene"]
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("failure", [ValueError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_failures_leave_the_old_scene_and_no_partial_one(tmp_path, failure):
    make_scene(tmp_path / "old", text="old")
    for target in ("new", "old"):
        with pytest.raises(type(failure)), atomic_directory(tmp_path / target, force=True) as directory:
            (directory / "half").write_text("written")
            raise failure
    assert file_names(tmp_path) == ["old"] and (tmp_path / "old/scene.json").read_text() == "old"


def test_error_of_a_full_disk_names_the_directory(tmp_path):
    with pytest.raises(OSError, match=str(tmp_path / "scene")), atomic_directory(tmp_path / "scene", force=False):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_scenes_are_replaced_only_with_force(tmp_path):
    make_scene(tmp_path / "scene", text="old")
    (tmp_path / "scene/extra").touch()
    with pytest.raises(SceneError, match=r"scene exists already\. Choose another --output-dir, or pass --force"):
        make_scene(tmp_path / "scene")
    make_scene(tmp_path / "scene", force=True)
    assert file_names(tmp_path / "scene") == ["extra", "files.txt", "scene.json"]
    assert (tmp_path / "scene/scene.json").read_text() == "new" and file_names(tmp_path) == ["scene"]


def test_force_keeps_what_the_command_did_not_make(tmp_path):
    """Runs, camera paths and links that a user put into a scene, also where the new scene has a file of that name."""
    scene = tmp_path / "scene"
    with atomic_directory(scene, force=False) as directory:
        for name in ("scene.json", "images/a.tif", "surface.tif"):
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_text("old")
    for name in ("camera_paths/path.json", "runs/city/config.yml", "images/mine.tif", ".hidden"):
        (scene / name).parent.mkdir(parents=True, exist_ok=True)
        (scene / name).write_text("mine")
    (scene / "link").symlink_to(tmp_path)
    with atomic_directory(scene, force=True) as directory:
        for name in ("scene.json", "images/b.tif", "images/mine.tif"):
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_text("new")
    contents = {p.relative_to(scene).as_posix(): p.read_text() for p in scene.rglob("*") if p.is_file()}
    contents.pop("files.txt")
    assert contents == {
        "scene.json": "new", "images/b.tif": "new", "images/mine.tif": "new", "images/mine.tif.kept": "mine",
        "camera_paths/path.json": "mine", "runs/city/config.yml": "mine", ".hidden": "mine",
    }  # fmt: skip
    assert (scene / "link").is_symlink() and file_names(tmp_path) == ["scene"]


def test_scenes_without_a_list_keep_what_has_no_name_of_a_scene(tmp_path):
    scene = tmp_path / "scene"
    make_scene(scene, text="old")
    (scene / "files.txt").unlink()
    for name in ("camera_paths/path.json", "images/a.tif"):
        (scene / name).parent.mkdir()
        (scene / name).touch()
    make_scene(scene, force=True)
    assert file_names(scene) == ["camera_paths", "files.txt", "scene.json"]


def test_what_was_kept_survives_a_kill_before_the_old_scene_is_removed(tmp_path):
    make_scene(tmp_path / "scene", text="old")
    (tmp_path / "scene/mine.txt").touch()
    (tmp_path / "scene").rename(tmp_path / ".scene.partial-abcd.old")
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene/scene.json").write_text("new")
    with pytest.raises(SceneError, match="exists already"):
        make_scene(tmp_path / "scene")
    assert file_names(tmp_path) == ["scene"] and file_names(tmp_path / "scene") == ["mine.txt", "scene.json"]


def test_force_replaces_only_scenes(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.tex").touch()
    (tmp_path / "file").touch()
    for target in ("home", "file"):
        with pytest.raises(SceneError, match=rf"{target} is not a scene, so --force does not replace it\. Choose"):
            make_scene(tmp_path / target, force=True)
    assert (tmp_path / "home/thesis.tex").exists() and (tmp_path / "file").is_file()
    (tmp_path / "empty").mkdir()
    make_scene(tmp_path / "empty", force=True)


def test_force_never_deletes_the_inputs(tmp_path):
    with atomic_directory(tmp_path / "scene", force=False) as directory:
        (directory / "scene.json").touch()
        (directory / "raw").mkdir()
        (directory / "raw/a.tif").touch()
    image = tmp_path / "scene/raw/a.tif"
    with pytest.raises(SceneError, match=r"a.tif lies in .*scene, which --force would delete\. Choose"):
        make_scene(tmp_path / "scene", force=True, inputs=[image])
    assert image.exists()


def test_targets_that_cannot_be_created_are_refused(tmp_path):
    (tmp_path / "file").touch()
    for parent in [tmp_path / "file", *(p for p in (Path("/proc"),) if p.is_dir())]:
        with pytest.raises(SceneError, match=r"cannot be created\. Choose another --output-dir\."):
            make_scene(f"{parent}/there/scene")


BUILDER = """
import sys, time
from pathlib import Path
from skyfall_ns.io.directories import atomic_directory
with atomic_directory(Path(sys.argv[1]), force=True) as directory:
    (directory / "half").touch()
    print("building", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def building_process(tmp_path):
    """Another process that is building tmp_path / "scene"."""
    command = [sys.executable, "-c", BUILDER, str(tmp_path / "scene")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "building\n"
        yield process
        process.kill()


def test_leftovers_of_killed_processes_are_removed(tmp_path, building_process):
    assert len(file_names(tmp_path)) == 1
    building_process.send_signal(signal.SIGKILL)
    building_process.wait()
    assert len(file_names(tmp_path)) == 1
    make_scene(tmp_path / "scene")
    assert file_names(tmp_path) == ["scene"]


def test_partial_directories_of_running_processes_stay(tmp_path, building_process):
    make_scene(tmp_path / "scene")
    assert len(file_names(tmp_path)) == 2 and building_process.poll() is None


def test_scene_whose_replacement_was_interrupted_is_restored(tmp_path):
    make_scene(tmp_path / "scene", text="old")
    (tmp_path / "scene").rename(tmp_path / ".scene.partial-abcd.old")  # killed between the two renames
    with pytest.raises(SceneError, match="exists already"):
        make_scene(tmp_path / "scene")
    assert file_names(tmp_path) == ["scene"] and (tmp_path / "scene/scene.json").read_text() == "old"
