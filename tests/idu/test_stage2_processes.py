"""Stage 2 as processes: a run that is killed in any phase, or refined on another machine, ends as an uninterrupted
one."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import assert_identical
from helpers.commands import run_command
from helpers.idu_runs import read_episode_files
from helpers.ns_train import NsTrain

from skyfall_ns.idu.episode_store import EpisodeStore

pytestmark = [pytest.mark.slow, pytest.mark.process]

STAGE1_STEPS, EPISODE_STEPS, VIEWS, SAVE_INTERVAL = 6, 12, 24, 4


@pytest.fixture(scope="module")
def ns_train():
    command = NsTrain()
    yield command
    command.close()


def run_flags(scene: Path, out: Path, name: str, *more: object) -> tuple[object, ...]:
    """Flags of a run with all state that a resume could lose: densification, shadows that move, replayed episodes."""
    return (
        "skyfall-idu", "--data", scene, "--output-dir", out, "--experiment-name", "city", "--timestamp", name,
        "--vis", "tensorboard", "--machine.device-type", "cpu", "--pipeline.depth.prior", "none",
        "--pipeline.stage1-steps", STAGE1_STEPS, "--pipeline.curriculum.steps", EPISODE_STEPS,
        "--steps-per-save", SAVE_INTERVAL,
        "--pipeline.curriculum.elevations-deg", 60, 35, "--pipeline.curriculum.radii-m", 150,
        "--pipeline.curriculum.fov-deg", 25, "--pipeline.curriculum.grid", 1, "--pipeline.curriculum.azimuths", VIEWS,
        "--pipeline.curriculum.size-px", 96, "--pipeline.densify-fraction", 0.9, "--pipeline.densify-grad-thresh", 1e-4,
        "--pipeline.model.refine-every", 2, "--optimizers.means.optimizer.lr", 3e-3, *more,
    )  # fmt: skip


def run_directory(out: Path, name: str) -> Path:
    return out / "city/skyfall-idu" / name


def run_to_end(ns_train: NsTrain, scene: Path, out: Path, name: str, *more: object) -> Path:
    """Directory of a run that ended normally."""
    ns_train.start(out / f"{name}.log", *run_flags(scene, out, name, *more))
    assert ns_train.wait() == 0, (out / f"{name}.log").read_text()[-3000:]
    return run_directory(out, name)


def run_to_message(ns_train: NsTrain, scene: Path, out: Path, name: str, *more: object) -> tuple[Path, str]:
    """Directory and output of a run that ended with a message."""
    ns_train.start(out / f"{name}.log", *run_flags(scene, out, name, *more))
    assert ns_train.wait() == 1, (out / f"{name}.log").read_text()[-3000:]
    return run_directory(out, name), (out / f"{name}.log").read_text()


def run_and_kill(ns_train: NsTrain, scene: Path, out: Path, condition: Callable[[Path], bool]) -> Path:
    """Directory of a run that was killed as soon as its directory met a condition."""
    process, run = ns_train.start(out / "killed.log", *run_flags(scene, out, "killed")), run_directory(out, "killed")
    deadline = time.monotonic() + 120
    while not condition(run) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    assert ns_train.wait() == -signal.SIGKILL, (out / "killed.log").read_text()[-3000:]
    return run


@pytest.fixture(scope="module")
def uninterrupted(ns_train, city_scene, tmp_path_factory) -> Path:
    """Directory of an uninterrupted run."""
    return run_to_end(ns_train, city_scene, tmp_path_factory.mktemp("runs"), "uninterrupted")


def open_episodes(run: Path) -> list[EpisodeStore]:
    return [EpisodeStore.open(path.parent) for path in sorted(run.glob("idu/*/poses.json"))]


def last_step(run: Path) -> int:
    return max(int(path.stem[5:]) for path in run.glob("nerfstudio_models/*.ckpt"))


def complete_images(run: Path, kind: str) -> dict[tuple[str, str], tuple[str, int]]:
    """SHA-256 and modification time of the images that are complete."""
    return {
        (store.path.name, name): (getattr(view, f"{kind}_sha256"), store.image_path(kind, name).stat().st_mtime_ns)
        for store in open_episodes(run)
        for name, view in store.manifest.views.items()
        if getattr(view, f"{kind}_sha256") is not None
    }


def phase_on_disk(run: Path) -> str:
    """Phase in which the last episode was interrupted, from its files."""
    store = open_episodes(run)[-1]
    for phase, missing in (("render", store.missing_renders()), ("refine", store.missing_refined())):
        if missing:
            assert len(missing) < VIEWS
            return phase
    assert not store.missing_weights() and store.manifest.consistency
    assert "train" not in store.manifest.phases  # written at the end of the phase
    step_before_episode = STAGE1_STEPS + (store.episode.number - 1) * EPISODE_STEPS - 1
    return "swap" if last_step(run) == step_before_episode else "train"


def assert_same_run(run: Path, expected: Path) -> None:
    """The same files with the same contents, except for times and the location of the run."""
    names = [{str(path.relative_to(top)) for path in top.rglob("[!e]*")} for top in (run, expected)]  # e: event files
    assert names[0] == names[1]
    assert read_episode_files(run / "idu") == read_episode_files(expected / "idu")
    (checkpoint,) = expected.glob("nerfstudio_models/*.ckpt")
    paths = (run / checkpoint.relative_to(expected), checkpoint)
    found, wanted = (torch.load(path, weights_only=True) for path in paths)
    assert_identical(found, wanted)  # with learning rates, the order of images and random states


def read_manifest(episode: Path) -> dict[str, Any]:
    try:
        return json.loads((episode / "manifest.json").read_text())
    except FileNotFoundError:
        return {"phases": {}, "consistency": {}}


def is_rendered(episode: Path) -> bool:
    return "render" in read_manifest(episode)["phases"]


def is_compared(episode: Path) -> bool:
    """The comparison of views is the last work before the images of an episode are used."""
    return bool(read_manifest(episode)["consistency"])


CONDITIONS = {
    "render": lambda run: (run / "idu/episode_01/render/005.png").exists(),
    "refine": lambda run: (run / "idu/episode_02/refined/005.png").exists(),
    "swap": lambda run: is_compared(run / "idu/episode_02"),
    "train": lambda run: (run / f"nerfstudio_models/step-{3 * SAVE_INTERVAL:09d}.ckpt").exists(),
}


@pytest.mark.parametrize("phase", CONDITIONS)
def test_killed_process_resumes_exactly(ns_train, uninterrupted, city_scene, tmp_path, phase):
    killed = run_and_kill(ns_train, city_scene, tmp_path, CONDITIONS[phase])
    assert phase_on_disk(killed) == phase
    resumed = run_to_end(ns_train, city_scene, tmp_path, "resumed", "--load-dir", killed / "nerfstudio_models")
    assert_same_run(resumed, uninterrupted)
    for kind in ("render", "refined"):
        assert complete_images(killed, kind).items() <= complete_images(resumed, kind).items()  # none was made again


def test_episodes_may_be_refined_on_another_machine(ns_train, uninterrupted, city_scene, tmp_path):
    """In a directory with another name, one episode or all of them; images that are copied back are used unchanged."""
    copied, models = tmp_path / "copied", "nerfstudio_models"
    run = run_and_kill(ns_train, city_scene, tmp_path, lambda run: is_rendered(run / "idu/episode_01"))
    shutil.copytree(run / "idu/episode_01", copied)
    run_command("skyfall-refine", copied, "--device", "cpu")
    shutil.copytree(copied, run / "idu/episode_01", dirs_exist_ok=True)
    first_images = complete_images(run, "refined")
    options = ("--pipeline.external-refinement", "True", "--load-dir")
    run, output = run_to_message(ns_train, city_scene, tmp_path, "second", *options, run / models)
    assert f"Episode 2 is rendered, and {VIEWS} of its {VIEWS} views wait to be refined. Run skyfall-refine" in output
    assert "Traceback" not in output and complete_images(run, "refined") == first_images

    shutil.copytree(run / "idu", tmp_path / "idu")
    output = run_command("skyfall-refine", tmp_path / "idu").stdout
    assert f"all {VIEWS} views were already refined by bilateral" in output
    shutil.copytree(tmp_path / "idu", run / "idu", dirs_exist_ok=True)
    all_images = complete_images(run, "refined")
    run = run_to_end(ns_train, city_scene, tmp_path, "third", *options, run / models)
    assert first_images.items() <= all_images.items() and complete_images(run, "refined") == all_images
    assert_same_run(run, uninterrupted)
