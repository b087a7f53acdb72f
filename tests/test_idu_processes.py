"""Stage 2 as processes: a run that the system kills in any phase, or that is refined on another machine, ends as one
that nobody disturbed."""

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
from helpers.idu_runs import NsTrain, contents
from test_cli_host import run as called
from test_resume import assert_equal

from skyfall_ns.idu.episode_store import EpisodeFolder

STAGE1, STEPS, VIEWS, SAVED = 6, 12, 24, 4  # steps of stage 1 and of an episode, views of one, steps between saves


@pytest.fixture(scope="module")
def ns_train():
    command = NsTrain()
    yield command
    command.close()


def flags(scene: Path, out: Path, name: str, *more: object) -> tuple[object, ...]:
    """A run in which everything changes that a resume could lose: splats split, shadows move, earlier images stay."""
    return (
        "skyfall-idu", "--data", scene, "--output-dir", out, "--experiment-name", "city", "--timestamp", name,
        "--vis", "tensorboard", "--machine.device-type", "cpu", "--pipeline.depth.prior", "none",
        "--pipeline.stage1-steps", STAGE1, "--pipeline.curriculum.steps", STEPS, "--steps-per-save", SAVED,
        "--pipeline.curriculum.elevations-deg", 60, 35, "--pipeline.curriculum.radii-m", 150,
        "--pipeline.curriculum.fov-deg", 25, "--pipeline.curriculum.grid", 1, "--pipeline.curriculum.azimuths", VIEWS,
        "--pipeline.curriculum.size-px", 96, "--pipeline.grow-share", 0.9, "--pipeline.grow-thresh", 1e-4,
        "--pipeline.model.refine-every", 2, "--optimizers.means.optimizer.lr", 3e-3, *more,
    )  # fmt: skip


def run_folder(out: Path, name: str) -> Path:
    return out / "city/skyfall-idu" / name


def finished(ns_train: NsTrain, scene: Path, out: Path, name: str, *more: object) -> Path:
    """The folder of a run that came to its end."""
    ns_train.start(out / f"{name}.log", *flags(scene, out, name, *more))
    assert ns_train.wait() == 0, (out / f"{name}.log").read_text()[-3000:]
    return run_folder(out, name)


def stopped(ns_train: NsTrain, scene: Path, out: Path, name: str, *more: object) -> tuple[Path, str]:
    """The folder of a run that ended with a message, and the message."""
    ns_train.start(out / f"{name}.log", *flags(scene, out, name, *more))
    assert ns_train.wait() == 1, (out / f"{name}.log").read_text()[-3000:]
    return run_folder(out, name), (out / f"{name}.log").read_text()


def killed(ns_train: NsTrain, scene: Path, out: Path, stands: Callable[[Path], bool]) -> Path:
    """The folder of a run that was killed as soon as it stood somewhere."""
    process, run = ns_train.start(out / "killed.log", *flags(scene, out, "killed")), run_folder(out, "killed")
    end = time.monotonic() + 120
    while not stands(run) and time.monotonic() < end:
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    assert ns_train.wait() == -signal.SIGKILL, (out / "killed.log").read_text()[-3000:]
    return run


@pytest.fixture(scope="module")
def whole(ns_train, city_scene, tmp_path_factory) -> Path:
    """A run that nobody disturbed."""
    return finished(ns_train, city_scene, tmp_path_factory.mktemp("runs"), "whole")


def episodes(run: Path) -> list[EpisodeFolder]:
    return [EpisodeFolder.open(path.parent) for path in sorted(run.glob("idu/*/poses.json"))]


def last_step(run: Path) -> int:
    return max(int(path.stem[5:]) for path in run.glob("nerfstudio_models/*.ckpt"))


def made(run: Path, kind: str) -> dict[tuple[str, str], tuple[str, int]]:
    """SHA-256 and time of the pictures that are done."""
    return {
        (folder.path.name, name): (getattr(view, f"{kind}_sha256"), folder.file(kind, name).stat().st_mtime_ns)
        for folder in episodes(run)
        for name, view in folder.manifest.views.items()
        if getattr(view, f"{kind}_sha256") is not None
    }


