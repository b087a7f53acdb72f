"""Epipolar geometry of two RPCs: segments in one image that correspond to pixels of another."""

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from skyfall_ns.geo.rpc import RPC


def epipolar_segments(
    rpc_a: RPC, rpc_b: RPC, colrow_a: Float64[ndarray, "n 2"], height_range_m: tuple[float, float]
) -> Float64[ndarray, "n 2 2"]:
    """Epipolar segments in image b of pixels of image a: their ends (col, row) at the lowest and the highest height."""
    ends = [rpc_b.project(rpc_a.localize(colrow_a, np.full(len(colrow_a), h))) for h in height_range_m]
    return np.stack(ends, axis=1)


def epipolar_distances_px(
    segments: Float64[ndarray, "n 2 2"], colrow_b: Float64[ndarray, "n 2"]
) -> tuple[Float64[ndarray, " n"], Float64[ndarray, " n"]]:
    """Signed distances of pixels of image b across and along their epipolar segments, in pixels."""
    direction = segment_directions(segments)
    offset = colrow_b - segments[:, 0]
    across = direction[:, 0] * offset[:, 1] - direction[:, 1] * offset[:, 0]
    return across, (direction * offset).sum(axis=1)


def segment_directions(segments: Float64[ndarray, "n 2 2"]) -> Float64[ndarray, "n 2"]:
    """Unit directions of the segments; (1, 0) for segments of zero length (two views from the same direction)."""
    span = segments[:, 1] - segments[:, 0]
    length = np.linalg.norm(span, axis=1, keepdims=True)
    return np.where(length > 1e-6, span / np.maximum(length, 1e-6), (1.0, 0.0))
