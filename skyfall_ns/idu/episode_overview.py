"""Renders beside what was made of them: pairs of an episode's views, and a sheet of a dozen as overview.png."""

from collections.abc import Sequence
from typing import TypeVar

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from skyfall_ns.idu.episode_store import EpisodeFolder
from skyfall_ns.io.files import write_whole

OVERVIEW_FILE = "overview.png"
MOST_VIEWS, COLUMNS, SIDE_PX = 12, 3, 256  # of the sheet: pairs, pairs in a row, and the side of each picture
GAP_PX = 4  # between the two of a pair; twice as much between pairs
WHITE = 255

T = TypeVar("T")


def evenly(things: Sequence[T], most: int) -> list[T]:
    """At most so many of them, evenly chosen, the first and the last among them."""
    if len(things) <= most:
        return list(things)
    return [things[i] for i in np.linspace(0, len(things) - 1, max(most, 0)).round().astype(int)]


def sized(picture: UInt8[ndarray, "h w 3"], side_px: int) -> UInt8[ndarray, "h2 w2 3"]:
    """Shrunk until its longer side is `side_px`; smaller pictures stay as they are."""
    height, width = picture.shape[:2]
    share = side_px / max(height, width)
    if share >= 1:
        return picture
    size = max(round(width * share), 1), max(round(height * share), 1)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def side_by_side(
    left: UInt8[ndarray, "h w 3"], right: UInt8[ndarray, "h w 3"], side_px: int
) -> UInt8[ndarray, "h2 w2 3"]:
    """Two pictures of one size next to each other, each at most `side_px` wide."""
    left, right = sized(left, side_px), sized(right, side_px)
    return np.hstack([left, np.full((len(left), GAP_PX, 3), WHITE, np.uint8), right])


def sheet(pictures: Sequence[UInt8[ndarray, "h w 3"]], columns: int) -> UInt8[ndarray, "h2 w2 3"]:
    """Pictures of one size in rows; places that are left over stay white."""
    height, width = pictures[0].shape[:2]
    columns = min(columns, len(pictures))
    rows, gap = -(-len(pictures) // columns), 2 * GAP_PX
    whole = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), WHITE, np.uint8)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        top, left = row * (height + gap), column * (width + gap)
        whole[top : top + height, left : left + width] = picture
    return whole


def pictures(folder: EpisodeFolder, name: str) -> tuple[UInt8[ndarray, "h w 3"], UInt8[ndarray, "h w 3"]]:
    """A view's render and refined image; TrainingError if one is missing or damaged."""
    return _bytes(folder.view(name).image.numpy()), _bytes(folder.refined(name).numpy())


def write_overview(folder: EpisodeFolder) -> None:
    """Renders (left of each pair) and refined images (right) of a dozen views, evenly chosen, as overview.png in the
    episode's folder; TrainingError if one is missing or damaged."""
    pairs = [side_by_side(*pictures(folder, name), SIDE_PX) for name in evenly(folder.names, MOST_VIEWS)]
    done, data = cv2.imencode(".png", np.ascontiguousarray(sheet(pairs, COLUMNS)[..., ::-1]))
    assert done
    write_whole(folder.path / OVERVIEW_FILE, data.tobytes())


def _bytes(picture: ndarray) -> UInt8[ndarray, "h w 3"]:
    return np.round(255 * picture).astype(np.uint8)
