"""Noise of latents per view, independent of the batch: from the view's seed, or anchored to the city in 3D."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor

from skyfall_ns.geo.cameras import PinholeCamera
from skyfall_ns.refiners.base import RenderedView
from skyfall_ns.refiners.flowedit_algorithm import NoiseFn

_SPLITMIX_INCREMENT = 0x9E3779B97F4A7C15
_MASK_64_BIT = (1 << 64) - 1


def seeded_noise(seeds: Sequence[int]) -> NoiseFn:
    """White noise from one CPU generator per sample, the same in every batch and on every device."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def draw_noise(step: int, k: int, shape: tuple[int, ...]) -> Tensor:
        return torch.cat([torch.randn((1, *shape[1:]), generator=generator) for generator in generators])

    return draw_noise


def anchored_noise(views: Sequence[RenderedView], padded_px: tuple[int, int], noise_seed: int) -> NoiseFn:
    """White noise that views share where they see the same part of the city.

    Each latent pixel takes the noise of the voxel, about as large as itself, at its surface point. Further pixels in
    the same voxel, empty pixels and padding take noise from the view's own seed; views of the same pose and
    `noise_seed` differ only there. `padded_px`: (height, width) of the encoded images; padding is below and to the
    right.
    """
    view_noise = seeded_noise([view.seed for view in views])
    voxels: dict[tuple[int, int], list[tuple[ndarray, ndarray]]] = {}

    def draw_noise(step: int, k: int, shape: tuple[int, ...]) -> Tensor:
        field = view_noise(step, k, shape).flatten(2)
        grid = (shape[2], shape[3])
        if grid not in voxels:
            voxels[grid] = [find_voxels(view, grid, padded_px) for view in views]
        for sample, (pixels, keys) in zip(field, voxels[grid], strict=True):
            seed = _splitmix64(_splitmix64(_splitmix64(noise_seed & _MASK_64_BIT) ^ step) ^ k)
            sample[:, torch.from_numpy(pixels)] = torch.from_numpy(hashed_normals(keys, shape[1], seed))
        return field.reshape(shape)

    return draw_noise


def find_voxels(
    view: RenderedView, grid: tuple[int, int], padded_px: tuple[int, int]
) -> tuple[Int64[ndarray, "m"], Int64[ndarray, "m 4"]]:
    """Flat indices of the latent pixels that own a voxel, and the keys of the voxels: level and integer position.

    The level is the power of two, in meters, nearest to the ground size of the latent pixel, so that views from similar
    distances have the same. Of several pixels in a voxel the one nearest to its center owns it.
    """
    rows, cols = ((np.arange(n) * size // n + size // (2 * n)) for n, size in zip(grid, padded_px, strict=True))
    depth = np.zeros(grid)
    height, width = view.depth_m.shape
    inside = np.ix_(rows < height, cols < width)
    sampled = np.ix_(rows[rows < height], cols[cols < width])
    depth[inside] = (view.depth_m * view.valid).numpy()[sampled]
    pixels = np.flatnonzero((depth > 0) & np.isfinite(depth))
    colrow = np.stack([np.tile(cols, grid[0]), np.repeat(rows, grid[1])], -1)[pixels]
    depth = depth.reshape(-1)[pixels]
    xyz_m = unproject_pixels(view.camera, colrow, depth)
    ground_m = depth * (padded_px[1] / grid[1]) / view.camera.intrinsics[0, 0]
    level = np.rint(np.log2(ground_m)).astype(np.int64)
    scaled = xyz_m / np.exp2(level)[:, None]
    cell = np.rint(scaled).astype(np.int64)  # the ground, at height 0, lies in the middle of a voxel
    off_center = ((scaled - cell) ** 2).sum(-1)
    keys = np.concatenate([level[:, None], cell], -1)
    order = np.argsort(off_center, kind="stable")
    _, first = np.unique(keys[order], axis=0, return_index=True)
    owners = np.sort(order[first])
    return pixels[owners], keys[owners]


def unproject_pixels(
    camera: PinholeCamera, colrow: Float[ndarray, "n 2"], depth_m: Float[ndarray, "n"]
) -> Float[ndarray, "n 3"]:
    """Points in the local frame, meters, of pixels (column, row) at a depth along the optical axis."""
    homogeneous = np.concatenate([colrow, np.ones((len(colrow), 1))], -1)
    in_camera = homogeneous @ np.linalg.inv(camera.intrinsics).T * depth_m[:, None]
    return (in_camera - camera.camera_from_local[:3, 3]) @ np.linalg.inv(camera.camera_from_local[:3, :3]).T


def hashed_normals(keys: Int64[ndarray, "m 4"], channels: int, seed: int) -> Float[ndarray, "channels m"]:
    """Standard normal numbers as a function of key, channel and seed alone (Box-Muller transform of SplitMix64)."""
    state = np.full(len(keys), seed, np.uint64)
    for column in keys.T:
        state = _splitmix64_array(state ^ column.astype(np.uint64))
    state = state[None] + (np.arange(2 * channels, dtype=np.uint64) * np.uint64(_SPLITMIX_INCREMENT))[:, None]
    uniform = ((_splitmix64_array(state) >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53
    radius, angle = uniform[:channels], uniform[channels:]
    return (np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle)).astype(np.float32)


def _splitmix64_array(x: ndarray) -> ndarray:
    """Output function of SplitMix64 (Steele, Lea and Flood 2014); products wrap around."""
    x = x + np.uint64(_SPLITMIX_INCREMENT)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _splitmix64(x: int) -> int:
    return int(_splitmix64_array(np.array([x], np.uint64))[0])
