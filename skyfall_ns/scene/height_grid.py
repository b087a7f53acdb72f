"""The dense surface of a scene as layers over a north-up grid."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from skyfall_ns.errors import SceneError
from skyfall_ns.geo.grid import Grid
from skyfall_ns.scene.scene import Scene


@dataclass(frozen=True)
class SurfaceLayers:
    """The scene's dense surface over a north-up grid: heights in local meters (NaN: unknown), confidence in 0..1,
    source (0 unknown, 1 matched, 2 filled) and sigma of the heights in meters (NaN: unknown)."""

    height_m: Float32[np.ndarray, "h w"]
    confidence: Float32[np.ndarray, "h w"]
    source: UInt8[np.ndarray, "h w"]
    sigma_m: Float32[np.ndarray, "h w"]
    grid: Grid


def read_surface_layers(scene: Scene) -> SurfaceLayers | None:
    """Read the dense surface with heights in local meters; None for scenes without one.

    Raises SceneError if a file is damaged or the layers differ in size."""
    if scene.surface_grid is None:
        return None
    height, confidence, source, sigma = (
        _read_band(scene.directory / str(path), dtype)
        for path, dtype in (
            (scene.surface, np.float32),
            (scene.surface_confidence, np.float32),
            (scene.surface_source, np.uint8),
            (scene.surface_sigma, np.float32),
        )
    )
    if len({layer.shape for layer in (height, confidence, source, sigma)}) > 1:
        raise SceneError(
            f"{scene.directory / str(scene.surface)} and its confidence, source and sigma differ in size. "
            "Run skyfall-process again."
        )
    grid = Grid(*scene.surface_grid, width=height.shape[1], height=height.shape[0])
    return SurfaceLayers(height - np.float32(scene.frame.origin[2]), confidence, source, sigma, grid)


def _read_band(path: Path, dtype: type) -> np.ndarray:
    """Read a single-band image; SceneError unless it has the expected type."""
    band = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if band is None or band.ndim != 2 or band.dtype != dtype:
        raise SceneError(f"{path} cannot be read as a layer of the surface. Run skyfall-process again.")
    return band
