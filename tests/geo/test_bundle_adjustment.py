"""Recovery of known offsets, up to a common translation of the ground, and of the published ones of real sets."""

import json
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest

from skyfall_ns.geo.bundle_adjustment import bundle_adjust
from skyfall_ns.geo.epipolar import epipolar_distances_px, epipolar_segments
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.geo.rpc_readers import read_rpc
from skyfall_ns.geo.tie_points import find_tie_points

DATA = Path(__file__).parents[2].parent / "shared" / "data"
LON, LAT, METERS_PER_DEGREE = 30.0, 45.0, 6371008.8 * np.pi / 180
LEANS = [(0.35, 0.05), (-0.3, 0.2), (0.05, -0.35), (0.1, 0.3)]


def make_leaning_rpc(lean: tuple[float, float]) -> RPC:
    """2 px per meter, north up, a weak perspective along the columns, `lean` px per meter of height."""
    column, row = np.zeros(20), np.zeros(20)
    column[[1, 3]] = 1.0, lean[0] / 2
    row[[2, 3]] = -1.0, lean[1] / 2
    denominator = (1.0, 2e-5, *np.zeros(18))
    degrees = 500.0 / METERS_PER_DEGREE
    scales = {"line_scale": 1000.0, "samp_scale": 1000.0, "lat_scale": degrees, "height_scale": 500.0}
    scales["long_scale"] = degrees / np.cos(np.deg2rad(LAT))
    offsets = {"line_off": 300.0, "samp_off": 300.0, "lat_off": LAT, "long_off": LON, "height_off": 120.0}
    numerators = {"line_num_coeff": tuple(row), "samp_num_coeff": tuple(column)}
    return RPC(**offsets, **scales, **numerators, line_den_coeff=denominator, samp_den_coeff=denominator)


def make_synthetic_tracks(rpcs, offsets, count=600, noise_px=0.1, outliers=0.1, seed=0):
    """Ground points (lon, lat, h) and their noisy pixels in views with `offsets`; a third is missing in every view."""
    generator = np.random.default_rng(seed)
    meters = generator.uniform(-130, 130, (count, 2))
    unit = np.array([1 / (METERS_PER_DEGREE * np.cos(np.deg2rad(LAT))), 1 / METERS_PER_DEGREE])
    height = 110 + 0.02 * meters[:, 0] + generator.uniform(0, 25, count) * (generator.uniform(size=count) < 0.4)
    points = np.column_stack([np.array([LON, LAT]) + meters * unit, height])
    observed = np.stack([rpc.project(points) for rpc in rpcs], axis=1) + offsets
    observed += generator.normal(0, noise_px, observed.shape)
    outlier = generator.uniform(size=observed.shape[:2]) < outliers / len(rpcs)
    observed[outlier] += generator.uniform(-6, 6, (int(outlier.sum()), 2))
    missing = generator.uniform(size=observed.shape[:2]) < (0.33 if len(rpcs) > 2 else 0.0)
    observed[missing] = np.nan
    has_two = np.isfinite(observed[..., 0]).sum(axis=1) >= 2
    return points[has_two], observed[has_two], outlier[has_two] & ~missing[has_two]


def remove_common_translation(rpcs, offsets, point) -> np.ndarray:
    """Offsets without the part that a common translation of the ground explains, which tie points do not determine."""
    steps = np.diag([1e-5, 1e-5, 1.0])
    columns = [np.concatenate([rpc.project(point + s) - rpc.project(point - s) for rpc in rpcs]) for s in steps]
    basis, _ = np.linalg.qr(np.column_stack(columns))
    flat = np.asarray(offsets).ravel()
    return flat - basis @ (basis.T @ flat)


def test_offsets_are_recovered_in_spite_of_outliers():
    rpcs = [make_leaning_rpc(lean) for lean in LEANS]
    offsets = np.array([[4.1, 3.9], [-2.3, 2.6], [-2.9, -4.5], [1.5, -2.1]])
    points, tracks, outlier = make_synthetic_tracks(rpcs, offsets)
    result = bundle_adjust(rpcs, tracks, height_m=120.0)
    error = remove_common_translation(rpcs, result.offsets_px - offsets, points[0])
    assert np.abs(error).max() < 0.02
    assert result.median_px_before > 2.0 > 0.2 > result.median_px_after
    assert not result.inliers[np.nanmax(np.abs(result.residuals_px[:, None] * outlier), axis=1) > 2.0].any()
    assert result.inliers[~outlier.any(axis=1)].mean() > 0.95
    # Of all equivalent offsets the smallest are chosen.
    free = remove_common_translation(rpcs, result.offsets_px, points[0])
    assert np.linalg.norm(free) == pytest.approx(np.linalg.norm(result.offsets_px), rel=0.02)


def test_adjusted_rpcs_agree_on_the_ground_points():
    rpcs = [make_leaning_rpc(lean) for lean in LEANS[:3]]
    offsets = np.array([[3.0, 0.0], [0.0, -3.0], [-3.0, 3.0]])
    _, tracks, _ = make_synthetic_tracks(rpcs, offsets, noise_px=0.0, outliers=0.0)
    result = bundle_adjust(rpcs, tracks, height_m=0.0)
    for k, rpc in enumerate(rpcs):
        observed = np.isfinite(tracks[:, k, 0])
        pixels = rpc.with_offset(*result.offsets_px[k]).project(result.lonlath[observed])
        np.testing.assert_allclose(pixels, tracks[observed, k], atol=1e-3)
    assert result.median_px_after < 1e-3


