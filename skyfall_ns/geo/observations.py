"""Tracks of tie points as a list of pixels: work grows with what is seen, not with tracks times images."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int
from numpy import ndarray
from scipy.sparse import csr_matrix

from skyfall_ns.geo.rpc import RPC


@dataclass(frozen=True)
class Observations:
    """m pixels (col, row), each of one of `tracks` tracks in one of `images` images."""

    tracks: int
    images: int
    track: Int[ndarray, " m"]
    image: Int[ndarray, " m"]
    colrow: Float64[ndarray, "m 2"]

    @classmethod
    def of(cls, observations: Float64[ndarray, "n k 2"]) -> "Observations":
        """The rows of tracks with NaN where they are not seen."""
        track, image = np.nonzero(np.isfinite(observations[..., 0]))
        tracks, images = observations.shape[:2]
        return cls(tracks, images, track, image, observations[track, image])

    @cached_property
    def _rows(self) -> list[Int[ndarray, " r"]]:
        """The rows of each image."""
        return [np.flatnonzero(self.image == k) for k in range(self.images)]

    @cached_property
    def _of_track(self) -> csr_matrix:
        """One where a row (of m) belongs to a track (of n)."""
        count = len(self.track)
        return csr_matrix((np.ones(count), (self.track, np.arange(count))), (self.tracks, count))

    def project(self, rpcs: Sequence[RPC], points: Float64[ndarray, "n 3"]) -> Float64[ndarray, "m 2"]:
        """Pixels of the tracks' points (lon, lat, height) in each row's image."""
        pixels = np.empty_like(self.colrow)
        for rpc, rows in zip(rpcs, self._rows, strict=True):
            pixels[rows] = rpc.project(points[self.track[rows]])
        return pixels

    def localize(self, rpcs: Sequence[RPC], height_m: float) -> Float64[ndarray, "m 3"]:
        """Points (lon, lat, height) in which each row's line of sight meets a height."""
        places = np.empty((len(self.colrow), 3))
        for rpc, rows in zip(rpcs, self._rows, strict=True):
            places[rows] = rpc.localize(self.colrow[rows], height_m)
        return places

    def sum_tracks(self, values: Float64[ndarray, "m *d"]) -> Float64[ndarray, "n *d"]:
        """Sums over the rows of each track."""
        return (self._of_track @ values.reshape(len(values), -1)).reshape(self.tracks, *values.shape[1:])

    def sum_images(self, values: Float64[ndarray, "m 2"]) -> Float64[ndarray, "k 2"]:
        """Sums over the rows of each image."""
        return np.stack([np.bincount(self.image, values[:, axis], self.images) for axis in (0, 1)], axis=1)

    def image_by_track(self, values: Float64[ndarray, "m 2 3"]) -> csr_matrix:
        """A sparse matrix "2k 3n": each row's values where its image's shifts meet its track's coordinates."""
        row = 2 * self.image[:, None, None] + np.arange(2)[:, None]
        column = 3 * self.track[:, None, None] + np.arange(3)
        place = [index.ravel() for index in np.broadcast_arrays(row, column)]
        return csr_matrix((values.ravel(), place), (2 * self.images, 3 * self.tracks))
