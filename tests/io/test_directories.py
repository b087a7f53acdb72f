"""A scene folder appears whole or not at all: failures, killed runs, full disks, what --force may replace."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from skyfall_ns.errors import SceneError
from skyfall_ns.io.directories import new_folder


def make(target, force=False, text="new", inputs=()):
    with new_folder(target, force, inputs) as folder:
        assert folder != target
        (folder / "scene.json").write_text(text)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_it_appears_at_the_end_with_its_parents(tmp_path):
    target = tmp_path / "a/b/scene"
    with new_folder(target, force=False) as folder:
        (folder / "scene.json").write_text("new")
        assert not target.exists() and folder.parent == target.parent  # one disk: the rename cannot be half done
    assert names(target) == ["scene.json"] and names(target.parent) == ["scene"]
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("failure", [ValueError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_failures_leave_nothing_and_the_old_scene(tmp_path, failure):
    make(tmp_path / "old", text="old")
    for target in ("new", "old"):
        with pytest.raises(type(failure)), new_folder(tmp_path / target, force=True) as folder:
            (folder / "half").write_text("written")
            raise failure
    assert names(tmp_path) == ["old"] and (tmp_path / "old/scene.json").read_text() == "old"


def test_a_full_disk_is_told_with_the_folders_name(tmp_path):
    with pytest.raises(OSError, match=str(tmp_path / "scene")), new_folder(tmp_path / "scene", force=False):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_scenes_are_replaced_only_with_force(tmp_path):
    make(tmp_path / "scene", text="old")
    (tmp_path / "scene/extra").touch()
    with pytest.raises(SceneError, match=r"scene exists already\. Choose another --output-dir, or pass --force"):
        make(tmp_path / "scene")
    make(tmp_path / "scene", force=True)
    assert names(tmp_path / "scene") == ["scene.json"] and (tmp_path / "scene/scene.json").read_text() == "new"
    assert names(tmp_path) == ["scene"]


def test_force_replaces_scenes_and_nothing_else(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.tex").touch()
    (tmp_path / "file").touch()
    for target in ("home", "file"):
        with pytest.raises(SceneError, match=rf"{target} is not a scene, so --force does not replace it\. Choose"):
            make(tmp_path / target, force=True)
    assert (tmp_path / "home/thesis.tex").exists() and (tmp_path / "file").is_file()
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty", force=True)


def test_force_never_deletes_its_own_inputs(tmp_path):
    make(tmp_path / "scene")
    image = tmp_path / "scene/raw/a.tif"
    image.parent.mkdir()
    image.touch()
    with pytest.raises(SceneError, match=r"a.tif lies in .*scene, which --force would delete\. Choose"):
        make(tmp_path / "scene", force=True, inputs=[image])
    assert image.exists()


def test_places_where_no_folder_can_be(tmp_path):
    (tmp_path / "file").touch()
    for parent in [tmp_path / "file", *(p for p in (Path("/proc"),) if p.is_dir())]:
        with pytest.raises(SceneError, match=r"No folder can be made at .*\. Choose another --output-dir\."):
            make(f"{parent}/there/scene")


BUILDER = """
import sys, time
from pathlib import Path
from skyfall_ns.io.directories import new_folder
with new_folder(Path(sys.argv[1]), force=True) as folder:
    (folder / "half").touch()
    print("building", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def builder(tmp_path):
    """Another process at work on tmp_path / "scene"."""
    command = [sys.executable, "-c", BUILDER, str(tmp_path / "scene")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "building\n"
        yield process
        process.kill()


def test_what_a_killed_run_left_is_swept_up(tmp_path, builder):
    assert len(names(tmp_path)) == 1
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    assert len(names(tmp_path)) == 1
    make(tmp_path / "scene")
    assert names(tmp_path) == ["scene"]


def test_what_a_living_run_builds_is_left_alone(tmp_path, builder):
    make(tmp_path / "scene")
    assert len(names(tmp_path)) == 2 and builder.poll() is None


def test_a_scene_whose_replacement_was_killed_comes_back(tmp_path):
    make(tmp_path / "scene", text="old")
    (tmp_path / "scene").rename(tmp_path / ".scene.partial-abcd.old")  # killed between the two renames
    with pytest.raises(SceneError, match="exists already"):
        make(tmp_path / "scene")
    assert names(tmp_path) == ["scene"] and (tmp_path / "scene/scene.json").read_text() == "old"
