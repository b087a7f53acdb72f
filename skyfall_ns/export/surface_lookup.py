"""What the scene's dense surface says at the cells of an exported DSM, whatever their CRS and size."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from skyfall_ns.dataparsers.skyfall_dataparser import ModelSurface


@dataclass(frozen=True)
class SurfaceSamples:
    """The surface at given places: source of the nearest cell (0 unknown, 1 matched, 2 filled; 0 outside), sigma
    between the four cells around (meters), and the range of their heights (local meters). NaN: unknown."""

    source: UInt8[ndarray, "*n"]
    sigma_m: Float[ndarray, "*n"]
    lowest_m: Float[ndarray, "*n"]
    highest_m: Float[ndarray, "*n"]


def sample_surface(surface: ModelSurface, x_m: Float[ndarray, "*n"], y_m: Float[ndarray, "*n"]) -> SurfaceSamples:
    """Look up local positions: the source of the nearest cell, and sigma bilinearly between cells that have one. Where
    the nearest cell has none, there is none."""
    column = (x_m - surface.x_min_m) / surface.resolution_m - 0.5
    row = (surface.y_max_m - y_m) / surface.resolution_m - 0.5
    source = _cells(surface.source, np.rint(row), np.rint(column), 0)
    sigma_of_nearest = _cells(surface.sigma_m, np.rint(row), np.rint(column), np.nan)
    lowest, highest = np.full(row.shape, np.inf), np.full(row.shape, -np.inf)
    total, weights = np.zeros(row.shape), np.zeros(row.shape)
    for r in (np.floor(row), np.floor(row) + 1):
        for c in (np.floor(column), np.floor(column) + 1):
            height = _cells(surface.height_m, r, c, np.nan)
            lowest, highest = np.fmin(lowest, height), np.fmax(highest, height)
            sigma = _cells(surface.sigma_m, r, c, np.nan)
            weight = np.where(np.isfinite(sigma), (1 - np.abs(row - r)) * (1 - np.abs(column - c)), 0.0)
            total, weights = total + weight * np.nan_to_num(sigma), weights + weight
    known = np.isfinite(sigma_of_nearest)
    sigma = np.divide(total, weights, out=np.full(row.shape, np.nan), where=known)
    found = lowest <= highest
    return SurfaceSamples(source, sigma, np.where(found, lowest, np.nan), np.where(found, highest, np.nan))


def _cells(layer: ndarray, row: ndarray, column: ndarray, outside: float) -> ndarray:
    """Cells at whole rows and columns; `outside` beyond the grid."""
    inside = (row >= 0) & (row < layer.shape[0]) & (column >= 0) & (column < layer.shape[1])
    at = np.where(inside, row, 0).astype(int), np.where(inside, column, 0).astype(int)
    return np.where(inside, layer[at], np.asarray(outside, layer.dtype))
