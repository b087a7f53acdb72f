"""`skyfall-refine` and `skyfall-info --refiner` on the command line."""

import json
import shutil
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.plates import write_plate_renders

from skyfall_ns.errors import MissingExtraError
from skyfall_ns.idu.camera_placement import place_cameras
from skyfall_ns.idu.curriculum import Curriculum
from skyfall_ns.idu.episode_store import EpisodeStore
from skyfall_ns.refiners import registry
from skyfall_ns.refiners.registry import RefinerOptions
from skyfall_ns.scripts import info, refine

BOX = np.array([[-30.0, -30.0, 0.0], [30.0, 30.0, 12.0]])
CURRICULUM = Curriculum(elevations_deg=(60.0, 45.0), radii_m=(120.0,), grid=1, azimuths=8, size_px=48)


def make_episode(idu, number, options):
    spec = CURRICULUM.plan_episodes(BOX)[number - 1]
    views, _ = place_cameras(CURRICULUM, spec, BOX, lambda x, y: 0.0, lambda eye, target: None)
    return write_plate_renders(EpisodeStore.create(idu, spec, views, 48, {"run": 1}, 300.0, options))


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    for number in (1, 2):
        make_episode(directory / "idu", number, {"name": "identity"})
    return directory


@pytest.fixture
def idu(run_directory, tmp_path):
    return Path(shutil.copytree(run_directory / "idu", tmp_path / "idu"))


@pytest.fixture
def call_command(monkeypatch, capsys):
    """Run a command; its standard output, or its error message."""

    def run_main(command, *arguments):
        monkeypatch.setattr(sys, "argv", ["skyfall", *map(str, arguments)])
        try:
            command.main()
        except SystemExit as exit:
            assert exit.code == 1
            return capsys.readouterr().err
        captured = capsys.readouterr()
        return captured.out + captured.err

    return run_main


@dataclass(frozen=True)
class Paint:
    """Options of a test refiner, of the types that diffusion refiners have."""

    strength: float = 0.1
    size: tuple[int, ...] = (1, 2)
    weights: Path | None = None


@dataclass(frozen=True)
class PaintOptions(RefinerOptions):
    paint: Paint = field(default_factory=Paint)

    def build(self):
        return super().build() if self.name == "identity" else Painter(self.paint)


@dataclass(frozen=True)
class Painter:
    options: Paint
    batch = 2
    generative = True

    def check(self):
        if self.options.strength > 1:
            raise MissingExtraError("The brush is missing. Install it.")

    def identity(self, episode=None):
        return {"name": "img2img", "strength": self.options.strength}

    @contextmanager
    def load(self, device, episode):
        yield lambda views: [view.image * (1 - self.options.strength) for view in views]


@pytest.fixture
def paint_refiner(monkeypatch):
    """Register a test refiner with options of its own."""
    monkeypatch.setattr(registry, "RefinerOptions", PaintOptions)
    monkeypatch.setattr(refine, "RefinerOptions", PaintOptions)
    monkeypatch.setattr(info, "RefinerOptions", PaintOptions)
    refine_with_paint = dataclass(frozen=True)(
        type("Refine", (refine.Refine,), {
            "__annotations__": {"refiner": PaintOptions}, "refiner": field(default_factory=PaintOptions),
        })
    )  # fmt: skip
    monkeypatch.setattr(refine, "Refine", refine_with_paint)


def read_manifest(idu, number=1):
    return json.loads((idu / f"episode_0{number}/manifest.json").read_text())


def test_every_episode_is_refined_with_the_options_of_its_manifest(idu, call_command, tmp_path):
    output = call_command(refine, idu, "--device", "cpu", "--json", tmp_path / "out/report.json")
    assert output.index("episode_01: 8 of 8 views refined by identity in ") < output.index(
        "episode_02: 8 of 8 views refined"
    )
    assert "consistency of the views" in output and "generative" not in output
    report = json.loads((tmp_path / "out/report.json").read_text())["episodes"]
    assert list(report) == ["episode_01", "episode_02"]
    first = report["episode_01"]
    assert first["refined"] == 8 and first["kept"] == 0 and first["refiner"] == {"name": "identity"}
    assert first["consistency"]["raw"] == first["consistency"]["refined"] and first["peak_memory_bytes"] > 1e7
    assert first["consistency"]["raw"]["psnr"] > 25
    directory = EpisodeStore.open(idu / "episode_02")
    assert not directory.missing_refined() and not directory.missing_weights()
    assert all((idu / name / "overview.png").is_file() for name in report)
    output = call_command(refine, idu / "episode_01")
    assert "episode_01: all 8 views were already refined by identity" in output and "episode_02" not in output


