"""Bundle adjustment of satellite images: two shifts per image, so that all images agree on where things are.

What is minimised over shifts s_k and ground points X: sum Huber(|obs - project_k(X) - s_k|) + |s_k|² / (10 px)².
The weak prior also settles what ties cannot tell, a common translation of the ground: of all solutions that explain
the ties equally it takes the one with the smallest shifts. `Adjustment.shifts_px` are what `RPC.shifted` takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray
from scipy.spatial import cKDTree

from skyfall_ns.geo.epipolar import transverse_px
from skyfall_ns.geo.observations import Observations
from skyfall_ns.geo.rpc import RPC

PRIOR_PX = 10.0
HUBER_PX = 0.5
HEIGHT_PRIOR_M = 1e5  # keeps points of nearly parallel rays finite, far too weak to settle the common shift
DAMPING = np.diag([1e-9, 1e-9, 1 / HEIGHT_PRIOR_M**2])
REJECT = 3.0  # tracks whose residual exceeds this many medians are rejected
NEIGHBOURS = 10
ROUNDS = 6
EARTH_RADIUS_M = 6371008.8


@dataclass(frozen=True)
class PairResidual:
    """How far matches of two images lie from their epipolar lines, median in pixels, before and after."""

    images: tuple[int, int]
    tracks: int
    median_px_before: float
    median_px_after: float


@dataclass(frozen=True)
class Adjustment:
    """Shifts per image and the ground points of all tracks.

    `residuals_px` are the root mean square distances between a track's observations and its point's pixels;
    `inliers` mark the tracks that were kept. A pair's residual is the median distance of its kept matches from their
    epipolar lines; `median_px_before` and `after` are the medians over the pairs, so that many ties within a date do
    not hide the few between dates.
    """

    shifts_px: Float64[ndarray, "k 2"]
    lonlath: Float64[ndarray, "n 3"]
    inliers: Bool[ndarray, " n"]
    residuals_px: Float64[ndarray, " n"]
    median_px_before: float
    median_px_after: float
    pairs: tuple[PairResidual, ...]


def adjust(
    rpcs: Sequence[RPC], observations: Float64[ndarray, "n k 2"], height_m: float, refine: bool = True
) -> Adjustment:
    """Shifts that bring the tracks together, starting from points at the ellipsoidal `height_m`.

    `refine=False` keeps the RPCs as they are: shifts of zero, points triangulated, outliers rejected all the same.
    """
    ties = Observations.of(observations)
    start = ties.sum_tracks(ties.localize(rpcs, height_m)) / np.bincount(ties.track, minlength=ties.tracks)[:, None]
    none = np.zeros((len(rpcs), 2))
    points, shifts = _solve(rpcs, ties, start, none, free_shifts=refine)
    inliers = np.ones(len(observations), bool)
    for _ in range(ROUNDS):
        residuals = _track_rms(rpcs, ties, points, shifts)
        kept = residuals <= REJECT * max(float(np.median(residuals[inliers])), 1e-6)
        kept &= _supported(rpcs, ties, points, kept)
        if np.array_equal(kept, inliers):
            break
        inliers = kept
        if refine:
            good = Observations.of(observations[inliers])
            points[inliers], shifts = _solve(rpcs, good, points[inliers], shifts, free_shifts=True)
            points, _ = _solve(rpcs, ties, points, shifts, free_shifts=False)
    pairs = _pair_residuals(rpcs, observations[inliers], shifts, points[inliers, 2])
    return Adjustment(
        shifts_px=shifts,
        lonlath=points,
        inliers=inliers,
        residuals_px=_track_rms(rpcs, ties, points, shifts),
        median_px_before=float(np.median([p.median_px_before for p in pairs])),
        median_px_after=float(np.median([p.median_px_after for p in pairs])),
        pairs=pairs,
    )


def _residuals(rpcs, ties: Observations, points, shifts) -> Float64[ndarray, "m 2"]:
    """Observed minus predicted pixels."""
    return ties.colrow - ties.project(rpcs, points) - shifts[ties.image]


def _track_rms(rpcs, ties: Observations, points, shifts) -> Float64[ndarray, " n"]:
    """Root mean square of a track's distances, in pixels."""
    squares = (_residuals(rpcs, ties, points, shifts) ** 2).sum(axis=1)
    return np.sqrt(ties.sum_tracks(squares) / np.bincount(ties.track, minlength=ties.tracks))


def _supported(rpcs, ties: Observations, points, candidates) -> Bool[ndarray, " n"]:
    """Tracks whose height two of their ten nearest neighbours share.

    A false match along the epipolar line leaves no residual, only an absurd height. The tolerance is 10 m plus what
    two pixels of matching error mean for the track's rays.
    """
    if candidates.sum() <= NEIGHBOURS:
        return candidates
    jacobian = _jacobians(rpcs, ties, points)
    normal = ties.sum_tracks(np.einsum("mai,maj->mij", jacobian, jacobian)) + DAMPING
    tolerance_m = 10.0 + 2.0 * np.sqrt(np.linalg.inv(normal)[:, 2, 2])
    ground_m = points[:, :2] / _metric_units(points)[:, :2]
    tree = cKDTree(ground_m[candidates])
    _, index = tree.query(ground_m, k=NEIGHBOURS + 1)
    difference = np.abs(points[candidates, 2][index] - points[:, 2, None])
    return (difference <= tolerance_m[:, None]).sum(axis=1) >= 3  # itself is one of them


