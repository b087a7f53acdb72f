"""Synthetic views of a textured plane with a block, whose pixels are known in closed form."""

import cv2
import numpy as np

from skyfall_ns.geo.rpc import RPC

LON, LAT, METRES_PER_DEGREE = 30.0, 45.0, 6371008.8 * np.pi / 180
HEIGHT_M = 120.0


def linear_rpc(lean: tuple[float, float], pointing_px: tuple[float, float] = (0.0, 0.0)) -> RPC:
    """A view of 2 px per metre, north up, centred on (300, 300); a point moves by `lean` px per metre of height."""

    def numerator(along: int, sign: float, lean_px_per_m: float) -> tuple[float, ...]:
        coefficients = np.zeros(20)
        coefficients[along] = sign
        coefficients[3] = lean_px_per_m * 500.0 / 1000.0
        return tuple(coefficients)

    one = (1.0, *np.zeros(19))
    degrees = 500.0 / METRES_PER_DEGREE
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
        line_num_coeff=numerator(2, -1.0, lean[1]),
        line_den_coeff=one,
        samp_num_coeff=numerator(1, 1.0, lean[0]),
        samp_den_coeff=one,
    )


def texture(size: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(size, size)).astype(np.float32)
    image = cv2.GaussianBlur(noise, (0, 0), 1.2) * 3 + cv2.GaussianBlur(noise, (0, 0), 4.0) * 10
    return np.clip(128 + 45 * image, 0, 255).astype(np.uint8)


def view(ground: np.ndarray, lean: tuple[float, float], block_m: float) -> np.ndarray:
    """The texture as a flat ground at HEIGHT_M, its middle raised by `block_m`."""

    def moved(height_m: float) -> np.ndarray:
        move = np.float32([[1, 0, lean[0] * height_m], [0, 1, lean[1] * height_m]])
        return cv2.warpAffine(ground, move, ground.shape, flags=cv2.INTER_CUBIC)

    image = moved(0.0)
    raised = slice(220, 380)
    dc, dr = round(lean[0] * block_m), round(lean[1] * block_m)
    target = (slice(220 + dr, 380 + dr), slice(220 + dc, 380 + dc))
    image[target] = moved(block_m)[target] if block_m else ground[raised, raised]
    return image
