"""Exact pinhole images of a textured ground with a textured plate above it: colors, depths, occlusion."""

import numpy as np
import torch

from skyfall_ns.refiners.base import RenderedView

ROOF_M, HALF_M = 12.0, 12.0


def plate_texture(xyz):
    """Smooth colors in 0..1 with waves of 8 m and more; the plate is brighter."""
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


def render_plate(camera):
    """(colors "h w 3", depth "h w", points "h w 3") of a camera; pixels above the horizon are empty."""
    width, height = camera.size
    rows, columns = np.mgrid[:height, :width].astype(float)
    rays = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(camera.intrinsics).T
    pose = np.linalg.inv(camera.camera_from_local)
    rays = rays @ pose[:3, :3].T
    points = first_hit(pose[:3, 3], rays)
    depth = (points @ camera.camera_from_local[:3, :3].T + camera.camera_from_local[:3, 3])[..., 2]
    depth = np.where(rays[..., 2] < -0.01, depth, 0.0).astype(np.float32)
    return np.where(depth[..., None] > 0, plate_texture(points), 0.0).astype(np.float32), depth, points


def rendered_plate_view(camera, name="000", seed=0):
    """The view in the form of a refiner's input."""
    colors, depth, _ = render_plate(camera)
    depth = torch.from_numpy(depth)
    return RenderedView(name, torch.from_numpy(colors), depth > 0, depth, camera, seed)


def write_plate_renders(directory):
    """Render all views of an episode directory."""
    for name in directory.view_names:
        colors, depth, _ = (torch.from_numpy(v) for v in render_plate(directory.view_camera(name)))
        directory.write_render(name, colors, (depth > 0).float(), depth)
    return directory
