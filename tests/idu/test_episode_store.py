"""Folders of episodes: what comes back, what is done again, whose they are, and files that others have spoilt."""

import errno
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from skyfall_ns.errors import TrainingError
from skyfall_ns.idu.curriculum import Curriculum, farthest_m, poses
from skyfall_ns.idu.episode_store import EpisodeFolder, episode_path, find_episodes
from skyfall_ns.idu.hole_filling import fill_void

BOX = np.array([[-50.0, -50.0, 0.0], [50.0, 50.0, 20.0]])
CURRICULUM = Curriculum(grid=1, azimuths=4, size_px=16)
SCENE = {"crs": "EPSG:32636", "origin": (1.0, 2.0, 3.0), "images": ["a", "b"]}
ME = {"name": "none", "prompts": ("a", "b")}


def begin(idu, number=1, scene=SCENE, curriculum=CURRICULUM, far_m=None):
    episode = curriculum.episodes(BOX)[number - 1]
    views = poses(curriculum, episode, BOX, lambda x, y: 0.0, lambda eye, target: True)
    far_m = farthest_m(views, BOX) if far_m is None else far_m
    return EpisodeFolder.begin(idu, episode, views, curriculum.size_px, scene, far_m)


def picture(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def render(folder, name, seed=0):
    alpha = torch.ones(16, 16)
    alpha[:3] = 0.2
    folder.write_render(name, picture(seed, 16, 16, 3), alpha, 100 + 200 * picture(seed + 1, 16, 16))


def full(idu, **options):
    """An episode with everything done."""
    folder = begin(idu, **options)
    folder.begin_refining(ME, False)
    for number, name in enumerate(folder.names):
        render(folder, name, number)
    for number, name in enumerate(folder.names):
        folder.write_refined(name, picture(50 + number, 16, 16, 3))
    for name in folder.names:
        folder.write_weight(name, torch.full((16, 16), 0.5))
    return folder


def missing(folder):
    return folder.missing_renders(), folder.missing_refined(), folder.missing_weights()


def test_what_was_written_comes_back(tmp_path):
    folder = full(tmp_path)
    again = EpisodeFolder.open(tmp_path / "episode_01")
    assert again.shots == folder.shots and again.manifest == folder.manifest and missing(again) == ([], [], [])
    view = again.view("002")
    assert view.seed == folder.shots.poses[2].seed and not view.valid[:3].any() and view.valid[3:].all()
    color, depth = picture(2, 16, 16, 3), 100 + 200 * picture(3, 16, 16)
    assert (view.image[3:] - color[3:]).abs().max() <= 0.5 / 255 + 1e-6
    assert (view.depth_m[3:] - depth[3:]).abs().max() <= 0.005 + 1e-4 and (view.depth_m[:3] == 0).all()
    assert view.image[:3].min() > 0.01  # void is filled
    assert (again.refined("001") - picture(51, 16, 16, 3)).abs().max() <= 0.5 / 255 + 1e-6
    assert (again.weight("003") - 0.5).abs().max() < 0.003
    np.testing.assert_allclose(view.camera.project(np.array(folder.shots.poses[2].target_m)), 7.5, atol=1e-6)
    manifest = json.loads((again.path / "manifest.json").read_text())
    assert manifest["version"] == 1 and manifest["refiner"] == {"name": "none", "prompts": ["a", "b"]}
    assert manifest["generative"] is False and len(manifest["views"]["000"]["render_sha256"]) == 64


def test_far_depths_fit(tmp_path):
    folder = begin(tmp_path, far_m=3000.0)
    depth = torch.linspace(1, 2990, 256).reshape(16, 16)
    folder.write_render("000", picture(0, 16, 16, 3), torch.ones(16, 16), depth)
    assert 0.04 < folder.shots.depth_unit_m < 0.05
    assert (folder.depth_m("000") - depth).abs().max() < 0.025
    folder.write_render("001", picture(0, 16, 16, 3), torch.ones(16, 16), torch.full((16, 16), 1e-3))
    assert folder.valid("001").all()  # near is not void
    folder.write_render("002", picture(0, 16, 16, 3), torch.ones(16, 16), torch.full((16, 16), 1e6))
    assert folder.depth_m("002").min() >= 2999.9


def test_files_that_are_spoilt_are_made_again(tmp_path):
    folder = full(tmp_path)
    for kind, at in (("render", 0), ("depth", 0), ("refined", 1), ("weight", 2)):
        for spoil in ("delete", "truncate", "replace", "folder"):
            shutil.rmtree(tmp_path / "copy", ignore_errors=True)
            shutil.copytree(folder.path, tmp_path / "copy")
            file = tmp_path / f"copy/{kind}/001.png"
            if spoil == "truncate":
                file.write_bytes(file.read_bytes()[:-20])
            elif spoil == "replace":
                shutil.copy(tmp_path / f"copy/{kind}/000.png" if kind != "weight" else __file__, file)
            else:
                file.unlink()
                if spoil == "folder":
                    file.mkdir()
            found = missing(EpisodeFolder.open(tmp_path / "copy"))
            assert found[at] == ["001"] and sum(map(len, found)) == 1, (kind, spoil)


def test_a_picture_of_another_size_is_not_done_even_if_the_manifest_knows_it(tmp_path):
    folder = full(tmp_path)
    data = cv2.imencode(".png", np.zeros((16, 17, 3), np.uint8))[1].tobytes()
    folder.file("refined", "001").write_bytes(data)
    folder.manifest.views["001"] = replace(
        folder.manifest.views["001"], refined_sha256=hashlib.sha256(data).hexdigest()
    )
    assert folder.missing_refined() == ["001"]
    with pytest.raises(TrainingError, match=r"001.png is 17 x 16 px .* Refine the episode again"):
        folder.refined("001")


def test_another_render_or_refiner_asks_for_other_refined_images(tmp_path):
    folder = full(tmp_path)
    render(folder, "002", 2)  # the same again
    assert folder.begin_refining(dict(ME), False) == 0
    assert missing(folder) == ([], [], [])
    render(folder, "002", 99)
    assert folder.missing_refined() == ["002"]
    folder.write_refined("002", picture(0, 16, 16, 3))
    assert folder.missing_refined() == [] and folder.missing_weights() == folder.names  # neighbours vote anew
    assert folder.begin_refining({**ME, "strength": 0.5}, True) == len(folder.names)
    assert folder.missing_refined() == folder.names and folder.missing_renders() == []
    assert EpisodeFolder.open(folder.path).manifest.generative is True


def test_numbers_that_are_none(tmp_path):
    folder = full(tmp_path)
    odd = picture(7, 16, 16, 3)
    odd[4, 4, 1] = float("nan")
    assert folder.write_refined("000", odd) is False and folder.write_refined("001", picture(8, 16, 16, 3)) is True
    assert EpisodeFolder.open(folder.path).manifest.views["000"].kept_render
    assert torch.equal(folder.refined("000"), folder.view("000").image)
    depth = torch.full((16, 16), 10.0)
    depth[5, 5] = float("inf")
    folder.write_render("000", odd, torch.ones(16, 16), depth)
    valid = folder.valid("000")
    assert not valid[4, 4] and not valid[5, 5] and valid.sum() == 254 and torch.isfinite(folder.view("000").image).all()
    with pytest.raises(TrainingError, match=r"refined image of view 000 has shape \(8, 16, 3\)"):
        folder.write_refined("000", torch.zeros(8, 16, 3))


def test_a_folder_is_gone_on_with_only_by_its_own_run(tmp_path):
    full(tmp_path)
    assert missing(begin(tmp_path)) == ([], [], [])
    with pytest.raises(TrainingError, match=r"episode_01 belongs to another run or scene\. Choose"):
        begin(tmp_path, scene={**SCENE, "crs": "EPSG:32637"})
    with pytest.raises(TrainingError, match=r"made with other cameras .*\. Pass the options"):
        begin(tmp_path, curriculum=replace(CURRICULUM, size_px=32))
    other = begin(tmp_path, 2)
    shutil.copy(other.path / "manifest.json", tmp_path / "episode_01/manifest.json")
    with pytest.raises(TrainingError, match=r"manifest.json is damaged|belong to different runs"):
        EpisodeFolder.open(tmp_path / "episode_01")


def test_a_lost_manifest_only_costs_time(tmp_path):
    folder = full(tmp_path)
    (folder.path / "manifest.json").unlink()
    names = folder.names
    assert missing(EpisodeFolder.open(folder.path)) == (names, names, names)


def test_missing_renders_are_told(tmp_path):
    folder = begin(tmp_path)
    with pytest.raises(TrainingError, match=r"000.png is missing\. Go on with the training"):
        folder.view("000")


def test_costs_add_up(tmp_path):
    folder = begin(tmp_path)
    folder.record_phase("refine", 2.0, 100)
    folder.record_phase("refine", 3.0, 50)
    folder.record_phase("render", 1.0)
    folder.record_consistency({"raw": {"psnr": 20.0}})
    again = EpisodeFolder.open(folder.path).manifest
    assert again.phases["refine"] == {"seconds": 5.0, "peak_memory_bytes": 100}
    assert again.phases["render"]["peak_memory_bytes"] is None and again.consistency["raw"]["psnr"] == 20.0


def test_episodes_are_found_in_order(tmp_path):
    for number in (3, 1, 2):
        begin(tmp_path, number)
    (tmp_path / "episode_old").mkdir()
    assert find_episodes(tmp_path) == [episode_path(tmp_path, n) for n in (1, 2, 3)]
    assert find_episodes(tmp_path / "episode_02") == [tmp_path / "episode_02"]
    with pytest.raises(TrainingError, match="There is no episode at"):
        find_episodes(tmp_path / "episode_old")
    with pytest.raises(TrainingError, match=r"it has no poses\.json"):
        EpisodeFolder.open(tmp_path / "episode_old")


POSES = [
    ("poses.0.name", "../../x"), ("poses.0.name", "00/1"), ("poses.0.name", "001"), ("poses.0.eye_m", [1, 2]),
    ("poses.0.name", 5), ("poses.0.eye_m", [1, 2, float("nan")]), ("poses.0.eye_m", [1, 2, float("inf")]),
    ("poses.0.seed", -1), ("poses.0.seed", 1.5), ("poses.0", "x"), ("poses", []), ("poses", 3), ("size_px", 10**9),
    ("size_px", "16"), ("depth_unit_m", 0), ("episode.fov_deg", 179), ("episode", None), ("scene", []),
    ("poses.0.seed", True),
]  # fmt: skip
MANIFEST = [
    ("views.000.render_sha256", "../x"), ("views.000.kept_render", 1), ("views.000", []), ("views", {}),
    ("views.000.seed", 5), ("episode", 0), ("phases", {"refine": 3}), ("refiner", "none"), ("generative", "no"),
    ("phases", {"refine": {"seconds": -1, "peak_memory_bytes": None}}), ("refiner_options", 1),
]  # fmt: skip


def spoilt(file: Path, spot, odd):
    data = json.loads(file.read_text())
    *path, last = spot.split(".")
    place = data
    for key in path:
        place = place[int(key) if isinstance(place, list) else key]
    place[int(last) if isinstance(place, list) else last] = odd
    file.write_text(json.dumps(data))


@pytest.mark.parametrize(("file", "spot", "odd"), [*(("poses.json", *p) for p in POSES),
                                                   *(("manifest.json", *m) for m in MANIFEST)])  # fmt: skip
def test_what_is_damaged_is_told_in_words(tmp_path, file, spot, odd):
    folder = begin(tmp_path)
    spoilt(folder.path / file, spot, odd)
    with pytest.raises(TrainingError, match=rf"{file} is damaged.*\. Copy the folder again"):
        EpisodeFolder.open(folder.path)


@pytest.mark.parametrize("file", ["poses.json", "manifest.json"])
def test_text_that_is_no_json_or_of_another_version(tmp_path, file):
    folder = begin(tmp_path)
    text = (folder.path / file).read_text()
    for odd in (text[:-100], "", "[]", "null", text.replace('"version"', '"age"'), "[" * 100_000):
        (folder.path / file).write_text(odd)
        with pytest.raises(TrainingError, match="is damaged"):
            EpisodeFolder.open(folder.path)
    (folder.path / file).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TrainingError, match="is damaged"):
        EpisodeFolder.open(folder.path)
    (folder.path / file).write_text(text.replace('"version": 1', '"version": 2'))
    with pytest.raises(TrainingError, match=r"has version 2, this program reads version 1\. Update skyfall-ns\."):
        EpisodeFolder.open(folder.path)


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    folder = full(tmp_path)
    before = {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file()}
    whole = Path.write_bytes

    def half(path, data):
        whole(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    for write in (
        lambda: folder.write_refined("000", picture(1, 16, 16, 3)),
        lambda: folder.write_weight("001", torch.zeros(16, 16)),
        lambda: render(folder, "002", 77),
        lambda: folder.record_phase("refine", 1.0),
    ):
        with pytest.raises(OSError, match="No space") as error:
            write()
        assert error.value.filename
    monkeypatch.undo()
    assert {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file()} == before
    assert missing(EpisodeFolder.open(folder.path)) == ([], [], [])


def test_void_takes_the_colours_around_it():
    rgb = np.zeros((40, 60, 3), np.float32)
    rgb[:, :30], rgb[:, 30:] = (0.2, 0.4, 0.6), (0.8, 0.6, 0.4)
    valid = np.ones((40, 60), bool)
    valid[10:30, 5:55] = False
    filled = fill_void(np.where(valid[..., None], rgb, 0.0), valid)
    np.testing.assert_array_equal(filled[valid], rgb[valid])
    assert filled[..., 0].min() >= 0.2 - 1e-5 and filled[..., 0].max() <= 0.8 + 1e-5
    assert np.abs(filled[20, 7] - rgb[20, 7]).max() < 0.1 and np.abs(filled[20, 52] - rgb[20, 52]).max() < 0.1
    assert np.abs(np.diff(filled[20, 5:55], axis=0)).max() < 0.15  # smooth
    assert fill_void(rgb, np.zeros_like(valid)).std() == 0
    one = np.zeros_like(valid)
    one[3, 4] = True
    np.testing.assert_allclose(fill_void(rgb, one), np.broadcast_to(rgb[3, 4], rgb.shape), atol=1e-5)
