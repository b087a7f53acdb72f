"""SIFT features of one satellite image, distributed over tiles."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8
from numpy import ndarray

TILE_PX = 1024
FEATURES_PER_TILE = 8000
FEATURES_PER_IMAGE = 24000


class Features(NamedTuple):
    """Positions (col, row) and unit descriptors; the dot product of two descriptors is their similarity."""

    colrow: Float64[ndarray, "n 2"]
    descriptors: Float32[ndarray, "n 128"]


def detect_features(image: UInt8[ndarray, "h w"], mask: Bool[ndarray, "h w"] | None = None) -> Features:
    """Detect the strongest SIFT features of each tile where the mask is True."""
    height, width = image.shape
    tiles = list(_tile_windows(width, height))
    max_features = min(FEATURES_PER_TILE, FEATURES_PER_IMAGE // len(tiles))
    # Without the precise upscale, OpenCV's positions are a quarter of a pixel off in the first octave.
    sift = cv2.SIFT_create(contrastThreshold=0.015, enable_precise_upscale=True)  # pyright: ignore[reportAttributeAccessIssue]  # not in OpenCV's stub
    points, descriptors = [np.zeros((0, 2))], [np.zeros((0, 128), np.float32)]
    for core, (c0, r0, c1, r1) in tiles:
        tile_mask = None if mask is None else np.ascontiguousarray(mask[r0:r1, c0:c1]).astype(np.uint8)
        keypoints, found = sift.detectAndCompute(np.ascontiguousarray(image[r0:r1, c0:c1]), tile_mask)
        if not keypoints:
            continue
        position = np.array([k.pt for k in keypoints], dtype=np.float64) + np.array((c0, r0))
        inside = np.all((position >= core[:2]) & (position < core[2:]), axis=1)
        strength = np.where(inside, [k.response for k in keypoints], -1.0)
        kept = np.argsort(-strength, kind="stable")[: min(max_features, int(inside.sum()))]
        points.append(position[kept])
        descriptors.append(_root_sift(found[kept]))
    return Features(np.concatenate(points), np.concatenate(descriptors))


def _tile_windows(width: int, height: int, margin: int = 48) -> Iterator[tuple[tuple, tuple[int, int, int, int]]]:
    """Cores that partition the image, each with its window; both are (c0, r0, c1, r1), the window includes a margin."""
    columns, rows = -(-width // TILE_PX), -(-height // TILE_PX)
    c_edges = np.linspace(0, width, columns + 1).astype(int)
    r_edges = np.linspace(0, height, rows + 1).astype(int)
    for r0, r1 in pairwise(r_edges):
        for c0, c1 in pairwise(c_edges):
            window = (max(c0 - margin, 0), max(r0 - margin, 0), min(c1 + margin, width), min(r1 + margin, height))
            yield (c0 - 0.5, r0 - 0.5, c1 - 0.5, r1 - 0.5), window


def _root_sift(descriptors: Float32[ndarray, "n 128"]) -> Float32[ndarray, "n 128"]:
    """RootSIFT (Arandjelovic and Zisserman 2012): the Hellinger kernel as a dot product of unit vectors."""
    total = np.maximum(np.abs(descriptors).sum(axis=1, keepdims=True), 1e-12)
    return np.sqrt(descriptors / total)
