"""DSM comparison: known shifts and statistics, different grids and CRSs, rejected input."""

import numpy as np
import pytest
from affine import Affine
from pyproj import Transformer
from scipy.ndimage import gaussian_filter

from skyfall_ns.errors import CrsError, RasterError
from skyfall_ns.geo.dsm_comparison import compare_dsm, edge_error_statistics, error_statistics
from skyfall_ns.geo.raster import Raster

UTM = "EPSG:32637"
WEST, NORTH = 300_000.0, 4_150_000.0
SIZE_M = 160.0


def city_heights(x: np.ndarray, y: np.ndarray, cell_m: float) -> np.ndarray:
    """Mean height of cells centered on x ("w", east of WEST) and y ("h", south of NORTH): a slope and flat roofs, whose
    overlap with each cell is exact, so that the surface does not depend on a grid."""
    rng = np.random.default_rng(5)
    z = 0.03 * x[None, :] + 0.02 * y[:, None] + 2.0 * np.sin(x[None, :] / 17.0)
    for _ in range(60):
        (cx, cy), (w, h), height = rng.uniform(0, SIZE_M, 2), rng.uniform(8, 25, 2), rng.uniform(3, 12)
        cover_x = np.clip((np.minimum(x + cell_m / 2, cx + w / 2) - np.maximum(x - cell_m / 2, cx - w / 2)), 0, None)
        cover_y = np.clip((np.minimum(y + cell_m / 2, cy + h / 2) - np.maximum(y - cell_m / 2, cy - h / 2)), 0, None)
        z = z + height * cover_y[:, None] * cover_x[None, :] / cell_m**2
    return z


def make_dsm(
    shift=(0.0, 0.0, 0.0), cell_m=0.5, noise_m=0.0, origin=(0.0, 0.0), seed=0, nodata=None, size_m=SIZE_M
) -> Raster:
    """DSM of the city after a `shift` (east, north, up); the grid starts `origin` east and south of the corner."""
    n = round(size_m / cell_m)
    centers = (np.arange(n) + 0.5) * cell_m
    z = city_heights(origin[0] + centers - shift[0], origin[1] + centers + shift[1], cell_m) + shift[2]
    z += noise_m * np.random.default_rng(seed).standard_normal(z.shape)
    transform = Affine(cell_m, 0, WEST + origin[0], 0, -cell_m, NORTH - origin[1])
    return Raster(z[None].astype(np.float32), UTM, transform, nodata)


@pytest.mark.parametrize(
    "shift", [(0.0, 0.0, 0.0), (0.2, -0.1, 4.0), (0.25, 0.25, -2.0), (3.9, -3.3, 0.5), (-8.2, 6.6, 30.0)]
)
@pytest.mark.parametrize("noise_m", [0.0, 0.3])
def test_shifts_are_recovered(shift, noise_m):
    report = compare_dsm(make_dsm(shift, noise_m=noise_m, seed=1), make_dsm(noise_m=noise_m, seed=2)).report
    np.testing.assert_allclose(report["shift_m"], -np.array(shift), atol=0.05)


def sharp_roof_heights(east_m: np.ndarray, south_m: np.ndarray) -> np.ndarray:
    """Heights at points, without averaging of roof and street within a cell."""
    rng = np.random.default_rng(5)
    z = 0.03 * east_m + 0.02 * south_m
    for _ in range(60):
        (cx, cy), (w, h), height = rng.uniform(0, SIZE_M, 2), rng.uniform(4, 12, 2), rng.uniform(3, 20)
        z = np.where((abs(east_m - cx) < w) & (abs(south_m - cy) < h), np.maximum(z, height), z)
    return z


