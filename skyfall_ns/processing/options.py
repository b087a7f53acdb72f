"""Options of processing; the defaults are those of `skyfall-process images`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from skyfall_ns.geo.cameras import CameraModel
from skyfall_ns.processing.area_of_interest import AreaOfInterest
from skyfall_ns.processing.vendor_images import ImageFlags

PointsMode = Literal["dense", "sparse"]
Progress = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True)
class ProcessingOptions:
    """How vendor images are processed."""

    area: AreaOfInterest = field(default_factory=AreaOfInterest)
    """Area of interest; by default the ground that all images show."""
    height_range_m: tuple[float, float] | None = None
    """Lowest and highest ellipsoidal height in meters; by default found in the images."""
    camera: CameraModel = "quadratic"
    """Camera that is fitted to each RPC over the scene's box."""
    adjust: bool = True
    """Whether to adjust the vendor's RPCs to the tie points."""
    points: PointsMode = "dense"
    """Initial points on a dense surface, or the tie points alone."""
    test_images: tuple[str, ...] = ()
    """Names or globs of the images to hold out of training."""
    suns: tuple[str, ...] = ()
    """Sun angles that replace those of the files, as "NAME=AZIMUTH,ELEVATION" in degrees."""
    flags: ImageFlags = field(default_factory=ImageFlags)
    """RPC files, masks and bands that replace those of the files."""
    gamma: float | None = None
    """Gamma of the tone curve; by default chosen from the images."""
    resolution_m: float = 0.5
    """Cell size of the dense surface in meters."""
    box_margins_m: tuple[float, float] = (10.0, 8.0)
    """Margins of the scene's box below the lowest and above the highest matched height, meters: antennas and basements
    that the coarse surface misses stay in it."""
