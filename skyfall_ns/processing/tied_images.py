"""Vendor images with their tie points and the adjustment that these ask for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from skyfall_ns.geo.bundle_adjustment import Adjustment
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.geo.tie_points import find_ties
from skyfall_ns.processing.crops import apply_tone
from skyfall_ns.processing.tone_mapping import fit_tone
from skyfall_ns.processing.vendor_images import Crop, VendorImage
from skyfall_ns.scene.scene import DISPLAY_GAMMA


@dataclass(frozen=True)
class TiedImages:
    """Images, the windows in which ties were looked for, the ties (pixels of the windows), and the adjustment."""

    vendor: tuple[VendorImage, ...]
    crops: tuple[Crop, ...]
    observations: Float64[ndarray, "n k 2"]
    adjustment: Adjustment

    @property
    def lonlath(self) -> Float64[ndarray, "m 3"]:
        """Longitude, latitude and ellipsoidal height of the ties that were kept."""
        return self.adjustment.lonlath[self.adjustment.inliers]

    def crop_rpcs(self, adjusted: bool) -> list[RPC]:
        """RPCs of the windows."""
        rpcs = crop_rpcs(self.vendor, self.crops)
        return [r.shifted(*s) for r, s in zip(rpcs, self.adjustment.shifts_px, strict=True)] if adjusted else rpcs

    def subset(self, keep: Bool[ndarray, " k"]) -> "TiedImages":
        """Some of the images; ties that fewer than two of them see are dropped."""
        observations = self.observations[:, keep]
        tied = np.isfinite(observations[:, :, 0]).sum(1) >= 2
        number = np.cumsum(keep) - 1
        pairs = tuple(
            replace(pair, images=(int(number[pair.images[0]]), int(number[pair.images[1]])))
            for pair in self.adjustment.pairs
            if keep[list(pair.images)].all()
        )
        adjustment = replace(
            self.adjustment,
            shifts_px=self.adjustment.shifts_px[keep],
            lonlath=self.adjustment.lonlath[tied],
            inliers=self.adjustment.inliers[tied],
            residuals_px=self.adjustment.residuals_px[tied],
            pairs=pairs,
        )
        chosen = np.flatnonzero(keep)
        vendor, crops = tuple(self.vendor[k] for k in chosen), tuple(self.crops[k] for k in chosen)
        return TiedImages(vendor, crops, observations[tied], adjustment)


def crop_rpcs(vendor: Sequence[VendorImage], crops: Sequence[Crop]) -> list[RPC]:
    """The vendor's RPCs as those of windows."""
    return [v.rpc.cropped(c.col0, c.row0) for v, c in zip(vendor, crops, strict=True)]


def ties_of_crops(
    vendor: Sequence[VendorImage],
    crops: Sequence[Crop],
    heights_m: tuple[float, float],
    progress: Callable[[int, int], None] | None,
) -> Float64[ndarray, "n k 2"]:
    """Tie points in pixels of the windows, for ellipsoidal heights within a range."""
    # Each image its own: SIFT wants contrast, not radiometry.
    tones = [fit_tone([c.dn], [c.valid], DISPLAY_GAMMA) for c in crops]
    values = [apply_tone(t, c, fill=0.0).mean(-1) for t, c in zip(tones, crops, strict=True)]
    gray = [np.round(255 * v).astype(np.uint8) for v in values]
    masks, names, acquired = [c.valid for c in crops], [v.name for v in vendor], [v.acquired for v in vendor]
    return find_ties(gray, crop_rpcs(vendor, crops), heights_m, masks, names, acquired, progress).tracks
