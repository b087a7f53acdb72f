"""Which images are matched with each other: pairs with a useful angle between them, a few for every image."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from skyfall_ns.geo.cameras import AffineCamera

CONVERGENCE_DEG = (2.5, 45.0)  # pairs outside have no parallax, or look too different
BEST_DEG = 17.0
PARTNERS = 6  # of each image, so that cost grows with the number of images and not of pairs


def good_pairs(cameras: Sequence[AffineCamera], groups: Sequence[int] | None = None) -> list[tuple[int, int]]:
    """Pairs with useful convergence angles, best first: those in which one of the images has fewer than PARTNERS better
    ones. With `groups`, a number per image, images of one group are matched; an image without a pair in its group is
    matched with others, whose surface it shares where nothing changed."""
    scored = sorted(
        (abs(math.log(angle / BEST_DEG)), i, j)
        for i, j in combinations(range(len(cameras)), 2)
        if CONVERGENCE_DEG[0] <= (angle := convergence_deg(cameras[i], cameras[j])) <= CONVERGENCE_DEG[1]
    )
    alike = [(i, j) for _, i, j in scored if groups is None or groups[i] == groups[j]]
    within = _few_each(alike, set(range(len(cameras))))
    alone = set(range(len(cameras))) - {image for pair in within for image in pair}
    return within + _few_each([(i, j) for _, i, j in scored], alone)


def _few_each(pairs: Sequence[tuple[int, int]], images: set[int]) -> list[tuple[int, int]]:
    """The pairs, in order, in which one of the `images` has fewer than PARTNERS so far."""
    partners, kept = Counter(), []
    for pair in pairs:
        if any(image in images and partners[image] < PARTNERS for image in pair):
            kept.append(pair)
            partners.update(pair)
    return kept


def convergence_deg(a: AffineCamera, b: AffineCamera) -> float:
    """Angle between two views' directions."""
    return math.degrees(math.acos(min(1.0, float(a.view_direction() @ b.view_direction()))))


def height_step_m(cameras: Sequence[AffineCamera], pairs: Sequence[tuple[int, int]], step_px: float) -> float:
    """The height that moves the widest pair's match by `step_px`."""
    slopes = [camera.view_direction()[:2] / camera.view_direction()[2] for camera in cameras]
    parallax = max(
        float(np.linalg.norm(slopes[i] - slopes[j])) / max(cameras[i].gsd_m(), cameras[j].gsd_m()) for i, j in pairs
    )
    return step_px / parallax
