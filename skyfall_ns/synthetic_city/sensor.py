"""From light to a delivered 8-bit image: saturation, noise, clouds, gamma encoding, JPEG artifacts, masks."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from scipy.ndimage import gaussian_filter

from skyfall_ns.synthetic_city.acquisitions import Acquisition

TOP = 2047  # 11 bits
OFFSET = 60.0  # digital number without light
WHITE = 0.72  # reflectance of level ground in the sun that saturates at a gain of 1
CLOUD_LIGHT = 0.95  # of the full well
GAMMA = 2.2
JPEG_QUALITY = 86


def full_well_light(sun_up: float, sky: float) -> float:
    """Light at saturation: exposures follow the sun's elevation (`sun_up` is its sine) and the ambient light `sky`."""
    return WHITE * (sun_up + sky)


def encode_display(
    light: ndarray, acquisition: Acquisition, well: float, rng: np.random.Generator
) -> UInt8[ndarray, "h w 3"]:
    """Encode light as gamma-encoded 8-bit RGB that was a JPEG; `well` is the light at saturation.

    255 is saturated, 0 is nodata."""
    cloud = acquisition.cloud_opacity * _cloud_shape(light.shape[:2], rng)[..., None]
    light = np.asarray(acquisition.gain) * (0.93 * light / well + np.asarray(acquisition.path_radiance))
    signal = ((1 - cloud) * light + cloud * CLOUD_LIGHT) * (TOP - OFFSET) + OFFSET
    noisy = signal + rng.normal(size=light.shape) * np.sqrt(4.0 + 0.02 * signal)
    dn = np.clip(np.round(noisy), 1, TOP)
    black = OFFSET + 0.9 * np.asarray(acquisition.gain) * acquisition.path_radiance * (
        TOP - OFFSET
    )  # dark object subtraction
    encoded = np.clip((dn - black) / (TOP - black), 0, 1) ** (1 / GAMMA)
    decoded = np.maximum(_through_jpeg(np.round(255 * encoded).astype(np.uint8)), 1)
    if acquisition.cloud_masked:
        decoded[_cloud_mask(cloud[..., 0])] = 0
    return decoded


def _cloud_shape(size: tuple[int, int], rng: np.random.Generator) -> Float[ndarray, "h w"]:
    """Thickness in 0..1 of one ragged cloud over about a tenth of an image of (height, width) `size`.

    It is at the lower left, because both of two views must show the tower, or its height could not be measured."""
    height, width = size
    along = rng.uniform(0.4 * np.pi, np.pi)
    column, row = (0.5 + 0.3 * np.cos(along)) * width, (0.5 + 0.3 * np.sin(along)) * height
    y, x = np.mgrid[:height, :width]
    distance = np.hypot((x - column) / (0.24 * width), (y - row) / (0.2 * height))
    octaves = [width / 8, width / 24, width / 60]
    rag = np.sum([gaussian_filter(rng.normal(size=size), s, mode="wrap") * s for s in octaves], axis=0)
    return np.clip(1.5 * (1.0 - distance + 0.25 * rag / rag.std()), 0, 1)


def _cloud_mask(opacity: Float[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """The vendor's mask of the cloud, wider than the cloud."""
    cloudy = (opacity > 0.06).astype(np.uint8)
    return cv2.dilate(cloudy, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))) > 0


def _through_jpeg(rgb: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "h w 3"]:
    """Encode as JPEG and decode."""
    _, data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].copy()
