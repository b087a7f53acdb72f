"""Files of a scene directory written by processing: images, masks, previews, and the layers of the surface."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.geo.plane_sweep import Surface
from skyfall_ns.geo.raster import write_raster
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.io.images import bgr_image, write_png
from skyfall_ns.processing.image_windows import Crop
from skyfall_ns.scene.scene import Scene, SceneImage

SURFACE, CONFIDENCE, SOURCE, SIGMA = (f"surface{part}.tif" for part in ("", "_confidence", "_source", "_sigma"))


def write_images(
    directory: Path, images: Sequence[SceneImage], crops: Sequence[Crop], shown: Sequence[Bool[ndarray, "h w"]]
) -> None:
    """Write images with their RPCs, previews, and masks of the pixels that are `shown` (of the area) and have data."""
    for name in ("images", "masks", "previews"):
        (directory / name).mkdir()
    for image, crop, area in zip(images, crops, shown, strict=True):
        assert image.rpc is not None
        rpc = RPC.from_dict(image.rpc)
        write_raster(directory / image.path, crop.dn.transpose(2, 0, 1), rpc=rpc)
        rpc.write_rpb((directory / image.path).with_suffix(".RPB"))
        usable = crop.valid & area
        write_png(directory / f"masks/{image.name}.png", np.where(usable, 255, 0).astype(np.uint8))
        write_png(directory / f"previews/{image.name}.png", bgr_image(image.tone.apply_curve(crop.dn)))


def write_surface_layers(scene: Scene, surface: Surface, frame: LocalFrame, directory: Path) -> Scene:
    """Write the surface's layers in the frame's CRS, and return the scene with their names.

    surface.tif (ellipsoidal height), surface_confidence.tif (in 0..1), surface_source.tif (0 unknown, 1 matched, 2
    filled) and surface_sigma.tif (meters) have one band each, because some programs do not read two."""
    grid, height = surface.grid, surface.height_m + np.float32(frame.origin[2])
    georeference = {"crs": frame.crs, "transform": grid.affine_transform(frame.origin)}
    tags = {"HEIGHTS": "ellipsoidal (WGS84), meters"}
    nan = float("nan")
    write_raster(directory / SURFACE, height[None], nodata=nan, tags=tags, band_names=("height",), **georeference)
    write_raster(directory / CONFIDENCE, surface.confidence[None], band_names=("confidence in 0..1",), **georeference)
    write_raster(
        directory / SOURCE, surface.source[None], band_names=("0 unknown, 1 matched, 2 filled",), **georeference
    )
    write_raster(
        directory / SIGMA, surface.sigma_m[None], nodata=nan, band_names=("sigma of height, meters",), **georeference
    )
    corner = (grid.x_min_m, grid.y_max_m, grid.resolution_m)
    layers = {"surface_confidence": CONFIDENCE, "surface_source": SOURCE, "surface_sigma": SIGMA}
    return replace(scene, surface=SURFACE, surface_grid=corner, **layers)
