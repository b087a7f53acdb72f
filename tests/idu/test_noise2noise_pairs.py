"""Training pairs of the refiner `denoiser`: two images of one view that share nothing but the scene."""

import copy

import cv2
import numpy as np
import pytest
import torch

from skyfall_ns.errors import TrainingError
from skyfall_ns.idu.camera_placement import place_cameras
from skyfall_ns.idu.curriculum import Curriculum
from skyfall_ns.idu.episode_store import EpisodeStore
from skyfall_ns.idu.noise2noise_pairs import noise2noise_pair
from skyfall_ns.idu.rendering import local_view, render_training_pairs
from skyfall_ns.method_configs import skyfall
from skyfall_ns.models.appearance.lighting import MIN_ALPHA, gamma_decode, gamma_encode
from skyfall_ns.models.rasterizers import pick_rasterizer
from skyfall_ns.refiners.denoiser_pairs import ImagePair, read_pairs, write_pair
from skyfall_ns.view import nadir_view


@pytest.fixture(scope="module")
def pipeline(city_scene):
    config = copy.deepcopy(skyfall.config.pipeline)
    config.datamanager.data, config.depth.prior = city_scene, "none"
    torch.manual_seed(0)
    pipeline = config.setup(device="cpu")
    pipeline.datamanager.read_all_images()
    with torch.no_grad():  # Gaussians that overlap: both images of a pair show the whole scene
        pipeline.model.gauss_params["scales"] += 0.7
        noise = torch.rand(pipeline.model.num_points, 3, generator=torch.Generator().manual_seed(1)) - 0.5
        pipeline.model.gauss_params["features_dc"] += noise
    pipeline.eval()
    return pipeline


@pytest.fixture
def store(pipeline, tmp_path):
    """An episode without images."""
    normalized, curriculum = pipeline.model.normalized, Curriculum(grid=1, azimuths=5, size_px=48)
    episode = curriculum.plan_episodes(normalized.scene.box_m)[0]
    poses, _ = place_cameras(curriculum, episode, normalized.scene.box_m, lambda x, y: 0.0, lambda eye, target: None)
    return EpisodeStore.create(tmp_path, episode, poses, 48, {"run": 1}, 500.0)


