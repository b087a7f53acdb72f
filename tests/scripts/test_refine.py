"""`skyfall-refine` and `skyfall-info --refiner` as people call them."""

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
from helpers.plates import fill

from skyfall_ns.errors import MissingExtraError
from skyfall_ns.idu.curriculum import Curriculum, poses
from skyfall_ns.idu.episode_store import EpisodeFolder
from skyfall_ns.refiners import registry
from skyfall_ns.refiners.registry import RefinerOptions
from skyfall_ns.scripts import info, refine

BOX = np.array([[-30.0, -30.0, 0.0], [30.0, 30.0, 12.0]])
CURRICULUM = Curriculum(elevations_deg=(60.0, 45.0), radii_m=(120.0,), grid=1, azimuths=8, size_px=48)


def episode(idu, number, options):
    shot = CURRICULUM.episodes(BOX)[number - 1]
    views = poses(CURRICULUM, shot, BOX, lambda x, y: 0.0, lambda eye, target: True)
    return fill(EpisodeFolder.begin(idu, shot, views, 48, {"run": 1}, 300.0, options))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    for number in (1, 2):
        episode(folder / "idu", number, {"name": "none"})
    return folder


@pytest.fixture
def idu(run_folder, tmp_path):
    return Path(shutil.copytree(run_folder / "idu", tmp_path / "idu"))


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a command; its standard output, or its error message."""

    def run(command, *arguments):
        monkeypatch.setattr(sys, "argv", ["skyfall", *map(str, arguments)])
        try:
            command.main()
        except SystemExit as exit:
            assert exit.code == 1
            return capsys.readouterr().err
        captured = capsys.readouterr()
        return captured.out + captured.err

    return run


@dataclass(frozen=True)
class Paint:
    """Options of a refiner as the diffusion ones have them."""

    strength: float = 0.1
    size: tuple[int, ...] = (1, 2)
    weights: Path | None = None


@dataclass(frozen=True)
class PaintOptions(RefinerOptions):
    paint: Paint = field(default_factory=Paint)

    def choose(self):
        return super().choose() if self.name == "none" else Painter(self.paint)


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
def painter(monkeypatch):
    """One more refiner, with options of its own."""
    monkeypatch.setattr(registry, "RefinerOptions", PaintOptions)
    monkeypatch.setattr(refine, "RefinerOptions", PaintOptions)
    monkeypatch.setattr(info, "RefinerOptions", PaintOptions)
    painted = dataclass(frozen=True)(
        type("Refine", (refine.Refine,), {
            "__annotations__": {"refiner": PaintOptions}, "refiner": field(default_factory=PaintOptions),
        })
    )  # fmt: skip
    monkeypatch.setattr(refine, "Refine", painted)


def manifest(idu, number=1):
    return json.loads((idu / f"episode_0{number}/manifest.json").read_text())


def test_every_episode_is_refined_with_what_it_asks_for(idu, call, tmp_path):
    told = call(refine, idu, "--device", "cpu", "--json", tmp_path / "out/report.json")
    assert told.index("episode_01: 8 of 8 views refined by none in ") < told.index("episode_02: 8 of 8 views refined")
    assert "views agree to" in told and "generative" not in told
    report = json.loads((tmp_path / "out/report.json").read_text())["episodes"]
    assert list(report) == ["episode_01", "episode_02"]
    first = report["episode_01"]
    assert first["refined"] == 8 and first["kept"] == 0 and first["refiner"] == {"name": "none"}
    assert first["consistency"]["raw"] == first["consistency"]["refined"] and first["peak_memory_bytes"] > 1e7
    assert first["consistency"]["raw"]["psnr"] > 25
    folder = EpisodeFolder.open(idu / "episode_02")
    assert not folder.missing_refined() and not folder.missing_weights()
    assert all((idu / name / "overview.png").is_file() for name in report)
    told = call(refine, idu / "episode_01")
    assert "episode_01: all 8 views had been refined by none" in told and "episode_02" not in told


def test_a_folder_refined_elsewhere_is_gone_on_with_at_home(idu, call, tmp_path):
    away = Path(shutil.copytree(idu, tmp_path / "away"))
    call(refine, away, "--device", "cpu")
    shutil.rmtree(idu)
    shutil.copytree(away, idu)
    home = episode(idu, 1, {"name": "none"})  # as the training does: the same renders again
    home.begin_refining({"name": "none"}, False)
    assert home.missing_refined() == [] and home.missing_weights() == []


def test_options_of_the_folder_are_overridden_one_by_one(idu, call, painter):
    asked = PaintOptions(name="img2img", paint=Paint(0.25, (3,), Path("w")))
    assert PaintOptions.from_dict(json.loads(json.dumps(asked.to_dict()))) == asked
    episode(idu, 1, asked.to_dict())
    told = call(refine, idu / "episode_01", "--device", "cpu")
    assert "refined by img2img" in told and "generative: they can show what no image shows" in told
    assert manifest(idu)["refiner"] == {"name": "img2img", "strength": 0.25} and manifest(idu)["generative"] is True
    view, image = (lambda f: (f.view("003").image, f.refined("003")))(EpisodeFolder.open(idu / "episode_01"))
    assert torch.allclose(image, 0.75 * view, atol=0.51 / 255)
    before = (idu / "episode_01/overview.png").read_bytes()
    told = call(refine, idu / "episode_01", "--device", "cpu", "--refiner.paint.strength", "0.5")
    assert (idu / "episode_01/overview.png").read_bytes() != before
    assert "8 images of another refiner or of other options are made again" in told
    assert manifest(idu)["refiner"] == {"name": "img2img", "strength": 0.5}
    call(refine, idu / "episode_01", "--refiner.name", "none", "--device", "cpu")
    assert manifest(idu)["refiner"] == {"name": "none"} and manifest(idu)["generative"] is False


def test_what_cannot_be_refined_is_told(idu, call, tmp_path, painter):
    assert "There is no episode at" in call(refine, tmp_path / "nowhere")
    assert "The brush is missing. Install it." in call(
        refine, idu, "--device", "cpu", "--refiner.name", "img2img", "--refiner.paint.strength", "2"
    )
    assert manifest(idu)["refiner"] is None
    (idu / "episode_02/depth/003.png").unlink()
    told = call(refine, idu, "--device", "cpu")
    assert "1 of 8 renders of" in told and "003" in told
    for odd in ({"name": "magic"}, {"brush": 1}, {"paint": 3}):
        data = manifest(idu)
        (idu / "episode_01/manifest.json").write_text(json.dumps(data | {"refiner_options": odd}))
        told = call(refine, idu)
        assert "asks for a refiner that this version does not know" in told and "Update skyfall-ns." in told
    (idu / "episode_01/manifest.json").write_text("{")
    assert "manifest.json is damaged" in call(refine, idu)


def test_no_gpu_no_cuda(idu, call, monkeypatch):
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(is_available=lambda: False))
    assert "finds no CUDA device on this machine. Pass --device cpu" in call(refine, idu, "--device", "cuda")


def test_refiners_are_described(call, painter):
    assert json.loads(call(info, "--refiner", "none", "--json")) == {
        "name": "none", "generative": False, "identity": {"name": "none"}, "lacks": None,
    }  # fmt: skip
    text = call(info, "--refiner", "img2img")
    assert "refiner img2img, generative" in text and "strength  0.1" in text and "ready to work here" in text
    lacking = info.refiner(PaintOptions(name="img2img", paint=Paint(strength=2.0)))
    assert lacking["lacks"] == "The brush is missing. Install it." and "cannot work here" in info._refiner_text(lacking)


def test_info_describes_one_thing(call, tmp_path):
    assert "Give a scene folder, or --refiner with a name." in call(info)
    assert "Give a scene folder, or --refiner" in call(info, tmp_path, "--refiner", "none")
    assert "--at asks for pixels" in call(info, "--refiner", "none", "--at", 1, 2, 3)
