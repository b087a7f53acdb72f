"""Clusters of images of similar appearance, found from their tie points, and their description."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from skyfall_ns.geo.image_clusters import cluster_images
from skyfall_ns.processing.tied_images import TiedImages


def cluster_tied_images(tied: TiedImages, train: Bool[ndarray, " k"]) -> tuple[int, ...]:
    """Assign a cluster number to each training image; images of one cluster have a similar appearance."""
    observed = np.isfinite(tied.observations[tied.adjustment.inliers][:, :, 0])
    return cluster_images(observed[:, train], _tie_point_visibility(tied)[:, train])


def describe_clusters(names: Sequence[str], clusters: Sequence[int], pairs: Sequence[tuple[int, int]]) -> str | None:
    """Describe the clusters and which images are matched, given the matched pairs; None for a single cluster."""
    if max(clusters) == 0:
        return None
    parts = [", ".join(n for n, c in zip(names, clusters, strict=True) if c == k) for k in range(max(clusters) + 1)]
    text = f"the images form clusters of similar appearance: {'; '.join(parts)}"
    paired = {image for i, j in pairs if clusters[i] == clusters[j] for image in (i, j)}
    unpaired = [names[k] for k in sorted({image for pair in pairs for image in pair} - paired)]
    if not unpaired:
        return f"{text}. Only images of one cluster are matched with each other"
    if not paired:
        return f"{text}. All are matched with each other, because those of one cluster have the same view direction"
    return f"{text}. {', '.join(unpaired)} has no partner in its cluster, and is matched with the others"


def _tie_point_visibility(tied: TiedImages) -> Bool[ndarray, "n v"]:
    """Whether a kept tie point lies on valid pixels of an image, by the adjusted RPCs."""
    points = tied.tie_lonlath
    shown = np.zeros((len(points), len(tied.crops)), bool)
    for view, (rpc, crop) in enumerate(zip(tied.crop_rpcs(adjusted=True), tied.crops, strict=True)):
        colrow = np.round(rpc.project(points)).astype(int)
        inside = np.asarray(((colrow >= 0) & (colrow < crop.size_px)).all(-1))
        inside[inside] = crop.valid[colrow[inside, 1], colrow[inside, 0]]
        shown[:, view] = inside
    return shown
