"""Checks of delivered files before any work: whether an image's RPC and size can belong together."""

from collections.abc import Sequence

import numpy as np

from skyfall_ns.errors import RasterError
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.processing.vendor_images import VendorImage

MAX_ABS_LATITUDE_DEG = 84.0  # of UTM zones
OUTSIDE_FRACTION = 0.5  # of the file's size: a center farther outside the file means a crop
VALID_EXTENT = 1.3  # normalized coordinates up to which an RPC is trusted
GSD_RANGE_M = (0.05, 100.0)


def check_plausibility(images: Sequence[VendorImage]) -> list[str]:
    """Notes on images whose RPC is unlikely to be that of the file.

    Raises RasterError for images that cannot be used: at the poles, or with an RPC that has no ground for the file."""
    notes = []
    crops = [image for image in images if is_crop_of_larger_image(image)]
    if crops:
        offsets = "; ".join(f"{image.name} ({_offset_text(image)})" for image in crops)
        notes.append(
            "the RPC's center lies far outside the file, as in a crop of a larger image whose RPC was moved with it: "
            f"{offsets}. If the pixels were cropped but the RPC was not, the scene is displaced by that much"
        )
    for image in images:
        notes += _check_image(image)
    return notes


def is_crop_of_larger_image(image: VendorImage) -> bool:
    """Whether the center of an RPC lies far outside its file."""
    return any(
        outside > OUTSIDE_FRACTION * size for outside, size in zip(_outside_px(image), _size(image), strict=True)
    )


def crop_hint(images: Sequence[VendorImage]) -> str:
    """A clause on RPCs whose centers lie outside their files, for errors about places; "" if there are none."""
    crops = [image for image in images if is_crop_of_larger_image(image)]
    if not crops:
        return ""
    offsets = "; ".join(f"{image.path.name}: {_offset_text(image)}" for image in crops)
    return f", and check that each RPC belongs to its file: its center lies far outside it ({offsets})"


def _check_image(image: VendorImage) -> list[str]:
    if abs(image.rpc.lat_off) > MAX_ABS_LATITUDE_DEG:
        raise RasterError(
            f"{image.path} lies at latitude {image.rpc.lat_off:.1f}, and scenes within {90 - MAX_ABS_LATITUDE_DEG:.0f} "
            "degrees of a pole are not supported. Leave the image out."
        )
    notes = []
    extent = _normalized_extent(image.rpc, image)
    if extent > VALID_EXTENT:
        notes.append(
            f"{image.name}: the file reaches to {extent:.1f} times the extent for which its RPC is valid: "
            "it may be the RPC of another image or of another resolution"
        )
    gsd = ground_sample_distance_m(image)
    if not GSD_RANGE_M[0] <= gsd <= GSD_RANGE_M[1]:
        notes.append(f"{image.name}: by its RPC a pixel is {gsd:.3g} m on the ground, which no satellite image has")
    return notes


def ground_sample_distance_m(image: VendorImage) -> float:
    """Mean side of a pixel on the ground at the image's center, meters. RasterError where the RPC has no ground."""
    center = np.array([image.width - 1.0, image.height - 1.0]) / 2
    try:
        lonlat = image.rpc.localize(center + np.array([[0.0, 0], [1, 0], [0, 1]]), image.rpc.height_off)[:, :2]
    except RasterError as error:
        raise RasterError(
            f"The RPC of {image.path} has no ground for the image's center. Give the RPC of this file with --rpc."
        ) from error
    steps = (lonlat[1:] - lonlat[0] + 180.0) % 360.0 - 180.0
    meters = steps * 111_195.0 * np.array([np.cos(np.radians(lonlat[0, 1])), 1.0])
    return float(np.sqrt(abs(np.linalg.det(meters))))


def _normalized_extent(rpc: RPC, image: VendorImage) -> float:
    """Largest normalized column or row of the file."""
    columns = np.array([0.0, image.width - 1.0]) - rpc.samp_off
    rows = np.array([0.0, image.height - 1.0]) - rpc.line_off
    return float(max(np.abs(columns).max() / rpc.samp_scale, np.abs(rows).max() / rpc.line_scale))


def _size(image: VendorImage) -> tuple[int, int]:
    return image.width, image.height


def _outside_px(image: VendorImage) -> tuple[float, float]:
    """Columns and rows by which an RPC's center lies outside the file; 0 within it."""
    center = (image.rpc.samp_off, image.rpc.line_off)
    return tuple(max(0.0, -c, c - (n - 1)) for c, n in zip(center, _size(image), strict=True))  # type: ignore[return-value]


def _offset_text(image: VendorImage) -> str:
    return (
        f"SAMP_OFF {image.rpc.samp_off:.0f} and LINE_OFF {image.rpc.line_off:.0f} in {image.width} x {image.height} px"
    )