def phase_of(run: Path) -> str:
    """What the last episode is in the middle of, by what is on the disk."""
    folder = episodes(run)[-1]
    for phase, missing in (("render", folder.missing_renders()), ("refine", folder.missing_refined())):
        if missing:
            assert len(missing) < VIEWS
            return phase
    assert not folder.missing_weights() and folder.manifest.consistency
    assert "train" not in folder.manifest.phases  # written at its end
    door = STAGE1 + (folder.episode.number - 1) * STEPS - 1
    return "swap" if last_step(run) == door else "train"


def assert_same(run: Path, whole: Path) -> None:
    """The same files with the same contents, but for times and for what a run says of its place."""
    names = [{str(path.relative_to(top)) for path in top.rglob("[!e]*")} for top in (run, whole)]  # e: events of then
    assert names[0] == names[1]
    assert contents(run / "idu") == contents(whole / "idu")
    (checkpoint,) = whole.glob("nerfstudio_models/*.ckpt")
    saved = [torch.load(path, weights_only=True) for path in (run / checkpoint.relative_to(whole), checkpoint)]
    assert_equal(*saved, "checkpoint")  # with rates, the order of images and random numbers


def manifest(episode: Path) -> dict[str, Any]:
    try:
        return json.loads((episode / "manifest.json").read_text())
    except FileNotFoundError:
        return {"phases": {}, "consistency": {}}


def is_rendered(episode: Path) -> bool:
    return "render" in manifest(episode)["phases"]


def is_compared(episode: Path) -> bool:
    """The last that is done before an episode's images are taken."""
    return bool(manifest(episode)["consistency"])


STANDS = {
    "render": lambda run: (run / "idu/episode_01/render/005.png").exists(),
    "refine": lambda run: (run / "idu/episode_02/refined/005.png").exists(),
    "swap": lambda run: is_compared(run / "idu/episode_02"),
    "train": lambda run: (run / f"nerfstudio_models/step-{3 * SAVED:09d}.ckpt").exists(),
}


@pytest.mark.parametrize("phase", STANDS)
def test_a_run_that_the_system_kills_goes_on_as_if_nothing_had_happened(ns_train, whole, city_scene, tmp_path, phase):
    before = killed(ns_train, city_scene, tmp_path, STANDS[phase])
    assert phase_of(before) == phase
    again = finished(ns_train, city_scene, tmp_path, "again", "--load-dir", before / "nerfstudio_models")
    assert_same(again, whole)
    for kind in ("render", "refined"):
        assert made(before, kind).items() <= made(again, kind).items()  # none was made twice


def test_episodes_may_be_refined_on_another_machine(ns_train, whole, city_scene, tmp_path):
    """Under another name there, one episode alone or the whole folder; what comes back is taken as it is."""
    away, models = tmp_path / "away", "nerfstudio_models"
    run = killed(ns_train, city_scene, tmp_path, lambda run: is_rendered(run / "idu/episode_01"))
    shutil.copytree(run / "idu/episode_01", away)
    called("skyfall-refine", away, "--device", "cpu")
    shutil.copytree(away, run / "idu/episode_01", dirs_exist_ok=True)
    one = made(run, "refined")
    options = ("--pipeline.refine-elsewhere", "True", "--load-dir")
    run, told = stopped(ns_train, city_scene, tmp_path, "second", *options, run / models)
    assert f"Episode 2 is rendered, and {VIEWS} of its {VIEWS} views wait to be refined. Run skyfall-refine" in told
    assert "Traceback" not in told and made(run, "refined") == one

    shutil.copytree(run / "idu", tmp_path / "idu")
    assert f"all {VIEWS} views had been refined by smooth" in called("skyfall-refine", tmp_path / "idu").stdout
    shutil.copytree(tmp_path / "idu", run / "idu", dirs_exist_ok=True)
    both = made(run, "refined")
    run = finished(ns_train, city_scene, tmp_path, "third", *options, run / models)
    assert one.items() <= both.items() and made(run, "refined") == both
    assert_same(run, whole)