def test_the_smallest_correction_of_two_images_gives_the_true_heights():
    rpcs = [make_leaning_rpc(lean) for lean in LEANS[:2]]
    along = np.subtract(*LEANS[:2]) / np.linalg.norm(np.subtract(*LEANS[:2]))
    across = np.array([-along[1], along[0]])
    offsets = np.array([across, -across]) * 1.7  # only the part that two images determine
    points, tracks, outlier = make_synthetic_tracks(rpcs, offsets)
    result = bundle_adjust(rpcs, tracks, height_m=300.0)
    np.testing.assert_allclose(result.offsets_px, offsets, atol=0.03)
    good = result.inliers & ~outlier.any(axis=1)
    assert np.median(np.abs(result.lonlath[good, 2] - points[good, 2])) < 0.25


def test_a_false_match_along_the_epipolar_line_is_rejected_by_its_height():
    rpcs = [make_leaning_rpc(lean) for lean in LEANS[:2]]
    points, tracks, _ = make_synthetic_tracks(rpcs, np.zeros((2, 2)), outliers=0.0)
    false_tracks = np.arange(0, len(tracks), 40)
    higher = points[false_tracks] + np.array([0.0, 0.0, 150.0])
    tracks[false_tracks] = np.stack([rpc.project(higher) for rpc in rpcs], axis=1)
    result = bundle_adjust(rpcs, tracks, height_m=120.0)
    assert not result.inliers[false_tracks].any()
    assert np.delete(result.inliers, false_tracks).mean() > 0.9  # three medians are two sigmas of one distance


def test_without_refinement_points_are_triangulated_and_offsets_are_zero():
    rpcs = [make_leaning_rpc(lean) for lean in LEANS[:3]]
    points, tracks, _ = make_synthetic_tracks(rpcs, np.zeros((3, 2)), outliers=0.0)
    result = bundle_adjust(rpcs, tracks, height_m=0.0, refine=False)
    assert not result.offsets_px.any()
    assert np.median(np.abs(result.lonlath[:, 2] - points[:, 2])) < 0.3


def test_residuals_of_pairs_are_distances_from_epipolar_lines():
    rpcs = [make_leaning_rpc(lean) for lean in LEANS]
    _, tracks, _ = make_synthetic_tracks(rpcs, np.array([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -2.0]]))
    result = bundle_adjust(rpcs, tracks, height_m=120.0)
    assert [p.images for p in result.pairs] == list(combinations(range(4), 2))
    for pair in result.pairs:
        i, j = pair.images
        a, b = tracks[result.inliers & np.isfinite(tracks[:, pair.images, 0]).all(axis=1)][:, pair.images].swapaxes(
            0, 1
        )
        assert len(a) == pair.tracks
        adjusted = [rpcs[k].with_offset(*result.offsets_px[k]) for k in pair.images]
        for views, median in (((rpcs[i], rpcs[j]), pair.median_px_before), (adjusted, pair.median_px_after)):
            across, _ = epipolar_distances_px(epipolar_segments(*views, a, (50.0, 200.0)), b)
            assert median == pytest.approx(np.median(np.abs(across)), abs=1e-3)  # the line is the same for any heights


def _read_toned(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.float32)
    low, high = np.percentile(image, [0.5, 99.5])
    return (255 * np.clip((image - low) / (high - low), 0, 1) ** (1 / 2.2)).astype(np.uint8)


def _load_real_set(name: str):
    directory = DATA / name
    if not directory.is_dir():
        pytest.skip(f"the real image set {name} is not beside the repository")
    images = json.loads((directory / "set.json").read_text())["images"]
    paths = [directory / "images" / f"{image['image']}.tif" for image in images]
    return [_read_toned(p) for p in paths], [read_rpc(p) for p in paths], images


def test_real_set_of_kahramanmaras():
    images, rpcs, published = _load_real_set("kahramanmaras_west")
    heights = max(r.height_range_m[0] for r in rpcs), min(r.height_range_m[1] for r in rpcs)
    tracks = find_tie_points(images, rpcs, heights).tracks
    result = bundle_adjust(rpcs, tracks, height_m=sum(heights) / 2)
    assert result.inliers.sum() >= 800
    assert result.median_px_before > 3.0 and result.median_px_after <= 0.2
    assert len(result.pairs) == 6 and max(p.median_px_after for p in result.pairs) <= 0.2
    assert np.median(result.lonlath[result.inliers, 2]) == pytest.approx(710, abs=3)
    difference = result.offsets_px - [image["bias_col_row_px"] for image in published]
    assert np.abs(difference - difference.mean(axis=0)).max() <= 0.3


def test_real_pair_of_giza():
    images, rpcs, published = _load_real_set("giza_phr_pair")
    tracks = find_tie_points(images, rpcs, rpcs[0].height_range_m).tracks
    result = bundle_adjust(rpcs, tracks, height_m=100.0)
    assert result.inliers.sum() >= 800
    assert result.median_px_after <= 0.1
    difference = result.offsets_px - [image["bias_col_row_px"] for image in published]
    assert np.abs(difference - difference.mean(axis=0)).max() <= 0.1
