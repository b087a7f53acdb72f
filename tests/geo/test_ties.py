"""Ties between synthetic views of a textured plane with a block, whose pixels are known in closed form."""

import cv2
import numpy as np
import pytest

from skyfall_ns.errors import SkyfallError
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.geo.ties import epipolar_segments, find_ties, transverse_px

LON, LAT, METRES_PER_DEGREE = 30.0, 45.0, 6371008.8 * np.pi / 180
HEIGHT_M = 120.0


def linear_rpc(lean: tuple[float, float], pointing_px: tuple[float, float] = (0.0, 0.0)) -> RPC:
    """A view of 2 px per metre, north up, centred on (300, 300); a point moves by `lean` px per metre of height."""

    def numerator(along: int, sign: float, lean_px_per_m: float) -> tuple[float, ...]:
        coefficients = np.zeros(20)
        coefficients[along] = sign
        coefficients[3] = lean_px_per_m * 500.0 / 1000.0
        return tuple(coefficients)

    one = (1.0, *np.zeros(19))
    degrees = 500.0 / METRES_PER_DEGREE
    return RPC(
        line_off=300.0 + pointing_px[1],
        samp_off=300.0 + pointing_px[0],
        lat_off=LAT,
        long_off=LON,
        height_off=HEIGHT_M,
        line_scale=1000.0,
        samp_scale=1000.0,
        lat_scale=degrees,
        long_scale=degrees / np.cos(np.deg2rad(LAT)),
        height_scale=500.0,
        line_num_coeff=numerator(2, -1.0, lean[1]),
        line_den_coeff=one,
        samp_num_coeff=numerator(1, 1.0, lean[0]),
        samp_den_coeff=one,
    )


def texture(size: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(size, size)).astype(np.float32)
    image = cv2.GaussianBlur(noise, (0, 0), 1.2) * 3 + cv2.GaussianBlur(noise, (0, 0), 4.0) * 10
    return np.clip(128 + 45 * image, 0, 255).astype(np.uint8)


def view(ground: np.ndarray, lean: tuple[float, float], block_m: float) -> np.ndarray:
    """The texture as a flat ground at HEIGHT_M, its middle raised by `block_m`."""

    def moved(height_m: float) -> np.ndarray:
        move = np.float32([[1, 0, lean[0] * height_m], [0, 1, lean[1] * height_m]])
        return cv2.warpAffine(ground, move, ground.shape, flags=cv2.INTER_CUBIC)

    image = moved(0.0)
    raised = slice(220, 380)
    dc, dr = round(lean[0] * block_m), round(lean[1] * block_m)
    target = (slice(220 + dr, 380 + dr), slice(220 + dc, 380 + dc))
    image[target] = moved(block_m)[target] if block_m else ground[raised, raised]
    return image


def test_ties_survive_pointing_errors_of_nine_pixels_and_know_heights():
    leans = [(0.3, 0.1), (-0.3, 0.2)]
    pointing = [(0.0, 0.0), (-2.0, 9.0)]
    ground = texture(600, 1)
    images = [view(ground, lean, block_m=20.0) for lean in leans]
    rpcs = [linear_rpc(lean, p) for lean, p in zip(leans, pointing, strict=True)]
    tracks = find_ties(images, rpcs, (-300.0, 600.0))
    assert len(tracks) > 300 and tracks.shape[1:] == (2, 2)
    # A pixel of height z above the reference moves by lean * z, so the difference of two views is (lean_a - lean_b) z.
    difference = tracks[:, 0] - tracks[:, 1]
    height = difference @ np.subtract(*leans) / (np.subtract(*leans) ** 2).sum()
    on_block = np.abs(height - 20.0) < 1.0
    assert on_block.sum() > 20
    assert (on_block | (np.abs(height) < 1.0)).mean() > 0.97
    segments = epipolar_segments(rpcs[0], rpcs[1], tracks[:, 0], (0.0, 300.0))
    across, _ = transverse_px(segments, tracks[:, 1])
    direction = np.diff(segments, axis=1)[0, 0]
    direction /= np.linalg.norm(direction)
    expected = -(direction[0] * pointing[1][1] - direction[1] * pointing[1][0])
    assert np.median(across) == pytest.approx(expected, abs=0.05)
    assert np.median(np.abs(across - expected)) < 0.05


def test_tracks_join_three_views():
    leans = [(0.3, 0.1), (-0.3, 0.2), (0.0, -0.3)]
    ground = texture(600, 2)
    tracks = find_ties(
        [view(ground, lean, 0.0) for lean in leans], [linear_rpc(lean) for lean in leans], (100.0, 140.0)
    )
    seen = np.isfinite(tracks[..., 0]).sum(axis=1)
    assert seen.min() >= 2 and (seen == 3).sum() > 200
    complete = tracks[seen == 3]
    assert np.median(np.abs(complete[:, 1:] - complete[:, :1])) < 0.1  # a plane at the reference height never moves


def test_masked_pixels_give_no_ties():
    ground = texture(600, 3)
    mask = np.ones((600, 600), bool)
    mask[:, :300] = False
    rpcs = [linear_rpc((0.2, 0.0)), linear_rpc((-0.2, 0.0))]
    tracks = find_ties([ground, ground], rpcs, (100.0, 140.0), masks=[mask, None])
    assert len(tracks) > 100
    assert tracks[:, 0, 0].min() > 295


def test_epipolar_segments_of_a_vertical_view_follow_the_lean():
    rpc_a, rpc_b = linear_rpc((0.0, 0.0)), linear_rpc((0.25, -0.5))
    segments = epipolar_segments(rpc_a, rpc_b, np.array([[10.0, 20.0]]), (HEIGHT_M, HEIGHT_M + 100))
    np.testing.assert_allclose(segments[0], [[10.0, 20.0], [35.0, -30.0]], atol=1e-6)
    across, along = transverse_px(segments, np.array([[10.0, 20.0]]))
    np.testing.assert_allclose([across[0], along[0]], 0, atol=1e-6)


@pytest.mark.parametrize("image", [np.zeros((600, 600), np.uint8), texture(600, 99)])
def test_an_image_of_another_place_is_named(image):
    ground = texture(600, 4)
    rpcs = [linear_rpc((0.2, 0.0)), linear_rpc((-0.2, 0.0)), linear_rpc((0.0, 0.2))]
    with pytest.raises(SkyfallError, match=r"^c\.tif shares at most \d+ tie points .*\. Leave it out"):
        find_ties([ground, ground, image], rpcs, (100.0, 140.0), names=["a.tif", "b.tif", "c.tif"])


def test_images_that_do_not_overlap_are_refused():
    ground = texture(600, 5)
    far = linear_rpc((0.2, 0.0)).cropped(5000, 0)
    with pytest.raises(SkyfallError, match=r"^image 1 does not overlap any other image .*\. Leave it out"):
        find_ties([ground, ground], [linear_rpc((0.2, 0.0)), far], (100.0, 140.0))