def _metric_units(points) -> Float64[ndarray, "n 3"]:
    """Degrees (or metres) of lon, lat, h per metre to the east, to the north and up."""
    per_degree = np.deg2rad(1.0) * EARTH_RADIUS_M
    cosine = np.cos(np.deg2rad(points[:, 1]))
    return np.stack([1 / (per_degree * cosine), np.full(len(points), 1 / per_degree), np.ones(len(points))], axis=1)


def _jacobians(rpcs, ties: Observations, points) -> Float64[ndarray, "m 2 3"]:
    """Pixels per metre to the east, to the north and up, by central differences over 20 m."""
    units = _metric_units(points) * 10.0
    columns = []
    for axis in range(3):
        step = np.zeros_like(points)
        step[:, axis] = units[:, axis]
        columns.append((ties.project(rpcs, points + step) - ties.project(rpcs, points - step)) / 20.0)
    return np.stack(columns, axis=-1)


def _solve(rpcs, ties: Observations, points, shifts, free_shifts: bool, iterations: int = 8):
    """Robust Gauss-Newton; the points are eliminated (Schur complement), so that 2 k unknowns remain."""
    start_height = points[:, 2].copy()
    jacobian = _jacobians(rpcs, ties, points)  # satellites are far: it changes by a thousandth over a kilometre
    products = np.einsum("mai,maj->mij", jacobian, jacobian)
    for _ in range(iterations):
        residuals = _residuals(rpcs, ties, points, shifts)
        distance = np.linalg.norm(residuals, axis=1)
        weight = np.minimum(1.0, HUBER_PX / np.maximum(distance, 1e-12))
        inverse = np.linalg.inv(ties.sum_tracks(weight[:, None, None] * products) + DAMPING)
        pull = ties.sum_tracks(weight[:, None] * np.einsum("mai,ma->mi", jacobian, residuals))
        pull[:, 2] += (start_height - points[:, 2]) / HEIGHT_PRIOR_M**2
        if free_shifts:
            step = _shift_step(ties, weight, jacobian, residuals, inverse, pull, shifts)
            pull = pull - ties.sum_tracks(weight[:, None] * np.einsum("mai,ma->mi", jacobian, step[ties.image]))
            shifts = shifts + step
        move_m = np.einsum("nij,nj->ni", inverse, pull)
        points = points + move_m * _metric_units(points)
        if np.abs(move_m).max() < 1e-6:
            break
    return points, shifts


def _shift_step(ties: Observations, weight, jacobian, residuals, inverse, pull, shifts) -> Float64[ndarray, "k 2"]:
    """The reduced normal equations of the shifts, points eliminated."""
    own = np.diag(np.repeat(np.bincount(ties.image, weight, len(shifts)) + 1 / PRIOR_PX**2, 2))
    coupling = weight[:, None, None] * jacobian
    eliminated = np.einsum("mai,mij->maj", coupling, inverse[ties.track])
    reduced = own - (ties.image_by_track(eliminated) @ ties.image_by_track(coupling).T).toarray()
    right = weight[:, None] * residuals - np.einsum("mai,mi->ma", eliminated, pull[ties.track])
    return np.linalg.solve(reduced, (ties.sum_images(right) - shifts / PRIOR_PX**2).ravel()).reshape(-1, 2)


def _pair_residuals(rpcs, observations, shifts, heights_m) -> tuple[PairResidual, ...]:
    """Transverse residuals of every pair that shares tracks."""
    ties = Observations.of(observations)
    seen = np.isfinite(observations[..., 0])
    before = _track_segments(rpcs, ties, seen, heights_m)
    after = _track_segments([r.shifted(*s) for r, s in zip(rpcs, shifts, strict=True)], ties, seen, heights_m)
    pairs = []
    for i, j in combinations(range(len(rpcs)), 2):
        both = seen[:, i] & seen[:, j]
        if both.any():
            pixels = observations[both, j]
            medians = [float(np.median(np.abs(transverse_px(s(i, j, both), pixels)[0]))) for s in (before, after)]
            pairs.append(PairResidual((i, j), int(both.sum()), *medians))
    return tuple(pairs)


def _track_segments(rpcs, ties: Observations, seen, heights_m):
    """A function of images i, j and tracks that both show: the epipolar segments "n 2 2" in j of their pixels in i.

    Pixels meet the lowest and the highest height once per image, not once per pair.
    """
    ends = np.full((*seen.shape, 2, 3), np.nan)
    for end, height_m in enumerate((float(heights_m.min()) - 50.0, float(heights_m.max()) + 50.0)):
        ends[ties.track, ties.image, end] = ties.localize(rpcs, height_m)
    return lambda i, j, both: rpcs[j].project(ends[both, i])
