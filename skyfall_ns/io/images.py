"""PNG files and visualizations: hillshades, maps of height differences, confidence, sources and uncertainty."""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from skyfall_ns.io.files import atomic_write

NODATA_BGR = (60, 60, 60)
SOURCE_BGR = (NODATA_BGR, (110, 170, 70), (60, 170, 240))  # unknown, matched, filled
SIGMA_LIMIT_M = 5.0  # of the brightest color


def encode_png(image: ndarray) -> bytes:
    """PNG of an 8 or 16-bit image, gray "h w" or blue-green-red "h w 3"."""
    encoded, data = cv2.imencode(".png", np.ascontiguousarray(image))
    assert encoded
    return data.tobytes()


def write_png(path: Path, image: ndarray) -> None:
    """Write an 8 or 16-bit image, gray "h w" or blue-green-red "h w 3", with `atomic_write`."""
    atomic_write(path, encode_png(image))


def render_hillshade(height_m: Float[ndarray, "h w"], cell_m: float) -> UInt8[ndarray, "h w 3"]:
    """Render heights as colors from low to high, lit from the north-west; NaN is gray."""
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
    image = np.round(color * (0.35 + 0.65 * shade[..., None])).astype(np.uint8)
    image[~known] = NODATA_BGR
    return image


def difference_map(difference_m: Float[ndarray, "h w"], limit_m: float = 3.0) -> UInt8[ndarray, "h w 3"]:
    """Height differences as colors: blue too low, white correct, red too high, saturated at `limit_m`; NaN is gray."""
    known = np.isfinite(difference_m)
    level = np.clip(np.nan_to_num(difference_m) / limit_m, -1, 1)[..., None]
    white, red, blue = (np.array(c, np.float64) for c in ((255, 255, 255), (40, 40, 200), (200, 80, 30)))
    image = np.where(level > 0, white + level * (red - white), white - level * (blue - white))
    image = np.round(image).astype(np.uint8)
    image[~known] = NODATA_BGR
    return image


def fraction_map(values: Float[ndarray, "h w"]) -> UInt8[ndarray, "h w 3"]:
    """Values in 0..1 as colors from dark to bright; NaN is 0."""
    scaled = np.round(255 * np.clip(np.nan_to_num(values), 0, 1)).astype(np.uint8)
    return cv2.applyColorMap(scaled, cv2.COLORMAP_MAGMA)


def source_map(source: UInt8[ndarray, "h w"]) -> UInt8[ndarray, "h w 3"]:
    """Sources of heights as colors: matched cells green, filled cells orange, unknown cells gray."""
    return np.array(SOURCE_BGR, np.uint8)[source]


def sigma_map(sigma_m: Float[ndarray, "h w"]) -> UInt8[ndarray, "h w 3"]:
    """Standard deviations on a logarithmic scale, dark at 5 cm and bright at `SIGMA_LIMIT_M`; NaN is gray."""
    known = np.isfinite(sigma_m)
    level = np.log(np.where(known, sigma_m, 1.0).clip(0.05, SIGMA_LIMIT_M) / 0.05) / np.log(SIGMA_LIMIT_M / 0.05)
    image = fraction_map(level)
    image[~known] = NODATA_BGR
    return image


def bgr_image(values: Float[ndarray, "h w b"]) -> UInt8[ndarray, "h w *c"]:
    """Tone-mapped values in 0..1, one or three bands (red first), as an 8-bit image for `write_png`; NaN is 0."""
    return np.round(255 * np.clip(np.nan_to_num(values), 0, 1)).astype(np.uint8)[..., ::-1]
