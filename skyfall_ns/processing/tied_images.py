"""Vendor images with their tie points and bundle adjustment."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from skyfall_ns.geo.bundle_adjustment import Adjustment
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.geo.tie_points import find_tie_points
from skyfall_ns.processing.crops import apply_tone
from skyfall_ns.processing.image_windows import Crop
from skyfall_ns.processing.tone_mapping import fit_tone
from skyfall_ns.processing.vendor_images import VendorImage
from skyfall_ns.scene.scene import DISPLAY_GAMMA


@dataclass(frozen=True)
class TiedImages:
    """Images, the windows in which tie points were searched, the tie points (pixels of the windows; NaN where an image
    has none), and the adjustment."""

    vendor_images: tuple[VendorImage, ...]
    crops: tuple[Crop, ...]
    observations: Float64[ndarray, "n k 2"]
    adjustment: Adjustment

    @property
    def tie_lonlath(self) -> Float64[ndarray, "m 3"]:
        """Longitude, latitude and ellipsoidal height of the tie points that were kept."""
        return self.adjustment.lonlath[self.adjustment.inliers]

    def crop_rpcs(self, adjusted: bool) -> list[RPC]:
        """RPCs of the windows, as delivered or adjusted."""
        rpcs = crop_rpcs(self.vendor_images, self.crops)
        return [r.with_offset(*s) for r, s in zip(rpcs, self.adjustment.offsets_px, strict=True)] if adjusted else rpcs

    def select_images(self, keep: Bool[ndarray, " k"]) -> "TiedImages":
        """Some of the images; tie points in fewer than two of them are dropped."""
        observations = self.observations[:, keep]
        in_two_images = np.isfinite(observations[:, :, 0]).sum(1) >= 2
        new_index = np.cumsum(keep) - 1
        pairs = tuple(
            replace(pair, images=(int(new_index[pair.images[0]]), int(new_index[pair.images[1]])))
            for pair in self.adjustment.pairs
            if keep[list(pair.images)].all()
        )
        adjustment = replace(
            self.adjustment,
            offsets_px=self.adjustment.offsets_px[keep],
            lonlath=self.adjustment.lonlath[in_two_images],
            inliers=self.adjustment.inliers[in_two_images],
            residuals_px=self.adjustment.residuals_px[in_two_images],
            pairs=pairs,
        )
        kept = np.flatnonzero(keep)
        images, crops = tuple(self.vendor_images[k] for k in kept), tuple(self.crops[k] for k in kept)
        return TiedImages(images, crops, observations[in_two_images], adjustment)


def crop_rpcs(images: Sequence[VendorImage], crops: Sequence[Crop]) -> list[RPC]:
    """The vendor's RPCs, moved to the windows."""
    return [image.rpc.for_crop(crop.col0, crop.row0) for image, crop in zip(images, crops, strict=True)]


def find_crop_tie_points(
    images: Sequence[VendorImage],
    crops: Sequence[Crop],
    heights_m: tuple[float, float],
    progress: Callable[[int, int], None] | None,
) -> Float64[ndarray, "n k 2"]:
    """Find tie points in pixels of the windows, for ellipsoidal heights within a range."""
    # Each image has its own tone curve: SIFT needs contrast, not radiometry.
    tones = [fit_tone([c.dn], [c.valid], DISPLAY_GAMMA) for c in crops]
    values = [apply_tone(t, c, fill=0.0).mean(-1) for t, c in zip(tones, crops, strict=True)]
    gray = [np.round(255 * v).astype(np.uint8) for v in values]
    masks, names, acquired = [c.valid for c in crops], [i.name for i in images], [i.acquired for i in images]
    return find_tie_points(gray, crop_rpcs(images, crops), heights_m, masks, names, acquired, progress).tracks
