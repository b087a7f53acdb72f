"""Synthetic views of a textured plane with a block, whose pixels are known in closed form."""

import cv2
import numpy as np

from skyfall_ns.geo.rpc import RPC

LON, LAT, METERS_PER_DEGREE = 30.0, 45.0, 6371008.8 * np.pi / 180
HEIGHT_M = 120.0


def linear_rpc(lean: tuple[float, float], pointing_px: tuple[float, float] = (0.0, 0.0)) -> RPC:
    """RPC of a view with 2 px per meter, north up, centered on (300, 300), and `lean` px per meter of height."""

    def make_numerator(along: int, sign: float, lean_px_per_m: float) -> tuple[float, ...]:
        coefficients = np.zeros(20)
        coefficients[along] = sign
        coefficients[3] = lean_px_per_m * 500.0 / 1000.0
        return tuple(coefficients)

    one = (1.0, *np.zeros(19))
    degrees = 500.0 / METERS_PER_DEGREE
    return RPC(
        line_off=300.0 + pointing_px[1],
        samp_off=300.0 + pointing_px[0],
        lat_off=LAT,
        long_off=LON,
        height_off=HEIGHT_M,
        line_scale=1000.0,
        samp_scale=1000.0,
        lat_scale=degrees,
        long_scale=degrees / np.cos(np.deg2rad(LAT)),
        height_scale=500.0,
        line_num_coeff=make_numerator(2, -1.0, lean[1]),
        line_den_coeff=one,
        samp_num_coeff=make_numerator(1, 1.0, lean[0]),
        samp_den_coeff=one,
    )


def make_texture(size: int, seed: int) -> np.ndarray:
    """Noise of two scales, uint8 "h w"."""
    noise = np.random.default_rng(seed).normal(size=(size, size)).astype(np.float32)
    image = cv2.GaussianBlur(noise, (0, 0), 1.2) * 3 + cv2.GaussianBlur(noise, (0, 0), 4.0) * 10
    return np.clip(128 + 45 * image, 0, 255).astype(np.uint8)


def render_view(ground: np.ndarray, lean: tuple[float, float], block_m: float) -> np.ndarray:
    """Render the texture as flat ground at HEIGHT_M with a block of height `block_m` at the center."""

    def shift_texture(height_m: float) -> np.ndarray:
        matrix = np.float32([[1, 0, lean[0] * height_m], [0, 1, lean[1] * height_m]])
        return cv2.warpAffine(ground, matrix, ground.shape, flags=cv2.INTER_CUBIC)

    image = shift_texture(0.0)
    raised = slice(220, 380)
    dc, dr = round(lean[0] * block_m), round(lean[1] * block_m)
    target = (slice(220 + dr, 380 + dr), slice(220 + dc, 380 + dc))
    image[target] = shift_texture(block_m)[target] if block_m else ground[raised, raised]
    return image
