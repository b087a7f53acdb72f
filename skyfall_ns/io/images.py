"""Pictures for people: hillshades, maps of differences and confidence, tie residuals."""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

NODATA_BGR = (60, 60, 60)
SOURCE_BGR = (NODATA_BGR, (110, 170, 70), (60, 170, 240))  # unknown, matched, filled
SIGMA_LIMIT_M = 5.0  # of the brightest color


def write_png(path: Path, image: ndarray) -> None:
    """Write 8-bit gray "h w" or blue-green-red "h w 3"."""
    done, data = cv2.imencode(".png", image)
    assert done
    path.write_bytes(data.tobytes())


def hillshade(height_m: Float[ndarray, "h w"], cell_m: float) -> UInt8[ndarray, "h w 3"]:
    """Heights coloured from low to high, lit from the north-west; nodata gray."""
    known = np.isfinite(height_m)
    if not known.any():
        return np.full((*height_m.shape, 3), NODATA_BGR, np.uint8)
    filled = np.where(known, height_m, np.nanmedian(height_m)).astype(np.float64)
    dy, dx = np.gradient(filled, cell_m)
    normal = np.stack([-dx, dy, np.full_like(dx, 1.0)], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    light = np.array([-0.5, 0.5, 0.7]) / np.linalg.norm([0.5, 0.5, 0.7])
    shade = np.clip(0.25 + 0.85 * (normal @ light), 0, 1)
    low, high = np.percentile(filled[known], [0.5, 99.5])
    level = np.clip((filled - low) / max(high - low, 1e-6), 0, 1)
    color = cv2.applyColorMap(np.round(255 * level).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    picture = np.round(color * (0.35 + 0.65 * shade[..., None])).astype(np.uint8)
    picture[~known] = NODATA_BGR
    return picture


def difference_map(difference_m: Float[ndarray, "h w"], limit_m: float = 3.0) -> UInt8[ndarray, "h w 3"]:
    """Blue where too low, white where right, red where too high, full colour at `limit_m`; nodata gray."""
    known = np.isfinite(difference_m)
    share = np.clip(np.nan_to_num(difference_m) / limit_m, -1, 1)[..., None]
    white, red, blue = (np.array(c, np.float64) for c in ((255, 255, 255), (40, 40, 200), (200, 80, 30)))
    picture = np.where(share > 0, white + share * (red - white), white - share * (blue - white))
    picture = np.round(picture).astype(np.uint8)
    picture[~known] = NODATA_BGR
    return picture


def share_map(values: Float[ndarray, "h w"]) -> UInt8[ndarray, "h w 3"]:
    """Values in 0..1 from dark to bright."""
    scaled = np.round(255 * np.clip(np.nan_to_num(values), 0, 1)).astype(np.uint8)
    return cv2.applyColorMap(scaled, cv2.COLORMAP_MAGMA)


def source_map(source: UInt8[ndarray, "h w"]) -> UInt8[ndarray, "h w 3"]:
    """Matched cells green, filled ones orange, unknown ones gray."""
    return np.array(SOURCE_BGR, np.uint8)[source]


def sigma_map(sigma_m: Float[ndarray, "h w"]) -> UInt8[ndarray, "h w 3"]:
    """Standard deviations on a logarithmic scale, dark at 5 cm and bright at `SIGMA_LIMIT_M`; nodata gray."""
    known = np.isfinite(sigma_m)
    share = np.log(np.where(known, sigma_m, 1.0).clip(0.05, SIGMA_LIMIT_M) / 0.05) / np.log(SIGMA_LIMIT_M / 0.05)
    picture = share_map(share)
    picture[~known] = NODATA_BGR
    return picture


def preview(values: Float[ndarray, "h w b"]) -> UInt8[ndarray, "h w *c"]:
    """Toned values in 0..1, one or three bands (red first), as an 8-bit picture for `write_png`."""
    return np.round(255 * np.clip(np.nan_to_num(values), 0, 1)).astype(np.uint8)[..., ::-1]
