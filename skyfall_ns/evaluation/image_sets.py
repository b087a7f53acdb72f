"""Sets of images to compare: directories or videos, frame by frame."""

from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from skyfall_ns.errors import SkyfallError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm")


def read_image_set(path: Path, count: int | None) -> list[UInt8[ndarray, "h w 3"]]:
    """Images of a directory in the order of their names, or frames of a video; with `count`, that number of them at
    equal distances from the first one, without the last (Skyfall-GS).

    Raises SkyfallError if there are none, or fewer than `count`.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        chosen = [files[index] for index in frame_indices(len(files), count, path)]
        return [_read_image(file) for file in chosen]
    if path.suffix.lower() not in VIDEO_SUFFIXES or not path.is_file():
        raise SkyfallError(f"{path} is neither a directory of images nor a video. Pass one of both.")
    return _read_video(path, count)


def frame_indices(available: int, count: int | None, path: Path) -> list[int]:
    """Indices of the frames to compare. Raises SkyfallError if there are too few."""
    if available == 0:
        raise SkyfallError(f"{path} has no images. Pass a directory of PNG or JPEG files, or a video.")
    if count is None:
        return list(range(available))
    if available < count:
        raise SkyfallError(f"{path} has {available} frames, fewer than --frames {count}. Give a smaller number.")
    return np.linspace(0, available - 1, count, endpoint=False).astype(int).tolist()


def _read_image(path: Path) -> UInt8[ndarray, "h w 3"]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise SkyfallError(f"{path} cannot be read as an image. Write it again as PNG.")
    return image[..., ::-1].copy()


def _read_video(path: Path, count: int | None) -> list[UInt8[ndarray, "h w 3"]]:
    video = cv2.VideoCapture(str(path))
    frames = []
    while True:
        read, frame = video.read()
        if not read:
            break
        frames.append(frame[..., ::-1].copy())
    video.release()
    return [frames[index] for index in frame_indices(len(frames), count, path)]


def resize_image(image: UInt8[ndarray, "h w 3"], size: tuple[int, int]) -> Float[Tensor, "h w 3"]:
    """Colors in 0..1 of a size (width, height), resized bilinearly as the published script does."""
    if image.shape[1::-1] != size:
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(image.astype(np.float32) / 255)
