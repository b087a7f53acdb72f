"""Bundle adjustment of satellite images: one RPC bias (a column and a row offset) per image.

Minimized over offsets s_k and ground points X: sum Huber(|observed - project_k(X) - s_k|) + |s_k|² / (10 px)².
Tie points do not determine a common translation of the ground. The weak prior on the offsets fixes it: of all solutions
with the same residuals, the one with the smallest offsets is chosen. `Adjustment.offsets_px` go to `RPC.with_offset`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray
from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]  # from a compiled module

from skyfall_ns.geo.epipolar import epipolar_distances_px
from skyfall_ns.geo.observations import Observations
from skyfall_ns.geo.rpc import RPC

OFFSET_PRIOR_PX = 10.0  # standard deviation of the prior on the offsets
HUBER_PX = 0.5
HEIGHT_PRIOR_M = 1e5  # keeps points of nearly parallel rays finite, far too weak to fix the common translation
POINT_DAMPING = np.diag([1e-9, 1e-9, 1 / HEIGHT_PRIOR_M**2])
REJECTION_FACTOR = 3.0  # tracks whose residual exceeds this many medians are rejected
NEIGHBOR_COUNT = 10
MAX_REJECTION_ROUNDS = 6
EARTH_RADIUS_M = 6371008.8


@dataclass(frozen=True)
class PairResidual:
    """Median distance in pixels of the matches of two images from their epipolar lines, before and after adjustment."""

    images: tuple[int, int]
    tracks: int
    median_px_before: float
    median_px_after: float


@dataclass(frozen=True)
class Adjustment:
    """Offset of each image (its RPC bias; column, row) and the ground points (lon, lat, height) of all tracks.

    `residuals_px` are the root mean square distances between a track's observations and its projected point;
    `inliers` mark the tracks that were kept. A pair's residual is the median distance of its kept matches from their
    epipolar lines; `median_px_before` and `median_px_after` are the medians over the pairs, so that the many tie points
    within a date do not hide the few between dates.
    """

    offsets_px: Float64[ndarray, "k 2"]
    lonlath: Float64[ndarray, "n 3"]
    inliers: Bool[ndarray, " n"]
    residuals_px: Float64[ndarray, " n"]
    median_px_before: float
    median_px_after: float
    pairs: tuple[PairResidual, ...]


def bundle_adjust(
    rpcs: Sequence[RPC], tracks: Float64[ndarray, "n k 2"], height_m: float, refine: bool = True
) -> Adjustment:
    """Estimate the offsets that make the tracks consistent, starting from points at the ellipsoidal `height_m`.

    `tracks` are (col, row) in each of k images, NaN where a track has no observation. `refine=False` keeps the RPCs
    unchanged: the offsets are zero, points are triangulated, and outliers are rejected as usual.
    """
    observations = Observations.from_tracks(tracks)
    start_points = (
        observations.sum_by_track(observations.localize(rpcs, height_m)) / observations.count_by_track()[:, None]
    )
    zero_offsets = np.zeros((len(rpcs), 2))
    points, offsets = _solve_adjustment(rpcs, observations, start_points, zero_offsets, free_offsets=refine)
    inliers = np.ones(len(tracks), bool)
    for _ in range(MAX_REJECTION_ROUNDS):
        residuals = _track_rms_px(rpcs, observations, points, offsets)
        kept = residuals <= REJECTION_FACTOR * max(float(np.median(residuals[inliers])), 1e-6)
        kept &= _height_inliers(rpcs, observations, points, kept)
        if np.array_equal(kept, inliers):
            break
        inliers = kept
        if refine:
            inlier_observations = Observations.from_tracks(tracks[inliers])
            points[inliers], offsets = _solve_adjustment(
                rpcs, inlier_observations, points[inliers], offsets, free_offsets=True
            )
            points, _ = _solve_adjustment(rpcs, observations, points, offsets, free_offsets=False)
    pairs = _pair_residuals(rpcs, tracks[inliers], offsets, points[inliers, 2])
    return Adjustment(
        offsets_px=offsets,
        lonlath=points,
        inliers=inliers,
        residuals_px=_track_rms_px(rpcs, observations, points, offsets),
        median_px_before=float(np.median([p.median_px_before for p in pairs])),
        median_px_after=float(np.median([p.median_px_after for p in pairs])),
        pairs=pairs,
    )


def _reprojection_residuals(rpcs, observations: Observations, points, offsets) -> Float64[ndarray, "m 2"]:
    """Observed minus predicted pixels."""
    return observations.colrow - observations.project(rpcs, points) - offsets[observations.image_index]


def _track_rms_px(rpcs, observations: Observations, points, offsets) -> Float64[ndarray, " n"]:
    """Root mean square reprojection error of each track, in pixels."""
    squares = (_reprojection_residuals(rpcs, observations, points, offsets) ** 2).sum(axis=1)
    return np.sqrt(observations.sum_by_track(squares) / observations.count_by_track())


def _height_inliers(rpcs, observations: Observations, points, candidates) -> Bool[ndarray, " n"]:
    """Mask of the tracks whose height agrees with that of at least two of their ten nearest neighbors.

    A false match along the epipolar line has no residual, only a wrong height. The tolerance is 10 m plus the height
    error that two pixels of matching error cause for the rays of the track.
    """
    if candidates.sum() <= NEIGHBOR_COUNT:
        return candidates
    jacobian = _projection_jacobians(rpcs, observations, points)
    normal = observations.sum_by_track(np.einsum("mai,maj->mij", jacobian, jacobian)) + POINT_DAMPING
    tolerance_m = 10.0 + 2.0 * np.sqrt(np.linalg.inv(normal)[:, 2, 2])
    ground_m = points[:, :2] / _degrees_per_meter(points)[:, :2]
    tree = cKDTree(ground_m[candidates])
    _, index = tree.query(ground_m, k=NEIGHBOR_COUNT + 1)
    difference = np.abs(points[candidates, 2][index] - points[:, 2, None])
    return (difference <= tolerance_m[:, None]).sum(axis=1) >= 3  # the track itself is one of them


def _degrees_per_meter(points) -> Float64[ndarray, "n 3"]:
    """Change of (lon deg, lat deg, height m) per meter to the east, to the north and up."""
    per_degree = np.deg2rad(1.0) * EARTH_RADIUS_M
    cosine = np.cos(np.deg2rad(points[:, 1]))
    return np.stack([1 / (per_degree * cosine), np.full(len(points), 1 / per_degree), np.ones(len(points))], axis=1)


def _projection_jacobians(rpcs, observations: Observations, points) -> Float64[ndarray, "m 2 3"]:
    """Pixels per meter to the east, to the north and up, by central differences over 20 m."""
    units = _degrees_per_meter(points) * 10.0
    columns = []
    for axis in range(3):
        delta = np.zeros_like(points)
        delta[:, axis] = units[:, axis]
        columns.append((observations.project(rpcs, points + delta) - observations.project(rpcs, points - delta)) / 20.0)
    return np.stack(columns, axis=-1)


def _solve_adjustment(rpcs, observations: Observations, points, offsets, free_offsets: bool, iterations: int = 8):
    """Points and offsets after robust Gauss-Newton steps. The points are eliminated (Schur complement), so that 2 k
    unknowns remain."""
    start_height = points[:, 2].copy()
    # Computed once: satellites are so far away that it changes by a thousandth over a kilometer.
    jacobian = _projection_jacobians(rpcs, observations, points)
    products = np.einsum("mai,maj->mij", jacobian, jacobian)
    for _ in range(iterations):
        residuals = _reprojection_residuals(rpcs, observations, points, offsets)
        distance = np.linalg.norm(residuals, axis=1)
        weight = np.minimum(1.0, HUBER_PX / np.maximum(distance, 1e-12))
        inverse = np.linalg.inv(observations.sum_by_track(weight[:, None, None] * products) + POINT_DAMPING)
        gradient = observations.sum_by_track(weight[:, None] * np.einsum("mai,ma->mi", jacobian, residuals))
        gradient[:, 2] += (start_height - points[:, 2]) / HEIGHT_PRIOR_M**2
        if free_offsets:
            offset_step = _offset_step(observations, weight, jacobian, residuals, inverse, gradient, offsets)
            gradient = gradient - observations.sum_by_track(
                weight[:, None] * np.einsum("mai,ma->mi", jacobian, offset_step[observations.image_index])
            )
            offsets = offsets + offset_step
        step_m = np.einsum("nij,nj->ni", inverse, gradient)
        points = points + step_m * _degrees_per_meter(points)
        if np.abs(step_m).max() < 1e-6:
            break
    return points, offsets


def _offset_step(
    observations: Observations, weight, jacobian, residuals, inverse, gradient, offsets
) -> Float64[ndarray, "k 2"]:
    """Solution of the reduced normal equations of the offsets, with the points eliminated."""
    offset_block = np.diag(
        np.repeat(np.bincount(observations.image_index, weight, len(offsets)) + 1 / OFFSET_PRIOR_PX**2, 2)
    )
    coupling = weight[:, None, None] * jacobian
    eliminated = np.einsum("mai,mij->maj", coupling, inverse[observations.track_index])
    block_matrix = observations.image_track_matrix
    reduced = offset_block - (block_matrix(eliminated) @ block_matrix(coupling).T).toarray()
    right_side = weight[:, None] * residuals - np.einsum("mai,mi->ma", eliminated, gradient[observations.track_index])
    right_side = observations.sum_by_image(right_side) - offsets / OFFSET_PRIOR_PX**2
    return np.linalg.solve(reduced, right_side.ravel()).reshape(-1, 2)


def _pair_residuals(rpcs, tracks, offsets, heights_m) -> tuple[PairResidual, ...]:
    """Residual across the epipolar lines of every pair of images that share tracks."""
    observations = Observations.from_tracks(tracks)
    visible = np.isfinite(tracks[..., 0])
    before = _segment_lookup(rpcs, observations, visible, heights_m)
    adjusted = [rpc.with_offset(*offset) for rpc, offset in zip(rpcs, offsets, strict=True)]
    after = _segment_lookup(adjusted, observations, visible, heights_m)
    pairs = []
    for i, j in combinations(range(len(rpcs)), 2):
        shared = visible[:, i] & visible[:, j]
        if shared.any():
            pixels = tracks[shared, j]
            across = [epipolar_distances_px(segments(i, j, shared), pixels)[0] for segments in (before, after)]
            medians = [float(np.median(np.abs(distances))) for distances in across]
            pairs.append(PairResidual((i, j), int(shared.sum()), *medians))
    return tuple(pairs)


def _segment_lookup(rpcs, observations: Observations, visible, heights_m):
    """A function of images i, j and of the tracks visible in both: the epipolar segments "n 2 2" in image j of the
    tracks' pixels in image i.

    Pixels are intersected with the lowest and the highest height once per image, not once per pair.
    """
    ends = np.full((*visible.shape, 2, 3), np.nan)
    for end, height_m in enumerate((float(heights_m.min()) - 50.0, float(heights_m.max()) + 50.0)):
        ends[observations.track_index, observations.image_index, end] = observations.localize(rpcs, height_m)
    return lambda i, j, shared: rpcs[j].project(ends[shared, i])
