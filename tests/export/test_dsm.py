"""The exported DSM has the right heights in any projected CRS, and the documented GeoTIFF format."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from pyproj import Transformer

from skyfall_ns.errors import CrsError
from skyfall_ns.export.dsm import render_dsm
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.synthetic_city.pushbroom import Pushbroom, fit_rpc

PLACE = np.array([1.4437, 43.6045, 190.0])
BOX = np.array([[-101.3, -80.7, -5.0], [99.1, 120.2, 40.0]])


def surface_height_m(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Height in local meters; smooth, so that resampling errors are small."""
    return 8.0 + 0.05 * x - 0.03 * y + 4.0 * np.sin(x / 25.0) * np.cos(y / 30.0)


class KnownSurfaceRenderer:
    """Renders a known surface, with a hole southwest of (-50, -30)."""

    def render_heights(self, grid):
        x = grid.x_min_m + (np.arange(grid.width) + 0.5) * grid.resolution_m
        y = grid.y_max_m - (np.arange(grid.height)[:, None] + 0.5) * grid.resolution_m
        hole = (x < -50) & (y < -30)
        return np.where(hole, np.nan, surface_height_m(x, y)).astype(np.float32)


def read_cells(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(lon, lat, ellipsoidal height) of all cells with a height, read without this package, and the nodata mask."""
    with rasterio.open(path) as file:
        band = file.read(1, masked=True)
        rows, columns = np.nonzero(~np.ma.getmaskarray(band))
        x, y = rasterio.transform.xy(file.transform, rows, columns)
        lon, lat = Transformer.from_crs(file.crs, "EPSG:4326", always_xy=True).transform(x, y)
        return np.stack([lon, lat, band.data[rows, columns].astype(float)], -1), np.ma.getmaskarray(band)


@pytest.mark.parametrize("frame_crs", [None, "topocentric"])
@pytest.mark.parametrize("crs", [None, "EPSG:32631", "EPSG:32630", "EPSG:2154"])
def test_every_cell_is_on_the_surface(frame_crs, crs, tmp_path):
    frame = LocalFrame.at_point(PLACE, frame_crs)
    render_dsm(KnownSurfaceRenderer(), frame, BOX, 0.5, crs).write_heights(tmp_path / "dsm.tif")
    lonlath, nodata = read_cells(tmp_path / "dsm.tif")
    local = frame.from_geodetic(lonlath)
    error = local[:, 2] - surface_height_m(local[:, 0], local[:, 1])
    assert np.abs(error).max() < 0.01
    assert not ((local[:, 0] < -50.3) & (local[:, 1] < -30.3)).any()
    for side in (0, 1):  # covers the box but for a cell at the edges
        assert local[:, side].min() < BOX[0, side] + 1.0 and local[:, side].max() > BOX[1, side] - 1.0
    expected_count = (1 - 50 * 50 / (200 * 200)) * 400 * 400
    assert (~nodata).sum() == pytest.approx(expected_count, rel=0.03)


def test_format_and_tags_of_the_file(tmp_path):
    frame = LocalFrame.at_point(PLACE)
    render_dsm(KnownSurfaceRenderer(), frame, BOX, 0.25).write_heights(tmp_path / "dsm.tif")
    with rasterio.open(tmp_path / "dsm.tif") as file:
        assert file.crs.to_epsg() == 32631
        assert file.dtypes == ("float32",) and file.nodata == -9999.0
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.block_shapes[0] == (512, 512) and file.overviews(1)
        assert "ellipsoidal" in file.tags()["HEIGHTS"]
        assert file.res == (0.25, 0.25) and file.transform.e < 0
        assert (file.bounds.left / 0.25).is_integer() and (file.bounds.top / 0.25).is_integer()
    assert [p.name for p in tmp_path.iterdir()] == ["dsm.tif"]


def test_a_gaussian_is_exported_at_its_position(tmp_path):
    """A small opaque disc at a known point: the DSM's cells project through an RPC to the pixel of that point."""
    torch = pytest.importorskip("torch")
    from skyfall_ns.models.rasterizers import Gaussians
    from skyfall_ns.models.renderer import Renderer

    frame = LocalFrame.at_point(PLACE)
    known = frame.to_geodetic(np.array([37.4, -22.9, 17.3]))
    normalized = SimpleNamespace(scale=0.01, center_m=(-1.1, 19.75, 0.0))
    mean = (frame.from_geodetic(known) - normalized.center_m) * normalized.scale
    gaussian = Gaussians(
        torch.tensor(mean[None], dtype=torch.float32),
        torch.tensor([[1.0, 0, 0, 0]]),
        torch.tensor([[0.02, 0.02, 0.0005]]),
        torch.tensor([0.99]),
    )
    renderer = SimpleNamespace(normalized=normalized, gaussians=lambda: gaussian)
    renderer.render_heights = partial(Renderer.render_heights, renderer)
    render_dsm(renderer, frame, BOX, 0.2).write_heights(tmp_path / "dsm.tif")
    lonlath, _ = read_cells(tmp_path / "dsm.tif")
    assert 60 < len(lonlath) < 600
    np.testing.assert_allclose(lonlath[:, 2], known[2], atol=0.02)
    satellite = Pushbroom(LocalFrame.at_point(PLACE, "topocentric"), incidence_deg=22.0, azimuth_deg=130.0)
    rpc, residual_px = fit_rpc(satellite, PLACE)
    rpc = rpc.with_offset(3.7, -5.2).for_crop(-300, -200)  # as by an adjustment and a crop
    assert residual_px < 0.05
    offset_px = rpc.project(lonlath.mean(0)) - rpc.project(known)
    assert np.abs(offset_px).max() < 0.1
    extent_px = np.abs(rpc.project(lonlath) - rpc.project(known)).max()
    assert extent_px < 2.5 / 0.5  # the disc's own radius


@pytest.mark.parametrize(
    ("crs", "words"),
    [
        ("EPSG:4326", "not a projected system"),
        ("EPSG:99999", "not a known"),
        ("EPSG:32631+5773", "ellipsoidal"),
    ],
)
def test_unsuitable_crs_are_refused(crs, words):
    with pytest.raises(CrsError, match=words) as raised:
        render_dsm(KnownSurfaceRenderer(), LocalFrame.at_point(PLACE), BOX, 0.5, crs)
    assert str(raised.value).count(". ") == 1
