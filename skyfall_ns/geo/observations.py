"""Tracks of tie points as a list of observations: cost grows with their number, not with tracks times images."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int
from numpy import ndarray
from scipy.sparse import csr_matrix

from skyfall_ns.geo.frame import unwrap_longitudes
from skyfall_ns.geo.rpc import RPC


@dataclass(frozen=True)
class Observations:
    """m observed pixels (col, row), each with the index of its track and the index of its image."""

    track_count: int
    image_count: int
    track_index: Int[ndarray, " m"]
    image_index: Int[ndarray, " m"]
    colrow: Float64[ndarray, "m 2"]

    @classmethod
    def from_tracks(cls, tracks: Float64[ndarray, "n k 2"]) -> "Observations":
        """All observations of an array of tracks that is NaN where a track has none."""
        track_index, image_index = np.nonzero(np.isfinite(tracks[..., 0]))
        track_count, image_count = tracks.shape[:2]
        return cls(track_count, image_count, track_index, image_index, tracks[track_index, image_index])

    @cached_property
    def _rows_by_image(self) -> list[Int[ndarray, " r"]]:
        """Indices of the observations of each image."""
        return [np.flatnonzero(self.image_index == k) for k in range(self.image_count)]

    @cached_property
    def _track_matrix(self) -> csr_matrix:
        """Incidence matrix "n m": 1 where an observation belongs to a track."""
        count = len(self.track_index)
        return csr_matrix((np.ones(count), (self.track_index, np.arange(count))), (self.track_count, count))

    def project(self, rpcs: Sequence[RPC], points: Float64[ndarray, "n 3"]) -> Float64[ndarray, "m 2"]:
        """Predicted pixel of each observation, given the tracks' points (lon, lat, height)."""
        pixels = np.empty_like(self.colrow)
        for rpc, rows in zip(rpcs, self._rows_by_image, strict=True):
            pixels[rows] = rpc.project(points[self.track_index[rows]])
        return pixels

    def localize(self, rpcs: Sequence[RPC], height_m: float) -> Float64[ndarray, "m 3"]:
        """Point (lon, lat, height) at which the line of sight of each observation reaches a height.

        Longitudes are within 180 degrees of that of the first image, so that they can be averaged."""
        points = np.empty((len(self.colrow), 3))
        for rpc, rows in zip(rpcs, self._rows_by_image, strict=True):
            points[rows] = unwrap_longitudes(rpc.localize(self.colrow[rows], height_m), rpcs[0].long_off)
        return points

    def count_by_track(self) -> Int[ndarray, " n"]:
        """Number of observations of each track."""
        return np.bincount(self.track_index, minlength=self.track_count)

    def sum_by_track(self, values: Float64[ndarray, "m *d"]) -> Float64[ndarray, "n *d"]:
        """Sums over the observations of each track."""
        return (self._track_matrix @ values.reshape(len(values), -1)).reshape(self.track_count, *values.shape[1:])

    def sum_by_image(self, values: Float64[ndarray, "m 2"]) -> Float64[ndarray, "k 2"]:
        """Sums over the observations of each image."""
        return np.stack([np.bincount(self.image_index, values[:, axis], self.image_count) for axis in (0, 1)], axis=1)

    def image_track_matrix(self, values: Float64[ndarray, "m 2 3"]) -> csr_matrix:
        """Sparse matrix "2k 3n": each observation's values, at the rows of its image's offsets and the columns of its
        track's coordinates."""
        row = 2 * self.image_index[:, None, None] + np.arange(2)[:, None]
        column = 3 * self.track_index[:, None, None] + np.arange(3)
        indices = [index.ravel() for index in np.broadcast_arrays(row, column)]
        return csr_matrix((values.ravel(), indices), (2 * self.image_count, 3 * self.track_count))
