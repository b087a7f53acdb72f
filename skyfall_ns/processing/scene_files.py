"""The files of a scene folder that processing writes: images, masks, previews, and the layers of the surface."""

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
from skyfall_ns.io.images import preview, write_png
from skyfall_ns.processing.vendor_images import Crop
from skyfall_ns.scene.scene import Scene, SceneImage

SURFACE, CONFIDENCE, SOURCE, SIGMA = (f"surface{part}.tif" for part in ("", "_confidence", "_source", "_sigma"))


def write_images(
    folder: Path, images: Sequence[SceneImage], crops: Sequence[Crop], shown: Sequence[Bool[ndarray, "h w"]]
) -> None:
    """Images, pictures of them, and masks: what is `shown` of the area and has data."""
    for sub in ("images", "masks", "previews"):
        (folder / sub).mkdir()
    for image, crop, area in zip(images, crops, shown, strict=True):
        assert image.rpc is not None
        rpc = RPC.from_dict(image.rpc)
        write_raster(folder / image.path, crop.dn.transpose(2, 0, 1), rpc=rpc)
        rpc.write_rpb((folder / image.path).with_suffix(".RPB"))
        usable = crop.valid & area
        write_png(folder / f"masks/{image.name}.png", np.where(usable, 255, 0).astype(np.uint8))
        write_png(folder / f"previews/{image.name}.png", preview(image.tone.apply(crop.dn)))


def write_surface(scene: Scene, surface: Surface, frame: LocalFrame, folder: Path) -> Scene:
    """surface.tif (ellipsoidal height), surface_confidence.tif (0..1), surface_source.tif (0 unknown, 1 matched, 2
    filled) and surface_sigma.tif (meters), in the frame's CRS; one band each, because not every reader takes two."""
    grid, height = surface.grid, surface.height_m + np.float32(frame.origin[2])
    place = {"crs": frame.crs, "transform": grid.transform(frame.origin)}
    tags = {"HEIGHTS": "ellipsoidal (WGS84), metres"}
    none = float("nan")
    write_raster(folder / SURFACE, height[None], nodata=none, tags=tags, band_names=("height",), **place)
    write_raster(folder / CONFIDENCE, surface.confidence[None], band_names=("confidence in 0..1",), **place)
    write_raster(folder / SOURCE, surface.source[None], band_names=("0 unknown, 1 matched, 2 filled",), **place)
    write_raster(folder / SIGMA, surface.sigma_m[None], nodata=none, band_names=("sigma of height, metres",), **place)
    corner = (grid.x_min_m, grid.y_max_m, grid.resolution_m)
    layers = {"surface_confidence": CONFIDENCE, "surface_source": SOURCE, "surface_sigma": SIGMA}
    return replace(scene, surface=SURFACE, surface_grid=corner, **layers)
