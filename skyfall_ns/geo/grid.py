"""North-up grids in local meters."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from affine import Affine
from jaxtyping import Float64
from numpy import ndarray


@dataclass(frozen=True)
class Grid:
    """North-up cells in local meters: centers at x_min + (col + 0.5) r and y_max - (row + 0.5) r."""

    x_min_m: float
    y_max_m: float
    resolution_m: float
    width: int
    height: int

    @classmethod
    def covering_box(cls, box_m: ndarray, resolution_m: float) -> "Grid":
        """The smallest grid with edges at multiples of the resolution that covers a box ([2, 2 or 3], min and max)."""
        low, high = np.asarray(box_m, np.float64)[:, :2]
        first = np.floor(low / resolution_m + 1e-9).astype(int)
        last = np.ceil(high / resolution_m - 1e-9).astype(int)
        width, height = (int(v) for v in np.maximum(last - first, 1))
        return cls(float(first[0] * resolution_m), float(last[1] * resolution_m), resolution_m, width, height)

    def x_m(self) -> Float64[ndarray, " w"]:
        """x of the columns' centers."""
        return self.x_min_m + (np.arange(self.width) + 0.5) * self.resolution_m

    def y_m(self) -> Float64[ndarray, " h"]:
        """y of the rows' centers."""
        return self.y_max_m - (np.arange(self.height) + 0.5) * self.resolution_m

    def locate(self, x_m: Float64[ndarray, "*n"], y_m: Float64[ndarray, "*n"]) -> tuple[ndarray, ndarray]:
        """Row and column (fractions of cells; 0 is the center of the first one) of local positions."""
        return (self.y_max_m - y_m) / self.resolution_m - 0.5, (x_m - self.x_min_m) / self.resolution_m - 0.5

    def crop_cells(self, window: tuple[slice, slice]) -> "Grid":
        """The grid of a window (rows, columns) of cells."""
        rows, columns = window
        west, north = self.x_min_m + columns.start * self.resolution_m, self.y_max_m - rows.start * self.resolution_m
        size = columns.stop - columns.start, rows.stop - rows.start
        return Grid(west, north, self.resolution_m, *size)

    def affine_transform(self, origin: Sequence[float] = (0.0, 0.0)) -> Affine:
        """Transform from pixel corners (col, row) to coordinates of a CRS in which the local origin is `origin`."""
        west, north = origin[0] + self.x_min_m, origin[1] + self.y_max_m
        return Affine(self.resolution_m, 0.0, west, 0.0, -self.resolution_m, north)
