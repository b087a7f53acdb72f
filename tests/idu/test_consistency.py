"""Agreement of views, with exact oracles: a textured ground and a floating plate seen by pinholes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.plates import draw, fill, first_hit, rendered

from skyfall_ns.errors import TrainingError
from skyfall_ns.idu import consistency as measures
from skyfall_ns.idu.consistency import BASE, agreement_weight, assess_episode, consistency
from skyfall_ns.idu.curriculum import Curriculum, camera_of, poses
from skyfall_ns.idu.episode_store import EpisodeFolder
from skyfall_ns.idu.reprojection import look_up, neighbours, sight
from skyfall_ns.models.ssim import ssim

BOX = np.array([[-30.0, -30.0, 0.0], [30.0, 30.0, 12.0]])
CURRICULUM = Curriculum(elevations_deg=(50.0,), radii_m=(120.0,), grid=2, azimuths=8, size_px=96)


def cameras(curriculum=CURRICULUM, size_px=96):
    episode = curriculum.episodes(BOX)[0]
    found = poses(curriculum, episode, BOX, lambda x, y: 0.0, lambda eye, target: True)
    return found, [camera_of(pose, episode.fov_deg, size_px) for pose in found]


@pytest.fixture
def folder(tmp_path):
    episode = CURRICULUM.episodes(BOX)[0]
    made = fill(EpisodeFolder.begin(tmp_path, episode, cameras()[0], 96, {}, 300.0))
    made.begin_refining({"name": "test"}, False)
    return made


def images_of(views):
    return [view.image.numpy() for view in views]


def test_views_of_one_surface_agree_and_disturbed_ones_less():
    a, b = (rendered(camera) for camera in cameras(size_px=256)[1][:2])
    exact = consistency([a, b], images_of([a, b]), [(0, 1), (1, 0)])
    assert exact.psnr > 42 and exact.ssim > 0.99 and exact.pairs == 2 and 0.4 < exact.seen < 0.95
    noise = 0.05 * np.random.default_rng(0).standard_normal(a.image.shape).astype(np.float32)
    noisy = consistency([a, b], [a.image.numpy(), b.image.numpy() + noise], [(0, 1)])
    assert noisy.psnr < exact.psnr - 10 and noisy.ssim < exact.ssim - 0.05
    # pixels are looked up between four: the noise that is seen is that of their mean, known to a tenth
    assert 10 ** (-noisy.psnr / 20) == pytest.approx(0.05 * (2 / 3), rel=0.1)
    apart = consistency([a, b], [a.image.numpy(), b.image.numpy() + 0.1], [(0, 1)])
    assert apart.psnr == pytest.approx(20, abs=0.1)


def test_pixels_are_found_where_they_are_and_hidden_ones_are_not_seen():
    a, b = cameras(size_px=192)[1][:2]
    (_, depth_a, points), (_, depth_b, _) = draw(a), draw(b)
    colrow, seen = sight(a, depth_a, b, depth_b)
    true = b.project(points)
    assert np.abs(colrow - true)[seen].max() < 2e-3
    eye = np.linalg.inv(b.camera_from_local)[:3, 3]
    visible = np.linalg.norm(first_hit(eye, points - eye) - points, axis=-1) < 1e-6
    inside = ((true >= 0) & (true <= 191)).all(-1)
    hidden = inside & ~visible
    assert hidden.sum() > 300 and (seen & hidden).sum() < 0.02 * hidden.sum()
    assert (seen & inside & visible).sum() > 0.93 * (inside & visible).sum()  # all but rims
    assert not (seen & ~inside).any()


def test_void_is_never_seen():
    a, b = cameras()[1][:2]
    depth_a, depth_b = draw(a)[1], draw(b)[1]
    assert not sight(a, np.zeros_like(depth_a), b, depth_b)[1].any()
    assert not sight(a, depth_a, b, np.zeros_like(depth_b))[1].any()
    nothing = consistency([rendered(a)], images_of([rendered(a)]), [])
    assert nothing.psnr is None and nothing.ssim is None and nothing.seen == 0


def test_structure_is_that_of_the_loss():
    """models/ssim.py is tied to torchmetrics by its own tests; borders are mirrored in both."""
    a, b = np.random.default_rng(1).random((2, 40, 50), np.float32)
    theirs = float(ssim(*(torch.from_numpy(v)[..., None] for v in (a, b))))
    assert float(measures._ssim_map(a, b).mean()) == pytest.approx(theirs, abs=1e-5)
    sums = measures.Sums()
    sums.add(np.repeat(a[..., None], 3, -1), np.repeat(b[..., None], 3, -1), np.ones((40, 50), bool))
    assert sums.result().ssim == pytest.approx(float(measures._ssim_map(a, b)[5:-5, 5:-5].mean()), abs=1e-5)


def test_neighbours_are_near_and_see_the_same():
    found, pinholes = cameras(replace(CURRICULUM, samples_per_view=2))
    near = neighbours(found, 30.0, 4)
    for number, others in enumerate(near):
        assert number not in others and len(others) >= 3
        assert [o for o in others if found[o].view == found[number].view] == others[:1]  # its other sample comes first
        for other in others[1:]:
            assert ((pinholes[other].project(np.array(found[number].target_m)) > -0.5).all()) or found[other].sample
    opposite = neighbours([found[0], found[8]], 30.0, 4)
    assert opposite == [[], []]  # they see different sides


def test_weights_tell_who_is_alone():
    image = np.full((20, 20, 3), 0.5, np.float32)
    valid, seen = np.ones((20, 20), bool), np.zeros((20, 20), bool)
    valid[0], seen[:, :10] = False, True
    agreeing, differing = (image, seen), (image + 0.4, seen)
    both, none = agreement_weight(image, valid, [agreeing] * 4), agreement_weight(image, valid, [differing] * 4)
    assert (both[0] == 0).all() and np.allclose(both[1:, 10:], BASE) and np.allclose(none[1:, 10:], BASE)
    assert np.allclose(both[1:, :10], 4.25 / 4.5) and np.allclose(none[1:, :10], 0.25 / 4.5, atol=1e-4)
    half = agreement_weight(image, valid, [agreeing, agreeing, differing, differing])
    assert np.allclose(half[1:, :10], 2.25 / 4.5, atol=1e-4)
    assert np.allclose(agreement_weight(image, valid, [])[1:], BASE)


def test_an_episode_is_assessed_once(folder, monkeypatch):
    """One view in sixteen has something painted on it: that patch counts less, there alone."""
    for number, name in enumerate(folder.names):
        image = folder.view(name).image.clone()
        if number == 5:
            image[40:56, 40:56] = 1 - image[40:56, 40:56]
        folder.write_refined(name, image)
    numbers = assess_episode(folder, progress=False)
    assert numbers["raw"]["psnr"] > numbers["refined"]["psnr"] + 3 and numbers["raw"]["ssim"] > 0.9
    assert EpisodeFolder.open(folder.path).manifest.consistency == numbers
    weight = folder.weight("005").numpy()
    patch = np.zeros_like(weight, bool)
    patch[42:54, 42:54] = True
    assert np.median(weight[patch]) < 0.4 < 0.75 < np.median(weight[~patch & folder.valid("005").numpy()])
    assert np.median(folder.weight("012").numpy()) > 0.75
    monkeypatch.setattr(measures, "_compared", lambda folder: pytest.fail("done already"))
    assert assess_episode(EpisodeFolder.open(folder.path), progress=False) == numbers


def test_what_is_not_refined_is_told(folder):
    with pytest.raises(TrainingError, match=r"refined/000.png is missing\. Refine the episode again"):
        assess_episode(folder, progress=False)


def test_look_up_between_pixels():
    ramp = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = look_up(ramp, np.array([[[1.0, 1.0], [1.5, 0.5], [-2.0, -2.0]]], np.float32))
    np.testing.assert_allclose(found[0], [5.0, 3.5, 0.0])
