"""Which bands of a file are red, green and blue."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import rasterio
from rasterio.enums import ColorInterp

from skyfall_ns.errors import RasterError

_COLORS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
_NAMES = (("red", "r", "band_r", "b_r"), ("green", "g", "band_g"), ("blue", "b", "band_b"))


@dataclass(frozen=True)
class BandChoice:
    """Bands of a file from 1: one, or red, green and blue; and a note where they are assumed."""

    bands: tuple[int, ...]
    note: str | None = None


def choose_bands(source: rasterio.DatasetReader, path: Path, requested: tuple[int, ...]) -> BandChoice:
    """The requested bands, or those that the file names by description or color, or the first three with a note.

    Raises RasterError for requested bands that the file lacks."""
    if requested:
        if len(requested) not in (1, 3):
            raise RasterError(f"--bands has {len(requested)} numbers. Give one, or three for red, green and blue.")
        for band in requested:
            if not 1 <= band <= source.count:
                raise RasterError(f"--bands names band {band}, and {path} has {source.count}. Give bands from 1 on.")
        return BandChoice(requested)
    return find_color_bands(source.descriptions, source.colorinterp, path.name)


def find_color_bands(
    descriptions: Sequence[str | None], colors: Sequence[ColorInterp], file_name: str = "the image"
) -> BandChoice:
    """The bands whose descriptions, or else colors, are red, green and blue; or the first three with a note.

    A file of one or two bands (gray, and transparency or infrared) is gray."""
    names = [(text or "").strip().casefold() for text in descriptions]
    described = tuple(next((k + 1 for k, name in enumerate(names) if name in known), 0) for known in _NAMES)
    if all(described):
        return BandChoice(described)
    if all(color in colors for color in _COLORS):
        return BandChoice(tuple(colors.index(color) + 1 for color in _COLORS))
    visible = [k + 1 for k, color in enumerate(colors) if color != ColorInterp.alpha]
    if len(visible) < 3:
        return BandChoice((visible[0] if visible else 1,))
    chosen = tuple(visible[:3])
    if len(visible) == 3:
        return BandChoice(chosen)
    note = (
        f"{file_name} has {len(visible)} bands that it does not name: bands {', '.join(map(str, chosen))} are taken as "
        "red, green and blue; choose others with --bands"
    )
    return BandChoice(chosen, note)