def test_training_resumes_from_a_directory_that_was_refined_elsewhere(idu, call_command, tmp_path):
    copy = Path(shutil.copytree(idu, tmp_path / "away"))
    call_command(refine, copy, "--device", "cpu")
    shutil.rmtree(idu)
    shutil.copytree(copy, idu)
    episode = make_episode(idu, 1, {"name": "identity"})  # as a training run does: the same renders again
    episode.set_refiner({"name": "identity"}, False)
    assert episode.missing_refined() == [] and episode.missing_weights() == []


def test_options_of_the_manifest_are_overridden_one_by_one(idu, call_command, paint_refiner):
    options = PaintOptions(name="img2img", paint=Paint(0.25, (3,), Path("w")))
    assert PaintOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options
    make_episode(idu, 1, options.to_dict())
    output = call_command(refine, idu / "episode_01", "--device", "cpu")
    assert "refined by img2img" in output and "generative: they can show content that no image shows" in output
    assert (
        read_manifest(idu)["refiner"] == {"name": "img2img", "strength": 0.25}
        and read_manifest(idu)["generative"] is True
    )
    view, image = (lambda f: (f.rendered_view("003").image, f.read_refined("003")))(
        EpisodeStore.open(idu / "episode_01")
    )
    assert torch.allclose(image, 0.75 * view, atol=0.51 / 255)
    before = (idu / "episode_01/overview.png").read_bytes()
    output = call_command(refine, idu / "episode_01", "--device", "cpu", "--refiner.paint.strength", "0.5")
    assert (idu / "episode_01/overview.png").read_bytes() != before
    assert "8 images of another refiner or of other options are refined again" in output
    assert read_manifest(idu)["refiner"] == {"name": "img2img", "strength": 0.5}
    call_command(refine, idu / "episode_01", "--refiner.name", "identity", "--device", "cpu")
    assert read_manifest(idu)["refiner"] == {"name": "identity"} and read_manifest(idu)["generative"] is False


def test_missing_and_unsupported_input_is_an_error(idu, call_command, tmp_path, paint_refiner):
    assert "There is no episode at" in call_command(refine, tmp_path / "nowhere")
    assert "The brush is missing. Install it." in call_command(
        refine, idu, "--device", "cpu", "--refiner.name", "img2img", "--refiner.paint.strength", "2"
    )
    assert read_manifest(idu)["refiner"] is None
    (idu / "episode_02/depth/003.png").unlink()
    output = call_command(refine, idu, "--device", "cpu")
    assert "1 of 8 renders of" in output and "003" in output
    for unsupported in ({"name": "magic"}, {"brush": 1}, {"paint": 3}):
        data = read_manifest(idu)
        (idu / "episode_01/manifest.json").write_text(json.dumps(data | {"refiner_options": unsupported}))
        output = call_command(refine, idu)
        assert "has refiner options that this version does not support" in output and "Update skyfall-ns." in output
    (idu / "episode_01/manifest.json").write_text("{")
    assert "manifest.json is damaged" in call_command(refine, idu)


def test_errors_name_the_options_of_this_command(idu, call_command):
    output = call_command(
        refine, idu, "--device", "cpu", "--refiner.name", "bilateral", "--refiner.bilateral.color", "2"
    )
    assert "--refiner.bilateral.color" in output and "--pipeline" not in output


def test_cuda_without_a_gpu_is_refused(idu, call_command, monkeypatch):
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(is_available=lambda: False))
    assert "finds no CUDA device on this machine. Pass --device cpu" in call_command(refine, idu, "--device", "cuda")


def test_description_of_refiners(call_command, paint_refiner):
    assert json.loads(call_command(info, "--refiner", "identity", "--json")) == {
        "name": "identity", "generative": False, "identity": {"name": "identity"}, "lacks": None,
    }  # fmt: skip
    text = call_command(info, "--refiner", "img2img")
    assert "refiner img2img, generative" in text and "strength  0.1" in text and "ready to run here" in text
    description = info.describe_refiner(PaintOptions(name="img2img", paint=Paint(strength=2.0)))
    assert description["lacks"] == "The brush is missing. Install it." and "cannot run here" in info._refiner_text(
        description
    )


def test_info_describes_either_a_scene_or_a_refiner(call_command, tmp_path):
    assert "Give a scene directory, --refiner with a name, or --system." in call_command(info)
    assert "Give a scene directory, --refiner" in call_command(info, tmp_path, "--refiner", "identity")
    assert "--at needs the images of a scene" in call_command(info, "--refiner", "identity", "--at", 1, 2, 3)
