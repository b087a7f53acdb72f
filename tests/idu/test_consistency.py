"""Multi-view consistency with exact oracles: a textured ground and a plate above it, in pinhole cameras."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.plates import first_hit, render_plate, rendered_plate_view, write_plate_renders

from skyfall_ns.errors import TrainingError
from skyfall_ns.idu import consistency
from skyfall_ns.idu.camera_placement import place_cameras
from skyfall_ns.idu.consistency import UNSEEN_WEIGHT, assess_episode, consistency_weight, measure_consistency
from skyfall_ns.idu.curriculum import Curriculum, pose_camera
from skyfall_ns.idu.episode_store import EpisodeStore
from skyfall_ns.idu.reprojection import nearest_views, reproject, sample_bilinear
from skyfall_ns.models.ssim import ssim

BOX = np.array([[-30.0, -30.0, 0.0], [30.0, 30.0, 12.0]])
CURRICULUM = Curriculum(elevations_deg=(50.0,), radii_m=(120.0,), grid=2, azimuths=8, size_px=96)


def make_cameras(curriculum=CURRICULUM, size_px=96):
    """Poses of the first episode, and their cameras."""
    episode = curriculum.plan_episodes(BOX)[0]
    poses, _ = place_cameras(curriculum, episode, BOX, lambda x, y: 0.0, lambda eye, target: None)
    return poses, [pose_camera(pose, episode.fov_deg, size_px) for pose in poses]


@pytest.fixture
def store(tmp_path):
    """A rendered episode."""
    episode = CURRICULUM.plan_episodes(BOX)[0]
    rendered = write_plate_renders(EpisodeStore.create(tmp_path, episode, make_cameras()[0], 96, {}, 300.0))
    rendered.set_refiner({"name": "test"}, False)
    return rendered


def view_images(views):
    return [view.image.numpy() for view in views]


def test_views_of_one_surface_are_consistent_and_noisy_ones_less():
    a, b = (rendered_plate_view(camera) for camera in make_cameras(size_px=256)[1][:2])
    exact = measure_consistency([a, b], view_images([a, b]), [(0, 1), (1, 0)])
    assert exact.psnr > 42 and exact.ssim > 0.99 and exact.pairs == 2 and 0.4 < exact.overlap < 0.95
    noise = 0.05 * np.random.default_rng(0).standard_normal(a.image.shape).astype(np.float32)
    noisy = measure_consistency([a, b], [a.image.numpy(), b.image.numpy() + noise], [(0, 1)])
    assert noisy.psnr < exact.psnr - 10 and noisy.ssim < exact.ssim - 0.05
    # bilinear samples average four pixels: the noise is that of their mean, to a tenth
    assert 10 ** (-noisy.psnr / 20) == pytest.approx(0.05 * (2 / 3), rel=0.1)
    brighter = measure_consistency([a, b], [a.image.numpy(), b.image.numpy() + 0.1], [(0, 1)])
    assert brighter.psnr == pytest.approx(20, abs=0.1)


def test_reprojection_is_exact_and_hidden_pixels_are_not_visible():
    a, b = make_cameras(size_px=192)[1][:2]
    (_, depth_a, points), (_, depth_b, _) = render_plate(a), render_plate(b)
    colrow, found_visible = reproject(a, depth_a, b, depth_b)
    expected = b.project(points)
    assert np.abs(colrow - expected)[found_visible].max() < 2e-3
    eye = np.linalg.inv(b.camera_from_local)[:3, 3]
    unoccluded = np.linalg.norm(first_hit(eye, points - eye) - points, axis=-1) < 1e-6
    inside = ((expected >= 0) & (expected <= 191)).all(-1)
    hidden = inside & ~unoccluded
    assert hidden.sum() > 300 and (found_visible & hidden).sum() < 0.02 * hidden.sum()
    assert (found_visible & inside & unoccluded).sum() > 0.93 * (inside & unoccluded).sum()  # all but edges
    assert not (found_visible & ~inside).any()


def test_empty_pixels_are_not_visible():
    a, b = make_cameras()[1][:2]
    depth_a, depth_b = render_plate(a)[1], render_plate(b)[1]
    assert not reproject(a, np.zeros_like(depth_a), b, depth_b)[1].any()
    assert not reproject(a, depth_a, b, np.zeros_like(depth_b))[1].any()
    view = rendered_plate_view(a)
    without_pairs = measure_consistency([view], view_images([view]), [])
    assert without_pairs.psnr is None and without_pairs.ssim is None and without_pairs.overlap == 0


def test_ssim_is_that_of_the_loss():
    """Tests of models/ssim.py compare it with torchmetrics; both mirror borders."""
    a, b = np.random.default_rng(1).random((2, 40, 50), np.float32)
    expected = float(ssim(*(torch.from_numpy(v)[..., None] for v in (a, b))))
    ssim_map = consistency._ssim_map(a, b)
    assert float(ssim_map.mean()) == pytest.approx(expected, abs=1e-5)
    sums = consistency.ConsistencySums()
    sums.add_pair(np.repeat(a[..., None], 3, -1), np.repeat(b[..., None], 3, -1), np.ones((40, 50), bool))
    assert sums.to_consistency().ssim == pytest.approx(float(ssim_map[5:-5, 5:-5].mean()), abs=1e-5)


def test_neighbors_show_the_same_look_at_point():
    poses, cameras = make_cameras(replace(CURRICULUM, samples_per_view=2))
    for index, neighbors in enumerate(nearest_views(poses, 30.0, 4)):
        assert index not in neighbors and len(neighbors) >= 3
        assert [n for n in neighbors if poses[n].view == poses[index].view] == neighbors[
            :1
        ]  # its other sample is first
        for neighbor in neighbors[1:]:
            projected = cameras[neighbor].project(np.array(poses[index].target_m))
            assert (projected > -0.5).all() or poses[neighbor].sample
    opposite = nearest_views([poses[0], poses[8]], 30.0, 4)
    assert opposite == [[], []]  # they show different sides


def test_pixels_without_consistent_neighbors_have_less_weight():
    image = np.full((20, 20, 3), 0.5, np.float32)
    valid, visible = np.ones((20, 20), bool), np.zeros((20, 20), bool)
    valid[0], visible[:, :10] = False, True
    equal, different = (image, visible), (image + 0.4, visible)
    high, low = consistency_weight(image, valid, [equal] * 4), consistency_weight(image, valid, [different] * 4)
    assert (
        (high[0] == 0).all() and np.allclose(high[1:, 10:], UNSEEN_WEIGHT) and np.allclose(low[1:, 10:], UNSEEN_WEIGHT)
    )
    assert np.allclose(high[1:, :10], 4.25 / 4.5) and np.allclose(low[1:, :10], 0.25 / 4.5, atol=1e-4)
    half = consistency_weight(image, valid, [equal, equal, different, different])
    assert np.allclose(half[1:, :10], 2.25 / 4.5, atol=1e-4)
    assert np.allclose(consistency_weight(image, valid, [])[1:], UNSEEN_WEIGHT)


def test_episode_is_assessed_once(store, monkeypatch):
    """In one of 32 views a patch is changed; only this patch has less weight."""
    for index, name in enumerate(store.view_names):
        image = store.rendered_view(name).image.clone()
        if index == 5:
            image[40:56, 40:56] = 1 - image[40:56, 40:56]
        store.write_refined(name, image)
    scores = assess_episode(store, progress=False)
    assert scores["raw"]["psnr"] > scores["refined"]["psnr"] + 3 and scores["raw"]["ssim"] > 0.9
    assert EpisodeStore.open(store.path).manifest.consistency == scores
    weight = store.read_weight("005").numpy()
    patch = np.zeros_like(weight, bool)
    patch[42:54, 42:54] = True
    assert np.median(weight[patch]) < 0.4 < 0.75 < np.median(weight[~patch & store.valid_mask("005").numpy()])
    assert np.median(store.read_weight("012").numpy()) > 0.75
    monkeypatch.setattr(consistency, "_iterate_comparisons", lambda store: pytest.fail("assessed again"))
    assert assess_episode(EpisodeStore.open(store.path), progress=False) == scores


def test_missing_refined_images_are_reported(store):
    with pytest.raises(TrainingError, match=r"refined/000.png is missing\. Refine the episode again"):
        assess_episode(store, progress=False)


def test_bilinear_samples():
    ramp = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = sample_bilinear(ramp, np.array([[[1.0, 1.0], [1.5, 0.5], [-2.0, -2.0]]], np.float32))
    np.testing.assert_allclose(found[0], [5.0, 3.5, 0.0])
