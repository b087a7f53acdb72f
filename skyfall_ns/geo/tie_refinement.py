"""Subpixel positions of tie points: Lucas-Kanade between images that are brought to one orientation and scale."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from jaxtyping import Float64, Int, UInt8
from numpy import ndarray

from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.geo.rpc import RPC

FOLLOW = {"winSize": (15, 15), "maxLevel": 0, "flags": cv2.OPTFLOW_USE_INITIAL_FLOW, "criteria": (3, 30, 0.005)}
CLOSED_PX, FAR_PX = 0.3, 1.5  # largest distance of the way there and back, and from the feature
Affine = Float64[ndarray, "2 3"]


def align_images(
    images: Sequence[UInt8[ndarray, "h w"]], rpcs: Sequence[RPC], height_m: float, pool: ThreadPoolExecutor
) -> tuple[list[UInt8[ndarray, "H W"]], list[Affine]]:
    """Images of one size and normalized contrast, turned and scaled like the finest of them, which is not resampled;
    and the affine maps that take their (col, row) to those of the given images.

    Vendors deliver images in the direction of flight too: without a common orientation and scale a turned image loses
    95 % of its ties, and images whose pixels differ by a fifth lose a third (measured on ten WorldView-3 images).
    """
    sizes = [(image.shape[1], image.shape[0]) for image in images]
    maps = _alignments(rpcs, sizes, height_m)
    extents = [_extent(a, size) for a, size in zip(maps, sizes, strict=True)]
    shape = np.ceil(np.max([high - low for low, high in extents], axis=0)).astype(int) + 1
    maps = [np.column_stack([a[:, :2], a @ [*low, 1.0]]) for a, (low, _) in zip(maps, extents, strict=True)]
    aligned = pool.map(lambda image, a: _normalize(_warp(image, a, (int(shape[0]), int(shape[1])))), images, maps)
    return list(aligned), maps


def refine_tracks(
    aligned: Sequence[UInt8[ndarray, "H W"]],
    maps: Sequence[Affine],
    tracks: Float64[ndarray, "t k 2"],
    pool: ThreadPoolExecutor,
) -> Float64[ndarray, "t k 2"]:
    """Positions made sharper: each one follows the track's first between the aligned images.

    Measured on real pairs: the distance from the epipolar line falls from 0.24 to 0.11 px. An observation is dropped
    where the way there and back does not close, and its track with it where fewer than two remain.
    """
    seen = np.isfinite(tracks[..., 0])
    first = seen.argmax(axis=1) if len(tracks) else np.zeros(0, int)
    jobs = [(i, j) for i in np.unique(first) for j in np.flatnonzero(seen[first == i].any(axis=0)) if j > i]
    chosen = [np.flatnonzero((first == i) & seen[:, j]) for i, j in jobs]

    def follow(job: tuple[int, int], rows: Int[ndarray, " n"]) -> Float64[ndarray, "n 2"]:
        i, j = job
        a, b = (_solve(maps[k], tracks[rows, k]) for k in job)
        return _apply(maps[j], _follow(aligned[i], aligned[j], a, b))

    refined = tracks.copy()
    for (_, j), rows, positions in zip(jobs, chosen, pool.map(follow, jobs, chosen), strict=True):
        refined[rows, j] = positions
    return refined[np.isfinite(refined[..., 0]).sum(axis=1) >= 2]


def _alignments(rpcs: Sequence[RPC], sizes: Sequence[tuple[int, int]], height_m: float) -> list[Affine]:
    """Maps from pixels like those of the finest image to each image's own, about its center at a height."""
    frame, jacobians, centers = None, [], []
    for rpc, size in zip(rpcs, sizes, strict=True):
        center = (np.array(size) - 1.0) / 2
        places = rpc.localize(center + np.array([[0.0, 0.0], [size[0] / 4, 0.0], [0.0, size[1] / 4]]), height_m)
        frame = frame or LocalFrame.at(places[0])
        metres = frame.from_geodetic(places)[:, :2]
        jacobians.append(np.linalg.inv((metres[1:] - metres[0]).T * (4 / np.array(size))))  # pixels per metre
        centers.append(center)
    finest = max(jacobians, key=lambda jacobian: abs(np.linalg.det(jacobian)))
    return [np.column_stack([j @ np.linalg.inv(finest), c]) for j, c in zip(jacobians, centers, strict=True)]


def _extent(affine: Affine, size: tuple[int, int]) -> tuple[Float64[ndarray, " 2"], Float64[ndarray, " 2"]]:
    """Least and greatest aligned (col, row) of an image's corners."""
    corners = np.array([[c, r] for c in (0.0, size[0] - 1.0) for r in (0.0, size[1] - 1.0)])
    aligned = _solve(affine, corners)
    return aligned.min(axis=0), aligned.max(axis=0)


def _apply(affine: Affine, colrow: Float64[ndarray, "n 2"]) -> Float64[ndarray, "n 2"]:
    return colrow @ affine[:, :2].T + affine[:, 2]


def _solve(affine: Affine, colrow: Float64[ndarray, "n 2"]) -> Float64[ndarray, "n 2"]:
    return np.linalg.solve(affine[:, :2], (colrow - affine[:, 2]).T).T


def _warp(image: UInt8[ndarray, "h w"], affine: Affine, size: tuple[int, int]) -> UInt8[ndarray, "H W"]:
    """The image in aligned pixels."""
    flags = cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, affine, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _normalize(image: UInt8[ndarray, "h w"], sigma_px: float = 8.0) -> UInt8[ndarray, "h w"]:
    """Local mean 128 and deviation 40: gains and hazes of different dates vanish."""
    values = image.astype(np.float32)
    mean = cv2.GaussianBlur(values, (0, 0), sigma_px)
    variance = cv2.GaussianBlur(values * values, (0, 0), sigma_px) - mean * mean
    return np.clip(128 + 40 * (values - mean) / np.sqrt(np.maximum(variance, 1.0)), 0, 255).astype(np.uint8)


def _follow(image_a, image_b, colrow_a: Float64[ndarray, "n 2"], colrow_b) -> Float64[ndarray, "n 2"]:
    """Positions in image b of what image a shows at given positions, NaN where the way there and back is not one."""
    a, b = (positions.astype(np.float32)[:, None] for positions in (colrow_a, colrow_b))
    found, ok_there, _ = cv2.calcOpticalFlowPyrLK(image_a, image_b, a, b.copy(), **FOLLOW)
    back, ok_back, _ = cv2.calcOpticalFlowPyrLK(image_b, image_a, found, a.copy(), **FOLLOW)
    closed = np.linalg.norm(back - a, axis=-1) < CLOSED_PX
    good = (ok_there > 0) & (ok_back > 0) & closed & (np.linalg.norm(found - b, axis=-1) < FAR_PX)
    return np.where(good, found[:, 0].astype(np.float64), np.nan)
