"""Tie points between synthetic views of a textured plane with a block, whose pixels are known in closed form."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from helpers.plane_views import HEIGHT_M, linear_rpc, make_texture, render_view

from skyfall_ns.errors import SkyfallError
from skyfall_ns.geo import tie_points
from skyfall_ns.geo.epipolar import epipolar_distances_px, epipolar_segments
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.geo.tie_points import find_tie_points


def test_tie_points_have_the_right_heights_in_spite_of_pointing_errors_of_nine_pixels():
    leans = [(0.3, 0.1), (-0.3, 0.2)]
    pointing = [(0.0, 0.0), (-2.0, 9.0)]
    ground = make_texture(600, 1)
    images = [render_view(ground, lean, block_m=20.0) for lean in leans]
    rpcs = [linear_rpc(lean, p) for lean, p in zip(leans, pointing, strict=True)]
    tracks = find_tie_points(images, rpcs, (-300.0, 600.0)).tracks
    assert len(tracks) > 300 and tracks.shape[1:] == (2, 2)
    # A pixel of height z above the reference moves by lean * z, so the difference of two views is (lean_a - lean_b) z.
    difference = tracks[:, 0] - tracks[:, 1]
    height = difference @ np.subtract(*leans) / (np.subtract(*leans) ** 2).sum()
    on_block = np.abs(height - 20.0) < 1.0
    assert on_block.sum() > 20
    assert (on_block | (np.abs(height) < 1.0)).mean() > 0.97
    segments = epipolar_segments(rpcs[0], rpcs[1], tracks[:, 0], (0.0, 300.0))
    across, _ = epipolar_distances_px(segments, tracks[:, 1])
    direction = np.diff(segments, axis=1)[0, 0]
    direction /= np.linalg.norm(direction)
    expected = -(direction[0] * pointing[1][1] - direction[1] * pointing[1][0])
    assert np.median(across) == pytest.approx(expected, abs=0.05)
    assert np.median(np.abs(across - expected)) < 0.05


def test_tracks_join_three_views():
    leans = [(0.3, 0.1), (-0.3, 0.2), (0.0, -0.3)]
    ground = make_texture(600, 2)
    tracks = find_tie_points(
        [render_view(ground, lean, 0.0) for lean in leans], [linear_rpc(lean) for lean in leans], (100.0, 140.0)
    ).tracks
    observed_count = np.isfinite(tracks[..., 0]).sum(axis=1)
    assert observed_count.min() >= 2 and (observed_count == 3).sum() > 200
    complete = tracks[observed_count == 3]
    assert np.median(np.abs(complete[:, 1:] - complete[:, :1])) < 0.1  # a plane at the reference height has no parallax


def test_masked_pixels_have_no_tie_points():
    ground = make_texture(600, 3)
    mask = np.ones((600, 600), bool)
    mask[:, :300] = False
    rpcs = [linear_rpc((0.2, 0.0)), linear_rpc((-0.2, 0.0))]
    tracks = find_tie_points([ground, ground], rpcs, (100.0, 140.0), masks=[mask, None]).tracks
    assert len(tracks) > 100
    assert tracks[:, 0, 0].min() > 295


def test_epipolar_segments_of_a_vertical_view_follow_the_lean():
    rpc_a, rpc_b = linear_rpc((0.0, 0.0)), linear_rpc((0.25, -0.5))
    segments = epipolar_segments(rpc_a, rpc_b, np.array([[10.0, 20.0]]), (HEIGHT_M, HEIGHT_M + 100))
    np.testing.assert_allclose(segments[0], [[10.0, 20.0], [35.0, -30.0]], atol=1e-6)
    across, along = epipolar_distances_px(segments, np.array([[10.0, 20.0]]))
    np.testing.assert_allclose([across[0], along[0]], 0, atol=1e-6)


@pytest.mark.parametrize("image", [np.zeros((600, 600), np.uint8), make_texture(600, 99)])
def test_an_image_of_another_place_is_named_in_the_error(image):
    ground = make_texture(600, 4)
    rpcs = [linear_rpc((0.2, 0.0)), linear_rpc((-0.2, 0.0)), linear_rpc((0.0, 0.2))]
    with pytest.raises(SkyfallError, match=r"^c\.tif shares at most \d+ tie points .*\. Leave it out"):
        find_tie_points([ground, ground, image], rpcs, (100.0, 140.0), names=["a.tif", "b.tif", "c.tif"])


def test_images_without_overlap_are_rejected():
    ground = make_texture(600, 5)
    far = linear_rpc((0.2, 0.0)).for_crop(5000, 0)
    with pytest.raises(SkyfallError, match=r"^image 1 does not overlap any other image .*\. Leave it out"):
        find_tie_points([ground, ground], [linear_rpc((0.2, 0.0)), far], (100.0, 140.0))


def rotate_image(image: np.ndarray, rpc: RPC) -> tuple[np.ndarray, RPC]:
    """The image rotated by 90 degrees counterclockwise, and its RPC: columns become rows from the bottom."""
    flipped = {f"line_{k}": getattr(rpc, f"samp_{k}") for k in ("scale", "den_coeff")}
    flipped |= {f"samp_{k}": getattr(rpc, f"line_{k}") for k in ("off", "scale", "num_coeff", "den_coeff")}
    flipped["line_off"] = image.shape[1] - 1 - rpc.samp_off
    flipped["line_num_coeff"] = tuple(-c for c in rpc.samp_num_coeff)
    return np.ascontiguousarray(np.rot90(image)), replace(rpc, **flipped)


def test_rotated_images_and_larger_pixels_keep_their_tie_points():
    leans = [(0.3, 0.1), (-0.3, 0.2), (0.0, -0.3)]
    ground = make_texture(600, 6)
    images, rpcs = [render_view(ground, lean, 0.0) for lean in leans], [linear_rpc(lean) for lean in leans]
    upright = find_tie_points(images, rpcs, (100.0, 140.0)).tracks
    images[1], rpcs[1] = rotate_image(images[1], rpcs[1])
    images[2], rpcs[2] = cv2.resize(images[2], (480, 480), interpolation=cv2.INTER_AREA), rpcs[2].for_scale(0.8)
    tracks = find_tie_points(images, rpcs, (100.0, 140.0)).tracks
    for k in (1, 2):
        both = np.isfinite(tracks[:, [0, k], 0]).all(axis=1)
        assert both.sum() > 0.6 * np.isfinite(upright[:, [0, k], 0]).all(axis=1).sum()
        expected = rpcs[k].project(rpcs[0].localize(tracks[both, 0], HEIGHT_M))
        assert np.median(np.linalg.norm(tracks[both, k] - expected, axis=1)) < 0.05


def test_pairs_are_added_until_all_images_are_connected(monkeypatch):
    """Four images of two places and a fifth image that shows both and is not in the first pairs."""
    left, right = make_texture(400, 7), make_texture(400, 8)
    both = np.where(np.arange(400) < 200, left, right)
    leans = [(0.2, 0.0), (-0.2, 0.0), (0.0, 0.2), (0.0, -0.2), (0.1, 0.1)]
    monkeypatch.setattr(tie_points, "select_tie_pairs", lambda _: [(0, 1), (2, 3), (0, 2)])
    done = []
    found = find_tie_points(
        [left, left, right, right, both], [linear_rpc(lean) for lean in leans], (100.0, 140.0),
        progress=lambda *state: done.append(state),
    )  # fmt: skip
    assert {(0, 4), (2, 4)} <= set(found.pairs) and len(set(found.pairs)) == len(found.pairs)
    assert done[0] == (1, 3) and done[-1] == (len(found.pairs), len(found.pairs))
    observed_count = np.isfinite(found.tracks[..., 0])
    assert (
        all((observed_count[:, 4] & observed_count[:, k]).sum() > 20 for k in range(4))
        and not (observed_count[:, 0] & observed_count[:, 2]).any()
    )
