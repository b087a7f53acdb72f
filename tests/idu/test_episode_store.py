"""The files of episodes: round trips, incomplete and damaged files, and directories of other runs."""

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
from skyfall_ns.idu.camera_placement import place_cameras
from skyfall_ns.idu.curriculum import Curriculum, farthest_depth_m
from skyfall_ns.idu.episode_store import EpisodeStore, episode_path, find_episodes
from skyfall_ns.idu.hole_filling import fill_holes

BOX = np.array([[-50.0, -50.0, 0.0], [50.0, 50.0, 20.0]])
CURRICULUM = Curriculum(grid=1, azimuths=4, size_px=16)
SCENE = {"crs": "EPSG:32636", "origin": (1.0, 2.0, 3.0), "images": ["a", "b"]}
IDENTITY = {"name": "identity", "prompts": ("a", "b")}


def create_episode(idu, number=1, scene=SCENE, curriculum=CURRICULUM, max_depth_m=None):
    """An episode without images."""
    episode = curriculum.plan_episodes(BOX)[number - 1]
    poses, _ = place_cameras(curriculum, episode, BOX, lambda x, y: 0.0, lambda eye, target: None)
    max_depth_m = farthest_depth_m(poses, BOX) if max_depth_m is None else max_depth_m
    return EpisodeStore.create(idu, episode, poses, curriculum.size_px, scene, max_depth_m)