def seeded_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rasterize_colors(renderer, view, colors):
    return pick_rasterizer(renderer.device)(renderer.gaussians(), colors.contiguous(), view).color


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_images_of_a_pair_add_up_to_the_render(pipeline, store, share):
    """In light, each weighted by the coverage of its Gaussians: no Gaussian colors both images."""
    renderer, view = pipeline.model.renderer, local_view(pipeline.model.renderer, store.view_camera("000"))
    pair = noise2noise_pair(renderer, view, 1, share, seeded_generator())
    chosen = torch.rand(len(renderer.means), generator=seeded_generator()) < share
    with torch.no_grad():
        rendering = renderer.render(view, 1)
        appearance = renderer.appearance_model.image_appearance(1)
        with_mask = renderer.render(view, 1, appearance=appearance, keep=torch.ones_like(chosen))
        assert torch.equal(with_mask.color, rendering.color)
        shadow_map = renderer.shadow_map(appearance, 1)
        cover = rasterize_colors(renderer, view, chosen[:, None].expand(-1, 3).float())
        colors = renderer.blended_colors(view, appearance, shadow_map)
        blended = pick_rasterizer(renderer.device)(renderer.gaussians(), colors, view)
        light = renderer.composite(blended.color[..., :3], blended, view, appearance, shadow_map)
        assert (light - blended.color[..., :3]).abs().max() > 0.01  # both images have pixel shadows
    known = (pair.weight > 0) & (pair.first < 1).all(-1) & (pair.second < 1).all(-1)
    known &= (pair.first > 0.02).all(-1) & (pair.second > 0.02).all(-1)  # nothing was clamped
    assert known.float().mean() > 0.2
    total = gamma_decode(pair.first) * cover + gamma_decode(pair.second) * (rendering.alpha[..., None] - cover)
    torch.testing.assert_close(total[known], light[known], atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(
        gamma_encode(total / rendering.alpha[..., None].clamp_min(MIN_ALPHA))[known],
        (rendering.color / rendering.alpha[..., None].clamp_min(MIN_ALPHA))[known], atol=1e-3, rtol=1e-3,
    )  # fmt: skip
    cover_share = (cover[..., 0] / rendering.alpha)[known].mean().item()
    assert cover_share == pytest.approx(share, abs=0.05)


def test_noise_of_the_images_of_a_pair_is_uncorrelated(pipeline):
    """Random colors of Gaussians change the two images independently."""
    model, view = copy.deepcopy(pipeline.model), nadir_view(-0.24, 0.24, 0.01, 48, 48)
    pairs = []
    for strength in (0.0, 0.3):
        with torch.no_grad():
            noise = torch.randn(model.num_points, 3, generator=seeded_generator(5))
            model.gauss_params["features_dc"].copy_(strength * noise)
        pairs.append(noise2noise_pair(model.renderer, view, 0, 0.5, seeded_generator()))
    clean, noisy = pairs
    known = noisy.weight > 0
    first, second = ((getattr(noisy, p) - getattr(clean, p))[known].flatten().numpy() for p in ("first", "second"))
    assert first.std() > 0.01 and second.std() > 0.01 and abs(np.corrcoef(first, second)[0, 1]) < 0.1


def test_pairs_depend_on_their_generator_only(pipeline, store):
    renderer = pipeline.model.renderer
    view = local_view(renderer, store.view_camera("001"))
    before = torch.get_rng_state()
    pair, again, other = (noise2noise_pair(renderer, view, 0, 0.7, seeded_generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(pair.first, again.first) and torch.equal(pair.second, again.second)
    assert not torch.equal(pair.first, other.first) and torch.equal(torch.get_rng_state(), before)
    assert not pair.first.requires_grad


def test_episode_has_pairs_of_some_views_and_of_every_satellite_image(pipeline, store):
    render_training_pairs(pipeline.model.renderer, pipeline.datamanager, store, 0, 3)
    files = sorted(p.name for p in (store.path / "pairs").glob("*_first.png"))
    satellites = len(pipeline.datamanager.cached_train)
    assert files == [f"satellite_{i:03d}_first.png" for i in range(satellites)] + [
        f"view_{name}_first.png" for name in ("000", "001", "003")
    ]
    pairs = read_pairs(store.path / "pairs")
    assert [p.satellite for p in pairs] == [True] * satellites + [False] * 3
    image = pipeline.datamanager.cached_train[1]["image"]
    assert (pairs[1].second - image).abs().max() <= 0.5 / 255 + 1e-6  # the satellite image itself
    times = {p: p.stat().st_mtime_ns for p in (store.path / "pairs").glob("*")}
    (store.path / "pairs/view_001_first.png").unlink()
    render_training_pairs(pipeline.model.renderer, pipeline.datamanager, store, 0, 3)
    changed = {p.name for p in (store.path / "pairs").glob("*") if p.stat().st_mtime_ns != times[p]}
    assert changed == {f"view_001_{part}.png" for part in ("first", "second", "weight")}


def test_pair_of_a_view_is_independent_of_the_other_views(pipeline, store, tmp_path_factory):
    few, many = store, copy.copy(store)
    many.path = tmp_path_factory.mktemp("all")
    render_training_pairs(pipeline.model.renderer, pipeline.datamanager, few, 0, 2)
    render_training_pairs(pipeline.model.renderer, pipeline.datamanager, many, 0, 50)
    files = sorted((few.path / "pairs").glob("view_*.png"))
    assert [p.name[5:8] for p in files[::3]] == ["000", "002"]
    assert all(p.read_bytes() == (many.path / "pairs" / p.name).read_bytes() for p in files)
    first_images = {p.read_bytes() for p in (many.path / "pairs").glob("view_*_first.png")}
    assert len(first_images) == len(store.view_names)


def test_number_of_pairs_is_limited_to_the_number_of_views(pipeline, store):
    render_training_pairs(pipeline.model.renderer, pipeline.datamanager, store, 0, 50)
    assert len(list((store.path / "pairs").glob("view_*_first.png"))) == len(store.view_names)


def make_random_pair(seed: int, satellite: bool = False) -> ImagePair:
    parts = [torch.rand(9, 11, c, generator=seeded_generator(seed + c)).mul(255).round() / 255 for c in (3, 4, 1)]
    return ImagePair(parts[0], parts[1][..., :3].contiguous(), parts[2][..., 0], satellite)


def test_written_pairs_are_read_back(tmp_path):
    pairs = {
        "view_001": make_random_pair(0), "satellite_000": make_random_pair(9, True), "view_000": make_random_pair(20)
    }  # fmt: skip
    for name, pair in pairs.items():
        write_pair(tmp_path, name, pair)
    for read, name in zip(read_pairs(tmp_path), sorted(pairs), strict=True):
        assert read.satellite == pairs[name].satellite
        for part in ("first", "second", "weight"):
            torch.testing.assert_close(getattr(read, part), getattr(pairs[name], part), atol=1e-6, rtol=0)


@pytest.mark.parametrize("part", ["first", "second", "weight"])
@pytest.mark.parametrize("content", [None, b"", b"\x89PNG", "smaller"])
def test_damaged_pairs_are_reported(tmp_path, part, content):
    write_pair(tmp_path, "view_000", make_random_pair(0))
    write_pair(tmp_path, "view_001", make_random_pair(1))
    file = tmp_path / f"view_001_{part}.png"
    if content is None:
        file.unlink()
        if part == "first":  # written last: without it there is no pair
            assert len(read_pairs(tmp_path)) == 1
            return
    else:
        small = cv2.imencode(".png", np.zeros((5, 5), np.uint8))[1].tobytes()
        file.write_bytes(small if content == "smaller" else content)
    with pytest.raises(TrainingError, match=r"The pair view_001 in .* is damaged\. Delete it and resume the training"):
        read_pairs(tmp_path)


def test_directory_without_pairs_is_reported(tmp_path):
    with pytest.raises(TrainingError, match=r"no training pairs for the refiner `denoiser`\. Resume the training"):
        read_pairs(tmp_path / "pairs")
