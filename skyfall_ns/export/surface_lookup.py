"""Samples of the scene's dense surface at the cells of an exported DSM, in any CRS and cell size."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from skyfall_ns.scene.height_grid import SurfaceLayers


@dataclass(frozen=True)
class SurfaceSamples:
    """The surface at given positions: source (0 unknown, 1 matched, 2 filled; 0 outside) and height (local meters) of
    the nearest cell, and sigma interpolated between the four cells around (meters). NaN: unknown."""

    source: UInt8[ndarray, "*n"]
    height_m: Float[ndarray, "*n"]
    sigma_m: Float[ndarray, "*n"]


def sample_surface(surface: SurfaceLayers, x_m: Float[ndarray, "*n"], y_m: Float[ndarray, "*n"]) -> SurfaceSamples:
    """Sample the surface at local positions: source and height of the nearest cell, and sigma bilinearly between the
    cells that have one; NaN where the nearest cell has no sigma."""
    row, column = surface.grid.locate(x_m, y_m)
    nearest = np.rint(row), np.rint(column)
    source, height = _cell_values(surface.source, *nearest, 0), _cell_values(surface.height_m, *nearest, np.nan)
    total, weights = np.zeros(row.shape), np.zeros(row.shape)
    for r in (np.floor(row), np.floor(row) + 1):
        for c in (np.floor(column), np.floor(column) + 1):
            sigma = _cell_values(surface.sigma_m, r, c, np.nan)
            weight = np.where(np.isfinite(sigma), (1 - np.abs(row - r)) * (1 - np.abs(column - c)), 0.0)
            total, weights = total + weight * np.nan_to_num(sigma), weights + weight
    known = np.isfinite(_cell_values(surface.sigma_m, *nearest, np.nan))
    sigma = np.divide(total, weights, out=np.full(row.shape, np.nan), where=known)
    return SurfaceSamples(source, height, sigma)


def _cell_values(layer: ndarray, row: ndarray, column: ndarray, outside: float) -> ndarray:
    """Values of a layer at integer rows and columns; `outside` beyond the grid."""
    inside = (row >= 0) & (row < layer.shape[0]) & (column >= 0) & (column < layer.shape[1])
    indices = np.where(inside, row, 0).astype(int), np.where(inside, column, 0).astype(int)
    return np.where(inside, layer[indices], np.asarray(outside, layer.dtype))