def random_values(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def write_render(store, name, seed=0):
    """A random render whose first three rows are empty."""
    alpha = torch.ones(16, 16)
    alpha[:3] = 0.2
    store.write_render(name, random_values(seed, 16, 16, 3), alpha, 100 + 200 * random_values(seed + 1, 16, 16))


def make_complete_episode(idu, **options):
    """An episode with all images."""
    store = create_episode(idu, **options)
    store.set_refiner(IDENTITY, False)
    for index, name in enumerate(store.view_names):
        write_render(store, name, index)
    for index, name in enumerate(store.view_names):
        store.write_refined(name, random_values(50 + index, 16, 16, 3))
    for name in store.view_names:
        store.write_weight(name, torch.full((16, 16), 0.5))
    return store


def missing_images(store):
    return store.missing_renders(), store.missing_refined(), store.missing_weights()


def test_written_images_are_read_back(tmp_path):
    store = make_complete_episode(tmp_path)
    again = EpisodeStore.open(tmp_path / "episode_01")
    assert again.spec == store.spec and again.manifest == store.manifest and missing_images(again) == ([], [], [])
    view = again.rendered_view("002")
    assert view.seed == store.spec.poses[2].seed and not view.valid[:3].any() and view.valid[3:].all()
    color, depth = random_values(2, 16, 16, 3), 100 + 200 * random_values(3, 16, 16)
    assert (view.image[3:] - color[3:]).abs().max() <= 0.5 / 255 + 1e-6
    assert (view.depth_m[3:] - depth[3:]).abs().max() <= 0.005 + 1e-4 and (view.depth_m[:3] == 0).all()
    assert view.image[:3].min() > 0.01  # empty pixels are filled
    assert (again.read_refined("001") - random_values(51, 16, 16, 3)).abs().max() <= 0.5 / 255 + 1e-6
    assert (again.read_weight("003") - 0.5).abs().max() < 0.003
    np.testing.assert_allclose(view.camera.project(np.array(store.spec.poses[2].target_m)), 7.5, atol=1e-6)
    manifest = json.loads((again.path / "manifest.json").read_text())
    assert manifest["version"] == 1 and manifest["refiner"] == {"name": "identity", "prompts": ["a", "b"]}
    assert manifest["generative"] is False and len(manifest["views"]["000"]["render_sha256"]) == 64


def test_depth_unit_covers_large_depths(tmp_path):
    store = create_episode(tmp_path, max_depth_m=3000.0)
    depth = torch.linspace(1, 2990, 256).reshape(16, 16)
    store.write_render("000", random_values(0, 16, 16, 3), torch.ones(16, 16), depth)
    assert 0.04 < store.spec.depth_unit_m < 0.05
    assert (store.read_depth_m("000") - depth).abs().max() < 0.025
    store.write_render("001", random_values(0, 16, 16, 3), torch.ones(16, 16), torch.full((16, 16), 1e-3))
    assert store.valid_mask("001").all()  # small depths are not empty
    store.write_render("002", random_values(0, 16, 16, 3), torch.ones(16, 16), torch.full((16, 16), 1e6))
    assert store.read_depth_m("002").min() >= 2999.9


def test_damaged_images_are_missing(tmp_path):
    store = make_complete_episode(tmp_path)
    for kind, index in (("render", 0), ("depth", 0), ("refined", 1), ("weight", 2)):
        for damage in ("delete", "truncate", "replace", "directory"):
            shutil.rmtree(tmp_path / "copy", ignore_errors=True)
            shutil.copytree(store.path, tmp_path / "copy")
            file = tmp_path / f"copy/{kind}/001.png"
            if damage == "truncate":
                file.write_bytes(file.read_bytes()[:-20])
            elif damage == "replace":
                shutil.copy(tmp_path / f"copy/{kind}/000.png" if kind != "weight" else __file__, file)
            else:
                file.unlink()
                if damage == "directory":
                    file.mkdir()
            found = missing_images(EpisodeStore.open(tmp_path / "copy"))
            assert found[index] == ["001"] and sum(map(len, found)) == 1, (kind, damage)


def test_image_of_another_size_is_missing_even_if_the_manifest_has_its_hash(tmp_path):
    store = make_complete_episode(tmp_path)
    data = cv2.imencode(".png", np.zeros((16, 17, 3), np.uint8))[1].tobytes()
    store.image_path("refined", "001").write_bytes(data)
    store.manifest.views["001"] = replace(store.manifest.views["001"], refined_sha256=hashlib.sha256(data).hexdigest())
    assert store.missing_refined() == ["001"]
    with pytest.raises(TrainingError, match=r"001.png is 17 x 16 px .* Refine the episode again"):
        store.read_refined("001")


def test_another_render_or_refiner_discards_refined_images(tmp_path):
    store = make_complete_episode(tmp_path)
    write_render(store, "002", 2)  # the same again
    assert store.set_refiner(dict(IDENTITY), False) == 0
    assert missing_images(store) == ([], [], [])
    write_render(store, "002", 99)
    assert store.missing_refined() == ["002"]
    store.write_refined("002", random_values(0, 16, 16, 3))
    assert store.missing_refined() == [] and store.missing_weights() == store.view_names  # of all neighbors
    assert store.set_refiner({**IDENTITY, "strength": 0.5}, True) == len(store.view_names)
    assert store.missing_refined() == store.view_names and store.missing_renders() == []
    assert EpisodeStore.open(store.path).manifest.generative is True


def test_nan_and_infinity(tmp_path):
    """In refined images the render is kept; in renders the pixels are empty."""
    store = make_complete_episode(tmp_path)
    color = random_values(7, 16, 16, 3)
    color[4, 4, 1] = float("nan")
    assert store.write_refined("000", color) is False
    assert store.write_refined("001", random_values(8, 16, 16, 3)) is True
    assert EpisodeStore.open(store.path).manifest.views["000"].kept_render
    assert torch.equal(store.read_refined("000"), store.rendered_view("000").image)
    depth = torch.full((16, 16), 10.0)
    depth[5, 5] = float("inf")
    store.write_render("000", color, torch.ones(16, 16), depth)
    valid = store.valid_mask("000")
    assert not valid[4, 4] and not valid[5, 5] and valid.sum() == 254
    assert torch.isfinite(store.rendered_view("000").image).all()
    with pytest.raises(TrainingError, match=r"refined image of view 000 has shape \(8, 16, 3\)"):
        store.write_refined("000", torch.zeros(8, 16, 3))


def test_directory_of_another_run_is_refused(tmp_path):
    make_complete_episode(tmp_path)
    assert missing_images(create_episode(tmp_path)) == ([], [], [])
    with pytest.raises(TrainingError, match=r"episode_01 belongs to another run or scene\. Choose"):
        create_episode(tmp_path, scene={**SCENE, "crs": "EPSG:32637"})
    with pytest.raises(TrainingError, match=r"made with other cameras .*\. Pass the options"):
        create_episode(tmp_path, curriculum=replace(CURRICULUM, size_px=32))
    other = create_episode(tmp_path, 2)
    shutil.copy(other.path / "manifest.json", tmp_path / "episode_01/manifest.json")
    with pytest.raises(TrainingError, match=r"manifest.json is damaged|belong to different runs"):
        EpisodeStore.open(tmp_path / "episode_01")


def test_episode_without_a_manifest_is_incomplete(tmp_path):
    store = make_complete_episode(tmp_path)
    (store.path / "manifest.json").unlink()
    names = store.view_names
    assert missing_images(EpisodeStore.open(store.path)) == (names, names, names)


def test_missing_renders_are_reported(tmp_path):
    store = create_episode(tmp_path)
    with pytest.raises(TrainingError, match=r"000.png is missing\. Resume the training"):
        store.rendered_view("000")


def test_times_of_a_phase_are_added(tmp_path):
    store = create_episode(tmp_path)
    store.record_phase("refine", 2.0, 100)
    store.record_phase("refine", 3.0, 50)
    store.record_phase("render", 1.0)
    store.record_consistency({"raw": {"psnr": 20.0}})
    manifest = EpisodeStore.open(store.path).manifest
    assert manifest.phases["refine"] == {"seconds": 5.0, "peak_memory_bytes": 100}
    assert manifest.phases["render"]["peak_memory_bytes"] is None and manifest.consistency["raw"]["psnr"] == 20.0


def test_episodes_are_found_in_order(tmp_path):
    for number in (3, 1, 2):
        create_episode(tmp_path, number)
    (tmp_path / "episode_old").mkdir()
    assert find_episodes(tmp_path) == [episode_path(tmp_path, n) for n in (1, 2, 3)]
    assert find_episodes(tmp_path / "episode_02") == [tmp_path / "episode_02"]
    with pytest.raises(TrainingError, match="There is no episode at"):
        find_episodes(tmp_path / "episode_old")
    with pytest.raises(TrainingError, match=r"it has no poses\.json"):
        EpisodeStore.open(tmp_path / "episode_old")


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


def replace_value(file: Path, key: str, value):
    """Replace a value of a JSON file; the key is a path with dots."""
    data = json.loads(file.read_text())
    *path, last = key.split(".")
    entry = data
    for part in path:
        entry = entry[int(part) if isinstance(entry, list) else part]
    entry[int(last) if isinstance(entry, list) else last] = value
    file.write_text(json.dumps(data))


@pytest.mark.parametrize(("file", "key", "value"), [*(("poses.json", *p) for p in POSES),
                                                    *(("manifest.json", *m) for m in MANIFEST)])  # fmt: skip
def test_wrong_values_are_reported(tmp_path, file, key, value):
    store = create_episode(tmp_path)
    replace_value(store.path / file, key, value)
    with pytest.raises(TrainingError, match=rf"{file} is damaged.*\. Copy the directory again"):
        EpisodeStore.open(store.path)


@pytest.mark.parametrize("file", ["poses.json", "manifest.json"])
def test_damaged_json_and_other_versions_are_reported(tmp_path, file):
    store = create_episode(tmp_path)
    text = (store.path / file).read_text()
    for damaged in (text[:-100], "", "[]", "null", text.replace('"version"', '"age"'), "[" * 100_000):
        (store.path / file).write_text(damaged)
        with pytest.raises(TrainingError, match="is damaged"):
            EpisodeStore.open(store.path)
    (store.path / file).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TrainingError, match="is damaged"):
        EpisodeStore.open(store.path)
    (store.path / file).write_text(text.replace('"version": 1', '"version": 2'))
    with pytest.raises(TrainingError, match=r"has version 2, this program reads version 1\. Update skyfall-ns\."):
        EpisodeStore.open(store.path)


