"""How well the views of an episode agree: warped into each other, as one number and as a weight per pixel.

Neither truth nor network is needed: depth and cameras are known, so what two views say of one place is comparable.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from tqdm import tqdm

from skyfall_ns.idu.episode_store import EpisodeFolder
from skyfall_ns.idu.reprojection import look_up, neighbours, sight
from skyfall_ns.refiners.base import RenderedView

TAPS, SIGMA, C1, C2 = 11, 1.5, 0.01**2, 0.03**2  # of SSIM, data range 1
TOLERANCE = 0.1  # colour difference in 0..1 at which two views agree by 1/e
BASE = 0.5  # weight of a pixel that no other view sees
BASE_VIEWS = 0.5  # the base counts as much as so many other views
NEIGHBOURS = 4
CACHE_BYTES = 2**29


@dataclass(frozen=True)
class Consistency:
    """Agreement over pairs of neighbouring views; None where no pixel is seen twice."""

    psnr: float | None
    """Of all pixels seen twice together, dB."""
    ssim: float | None
    """Of gray pictures, mean over the windows of 11 x 11 px that are seen as a whole."""
    pairs: int
    seen: float
    """Part of the pixels that are seen twice, 0..1."""


@dataclass
class Sums:
    """What pairs add up to."""

    pairs: int = 0
    pixels: int = 0
    seen: int = 0
    squares: float = 0.0
    windows: int = 0
    structure: float = 0.0

    def add(self, image: Float[ndarray, "h w 3"], warped: Float[ndarray, "h w 3"], seen: Bool[ndarray, "h w"]) -> None:
        """One pair: a view, and another one warped into it where it is seen."""
        self.pairs += 1
        self.pixels += seen.size
        self.seen += int(seen.sum())
        self.squares += float(_gray(np.square(image - warped))[seen].sum(dtype=np.float64))
        whole = cv2.erode(seen.astype(np.uint8), np.ones((TAPS, TAPS), np.uint8), borderValue=(0,)) > 0
        if whole.any():
            gray = _gray(image)
            self.structure += float(_ssim_map(gray, np.where(seen, _gray(warped), gray))[whole].sum(dtype=np.float64))
            self.windows += int(whole.sum())

    def result(self) -> Consistency:
        """Means."""
        psnr = -10 * np.log10(self.squares / self.seen + 1e-12) if self.seen else None
        ssim = self.structure / self.windows if self.windows else None
        return Consistency(None if psnr is None else float(psnr), ssim, self.pairs, self.seen / max(self.pixels, 1))


def consistency(
    views: Sequence[RenderedView], images: Sequence[Float[ndarray, "h w 3"]], pairs: Sequence[tuple[int, int]]
) -> Consistency:
    """Agreement of `images` (one per view) over pairs (view, other view warped into it)."""
    sums = Sums()
    for one, other in pairs:
        colrow, seen = _sight(views[one], views[other])
        sums.add(np.asarray(images[one]), look_up(np.asarray(images[other]), colrow), seen)
    return sums.result()


def agreement_weight(
    image: Float[ndarray, "h w 3"],
    valid: Bool[ndarray, "h w"],
    warped: Sequence[tuple[Float[ndarray, "h w 3"], Bool[ndarray, "h w"]]],
) -> Float[ndarray, "h w"]:
    """How much each pixel of a refined view counts, 0..1, by what other views (warped into it, and where seen) show:

        w = (BASE_VIEWS BASE + Σ seen exp(-(d / TOLERANCE)²)) / (BASE_VIEWS + Σ seen)

    d is the mean difference of colours over 3 x 3 px. A pixel that no other view sees has BASE, void has 0."""
    agreed, asked = np.full(valid.shape, BASE_VIEWS * BASE, np.float32), np.full(valid.shape, BASE_VIEWS, np.float32)
    for other, seen in warped:
        share = seen.astype(np.float32)
        difference = cv2.blur(_gray(np.abs(image - other)) * share, (3, 3)) / np.maximum(cv2.blur(share, (3, 3)), 1e-6)
        agreed += share * np.exp(-np.square(difference / TOLERANCE))
        asked += share
    return np.where(valid, np.clip(agreed / asked, 0, 1), 0.0).astype(np.float32)


def assess_episode(folder: EpisodeFolder, progress: bool = True) -> dict[str, Any]:
    """Weights of an episode's refined images, written where they are missing, and the agreement of its views before and
    after refining, recorded in its manifest: {"raw": {"psnr", "ssim", "pairs", "seen"}, "refined": {...}}.

    Raises TrainingError if renders or refined images are missing. Nothing is done twice."""
    if not folder.missing_weights() and {"raw", "refined"} <= folder.manifest.consistency.keys():
        return folder.manifest.consistency
    start, raw, refined = time.perf_counter(), Sums(), Sums()
    steps = tqdm(_compared(folder), desc="Comparing", total=len(folder.names), unit="view", leave=False,
                 disable=None if progress else True)  # fmt: skip
    for view, image, others in steps:
        warped = []
        for other, other_image, colrow, seen in others:
            raw.add(view.image.numpy(), look_up(other.image.numpy(), colrow), seen)
            warped.append((look_up(other_image, colrow), seen))
            refined.add(image, *warped[-1])
        folder.write_weight(view.name, torch.from_numpy(agreement_weight(image, view.valid.numpy(), warped)))
    numbers = {"raw": asdict(raw.result()), "refined": asdict(refined.result())}
    folder.record_phase("weights", time.perf_counter() - start)
    folder.record_consistency(numbers)  # last: with it all this counts as done
    return numbers


def _compared(folder: EpisodeFolder) -> Iterator[tuple[RenderedView, ndarray, list]]:
    """(view, its refined image, [(neighbour, its refined image, sight of it)]) of every view."""
    names, size = folder.names, folder.shots.size_px
    near = neighbours(folder.shots.poses, folder.episode.fov_deg, NEIGHBOURS)

    @lru_cache(maxsize=max(CACHE_BYTES // (size * size * 29), 2 * NEIGHBOURS))
    def load(number: int) -> tuple[RenderedView, ndarray]:
        return folder.view(names[number]), folder.refined(names[number]).numpy()

    for number in range(len(names)):
        view, image = load(number)
        others = ((load(other), _sight(view, load(other)[0])) for other in near[number])
        yield view, image, [(*loaded, *seen) for loaded, seen in others]


def _sight(view: RenderedView, other: RenderedView) -> tuple[ndarray, ndarray]:
    return sight(view.camera, view.depth_m.numpy(), other.camera, other.depth_m.numpy())


def _gray(image: Float[ndarray, "h w 3"]) -> Float[ndarray, "h w"]:
    """Mean of the channels (five times as fast as `mean(-1)`)."""
    return (image[..., 0] + image[..., 1] + image[..., 2]) * np.float32(1 / 3)


def _ssim_map(a: Float[ndarray, "h w"], b: Float[ndarray, "h w"]) -> Float[ndarray, "h w"]:
    """SSIM around each pixel (models/ssim.py has the mean, with gradients)."""

    def blurred(values: ndarray) -> ndarray:
        return cv2.GaussianBlur(values, (TAPS, TAPS), SIGMA, borderType=cv2.BORDER_REFLECT_101)

    mean_a, mean_b = blurred(a), blurred(b)
    both = mean_a * mean_b
    var_a, var_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
    covariance = blurred(a * b) - both
    return (2 * both + C1) * (2 * covariance + C2) / ((mean_a**2 + mean_b**2 + C1) * (var_a + var_b + C2))
