"""`skyfall-batch`: calls of ns-train per scene, shards, resuming, and the table."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from skyfall_ns.scripts import batch


@pytest.fixture
def scenes(tmp_path):
    """Three directories with the file by which a scene is recognized."""
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scene.json").write_text("{}")
    return [str(tmp_path / name) for name in ("a", "b", "c")]


@pytest.fixture
def runs(monkeypatch):
    """Words of every call of ns-train; a call fails if `failing` is one of its words."""
    calls = SimpleNamespace(commands=[], failing=None)

    def run(command, **options):
        calls.commands.append(command[1:])
        return SimpleNamespace(returncode=int(calls.failing in command))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(batch, "find_program", lambda name: name)
    return calls


@pytest.fixture
def call_command(monkeypatch, capsys, tmp_path):
    """Run the command; its output, or its error message."""

    def run_batch(*arguments):
        monkeypatch.setattr(sys, "argv", ["skyfall-batch", *arguments, "--output-dir", str(tmp_path / "out")])
        try:
            batch.main()
        except SystemExit as exit_error:
            assert exit_error.code == 1
        return "".join(capsys.readouterr())

    return run_batch


def test_every_scene_has_both_stages_in_order(scenes, runs, call_command, tmp_path):
    text = call_command(*scenes, "--stage1", "skyfall-fast --max-num-iterations 5")
    assert [(words[0], words[2]) for words in runs.commands] == [
        (method, scene) for scene in scenes for method in ("skyfall-fast", "skyfall-idu")
    ]
    first, second = runs.commands[:2]
    assert first[-2:] == ["--max-num-iterations", "5"]
    assert second[-2:] == ["--pipeline.stage1", f"{tmp_path}/out/a/skyfall-fast/batch/config.yml"]
    assert text.count(" done ") == 6 and "a      stage1  skyfall-fast  done" in text


def test_shards_share_the_scenes_and_see_the_whole_table(scenes, runs, call_command, tmp_path):
    call_command(*scenes, "--stage2", "none", "--shard", "2/2")
    assert [words[2] for words in runs.commands] == scenes[1:2]
    text = call_command(*scenes, "--stage2", "none", "--shard", "1/2", "--json", f"{tmp_path}/table.json")
    assert [words[2] for words in runs.commands] == [scenes[1], scenes[0], scenes[2]]
    states = [(row["scene"], row["state"]) for row in json.loads((tmp_path / "table.json").read_text())["stages"]]
    assert states == [("a", "done"), ("b", "done"), ("c", "done")] and text.count(" done ") == 3


def test_a_failed_scene_does_not_stop_the_others_and_is_resumed(scenes, runs, call_command, tmp_path):
    runs.failing = scenes[1]
    text = call_command(*scenes)
    assert [words[2] for words in runs.commands] == [scenes[0], scenes[0], scenes[1], scenes[2], scenes[2]]
    assert "Training failed for b. Read the logs that the table names" in text and "not started" in text
    runs.failing = None
    runs.commands.clear()
    checkpoints = tmp_path / "out/b/skyfall/batch/nerfstudio_models"
    checkpoints.mkdir(parents=True)
    (checkpoints / "step-000000009.ckpt").touch()
    text = call_command(*scenes)
    assert [words[0] for words in runs.commands] == ["skyfall", "skyfall-idu"]
    assert runs.commands[0][-2:] == ["--load-dir", str(checkpoints)] and "--load-dir" not in runs.commands[1]
    assert text.count(" done ") == 6


def test_wrong_input_is_refused_before_training(scenes, runs, call_command, tmp_path):
    assert "is not a scene: it has no scene.json. Pass" in call_command(*scenes, str(tmp_path))
    assert "Two scenes have the name a, and would share a run. Rename" in call_command(*scenes, scenes[0])
    for shard in ("0/2", "3/2", "x", "1/"):
        assert f"--shard is {shard}, not a part of several. Pass K/N" in call_command(*scenes, "--shard", shard)
    assert "--stage1 is empty. Pass a method" in call_command(*scenes, "--stage1", "")
    assert not runs.commands
    call_command(*scenes)
    assert "was trained with other options of stage1" in call_command(*scenes, "--stage1", "skyfall-fast")


@pytest.mark.slow
@pytest.mark.process
def test_a_small_scene_is_trained_by_both_stages_once(city_scene, call_command, tmp_path):
    curriculum = "--pipeline.curriculum."
    options = {
        "--stage1": "skyfall-fast --max-num-iterations 3",
        "--stage2": f"skyfall-idu {curriculum}steps 2 {curriculum}elevations-deg 60 {curriculum}azimuths 1 "
        f"{curriculum}grid 1 {curriculum}size-px 48",
    }
    arguments = [str(city_scene), *(word for option in options.items() for word in option)]
    for _ in range(2):  # the second time nothing is left to do
        text = call_command(*arguments)
        assert text.count(" done ") == 2, text
    log = (tmp_path / "out/scene/stage2.log").read_text()
    assert log.count("$ ns-train") == 1 and (tmp_path / "out/scene/skyfall-idu/batch/idu/episode_01").is_dir()
