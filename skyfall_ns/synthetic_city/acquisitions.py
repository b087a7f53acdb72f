"""Acquisitions of the city: directions, dates, atmosphere, pointing errors and clouds."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
from numpy import ndarray

POINTING_PX = 4.0  # standard deviation of the pointing error (RPC bias)
LARGE_POINTING_ERROR_PX = 35.0  # of one image of a difficult city, as in JAX_068
FIRST_DAY, DAYS = datetime(2022, 2, 1, 10, 30), 700


@dataclass(frozen=True)
class Acquisition:
    """One acquisition: the satellite's direction, the time, the atmosphere, the pointing error and a cloud."""

    incidence_deg: float  # from the vertical
    azimuth_deg: float  # from the ground to the satellite, from true north
    time: datetime  # UTC
    gain: tuple[float, float, float]
    path_radiance: tuple[float, float, float]
    pointing_px: tuple[float, float]  # RPC bias
    cloud_opacity: float = 0.0  # of a thin cloud over a part of the image
    cloud_masked: bool = False  # whether the vendor marks the cloud as nodata


def plan_acquisitions(views: int, seed: int) -> list[Acquisition]:
    """Plan directions spread around the zenith, at late mornings over two years."""
    rng = np.random.default_rng([seed, 1])
    acquisitions = []
    for number in range(views):
        azimuth = (360.0 * number / views * 2 + rng.uniform(-15, 15)) % 360
        moment = FIRST_DAY + timedelta(days=float(rng.integers(0, DAYS)), minutes=float(rng.integers(0, 60)))
        path_radiance = rng.uniform(0.01, 0.05) * np.array([0.8, 1.0, 1.35])
        gain = rng.uniform(0.85, 1.15) * rng.uniform(0.97, 1.03, 3)
        pointing = rng.normal(0, POINTING_PX, 2)
        incidence = float(rng.uniform(6, 26))
        bands = _float_triple(gain), _float_triple(path_radiance)
        acquisitions.append(Acquisition(incidence, azimuth, moment, *bands, (pointing[0], pointing[1])))
    return acquisitions


def plan_hard_acquisitions(views: int, seed: int) -> list[Acquisition]:
    """Plan dates in every season, thin clouds in two images, one of them masked, and one image with a large RPC bias.

    Two views are a stereo pair of one pass, 17 to 25 degrees apart.
    """
    rng = np.random.default_rng([seed, 4])
    acquisitions = plan_acquisitions(views, seed)
    if views == 2:
        moment, azimuth = datetime(2022, 10, 12, 10, 40), rng.uniform(0, 360)
        ahead, behind = rng.uniform(9, 13), rng.uniform(8, 12)
        acquisitions[0] = replace(acquisitions[0], incidence_deg=ahead, azimuth_deg=azimuth, time=moment)
        acquisitions[1] = replace(
            acquisitions[1],
            incidence_deg=behind,
            azimuth_deg=(azimuth + 180) % 360,
            time=moment + timedelta(seconds=50),
        )
    else:
        days = DAYS * (rng.permutation(views) + rng.uniform(0.2, 0.8, views)) / views
        minutes = rng.uniform(0, 60, views)
        for k, acquisition in enumerate(acquisitions):
            moment = FIRST_DAY + timedelta(days=int(days[k]), minutes=float(minutes[k]))
            acquisitions[k] = replace(acquisition, time=moment)
    biased, direction = 2 % views, rng.uniform(0, 2 * np.pi)
    pointing = (LARGE_POINTING_ERROR_PX * float(np.cos(direction)), LARGE_POINTING_ERROR_PX * float(np.sin(direction)))
    acquisitions[biased] = replace(acquisitions[biased], pointing_px=pointing)
    acquisitions[0] = replace(acquisitions[0], cloud_opacity=0.6, cloud_masked=True)
    acquisitions[1] = replace(acquisitions[1], cloud_opacity=0.45)
    return acquisitions


def _float_triple(values: ndarray) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
