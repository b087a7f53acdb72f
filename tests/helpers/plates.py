"""A textured ground and a textured plate above it, seen by pinholes exactly: colours, depths, what is hidden."""

import numpy as np
import torch

from skyfall_ns.refiners.base import RenderedView

ROOF_M, HALF_M = 12.0, 12.0


def texture(xyz):
    """Smooth colours in 0..1; waves of 8 m and more; the plate is brighter."""
    x, y, z = (xyz[..., i] for i in range(3))
    waves = [np.sin(x / 1.9 + 0.3 * y), np.sin(y / 1.5 - 0.2 * x), np.sin((x + y) / 2.5)]
    return (0.4 + 0.3 * np.stack(waves, -1) + 0.2 * (z > 1)[..., None]).clip(0, 1).astype(np.float32)


def first_hit(origin, rays):
    """Points where rays meet the plate or else the ground."""
    with np.errstate(divide="ignore", invalid="ignore"):
        roof = origin + rays * ((ROOF_M - origin[2]) / rays[..., 2:])
        ground = origin + rays * (-origin[2] / rays[..., 2:])
    on_roof = (np.abs(roof[..., :2]) <= HALF_M).all(-1)
    return np.where(on_roof[..., None], roof, ground)


def draw(camera):
    """(colours "h w 3", depth "h w", points "h w 3") of a camera; what does not look down is void."""
    width, height = camera.size
    rows, columns = np.mgrid[:height, :width].astype(float)
    rays = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(camera.intrinsics).T
    pose = np.linalg.inv(camera.camera_from_local)
    rays = rays @ pose[:3, :3].T
    points = first_hit(pose[:3, 3], rays)
    depth = (points @ camera.camera_from_local[:3, :3].T + camera.camera_from_local[:3, 3])[..., 2]
    depth = np.where(rays[..., 2] < -0.01, depth, 0.0).astype(np.float32)
    return np.where(depth[..., None] > 0, texture(points), 0.0).astype(np.float32), depth, points


def rendered(camera, name="000", seed=0):
    """The view as a refiner gets it."""
    colors, depth, _ = draw(camera)
    depth = torch.from_numpy(depth)
    return RenderedView(name, torch.from_numpy(colors), depth > 0, depth, camera, seed)


def fill(folder):
    """Render all views of an episode's folder."""
    for name in folder.names:
        colors, depth, _ = (torch.from_numpy(v) for v in draw(folder.camera(name)))
        folder.write_render(name, colors, (depth > 0).float(), depth)
    return folder
