"""Multi-view consistency of an episode: views warped into each other, as scores and as a weight per pixel.

Depth and cameras of the renders are known, so neither ground truth nor a network is needed.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from tqdm import tqdm

from skyfall_ns.idu.episode_store import EpisodeStore
from skyfall_ns.idu.reprojection import nearest_views, reproject, sample_bilinear
from skyfall_ns.refiners.base import RenderedView

SSIM_WINDOW_PX, SSIM_SIGMA_PX, SSIM_C1, SSIM_C2 = 11, 1.5, 0.01**2, 0.03**2  # for a data range of 1
COLOR_TOLERANCE = 0.1  # color difference in 0..1 at which a neighbor counts 1/e
UNSEEN_WEIGHT = 0.5  # weight of a pixel that no other view shows
PRIOR_VIEW_COUNT = 0.5  # number of views that UNSEEN_WEIGHT counts as
NEIGHBOR_COUNT = 4
CACHE_BYTES = 2**29


@dataclass(frozen=True)
class Consistency:
    """Consistency over pairs of neighboring views; scores are None if no two views overlap."""

    psnr: float | None
    """Over all pixels that both views of a pair show, dB."""
    ssim: float | None
    """Of gray images, mean over the windows of 11 x 11 px in which both views show every pixel."""
    pairs: int
    overlap: float
    """Fraction of the pixels that both views of a pair show, in 0..1."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON for manifests."""
        return {"psnr": self.psnr, "ssim": self.ssim, "pairs": self.pairs, "overlap": self.overlap}


@dataclass
class ConsistencySums:
    """Sums over pairs of views."""

    pairs: int = 0
    pixels: int = 0
    shared_pixels: int = 0
    squared_error: float = 0.0
    ssim_windows: int = 0
    ssim_sum: float = 0.0

    def add_pair(
        self, image: Float[ndarray, "h w 3"], warped: Float[ndarray, "h w 3"], visible: Bool[ndarray, "h w"]
    ) -> None:
        """Add a view and a neighbor that is warped into it; `visible`: pixels that the neighbor shows."""
        self.pairs += 1
        self.pixels += visible.size
        self.shared_pixels += int(visible.sum())
        self.squared_error += float(_channel_mean(np.square(image - warped))[visible].sum(dtype=np.float64))
        window = np.ones((SSIM_WINDOW_PX, SSIM_WINDOW_PX), np.uint8)
        complete = cv2.erode(visible.astype(np.uint8), window, borderValue=(0,)) > 0
        if complete.any():
            gray = _channel_mean(image)
            ssim_map = _ssim_map(gray, np.where(visible, _channel_mean(warped), gray))
            self.ssim_sum += float(ssim_map[complete].sum(dtype=np.float64))
            self.ssim_windows += int(complete.sum())

    def to_consistency(self) -> Consistency:
        """Compute the means."""
        psnr = -10 * np.log10(self.squared_error / self.shared_pixels + 1e-12) if self.shared_pixels else None
        return Consistency(
            psnr=None if psnr is None else float(psnr),
            ssim=self.ssim_sum / self.ssim_windows if self.ssim_windows else None,
            pairs=self.pairs,
            overlap=self.shared_pixels / max(self.pixels, 1),
        )


def measure_consistency(
    views: Sequence[RenderedView], images: Sequence[Float[ndarray, "h w 3"]], pairs: Sequence[tuple[int, int]]
) -> Consistency:
    """Consistency of `images` (one per view) over pairs (view, neighbor that is warped into it)."""
    sums = ConsistencySums()
    for index, neighbor in pairs:
        colrow, visible = _reproject_neighbor(views[index], views[neighbor])
        sums.add_pair(np.asarray(images[index]), sample_bilinear(np.asarray(images[neighbor]), colrow), visible)
    return sums.to_consistency()


def consistency_weight(
    image: Float[ndarray, "h w 3"],
    valid: Bool[ndarray, "h w"],
    warped: Sequence[tuple[Float[ndarray, "h w 3"], Bool[ndarray, "h w"]]],
) -> Float[ndarray, "h w"]:
    """Weight of each pixel of a refined view, in 0..1, from its neighbors (warped into it, and where they show it):

        w = (n0 w0 + Σ visible exp(-(d / COLOR_TOLERANCE)²)) / (n0 + Σ visible)

    with n0 = PRIOR_VIEW_COUNT and w0 = UNSEEN_WEIGHT; d is the mean color difference over 3 x 3 px. A pixel that no
    neighbor shows has w0, an empty pixel has 0."""
    total = np.full(valid.shape, PRIOR_VIEW_COUNT * UNSEEN_WEIGHT, np.float32)
    count = np.full(valid.shape, PRIOR_VIEW_COUNT, np.float32)
    for neighbor, visible in warped:
        share = visible.astype(np.float32)
        difference = cv2.blur(_channel_mean(np.abs(image - neighbor)) * share, (3, 3)) / np.maximum(
            cv2.blur(share, (3, 3)), 1e-6
        )
        total += share * np.exp(-np.square(difference / COLOR_TOLERANCE))
        count += share
    return np.where(valid, np.clip(total / count, 0, 1), 0.0).astype(np.float32)