@pytest.mark.parametrize("shift", [(0.2, -0.1), (0.4, 0.1), (0.1, 0.35), (-0.3, 0.22)])
def test_sharp_walls_do_not_bias_the_shift_to_half_cells(shift):
    """Walls displaced at random by half a meter to both sides, as those of trained surfaces."""
    rng, centers = np.random.default_rng(0), (np.arange(320) + 0.5) * 0.5
    east, south = np.meshgrid(centers, centers)
    off_m = [gaussian_filter(rng.normal(size=east.shape), 3) for _ in range(2)]
    off_east, off_south = (0.5 * off / off.std() for off in off_m)
    moved = sharp_roof_heights(east - shift[0] + off_east, south + shift[1] + off_south)
    pred, ref = (
        Raster(z[None].astype(np.float32), UTM, Affine(0.5, 0, WEST, 0, -0.5, NORTH), None)
        for z in (moved, sharp_roof_heights(east, south))
    )
    np.testing.assert_allclose(compare_dsm(pred, ref).report["shift_m"][:2], -np.array(shift), atol=0.08)


def test_shifts_between_different_grids_are_recovered():
    """A coarser and a finer grid, not aligned with that of the reference."""
    for cell_m in (0.35, 1.0):
        pred = make_dsm((1.3, -0.7, 2.0), cell_m=cell_m, origin=(3.21, 4.57), size_m=150.0)
        report = compare_dsm(pred, make_dsm()).report
        np.testing.assert_allclose(report["shift_m"], (-1.3, 0.7, -2.0), atol=0.05)
        assert report["resolution_m"] == 0.5


@pytest.mark.parametrize("crs", ["EPSG:32638", "EPSG:4326"])
def test_shifts_between_different_crs_are_recovered(crs):
    """The prediction in a neighboring UTM zone (its grid is rotated by degrees) and in geographic coordinates."""
    ref = make_dsm()
    forward, back = (Transformer.from_crs(*pair, always_xy=True) for pair in ((UTM, crs), (crs, UTM)))
    x, y = forward.transform([WEST, WEST + SIZE_M, WEST, WEST + SIZE_M], [NORTH, NORTH, NORTH - SIZE_M, NORTH - SIZE_M])
    east, north = (1 / 90_000.0, 1 / 111_000.0) if crs == "EPSG:4326" else (1.0, 1.0)
    transform = Affine(0.4 * east, 0, min(x), 0, -0.4 * north, max(y))
    size = int((max(x) - min(x)) / 0.4 / east), int((max(y) - min(y)) / 0.4 / north)
    column, row = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    local_x, local_y = back.transform(transform.c + transform.a * column, transform.f + transform.e * row)
    surface = 3 * np.sin((local_x - WEST - 0.6) / 9) + 2 * np.cos((local_y - NORTH) / 7)
    centers = (np.arange(ref.bands.shape[1]) + 0.5) * 0.5
    truth = 3 * np.sin(centers[None, :] / 9) + 2 * np.cos(-centers[:, None] / 7)
    ref = Raster(truth[None], UTM, ref.transform)
    report = compare_dsm(Raster(surface[None], crs, transform), ref).report
    np.testing.assert_allclose(report["shift_m"], (-0.6, 0.0, 0.0), atol=0.05)
    assert report["registered"]["mae_m"] < 0.01 < report["unregistered"]["mae_m"]


def test_shifts_of_south_up_rasters_are_recovered():
    pred = make_dsm((1.2, -0.8, 0.0))
    rows = pred.bands.shape[1]
    flipped = Raster(pred.bands[:, ::-1], UTM, Affine(0.5, 0, WEST, 0, 0.5, NORTH - 0.5 * rows))
    np.testing.assert_allclose(compare_dsm(flipped, make_dsm()).report["shift_m"], (-1.2, 0.8, 0.0), atol=0.05)


def test_error_statistics_of_known_differences():
    d = np.array([0.5, -0.5, 0.5, 1.5, np.nan, -8.0])
    assert error_statistics(d) == {
        "mae_m": pytest.approx(2.2),
        "median_m": 0.5,
        "nmad_m": pytest.approx(1.4826 * 1.0),
        "rmse_m": pytest.approx(np.sqrt((3 * 0.25 + 2.25 + 64) / 5)),
        "within_1m": 0.6,
        "bias_m": 0.5,
    }


