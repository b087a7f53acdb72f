"""Pairs that the refiner `scene` learns from: two pictures of one view that share nothing but the scene."""

import copy

import cv2
import numpy as np
import pytest
import torch

from skyfall_ns.errors import TrainingError
from skyfall_ns.idu.curriculum import Curriculum, poses
from skyfall_ns.idu.episode_store import EpisodeFolder
from skyfall_ns.idu.noise2noise_pairs import thinned_pair
from skyfall_ns.idu.rendering import draw_pairs, local_view
from skyfall_ns.method_configs import skyfall
from skyfall_ns.models.appearance.lighting import THINNEST, decode, encode
from skyfall_ns.models.geometry.view import nadir_view
from skyfall_ns.models.rasterizers import pick_rasterizer
from skyfall_ns.refiners.denoiser_pairs import Pair, read_pairs, write_pair


@pytest.fixture(scope="module")
def pipeline(city_scene):
    config = copy.deepcopy(skyfall.config.pipeline)
    config.datamanager.data, config.depth.prior = city_scene, "none"
    torch.manual_seed(0)
    made = config.setup(device="cpu")
    made.datamanager.read_all()
    with torch.no_grad():  # splats that overlap: both pictures of a pair see all of the scene
        made.model.gauss_params["scales"] += 0.7
        noise = torch.rand(made.model.num_points, 3, generator=torch.Generator().manual_seed(1)) - 0.5
        made.model.gauss_params["features_dc"] += noise
    made.eval()
    return made


