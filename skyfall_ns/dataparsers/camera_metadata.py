"""Metadata that Nerfstudio cameras carry: exact satellite rows, training image, sun, gradient scale."""

from nerfstudio.cameras.cameras import Cameras

ROWS_KEY, QUADRATIC_KEY = "satellite_rows", "satellite_quadratic"
IMAGE_KEY, SUN_KEY = "satellite_image", "satellite_sun"
MOVES_KEY = "moves"  # of cameras with made-up pictures: part of their gradients that moves splats


def image_of(camera: Cameras) -> int | None:
    """The training image whose look a camera asks for; None for held-out images and free cameras."""
    index = (camera.metadata or {}).get(IMAGE_KEY)
    return None if index is None or index.reshape(-1)[0] < 0 else int(index.reshape(-1)[0])


def in_viewer(camera: Cameras) -> bool:
    """Whether it is the free camera of the host's viewer, which calls itself the training camera that was clicked last,
    or the first."""
    metadata = camera.metadata or {}
    return "cam_idx" in metadata and IMAGE_KEY not in metadata


def sun_of(camera: Cameras) -> tuple[float, float, float] | None:
    """Direction to the sun (local frame) when a satellite image was taken; None for free cameras and unknown suns."""
    direction = (camera.metadata or {}).get(SUN_KEY)
    if direction is None or not bool(direction.any()):
        return None
    x, y, z = direction.reshape(-1).tolist()
    return x, y, z


def moves_of(camera: Cameras) -> float:
    """Part of a picture's gradients that reaches more than colours: all, except for what was made up."""
    share = (camera.metadata or {}).get(MOVES_KEY)
    return 1.0 if share is None else float(share)
