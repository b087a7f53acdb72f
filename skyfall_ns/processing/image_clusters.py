"""Images that look alike, as found from their ties, and what is said about those that do not."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from skyfall_ns.geo.image_clusters import look_alike
from skyfall_ns.processing.tied_images import TiedImages


def cluster_images(tied: TiedImages, train: Bool[ndarray, " k"]) -> tuple[int, ...]:
    """A cluster number per training image; images of one cluster look alike."""
    seen = np.isfinite(tied.observations[tied.adjustment.inliers][:, :, 0])
    return look_alike(seen[:, train], _shown(tied)[:, train])


def cluster_note(names: Sequence[str], clusters: Sequence[int], pairs: Sequence[tuple[int, int]]) -> str | None:
    """What to say about images that do not look alike, given the pairs that are matched; None if all do."""
    if max(clusters) == 0:
        return None
    parts = [", ".join(n for n, c in zip(names, clusters, strict=True) if c == k) for k in range(max(clusters) + 1)]
    text = f"images differ much; alike are: {'; '.join(parts)}"
    within = {image for i, j in pairs if clusters[i] == clusters[j] for image in (i, j)}
    alone = [names[k] for k in sorted({image for pair in pairs for image in pair} - within)]
    if not alone:
        return f"{text}. Only those that look alike are matched with each other"
    if not within:
        return f"{text}. All are matched with each other, as those that look alike see from one direction"
    return f"{text}. {', '.join(alone)} has no partner that looks alike, and is matched with the others"


def _shown(tied: TiedImages) -> Bool[ndarray, "n v"]:
    """Which images the kept ties lie within, by the adjusted RPCs."""
    points = tied.lonlath
    shown = np.zeros((len(points), len(tied.crops)), bool)
    for view, (rpc, crop) in enumerate(zip(tied.crop_rpcs(adjusted=True), tied.crops, strict=True)):
        colrow = np.round(rpc.project(points)).astype(int)
        inside = np.asarray(((colrow >= 0) & (colrow < crop.size)).all(-1))
        inside[inside] = crop.valid[colrow[inside, 1], colrow[inside, 0]]
        shown[:, view] = inside
    return shown
