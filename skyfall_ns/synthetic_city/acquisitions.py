"""When and from where satellites see the city, and what their air, their pointing and their clouds are."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
from numpy import ndarray

POINTING_PX = 4.0  # standard deviation of a vendor's pointing error
LOST_PX = 35.0  # pointing error of one image of a difficult city, as in JAX_068
FIRST_DAY, DAYS = datetime(2022, 2, 1, 10, 30), 700


@dataclass(frozen=True)
class Look:
    """One acquisition: where the satellite stood, when, and how clear the air was."""

    incidence_deg: float
    azimuth_deg: float
    moment: datetime
    gain: tuple[float, float, float]
    haze: tuple[float, float, float]
    pointing_px: tuple[float, float]
    cloud: float = 0.0  # opacity of a thin cloud over a part of the image
    cloud_masked: bool = False  # the vendor marks the cloud as nodata


def plan_looks(views: int, seed: int) -> list[Look]:
    """Directions spread around the zenith, dates over two years, late morning."""
    rng = np.random.default_rng([seed, 1])
    looks = []
    for number in range(views):
        azimuth = (360.0 * number / views * 2 + rng.uniform(-15, 15)) % 360
        moment = FIRST_DAY + timedelta(days=float(rng.integers(0, DAYS)), minutes=float(rng.integers(0, 60)))
        haze = rng.uniform(0.01, 0.05) * np.array([0.8, 1.0, 1.35])
        gain = rng.uniform(0.85, 1.15) * rng.uniform(0.97, 1.03, 3)
        pointing = rng.normal(0, POINTING_PX, 2)
        incidence = float(rng.uniform(6, 26))
        looks.append(Look(incidence, azimuth, moment, _triple(gain), _triple(haze), (pointing[0], pointing[1])))
    return looks


def plan_hard_looks(views: int, seed: int) -> list[Look]:
    """The same with dates in every season, thin clouds in two images, one of them masked, and one image 35 px off.

    Two views are a stereo pair of one pass, 17 to 25 degrees apart.
    """
    rng = np.random.default_rng([seed, 4])
    looks = plan_looks(views, seed)
    if views == 2:
        moment, azimuth = datetime(2022, 10, 12, 10, 40), rng.uniform(0, 360)
        ahead, behind = rng.uniform(9, 13), rng.uniform(8, 12)
        looks[0] = replace(looks[0], incidence_deg=ahead, azimuth_deg=azimuth, moment=moment)
        looks[1] = replace(
            looks[1], incidence_deg=behind, azimuth_deg=(azimuth + 180) % 360, moment=moment + timedelta(seconds=50)
        )
    else:
        days = DAYS * (rng.permutation(views) + rng.uniform(0.2, 0.8, views)) / views
        minutes = rng.uniform(0, 60, views)
        for k, look in enumerate(looks):
            moment = FIRST_DAY + timedelta(days=int(days[k]), minutes=float(minutes[k]))
            looks[k] = replace(look, moment=moment)
    lost, direction = 2 % views, rng.uniform(0, 2 * np.pi)
    pointing = (LOST_PX * float(np.cos(direction)), LOST_PX * float(np.sin(direction)))
    looks[lost] = replace(looks[lost], pointing_px=pointing)
    looks[0] = replace(looks[0], cloud=0.6, cloud_masked=True)
    looks[1] = replace(looks[1], cloud=0.45)
    return looks


def _triple(values: ndarray) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