def assess_episode(store: EpisodeStore, progress: bool = True) -> dict[str, Any]:
    """Write the weights of an episode's refined images where they are missing, and record the consistency of its views
    before and after refinement in its manifest: {"raw": {"psnr", "ssim", "pairs", "overlap"}, "refined": {...}}.

    An episode that is assessed already is not assessed again. Raises TrainingError if renders or refined images are
    missing."""
    if not store.missing_weights() and {"raw", "refined"} <= store.manifest.consistency.keys():
        return store.manifest.consistency
    start, raw, refined = time.perf_counter(), ConsistencySums(), ConsistencySums()
    steps = tqdm(_iterate_comparisons(store), desc="Comparing", total=len(store.view_names), unit="view", leave=False,
                 disable=None if progress else True)  # fmt: skip
    for view, image, neighbors in steps:
        warped = []
        for neighbor, neighbor_image, colrow, visible in neighbors:
            raw.add_pair(view.image.numpy(), sample_bilinear(neighbor.image.numpy(), colrow), visible)
            warped.append((sample_bilinear(neighbor_image, colrow), visible))
            refined.add_pair(image, *warped[-1])
        store.write_weight(view.name, torch.from_numpy(consistency_weight(image, view.valid.numpy(), warped)))
    scores = {"raw": raw.to_consistency().to_dict(), "refined": refined.to_consistency().to_dict()}
    store.record_phase("weights", time.perf_counter() - start)
    store.record_consistency(scores)  # last: it marks the episode as assessed
    return scores


def _iterate_comparisons(store: EpisodeStore) -> Iterator[tuple[RenderedView, ndarray, list]]:
    """(view, its refined image, [(neighbor, its refined image, colrow, visible)]) of every view; `colrow` and `visible`
    are those of `reproject`."""
    names, size = store.view_names, store.spec.size_px
    neighbor_lists = nearest_views(store.spec.poses, store.episode.fov_deg, NEIGHBOR_COUNT)

    @lru_cache(maxsize=max(CACHE_BYTES // (size * size * 29), 2 * NEIGHBOR_COUNT))
    def load_view(index: int) -> tuple[RenderedView, ndarray]:
        return store.rendered_view(names[index]), store.read_refined(names[index]).numpy()

    for index in range(len(names)):
        view, image = load_view(index)
        neighbors = ((load_view(n), _reproject_neighbor(view, load_view(n)[0])) for n in neighbor_lists[index])
        yield view, image, [(*loaded, *reprojected) for loaded, reprojected in neighbors]


def _reproject_neighbor(view: RenderedView, neighbor: RenderedView) -> tuple[ndarray, ndarray]:
    return reproject(view.camera, view.depth_m.numpy(), neighbor.camera, neighbor.depth_m.numpy())


def _channel_mean(image: Float[ndarray, "h w 3"]) -> Float[ndarray, "h w"]:
    """Mean of the channels (five times as fast as `mean(-1)`)."""
    return (image[..., 0] + image[..., 1] + image[..., 2]) * np.float32(1 / 3)


def _ssim_map(a: Float[ndarray, "h w"], b: Float[ndarray, "h w"]) -> Float[ndarray, "h w"]:
    """SSIM around each pixel (models/ssim.py has the mean, with gradients)."""

    def blur_image(values: ndarray) -> ndarray:
        size = (SSIM_WINDOW_PX, SSIM_WINDOW_PX)
        return cv2.GaussianBlur(values, size, SSIM_SIGMA_PX, borderType=cv2.BORDER_REFLECT_101)

    mean_a, mean_b = blur_image(a), blur_image(b)
    mean_product = mean_a * mean_b
    var_a, var_b = blur_image(a * a) - mean_a**2, blur_image(b * b) - mean_b**2
    covariance = blur_image(a * b) - mean_product
    numerator = (2 * mean_product + SSIM_C1) * (2 * covariance + SSIM_C2)
    return numerator / ((mean_a**2 + mean_b**2 + SSIM_C1) * (var_a + var_b + SSIM_C2))