@pytest.fixture
def folder(pipeline, tmp_path):
    on_model, curriculum = pipeline.model.on_model, Curriculum(grid=1, azimuths=5, size_px=48)
    episode = curriculum.episodes(on_model.scene.box_m)[0]
    views = poses(curriculum, episode, on_model.scene.box_m, lambda x, y: 0.0, lambda eye, target: True)
    return EpisodeFolder.begin(tmp_path, episode, views, 48, {"run": 1}, 500.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_the_two_pictures_make_up_the_whole_render(pipeline, folder, share):
    """In light, each by how much of its splats covers a pixel: what is in one picture is not in the other."""
    model, view = pipeline.model, local_view(pipeline.model, folder.camera("000"))
    pair = thinned_pair(model, view, 1, share, generator())
    chosen = torch.rand(model.num_points, generator=generator()) < share
    with torch.no_grad():
        whole = model.render(view, 1)
        every = model.render(view, 1, look=model.looks.of(1), keep=torch.ones_like(chosen))
        assert torch.equal(every.color, whole.color)
        look = model.looks.of(1)
        sun_map = model.sun_map(look, 1)
        covered = drawn(model, view, chosen[:, None].expand(-1, 3).float())
        splats = model.gaussians()
        lit = pick_rasterizer(model.device)(splats, model.drawn_colors(view, look, sun_map), view)
        full = model.finished(lit.color[..., :3], lit, view, look, sun_map)
        assert (full - lit.color[..., :3]).abs().max() > 0.01  # shadows of pixels are in both pictures
    known = (pair.weight > 0) & (pair.first < 1).all(-1) & (pair.second < 1).all(-1)
    known &= (pair.first > 0.02).all(-1) & (pair.second > 0.02).all(-1)  # nothing was cut off
    assert known.float().mean() > 0.2
    blended = decode(pair.first) * covered + decode(pair.second) * (whole.alpha[..., None] - covered)
    torch.testing.assert_close(blended[known], full[known], atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(
        encode(blended / whole.alpha[..., None].clamp_min(THINNEST))[known],
        (whole.color / whole.alpha[..., None].clamp_min(THINNEST))[known], atol=1e-3, rtol=1e-3,
    )  # fmt: skip
    share_covered = (covered[..., 0] / whole.alpha)[known].mean().item()
    assert share_covered == pytest.approx(share, abs=0.05)


def drawn(model, view, colors):
    return pick_rasterizer(model.device)(model.gaussians(), colors.contiguous(), view).color


def test_noise_of_the_two_is_independent(pipeline):
    """What random colours of splats add to the one picture has nothing in common with what they add to the other."""
    model, view = copy.deepcopy(pipeline.model), nadir_view(-0.24, 0.24, 0.01, 48, 48)
    pictures = []
    for strength in (0.0, 0.3):
        with torch.no_grad():
            noise = torch.randn(model.num_points, 3, generator=generator(5))
            model.gauss_params["features_dc"].copy_(strength * noise)
        pictures.append(thinned_pair(model, view, 0, 0.5, generator()))
    clean, noisy = pictures
    known = noisy.weight > 0
    one, two = ((getattr(noisy, p) - getattr(clean, p))[known].flatten().numpy() for p in ("first", "second"))
    assert one.std() > 0.01 and two.std() > 0.01 and abs(np.corrcoef(one, two)[0, 1]) < 0.1


def test_pairs_depend_on_their_generator_alone(pipeline, folder):
    view = local_view(pipeline.model, folder.camera("001"))
    before = torch.get_rng_state()
    pair, again, other = (thinned_pair(pipeline.model, view, 0, 0.7, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(pair.first, again.first) and torch.equal(pair.second, again.second)
    assert not torch.equal(pair.first, other.first) and torch.equal(torch.get_rng_state(), before)
    assert not pair.first.requires_grad


def test_an_episode_gets_evenly_chosen_pairs_and_one_per_satellite(pipeline, folder):
    draw_pairs(pipeline.model, pipeline.datamanager, folder, 0, 3)
    files = sorted(p.name for p in (folder.path / "pairs").glob("*_first.png"))
    satellites = len(pipeline.datamanager.cached_train)
    assert files == [f"satellite_{i:03d}_first.png" for i in range(satellites)] + [
        f"view_{name}_first.png" for name in ("000", "001", "003")
    ]
    pairs = read_pairs(folder.path / "pairs")
    assert [p.satellite for p in pairs] == [True] * satellites + [False] * 3
    picture = pipeline.datamanager.cached_train[1]["image"]
    assert (pairs[1].second - picture).abs().max() <= 0.5 / 255 + 1e-6  # the satellite's own
    written = {p: p.stat().st_mtime_ns for p in (folder.path / "pairs").glob("*")}
    (folder.path / "pairs/view_001_first.png").unlink()
    draw_pairs(pipeline.model, pipeline.datamanager, folder, 0, 3)
    changed = {p.name for p in (folder.path / "pairs").glob("*") if p.stat().st_mtime_ns != written[p]}
    assert changed == {f"view_001_{part}.png" for part in ("first", "second", "weight")}


def test_a_view_has_the_same_pair_whichever_others_are_chosen(pipeline, folder, tmp_path_factory):
    few, all_of_them = folder, copy.copy(folder)
    all_of_them.path = tmp_path_factory.mktemp("all")
    draw_pairs(pipeline.model, pipeline.datamanager, few, 0, 2)
    draw_pairs(pipeline.model, pipeline.datamanager, all_of_them, 0, 50)
    files = sorted((few.path / "pairs").glob("view_*.png"))
    assert [p.name[5:8] for p in files[::3]] == ["000", "002"]
    assert all(p.read_bytes() == (all_of_them.path / "pairs" / p.name).read_bytes() for p in files)
    firsts = {p.read_bytes() for p in (all_of_them.path / "pairs").glob("view_*_first.png")}
    assert len(firsts) == len(folder.names)


def test_asking_for_more_pairs_than_views_gives_one_of_each(pipeline, folder):
    draw_pairs(pipeline.model, pipeline.datamanager, folder, 0, 50)
    assert len(list((folder.path / "pairs").glob("view_*_first.png"))) == len(folder.names)


def random_pair(seed: int, satellite: bool = False) -> Pair:
    parts = [torch.rand(9, 11, c, generator=generator(seed + c)).mul(255).round() / 255 for c in (3, 4, 1)]
    return Pair(parts[0], parts[1][..., :3].contiguous(), parts[2][..., 0], satellite)


def test_pairs_come_back_from_their_files(tmp_path):
    pairs = {"view_001": random_pair(0), "satellite_000": random_pair(9, True), "view_000": random_pair(20)}
    for name, pair in pairs.items():
        write_pair(tmp_path, name, pair)
    for read, name in zip(read_pairs(tmp_path), sorted(pairs), strict=True):
        assert read.satellite == pairs[name].satellite
        for part in ("first", "second", "weight"):
            torch.testing.assert_close(getattr(read, part), getattr(pairs[name], part), atol=1e-6, rtol=0)


@pytest.mark.parametrize("part", ["first", "second", "weight"])
@pytest.mark.parametrize("content", [None, b"", b"\x89PNG", "smaller"])
def test_damaged_pairs_are_named(tmp_path, part, content):
    write_pair(tmp_path, "view_000", random_pair(0))
    write_pair(tmp_path, "view_001", random_pair(1))
    file = tmp_path / f"view_001_{part}.png"
    if content is None:
        file.unlink()
        if part == "first":  # written last: a pair without it is none
            assert len(read_pairs(tmp_path)) == 1
            return
    else:
        small = cv2.imencode(".png", np.zeros((5, 5), np.uint8))[1].tobytes()
        file.write_bytes(small if content == "smaller" else content)
    with pytest.raises(TrainingError, match=r"The pair view_001 in .* is damaged\. Delete it; go on with"):
        read_pairs(tmp_path)


def test_a_folder_without_pairs_is_named(tmp_path):
    with pytest.raises(TrainingError, match=r"holds no pairs for the refiner `scene`\. Go on with the training"):
        read_pairs(tmp_path / "pairs")
