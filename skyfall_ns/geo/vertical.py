"""Vertical datums of exported heights: the ellipsoid, or a geoid model if PROJ has its grid."""

import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from skyfall_ns.errors import CrsError
from skyfall_ns.geo.frame import GEODETIC

if TYPE_CHECKING:  # imported by command lines, which start without pyproj
    from pyproj import Transformer

VerticalDatum = Literal["ellipsoid", "EGM2008", "EGM96"]
_EPSG_HEIGHTS = {"EGM2008": 3855, "EGM96": 5773}


def compound_crs(horizontal: str, datum: VerticalDatum) -> str:
    """Name of a horizontal CRS with heights above a datum; that of the horizontal CRS for the ellipsoid."""
    return horizontal if datum == "ellipsoid" else f"{horizontal}+{_EPSG_HEIGHTS[datum]}"


def check_vertical(datum: VerticalDatum) -> None:
    """Raise CrsError, with the name of the grid, if PROJ cannot convert heights to the datum on this machine."""
    if datum != "ellipsoid":
        _geoid_transformer(datum)


def geoid_undulation_m(lonlath: ndarray, datum: VerticalDatum) -> Float64[ndarray, "*n"]:
    """Height of a datum above the ellipsoid at points (lon deg, lat deg, any height), meters.

    Raises CrsError if PROJ has no grid of the datum, or if the grid does not cover the points.
    """
    lonlath = np.asarray(lonlath, np.float64)
    if datum == "ellipsoid":
        return np.zeros(lonlath.shape[:-1])
    transformer = _geoid_transformer(datum)
    zero = np.zeros(lonlath.shape[:-1])
    undulation = -np.asarray(transformer.transform(lonlath[..., 0], lonlath[..., 1], zero)[2])
    if not np.isfinite(undulation).all():
        raise CrsError(f"The {datum} grid does not cover the scene. Install the global grid, or use the ellipsoid.")
    return undulation


@lru_cache(maxsize=4)
def _geoid_transformer(datum: VerticalDatum) -> "Transformer":
    """Transformer from (lon, lat, ellipsoidal height) to heights above a geoid."""
    from pyproj.transformer import TransformerGroup

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the missing grid is reported below
        group = TransformerGroup(GEODETIC, compound_crs("EPSG:4326", datum), always_xy=True)
    if not group.best_available:
        grids = [grid.short_name for operation in group.unavailable_operations for grid in operation.grids]
        raise CrsError(
            f"Heights above {datum} need the grid {grids[0] if grids else datum}, which PROJ does not find. Run "
            f"pyproj sync --file {grids[0] if grids else datum} with a network connection, or use --vertical ellipsoid."
        )
    return group.transformers[0]
