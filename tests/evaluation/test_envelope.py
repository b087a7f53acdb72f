"""Blunders over the whole area: towers and pits of known size on a plane, also where the reference has no height."""

import numpy as np
import pytest
from affine import Affine
from scipy.ndimage import gaussian_filter

from skyfall_ns.errors import CrsError, RasterError
from skyfall_ns.evaluation.cells import resample_raster, shift_cells, translate_raster
from skyfall_ns.evaluation.envelope import compare_envelope, find_cell_shift, measure_envelope
from skyfall_ns.geo.raster import Raster

UTM = "EPSG:32631"


def make_raster(values, cell=0.5, origin=(400_000.0, 4_800_000.0)):
    return Raster(values[None], UTM, Affine(cell, 0, origin[0], 0, -cell, origin[1]))


def make_hills(seed=0, size=120):
    noise = np.random.default_rng(seed).normal(size=(size, size))
    return 60 * gaussian_filter(noise, 4)


def test_towers_and_pits_are_counted():
    ref = np.zeros((100, 100))
    pred = ref.copy()
    pred[10:14, 10:15] = 12.0
    pred[50, 50], pred[50, 52] = 3.5, 8.0  # two towers with a gap
    pred[80:82, 80:82] = -7.0
    pred[0, 0] = 2.9  # within the margin
    envelope = measure_envelope(pred, ref, cell_m=1.0)
    assert envelope.judged == 1 and envelope.above == pytest.approx(22e-4) and envelope.below == pytest.approx(4e-4)
    assert (envelope.towers, envelope.tallest_m, envelope.deepest_m) == (3, 12.0, 7.0)


def test_blunders_count_where_the_reference_is_unknown_unless_a_roof_is_nearby():
    ref = np.zeros((60, 60))
    ref[20:40, 20:40] = np.nan
    pred = np.zeros((60, 60))
    pred[30, 30] = 9.0
    assert measure_envelope(pred, ref, cell_m=1.0).towers == 1
    ref[30, 45] = 7.0  # 15 cells away: within the radius
    assert measure_envelope(pred, ref, cell_m=1.0).towers == 0
    assert measure_envelope(pred, ref, cell_m=1.0, radius_m=14).towers == 1
    assert measure_envelope(pred, ref, cell_m=0.5).judged == 1  # 30 cells reach everywhere


def test_cells_far_from_any_reference_height_are_not_judged():
    ref = np.full((40, 40), np.nan)
    ref[:, :10] = 0.0
    pred = np.full((40, 40), 50.0)
    pred[0] = np.nan
    envelope = measure_envelope(pred, ref, cell_m=1.0, radius_m=5)
    assert envelope.judged == pytest.approx(15 / 40) and envelope.above == 1


def test_registration_finds_the_exact_cell_shift():
    ref = make_hills()
    assert find_cell_shift(shift_cells(ref, 3, -5) + 2.5, ref) == (-3, 5, pytest.approx(-2.5))
    pred = shift_cells(ref, 2, 1) - 40
    pred[60, 60] = 60.0
    envelope = compare_envelope(make_raster(pred), make_raster(ref))
    assert (envelope.below, envelope.towers) == (0, 1) and envelope.tallest_m > 20


def test_blunders_along_the_border_count_after_a_shift():
    ref = make_hills()
    for columns in (-3, 3):  # registered, the wall is inside the reference's grid, and outside of it
        pred = shift_cells(ref, 0, columns)
        pred[:, :2] = 60.0
        assert compare_envelope(make_raster(pred), make_raster(ref)).above == pytest.approx(
            240 / np.isfinite(pred).sum()
        )


def test_a_start_makes_large_shifts_reachable():
    ref = make_hills()
    pred = make_raster(shift_cells(ref, 20, -15))
    assert find_cell_shift(pred.band_values(), ref)[:2] != (-20, 15)
    assert find_cell_shift(pred.band_values(), ref, start=(-18, 10)) == (-20, 15, pytest.approx(0))
    envelope = compare_envelope(pred, make_raster(ref), start=(-18, 10))
    assert (envelope.judged, envelope.above, envelope.below) == (1, 0, 0)


def test_flat_ground_is_not_shifted():
    assert find_cell_shift(np.full((40, 40), 4.0), np.zeros((40, 40))) == (0, 0, -4.0)


def test_rasters_without_overlap_or_crs_are_refused():
    distant = make_raster(make_hills(), origin=(500_000.0, 4_800_000.0))
    with pytest.raises(RasterError, match=r"do not overlap\. Check"):
        compare_envelope(distant, make_raster(make_hills()))
    with pytest.raises(CrsError, match="coordinate reference system"):
        resample_raster(Raster(make_hills()[None], None, Affine.identity()), distant)


def test_resampling_follows_the_georeference():
    ref = make_raster(make_hills())
    np.testing.assert_array_equal(resample_raster(ref, ref), ref.band_values())
    moved = resample_raster(translate_raster(ref, 1.0, -0.5), ref)
    np.testing.assert_array_equal(moved, shift_cells(ref.band_values(), 1, 2))
