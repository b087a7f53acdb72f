"""Blunders over the whole area: towers and pits of known size on a plain, also where the reference has no height."""

import numpy as np
import pytest
from affine import Affine
from scipy.ndimage import gaussian_filter

from skyfall_ns.errors import CrsError, RasterError
from skyfall_ns.evaluation.cells import resample, shift_cells, translate
from skyfall_ns.evaluation.envelope import compare_envelope, find_cell_shift, measure_envelope
from skyfall_ns.geo.raster import Raster

UTM = "EPSG:32631"


def raster(values, cell=0.5, origin=(400_000.0, 4_800_000.0)):
    return Raster(values[None], UTM, Affine(cell, 0, origin[0], 0, -cell, origin[1]))


def hills(seed=0, size=120):
    noise = np.random.default_rng(seed).normal(size=(size, size))
    return 60 * gaussian_filter(noise, 4)


def test_towers_and_pits_are_counted():
    ref = np.zeros((100, 100))
    pred = ref.copy()
    pred[10:14, 10:15] = 12.0
    pred[50, 50], pred[50, 52] = 3.5, 8.0  # two towers with a gap
    pred[80:82, 80:82] = -7.0
    pred[0, 0] = 2.9  # within the margin
    found = measure_envelope(pred, ref, cell_m=1.0)
    assert found.judged == 1 and found.above == pytest.approx(22e-4) and found.below == pytest.approx(4e-4)
    assert (found.towers, found.tallest_m, found.deepest_m) == (3, 12.0, 7.0)


def test_blunders_where_the_reference_is_silent_count_and_a_roof_nearby_excuses():
    ref = np.zeros((60, 60))
    ref[20:40, 20:40] = np.nan
    pred = np.zeros((60, 60))
    pred[30, 30] = 9.0
    assert measure_envelope(pred, ref, cell_m=1.0).towers == 1
    ref[30, 45] = 7.0  # 15 cells away: within the radius
    assert measure_envelope(pred, ref, cell_m=1.0).towers == 0
    assert measure_envelope(pred, ref, cell_m=1.0, radius_m=14).towers == 1
    assert measure_envelope(pred, ref, cell_m=0.5).judged == 1  # 30 cells reach everywhere


def test_cells_far_from_any_reference_are_not_judged():
    ref = np.full((40, 40), np.nan)
    ref[:, :10] = 0.0
    pred = np.full((40, 40), 50.0)
    pred[0] = np.nan
    found = measure_envelope(pred, ref, cell_m=1.0, radius_m=5)
    assert found.judged == pytest.approx(15 / 40) and found.above == 1


def test_registration_is_found_to_the_cell():
    ref = hills()
    assert find_cell_shift(shift_cells(ref, 3, -5) + 2.5, ref) == (-3, 5, pytest.approx(-2.5))
    pred = shift_cells(ref, 2, 1) - 40
    pred[60, 60] = 60.0
    found = compare_envelope(raster(pred), raster(ref))
    assert (found.below, found.towers) == (0, 1) and found.tallest_m > 20


def test_a_wall_along_the_border_counts_after_a_shift():
    ref = hills()
    for columns in (-3, 3):  # moved back, the wall stands within the reference's grid, and without
        pred = shift_cells(ref, 0, columns)
        pred[:, :2] = 60.0
        assert compare_envelope(raster(pred), raster(ref)).above == pytest.approx(240 / np.isfinite(pred).sum())


def test_a_start_reaches_far_shifts():
    ref = hills()
    pred = raster(shift_cells(ref, 20, -15))
    assert find_cell_shift(pred.values(), ref)[:2] != (-20, 15)
    assert find_cell_shift(pred.values(), ref, start=(-18, 10)) == (-20, 15, pytest.approx(0))
    found = compare_envelope(pred, raster(ref), start=(-18, 10))
    assert (found.judged, found.above, found.below) == (1, 0, 0)


def test_flat_ground_stays_where_it_is():
    assert find_cell_shift(np.full((40, 40), 4.0), np.zeros((40, 40))) == (0, 0, -4.0)


def test_no_overlap_and_no_reference_system():
    far = raster(hills(), origin=(500_000.0, 4_800_000.0))
    with pytest.raises(RasterError, match=r"do not overlap\. Check"):
        compare_envelope(far, raster(hills()))
    with pytest.raises(CrsError, match="coordinate reference system"):
        resample(Raster(hills()[None], None, Affine.identity()), far)


def test_resampling_follows_the_map():
    ref = raster(hills())
    np.testing.assert_array_equal(resample(ref, ref), ref.values())
    moved = resample(translate(ref, 1.0, -0.5), ref)
    np.testing.assert_array_equal(moved, shift_cells(ref.values(), 1, 2))
