"""Small vendor images with exact geometry: flat textured ground in parallel projection."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from scipy.ndimage import gaussian_filter

from skyfall_ns.geo.rpc import RPC

LON, LAT, GROUND_M = 33.0, 45.0, 120.0
HEIGHTS_M = (0.0, 200.0)  # height range of the RPCs
SIZE, ORIGIN_PX = 220, 110  # pixels per side, and the pixel of (LON, LAT) at 100 m
LEANS = ((0.35, 0.05), (-0.30, 0.20), (0.05, -0.35), (-0.15, -0.25))  # pixels per meter of height
METERS_PER_DEGREE = 6371008.8 * np.pi / 180


def vendor_rpc(lean: tuple[float, float]) -> RPC:
    """Two pixels per meter, north up: col = 2 east + lean (h - 100) + ORIGIN_PX, to within the globe's curvature."""
    column, row, one = np.zeros(20), np.zeros(20), (1.0, *np.zeros(19))
    column[[1, 3]] = 1.0, lean[0] / 10
    row[[2, 3]] = -1.0, lean[1] / 10
    degrees = 500.0 / METERS_PER_DEGREE
    return RPC(
        line_off=ORIGIN_PX, samp_off=ORIGIN_PX, lat_off=LAT, long_off=LON, height_off=100.0, line_scale=1000.0,
        samp_scale=1000.0, lat_scale=degrees, long_scale=degrees / np.cos(np.deg2rad(LAT)), height_scale=100.0,
        line_num_coeff=tuple(row), line_den_coeff=one, samp_num_coeff=tuple(column), samp_den_coeff=one,
    )  # fmt: skip


def make_texture(seed: int = 0) -> np.ndarray:
    """Digital numbers of the ground, two pixels per meter, uint16 "h w", SIZE plus 20 pixels on every side."""
    noise = np.random.default_rng(seed).normal(size=(SIZE + 40, SIZE + 40))
    blurred = [gaussian_filter(noise, sigma) for sigma in (1.0, 2.5, 6.0)]
    relief = sum(b / b.std() for b in blurred)
    return np.clip(900 + 150 * relief, 100, 1900).astype(np.uint16)


def render_ground(ground: np.ndarray, lean: tuple[float, float]) -> np.ndarray:
    """Render the ground at GROUND_M; `lean` times 20 m must be whole pixels."""
    offset_px = [round(v * (GROUND_M - 100)) for v in lean]
    assert np.allclose(offset_px, np.multiply(lean, GROUND_M - 100))
    return ground[20 - offset_px[1] :, 20 - offset_px[0] :][:SIZE, :SIZE]


def write_vendor_image(
    path: Path, dn: np.ndarray, rpc: RPC | None, crs: str | None = None, tags: dict | None = None
) -> Path:
    """Write a GeoTIFF of bands "b h w" (or "h w") as vendors do."""
    bands = dn[None] if dn.ndim == 2 else dn
    profile = {"driver": "GTiff", "count": len(bands), "height": bands.shape[1], "width": bands.shape[2]}
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", dtype=bands.dtype, crs=crs, **profile) as target:
            target.write(bands)
            target.update_tags(**(tags or {}))
            if rpc is not None:
                target.rpcs = rpc.to_rasterio()
    return path


def write_vendor_images(directory: Path, errors_px: Sequence[tuple[float, float]] = ((0, 0),) * 4) -> list[Path]:
    """Write one image per pointing error (view_1.tif and so on); each RPC is wrong by its error."""
    ground = make_texture()
    return [
        write_vendor_image(
            directory / f"view_{k + 1}.tif", render_ground(ground, lean), vendor_rpc(lean).with_offset(*error)
        )
        for k, (lean, error) in enumerate(zip(LEANS, errors_px, strict=False))
    ]
