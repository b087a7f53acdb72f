"""Renders beside refined images: pairs of views of an episode, and a contact sheet of some of them, overview.png."""

from collections.abc import Sequence
from typing import TypeVar

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from skyfall_ns.idu.episode_store import EpisodeStore
from skyfall_ns.io.images import write_png

OVERVIEW_FILE = "overview.png"
MAX_VIEWS, SHEET_COLUMNS, IMAGE_SIDE_PX = 12, 3, 256  # of the sheet: pairs, pairs per row, longer side of an image
GAP_PX = 4  # between the two images of a pair; twice as much between pairs
WHITE = 255

T = TypeVar("T")


def select_evenly(items: Sequence[T], max_count: int) -> list[T]:
    """Select at most `max_count` items at even intervals, including the first and the last."""
    if len(items) <= max_count:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, max(max_count, 0)).round().astype(int)]


def shrink_image(image: UInt8[ndarray, "h w 3"], side_px: int) -> UInt8[ndarray, "h2 w2 3"]:
    """Shrink an image to a longer side of `side_px`; smaller images are unchanged."""
    height, width = image.shape[:2]
    scale = side_px / max(height, width)
    if scale >= 1:
        return image
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def place_side_by_side(
    left: UInt8[ndarray, "h w 3"], right: UInt8[ndarray, "h w 3"], side_px: int
) -> UInt8[ndarray, "h2 w2 3"]:
    """Place two images of one size side by side, each with a longer side of at most `side_px`."""
    left, right = shrink_image(left, side_px), shrink_image(right, side_px)
    return np.hstack([left, np.full((len(left), GAP_PX, 3), WHITE, np.uint8), right])


def make_contact_sheet(images: Sequence[UInt8[ndarray, "h w 3"]], columns: int) -> UInt8[ndarray, "h2 w2 3"]:
    """Arrange images of one size in rows; unused cells of the last row are white."""
    height, width = images[0].shape[:2]
    columns = min(columns, len(images))
    rows, gap = -(-len(images) // columns), 2 * GAP_PX
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), WHITE, np.uint8)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = row * (height + gap), column * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def read_image_pair(store: EpisodeStore, name: str) -> tuple[UInt8[ndarray, "h w 3"], UInt8[ndarray, "h w 3"]]:
    """Read the render and the refined image of a view. Raises TrainingError if one is missing or damaged."""
    return _to_bytes(store.rendered_view(name).image.numpy()), _to_bytes(store.read_refined(name).numpy())


def write_overview(store: EpisodeStore) -> None:
    """Write overview.png into the episode directory: renders (left of each pair) and refined images (right) of up to 12
    views at even intervals. Raises TrainingError if an image is missing or damaged."""
    names = select_evenly(store.view_names, MAX_VIEWS)
    pairs = [place_side_by_side(*read_image_pair(store, name), IMAGE_SIDE_PX) for name in names]
    write_png(store.path / OVERVIEW_FILE, make_contact_sheet(pairs, SHEET_COLUMNS)[..., ::-1])


def _to_bytes(image: ndarray) -> UInt8[ndarray, "h w 3"]:
    return np.round(255 * image).astype(np.uint8)