def test_full_disk_leaves_no_partial_files(tmp_path, monkeypatch):
    store = make_complete_episode(tmp_path)
    before = {p: p.read_bytes() for p in store.path.rglob("*") if p.is_file()}
    write_bytes = Path.write_bytes

    def write_half(path, data):
        write_bytes(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    for write in (
        lambda: store.write_refined("000", random_values(1, 16, 16, 3)),
        lambda: store.write_weight("001", torch.zeros(16, 16)),
        lambda: write_render(store, "002", 77),
        lambda: store.record_phase("refine", 1.0),
    ):
        with pytest.raises(OSError, match="No space") as error:
            write()
        assert error.value.filename
    monkeypatch.undo()
    assert {p: p.read_bytes() for p in store.path.rglob("*") if p.is_file()} == before
    assert missing_images(EpisodeStore.open(store.path)) == ([], [], [])


def test_holes_are_filled_with_the_colors_around_them():
    rgb = np.zeros((40, 60, 3), np.float32)
    rgb[:, :30], rgb[:, 30:] = (0.2, 0.4, 0.6), (0.8, 0.6, 0.4)
    valid = np.ones((40, 60), bool)
    valid[10:30, 5:55] = False
    filled = fill_holes(np.where(valid[..., None], rgb, 0.0), valid)
    np.testing.assert_array_equal(filled[valid], rgb[valid])
    assert filled[..., 0].min() >= 0.2 - 1e-5 and filled[..., 0].max() <= 0.8 + 1e-5
    assert np.abs(filled[20, 7] - rgb[20, 7]).max() < 0.1 and np.abs(filled[20, 52] - rgb[20, 52]).max() < 0.1
    assert np.abs(np.diff(filled[20, 5:55], axis=0)).max() < 0.15  # smooth
    assert fill_holes(rgb, np.zeros_like(valid)).std() == 0
    single = np.zeros_like(valid)
    single[3, 4] = True
    np.testing.assert_allclose(fill_holes(rgb, single), np.broadcast_to(rgb[3, 4], rgb.shape), atol=1e-5)
