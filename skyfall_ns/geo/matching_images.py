"""Images as matching compares them: gray and hues, smoothed to the size of the cells."""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from skyfall_ns.geo.cameras import AffineCamera

GAMMA = 2.2  # of pictures: hues are those of the light itself
HAZE_PERCENTILE = 0.3  # the darkest light of an image comes from the air (dark-object subtraction)
BLANK_DEVIATION, BLANK_PX = 1.0, 5  # windows whose gray (0..255) deviates by less have nothing to match
HUE_FLOOR = 0.05  # of the sum of three bands of light: the hue of darker pixels is noise


class MatchingImages:
    """The cameras, and their images prepared for every cell size that sweeps need."""

    def __init__(self, images, cameras: Sequence[AffineCamera], cell_sizes_m: Iterable[float]) -> None:
        self.cameras = cameras
        self._images = {
            s: [prepare_image(i, c, s) for i, c in zip(images, cameras, strict=True)] for s in set(cell_sizes_m)
        }

        self._textured = {s: [textured(image) for image in images] for s, images in self._images.items()}

    def at(self, cell_m: float) -> list[Float32[ndarray, "h w k"]]:
        """The images for cells of a size."""
        return self._images[cell_m]

    def textured(self, cell_m: float) -> list[Float32[ndarray, "h w"]]:
        """Where the images for cells of a size have something to match: 1, else 0; NaN where unusable."""
        return self._textured[cell_m]


def prepare_image(
    image: Float32[ndarray, "h w *b"], camera: AffineCamera, resolution_m: float
) -> Float32[ndarray, "h w k"]:
    """Gray scaled to about 0..255 and, of color images, two hues: smoothed where the grid is coarser than the pixels;
    unusable pixels stay NaN."""
    bands = np.asarray(image, np.float32).reshape(*image.shape[:2], -1)
    valid = np.isfinite(bands).all(-1)
    coarser = resolution_m / camera.gsd_m()
    if coarser > 1.5:
        weight = cv2.GaussianBlur(valid.astype(np.float32), (0, 0), 0.5 * coarser)
        smooth = cv2.GaussianBlur(np.where(valid[..., None], bands, 0), (0, 0), 0.5 * coarser).reshape(bands.shape)
        bands = smooth / np.maximum(weight, 1e-6)[..., None]
    gray = bands.mean(-1)
    low, high = np.percentile(gray[valid][:: max(1, valid.sum() // 1_000_000)], [0.5, 99.5])
    layers = [(gray - np.float32(low)) * np.float32(255.0 / max(high - low, 1e-6))]
    if bands.shape[2] == 3:
        layers += hues(np.where(valid[..., None], bands, 0), valid)
    return np.where(valid[..., None], np.stack(layers, -1), np.nan).astype(np.float32)


def textured(image: Float32[ndarray, "h w k"]) -> Float32[ndarray, "h w"]:
    """1 where the gray of a prepared image deviates around a pixel, 0 where it is blank, NaN where it is unusable."""
    gray, size = np.nan_to_num(image[..., 0]), (BLANK_PX, BLANK_PX)
    variance = cv2.blur(gray * gray, size) - cv2.blur(gray, size) ** 2
    return np.where(np.isfinite(image[..., 0]), variance >= BLANK_DEVIATION**2, np.nan).astype(np.float32)


def hues(bands: Float32[ndarray, "h w 3"], valid) -> list[Float32[ndarray, "h w"]]:
    """Shares of red and blue in the light above the haze: the same in sun and in shadow."""
    light = np.clip(bands, 0, None) ** np.float32(GAMMA)
    haze = np.percentile(light[valid], HAZE_PERCENTILE, axis=0).astype(np.float32)
    light = np.clip(light - haze, 0, None)
    total = light.sum(-1) + np.float32(HUE_FLOOR)
    return [light[..., k] / total for k in (0, 2)]
