"""Images prepared for matching: gray and hues, smoothed to the cell size of a sweep."""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from skyfall_ns.geo.cameras import AffineCamera

GAMMA = 2.2  # of the images: hues are computed from linear light
PATH_RADIANCE_PERCENTILE = 0.3  # percent: the darkest light of an image is path radiance (dark-object subtraction)
BLANK_DEVIATION, BLANK_PX = 1.0, 5  # windows whose gray (0..255) deviates by less have no texture
HUE_FLOOR = 0.05  # added to the sum of three bands of linear light: the hue of darker pixels is noise


class MatchingImages:
    """Cameras and their images, prepared for every cell size of the sweeps."""

    def __init__(self, images, cameras: Sequence[AffineCamera], cell_sizes_m: Iterable[float]) -> None:
        self.cameras = cameras
        self._images = {
            size_m: [normalize_image(image, camera, size_m) for image, camera in zip(images, cameras, strict=True)]
            for size_m in set(cell_sizes_m)
        }
        self._textured = {size_m: [texture_mask(image) for image in images] for size_m, images in self._images.items()}

    def images_for(self, cell_m: float) -> list[Float32[ndarray, "h w k"]]:
        """The prepared images for a cell size, "h w 1" (gray) or "h w 3" (gray and two hues)."""
        return self._images[cell_m]

    def texture_masks_for(self, cell_m: float) -> list[Float32[ndarray, "h w"]]:
        """The texture masks of the images for a cell size (see `texture_mask`)."""
        return self._textured[cell_m]


def normalize_image(
    image: Float32[ndarray, "h w *b"], camera: AffineCamera, resolution_m: float
) -> Float32[ndarray, "h w k"]:
    """Scale gray to about 0..255, append two hues to color images, and smooth if the grid is coarser than the pixels.

    Unusable pixels stay NaN.
    """
    bands = np.asarray(image, np.float32).reshape(*image.shape[:2], -1)
    valid = np.all(np.isfinite(bands), axis=-1)
    cell_px = resolution_m / camera.gsd_m()
    if cell_px > 1.5:
        weight = cv2.GaussianBlur(valid.astype(np.float32), (0, 0), 0.5 * cell_px)
        smooth = cv2.GaussianBlur(np.where(valid[..., None], bands, 0), (0, 0), 0.5 * cell_px).reshape(bands.shape)
        bands = smooth / np.maximum(weight, 1e-6)[..., None]
    gray = bands.mean(-1)
    low, high = np.percentile(gray[valid][:: max(1, valid.sum() // 1_000_000)], [0.5, 99.5])
    channels = [(gray - np.float32(low)) * np.float32(255.0 / max(high - low, 1e-6))]
    if bands.shape[2] == 3:
        channels += hue_layers(np.where(valid[..., None], bands, 0), valid)
    return np.where(valid[..., None], np.stack(channels, -1), np.nan).astype(np.float32)


def texture_mask(image: Float32[ndarray, "h w k"]) -> Float32[ndarray, "h w"]:
    """1 where a prepared image has texture around a pixel, 0 where it is blank, NaN where it is unusable."""
    gray, size = np.nan_to_num(image[..., 0]), (BLANK_PX, BLANK_PX)
    variance = cv2.blur(gray * gray, size) - cv2.blur(gray, size) ** 2
    return np.where(np.isfinite(image[..., 0]), variance >= BLANK_DEVIATION**2, np.nan).astype(np.float32)


def hue_layers(bands: Float32[ndarray, "h w 3"], valid) -> list[Float32[ndarray, "h w"]]:
    """Fractions of red and blue in the light above the path radiance, which are the same in sun and in shadow."""
    light = np.clip(bands, 0, None) ** np.float32(GAMMA)
    path_radiance = np.percentile(light[valid], PATH_RADIANCE_PERCENTILE, axis=0).astype(np.float32)
    light = np.clip(light - path_radiance, 0, None)
    total = light.sum(-1) + np.float32(HUE_FLOOR)
    return [light[..., k] / total for k in (0, 2)]
