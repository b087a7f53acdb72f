"""Noise that belongs to a view, not to its batch: from the view's seed, or anchored to the city in 3D."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor

from skyfall_ns.geo.cameras import PinholeCamera
from skyfall_ns.refiners.base import RenderedView
from skyfall_ns.refiners.flowedit import NoiseFn

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


def seeded_noise(seeds: Sequence[int]) -> NoiseFn:
    """White noise, one CPU generator per sample: equal whatever else is in the batch, on every device."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def draw(step: int, k: int, shape: tuple[int, ...]) -> Tensor:
        return torch.cat([torch.randn((1, *shape[1:]), generator=generator) for generator in generators])

    return draw


def anchored_noise(views: Sequence[RenderedView], padded_px: tuple[int, int], city_seed: int) -> NoiseFn:
    """White noise that two views share where they see the same part of the city.

    Each latent pixel takes the noise of the voxel, about as large as itself, that it hits; a second pixel in the same
    voxel, void and padding get noise of the view's own seed. Views of one pose and `city_seed` differ only there.
    `padded_px`: (height, width) of the pictures that were encoded; padding is below and to the right.
    """
    own = seeded_noise([view.seed for view in views])
    voxels: dict[tuple[int, int], list[tuple[ndarray, ndarray]]] = {}

    def draw(step: int, k: int, shape: tuple[int, ...]) -> Tensor:
        field = own(step, k, shape).flatten(2)
        grid = (shape[2], shape[3])
        if grid not in voxels:
            voxels[grid] = [voxels_of(view, grid, padded_px) for view in views]
        for sample, (pixels, keys) in zip(field, voxels[grid], strict=True):
            seed = _mix(_mix(_mix(city_seed & _WORD) ^ step) ^ k)
            sample[:, torch.from_numpy(pixels)] = torch.from_numpy(hashed_normals(keys, shape[1], seed))
        return field.reshape(shape)

    return draw


def voxels_of(
    view: RenderedView, grid: tuple[int, int], padded_px: tuple[int, int]
) -> tuple[Int64[ndarray, "m"], Int64[ndarray, "m 4"]]:
    """Flat indices of the latent pixels that own a voxel, and its key: level and integer position.

    The level is the power of two, in metres, nearest to the ground size of the latent pixel: views from about the same
    distance agree on it. Of several pixels in a voxel the one nearest to its centre owns it.
    """
    rows, cols = ((np.arange(n) * size // n + size // (2 * n)) for n, size in zip(grid, padded_px, strict=True))
    depth = np.zeros(grid)
    height, width = view.depth_m.shape
    inside = np.ix_(rows < height, cols < width)
    seen = np.ix_(rows[rows < height], cols[cols < width])
    depth[inside] = (view.depth_m * view.valid).numpy()[seen]
    pixels = np.flatnonzero((depth > 0) & np.isfinite(depth))
    colrow = np.stack([np.tile(cols, grid[0]), np.repeat(rows, grid[1])], -1)[pixels]
    depth = depth.reshape(-1)[pixels]
    xyz_m = unproject(view.camera, colrow, depth)
    ground_m = depth * (padded_px[1] / grid[1]) / view.camera.intrinsics[0, 0]
    level = np.rint(np.log2(ground_m)).astype(np.int64)
    scaled = xyz_m / np.exp2(level)[:, None]
    cell = np.rint(scaled).astype(np.int64)  # ground, at height 0, is the middle of a voxel and no border of two
    off_centre = ((scaled - cell) ** 2).sum(-1)
    keys = np.concatenate([level[:, None], cell], -1)
    order = np.argsort(off_centre, kind="stable")
    _, first = np.unique(keys[order], axis=0, return_index=True)
    owners = np.sort(order[first])
    return pixels[owners], keys[owners]


def unproject(
    camera: PinholeCamera, colrow: Float[ndarray, "n 2"], depth_m: Float[ndarray, "n"]
) -> Float[ndarray, "n 3"]:
    """Local metres of pixels at a depth along the optical axis."""
    homogeneous = np.concatenate([colrow, np.ones((len(colrow), 1))], -1)
    seen = homogeneous @ np.linalg.inv(camera.intrinsics).T * depth_m[:, None]
    return (seen - camera.camera_from_local[:3, 3]) @ np.linalg.inv(camera.camera_from_local[:3, :3]).T


def hashed_normals(keys: Int64[ndarray, "m 4"], channels: int, seed: int) -> Float[ndarray, "channels m"]:
    """Standard normal numbers that are a function of key, channel and seed alone (Box-Muller over SplitMix64)."""
    state = np.full(len(keys), seed, np.uint64)
    for column in keys.T:
        state = _mix_array(state ^ column.astype(np.uint64))
    state = state[None] + (np.arange(2 * channels, dtype=np.uint64) * np.uint64(_GOLDEN))[:, None]
    uniform = ((_mix_array(state) >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53
    radius, angle = uniform[:channels], uniform[channels:]
    return (np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle)).astype(np.float32)


def _mix_array(x: ndarray) -> ndarray:
    """SplitMix64's output function (Steele, Lea and Flood 2014); products wrap around."""
    x = x + np.uint64(_GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _mix(x: int) -> int:
    return int(_mix_array(np.array([x], np.uint64))[0])
