"""The area of interest: from GeoJSON, from a center and a size, or the ground that all images show."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from skyfall_ns.errors import RasterError, SkyfallError
from skyfall_ns.geo.frame import LocalFrame, unwrap_longitudes
from skyfall_ns.processing.plausibility import crop_hint
from skyfall_ns.processing.vendor_images import VendorImage

_GRID_CELLS = 160  # per side of the grid on which the common area is searched
_HEIGHT_LEVELS = 65  # heights at which images are tested for an overlap
_MAX_EXTENT_RATIO = 4.0  # of an area to the ground that an image shows: farther away, its RPC is meaningless


@dataclass(frozen=True)
class AreaOfInterest:
    """The user's choice: at most one of a GeoJSON file and a square around a point."""

    aoi: Path | None = None
    center: tuple[float, float] | None = None
    size_m: float | None = None

    def __post_init__(self) -> None:
        if self.aoi and self.center:
            raise SkyfallError("--aoi and --center both name the area. Give only one of them.")
        if (self.center is None) != (self.size_m is None):
            raise SkyfallError("--center LON LAT and --size METERS belong together. Give both or none.")
        if self.size_m is not None and not 0 < self.size_m < math.inf:
            raise SkyfallError(f"--size is {self.size_m} meters. Give a positive length.")

    def corners_lonlat(self) -> Float64[ndarray, "n 2"] | None:
        """Corners (lon, lat) of the area in degrees; None for the ground that all images show."""
        if self.aoi:
            return _read_geojson_positions(self.aoi)
        if self.center is None or self.size_m is None:
            return None
        lon, lat = self.center
        if not (-180 <= lon <= 180 and -90 <= lat <= 90):
            raise SkyfallError(
                f"--center {lon} {lat} is not a longitude and a latitude. Give degrees, longitude first."
            )
        frame, half = LocalFrame.at_point(np.array([lon, lat, 0.0])), self.size_m / 2
        center = frame.from_geodetic(np.array([lon, lat, 0.0]))
        corners = center + half * np.array([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
        return unwrap_longitudes(frame.to_geodetic(corners)[:, :2])


def _read_geojson_positions(path: Path) -> Float64[ndarray, "n 2"]:
    """Read all positions (lon, lat) of all polygons of a GeoJSON file; SkyfallError if it has none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
        features = data["features"] if data["type"] == "FeatureCollection" else [data]
        geometries = [f["geometry"] if f["type"] == "Feature" else f for f in features]
        rings = []
        for geometry in geometries:
            polygons = {"Polygon": [geometry["coordinates"]], "MultiPolygon": geometry["coordinates"]}[geometry["type"]]
            rings += [ring for polygon in polygons for ring in polygon]
        positions = np.array([p[:2] for ring in rings for p in ring], np.float64)
        if positions.ndim != 2 or len(positions) < 3 or not (np.abs(positions) <= [360, 90]).all():
            raise ValueError("its positions are not longitudes and latitudes")
    except OSError as error:
        raise SkyfallError(f"{path} cannot be opened. Check the path given to --aoi.") from error
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise SkyfallError(
            f"{path} is not a GeoJSON polygon in degrees ({error}). Give a Polygon in lon, lat to --aoi."
        ) from error
    # an area that spans more than half the globe is one across the antimeridian
    return unwrap_longitudes(positions) if np.ptp(positions[:, 0]) > 180 else positions


def check_image_shows_area(
    corners: Float64[ndarray, "n 2"], image: VendorImage, heights_m: tuple[float, float]
) -> None:
    """Raise RasterError unless an image shows a part of the area (lon, lat) at some height of a range.

    The test is done on the ground, because far from its image an RPC may project points anywhere.
    """
    outlines = np.concatenate([_image_outline(image, height)[:, :2] for height in heights_m])
    shown = unwrap_longitudes(outlines, float(corners[0, 0]))
    low, high = shown.min(0), shown.max(0)
    if (corners.max(0) < low).any() or (corners.min(0) > high).any():
        raise RasterError(
            f"The area of interest lies outside {image.path}. Check --aoi or --center, or leave the image out"
            f"{crop_hint([image])}."
        )
    if (np.ptp(corners, axis=0) > _MAX_EXTENT_RATIO * (high - low)).any():
        raise RasterError(
            f"The area of interest is far larger than the ground in {image.path}. "
            "Give a smaller one to --aoi or --size."
        )


def check_images_overlap(images: Sequence[VendorImage], heights_m: tuple[float, float]) -> None:
    """Raise SkyfallError unless there is a height of the range at which all images show the same place."""
    for height in np.linspace(*heights_m, _HEIGHT_LEVELS):
        outlines = unwrap_longitudes(np.stack([_image_outline(image, float(height))[:, :2] for image in images]))
        if (outlines.min(1).max(0) < outlines.max(1).min(0)).all():
            return
    raise SkyfallError(f"The --images do not overlap. Give images that show the same place{crop_hint(images)}.")


def two_view_fraction(images: Sequence[VendorImage], frame: LocalFrame, surface_m: Float64[ndarray, "n 3"]) -> float:
    """Fraction of the points of a surface (local meters) that at least two images show."""
    lonlath = frame.to_geodetic(surface_m)
    return float(np.mean(sum(_is_inside_image(image, lonlath).astype(int) for image in images) >= 2))


def _is_inside_image(image: VendorImage, lonlath: Float64[ndarray, "*n 3"]) -> Bool[ndarray, " *n"]:
    """Whether points lie within an image."""
    colrow = image.rpc.project(lonlath)
    return np.all((colrow >= 0) & (colrow <= [image.width - 1, image.height - 1]), axis=-1)


def common_area_lonlat(images: Sequence[VendorImage], height_m: float) -> Float64[ndarray, "4 2"]:
    """Corners (lon, lat) of the largest north-up rectangle that every image shows at an ellipsoidal height.

    Raises SkyfallError if the images do not overlap.
    """
    outlines = unwrap_longitudes(np.stack([_image_outline(image, height_m) for image in images]))
    frame = LocalFrame.at_point(outlines.reshape(-1, 3).mean(0))
    local = [frame.from_geodetic(outline)[:, :2] for outline in outlines]
    low, high = np.max([p.min(0) for p in local], 0), np.min([p.max(0) for p in local], 0)
    if (high <= low).any():
        raise SkyfallError(f"The --images do not overlap. Give images that show the same place{crop_hint(images)}.")
    x, y = (np.linspace(low[i], high[i], _GRID_CELLS) for i in (0, 1))
    points = np.stack([*np.meshgrid(x, y), np.full((_GRID_CELLS, _GRID_CELLS), height_m - frame.origin[2])], -1)
    shown = np.ones((_GRID_CELLS, _GRID_CELLS), bool)
    for image in images:
        shown &= _is_inside_image(image, frame.to_geodetic(points))
    r0, r1, c0, c1 = _largest_rectangle(shown)
    if r1 - r0 < 2 or c1 - c0 < 2:
        raise SkyfallError("The --images hardly overlap. Give images that show the same place.")
    corners = np.array([[x[c], y[r], points[0, 0, 2]] for r, c in ((r0, c0), (r0, c1), (r1, c1), (r1, c0))])
    return unwrap_longitudes(frame.to_geodetic(corners)[:, :2])


def _image_outline(image: VendorImage, height_m: float) -> Float64[ndarray, "4 3"]:
    """Positions (lon, lat, height) of an image's four corner pixels at an ellipsoidal height."""
    right, bottom = image.width - 1.0, image.height - 1.0
    return image.rpc.localize(np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]]), height_m)


def _largest_rectangle(mask: Bool[ndarray, "r c"]) -> tuple[int, int, int, int]:
    """First and last row and column of the largest rectangle of True cells (histogram by rows, with a stack)."""
    best, area = (0, 0, 0, 0), 0
    heights = np.zeros(mask.shape[1] + 1, int)
    for row in range(mask.shape[0]):
        heights[:-1] = np.where(mask[row], heights[:-1] + 1, 0)
        stack: list[int] = []
        for column, height in enumerate(heights.tolist()):
            while stack and heights[stack[-1]] >= height:
                tall = int(heights[stack.pop()])
                left = stack[-1] + 1 if stack else 0
                if tall * (column - left) > area:
                    area, best = tall * (column - left), (row - tall + 1, row, left, column - 1)
            stack.append(column)
    return best
