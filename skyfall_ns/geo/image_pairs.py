"""Selection of image pairs for stereo matching: pairs with a useful convergence angle, a few for every image."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from skyfall_ns.geo.cameras import AffineCamera

CONVERGENCE_DEG = (2.5, 45.0)  # pairs below have no parallax, the images of pairs above are too different
BEST_CONVERGENCE_DEG = 17.0
MAX_PARTNERS = 6  # of each image, so that cost grows with the number of images and not of pairs


def select_stereo_pairs(
    cameras: Sequence[AffineCamera], clusters: Sequence[int] | None = None
) -> list[tuple[int, int]]:
    """Select pairs with useful convergence angles, best first.

    A pair is selected if one of its images has fewer than MAX_PARTNERS better pairs. With `clusters`, one number per
    image, images of one cluster are paired; an image without a pair in its cluster is paired with other images, because
    their surfaces agree where nothing changed.
    """
    ranked = sorted(
        (abs(math.log(angle / BEST_CONVERGENCE_DEG)), i, j)
        for i, j in combinations(range(len(cameras)), 2)
        if CONVERGENCE_DEG[0] <= (angle := convergence_deg(cameras[i], cameras[j])) <= CONVERGENCE_DEG[1]
    )
    same_cluster = [(i, j) for _, i, j in ranked if clusters is None or clusters[i] == clusters[j]]
    in_cluster = _limit_partners(same_cluster, set(range(len(cameras))))
    unpaired = set(range(len(cameras))) - {image for pair in in_cluster for image in pair}
    return in_cluster + _limit_partners([(i, j) for _, i, j in ranked], unpaired)


def _limit_partners(pairs: Sequence[tuple[int, int]], images: set[int]) -> list[tuple[int, int]]:
    """The pairs, in order, in which one of the `images` has fewer than MAX_PARTNERS so far."""
    partners, kept = Counter(), []
    for pair in pairs:
        if any(image in images and partners[image] < MAX_PARTNERS for image in pair):
            kept.append(pair)
            partners.update(pair)
    return kept


def convergence_deg(a: AffineCamera, b: AffineCamera) -> float:
    """Angle between the directions of two views, degrees."""
    return math.degrees(math.acos(min(1.0, float(a.view_direction() @ b.view_direction()))))


def height_step_m(cameras: Sequence[AffineCamera], pairs: Sequence[tuple[int, int]], step_px: float) -> float:
    """Height difference that moves the match of the widest pair by `step_px`, meters."""
    slopes = [camera.view_direction()[:2] / camera.view_direction()[2] for camera in cameras]
    parallax = max(
        float(np.linalg.norm(slopes[i] - slopes[j])) / max(cameras[i].gsd_m(), cameras[j].gsd_m()) for i, j in pairs
    )
    return step_px / parallax
