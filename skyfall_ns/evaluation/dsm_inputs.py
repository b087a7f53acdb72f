"""Inputs of DSM comparisons: parts of large references, references of DFC2019, class masks, and notes on datums."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from jaxtyping import Float64
from numpy import ndarray
from rasterio.errors import RasterioIOError
from rasterio.warp import Resampling, transform_bounds
from rasterio.windows import Window, from_bounds

from skyfall_ns.errors import CrsError, RasterError
from skyfall_ns.evaluation.cells import resample_raster
from skyfall_ns.geo.frame import parse_crs
from skyfall_ns.geo.raster import Raster, read_raster

MARGIN_CELLS = 40  # read around the overlap, for the shift of the registration
_FEET = ("foot", "feet", "ft", "us survey foot")


def read_reference(path: Path, pred: Raster, pred_name: str, ref_crs: str | None) -> Raster:
    """Read the part of a reference that a prediction overlaps.

    A reference without a CRS is one of DFC2019, with x_min, y_min, cells and cell size in NAME.txt beside it, in
    `ref_crs`. Raises RasterError or CrsError if the file cannot be used, or does not overlap the prediction.
    """
    georeference = path.with_suffix(".txt")
    if ref_crs is not None and georeference.is_file():
        return _georeference_raster(read_raster(path), georeference, ref_crs)
    try:
        with rasterio.open(path) as source:
            window = None if source.crs is None or pred.crs is None else _overlap_window(source, pred)
    except RasterioIOError:
        return read_raster(path)  # reports what is wrong
    if window is None:
        raster = read_raster(path)
        return raster if ref_crs is None else replace(raster, crs=ref_crs)
    if window.width < 1 or window.height < 1:
        raise RasterError(f"{pred_name} and {path} do not overlap. Check that they cover the same place.")
    with rasterio.open(path) as source:
        transform = source.window_transform(window)
        code = source.crs.to_epsg()
        crs = f"EPSG:{code}" if code else source.crs.to_wkt()
        return Raster(source.read(window=window), crs, transform, source.nodata, dict(source.tags()))


def _overlap_window(source: rasterio.DatasetReader, pred: Raster) -> Window:
    """Whole cells of a file around a prediction; empty if they do not overlap."""
    height, width = pred.bands.shape[1:]
    west, north = pred.transform.c, pred.transform.f
    east, south = west + width * pred.transform.a, north + height * pred.transform.e
    bounds = transform_bounds(pred.crs, source.crs, west, south, east, north)
    inner = from_bounds(*bounds, transform=source.transform)
    first = np.floor([inner.col_off, inner.row_off]).astype(int) - MARGIN_CELLS
    last = np.ceil([inner.col_off + inner.width, inner.row_off + inner.height]).astype(int) + MARGIN_CELLS
    low, high = np.maximum(first, 0), np.minimum(last, [source.width, source.height])
    size = np.maximum(high - low, 0)
    column, row, columns, rows = (int(value) for value in (*low, *size))
    return Window.from_slices((row, row + rows), (column, column + columns))


def _georeference_raster(raster: Raster, georeference: Path, crs: str) -> Raster:
    parse_crs(crs)
    try:
        x_min, y_min, cells, size = (float(word) for word in georeference.read_text().split())
    except ValueError as error:
        raise RasterError(f"{georeference} does not hold x_min, y_min, cells and cell size. Copy it again.") from error
    return Raster(raster.bands, crs, Affine(size, 0, x_min, 0, -size, y_min + cells * size), raster.nodata, raster.tags)


def class_values(path: Path, ref: Raster, ref_crs: str | None) -> Float64[ndarray, "h w"]:
    """Classes of a file at the cells of a reference: cell by cell if the file has no CRS and the same size, else those
    of the nearest cells; NaN outside. Raises RasterError or CrsError if the file cannot be used."""
    classes = read_raster(path)
    if classes.crs is None:
        if classes.bands.shape[1:] == ref.bands.shape[1:]:
            return classes.bands[0].astype(np.float64)
        raise CrsError(f"{path} has no CRS and not the size of the reference. Write it as a georeferenced GeoTIFF.")
    return resample_raster(classes, ref, Resampling.nearest)


def leave_out_classes(ref: Raster, classes: Float64[ndarray, "h w"], leave_out: tuple[int, ...]) -> Raster:
    """The reference without the heights of some classes (NaN)."""
    heights = np.where(np.isin(classes, leave_out), np.nan, ref.band_values())
    return replace(ref, bands=heights[None], nodata=None)


def datum_notes(pred: Raster, ref: Raster, names: tuple[str, str]) -> list[str]:
    """What the vertical datums and units of two DSMs say about their difference; empty if nothing is unusual."""
    notes = []
    datums = [_datum_name(raster) for raster in (pred, ref)]
    if datums[0] != datums[1]:
        notes.append(
            f"Heights of {names[0]} are above {datums[0]}, those of {names[1]} above {datums[1]}: unregistered scores "
            "contain the difference of the datums."
        )
    for raster, name in zip((pred, ref), names, strict=True):
        unit = next((value for key, value in raster.tags.items() if key.upper() in ("UNIT", "UNITS", "UNITTYPE")), "")
        if unit.lower() in _FEET:
            notes.append(f"{name} says that its heights are in {unit}: they are compared as if they were meters.")
    return notes


def _datum_name(raster: Raster) -> str:
    crs = parse_crs(raster.crs) if raster.crs else None
    if crs is not None and crs.is_compound:
        return str(crs.sub_crs_list[1].name)
    return "the ellipsoid" if "ellipsoidal" in raster.tags.get("HEIGHTS", "") else "an unnamed datum"