@pytest.mark.parametrize(("distance_m", "columns"), [(0.0, 2), (0.5, 4), (1.4, 6), (1.5, 8)])
def test_errors_near_edges(distance_m, columns):
    """A step of 2 m along column 20 of half-meter cells: only the cells within the distance on both sides count."""
    bands = np.zeros((1, 30, 40), np.float32)
    bands[:, :, 20:] = 2.0
    bands[:, :, 30:] += 1.4  # below the edge step
    bands[:, 5, 3] = np.nan  # NaN is not an edge
    ref = Raster(bands, UTM, Affine(0.5, 0, WEST, 0, -0.5, NORTH))
    difference = np.full((30, 40), 0.25)
    difference[:, 20 - columns // 2 : 20 + columns // 2] = -1.0
    difference[0, 19] = np.nan
    found = edge_error_statistics(difference, ref, distance_m)
    assert found == {"distance_m": distance_m, "mae_m": 1.0, "share": pytest.approx((columns * 30 - 1) / (1200 - 1))}


def test_without_edges_the_edge_error_is_none():
    flat = Raster(np.zeros((1, 30, 40), np.float32), UTM, Affine(0.5, 0, WEST, 0, -0.5, NORTH))
    assert edge_error_statistics(np.ones((30, 40)), flat, 1.5) == {"distance_m": 1.5, "mae_m": None, "share": 0.0}


def test_the_report_contains_edge_errors():
    report = compare_dsm(make_dsm(), make_dsm(), edge_distance_m=1.0).report
    edges = report["registered"]["edges"]
    assert edges["distance_m"] == 1.0 and 0.2 < edges["share"] < 0.6 and edges["mae_m"] < 0.02
    assert "edges" not in report["unregistered"]


def test_outliers_are_not_clipped():
    """One outlier of 100 m in a perfect surface counts in full, with and without registration."""
    ref = make_dsm()
    bands = ref.bands.copy()
    bands[0, 40, 50] += 100.0
    report = compare_dsm(Raster(bands, UTM, ref.transform), ref).report
    n = bands[0].size
    for state in ("unregistered", "registered"):
        assert report[state]["mae_m"] == pytest.approx(100 / n, rel=1e-3)
        assert report[state]["rmse_m"] == pytest.approx(np.sqrt(1e4 / n), rel=1e-3)
    assert report["shift_m"] == pytest.approx([0, 0, 0], abs=1e-3)


def test_nodata_cells_are_excluded():
    """Cells without data, as NaN or as a number, are not counted and do not affect their neighbors."""
    ref = make_dsm()
    for nodata in (np.nan, -9999.0):
        bands = ref.bands.copy()
        bands[0, :80] = nodata
        result = compare_dsm(Raster(bands, UTM, ref.transform, nodata), ref)
        assert result.report["completeness"] == pytest.approx(0.75)
        assert result.report["registered"]["rmse_m"] < 1e-3
        assert np.isnan(result.difference_m[:80]).all() and np.isfinite(result.difference_m[81:]).all()
    holes = ref.bands.copy()
    holes[0, :160] = np.nan
    assert compare_dsm(ref, Raster(holes, UTM, ref.transform)).report["completeness"] == 1.0


@pytest.mark.parametrize(
    ("raster", "error", "message"),
    [
        (Raster(np.ones((1, 9, 9)), None, Affine.identity()), CrsError, "coordinate reference system"),
        (Raster(np.full((1, 9, 9), -1.0), UTM, Affine.identity(), nodata=-1.0), RasterError, "no height at all"),
        (Raster(np.ones((1, 9, 9)), UTM, Affine(1, 0, 0, 0, -1, 0)), RasterError, "do not overlap"),
    ],
)
def test_unsuitable_rasters_are_rejected(raster, error, message):
    with pytest.raises(error, match=message) as caught:
        compare_dsm(raster, make_dsm(), ("a.tif", "b.tif"))
    assert str(caught.value).startswith("a.tif") and str(caught.value).count(". ") == 1
