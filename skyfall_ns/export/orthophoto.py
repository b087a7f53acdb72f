"""True orthophotos: the scene from straight above, so that buildings neither lean nor hide anything."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from affine import Affine
from jaxtyping import Float
from numpy import ndarray

from skyfall_ns.export.map_cells import cover_box, default_crs, render_on_cells
from skyfall_ns.geo.grid import Grid
from skyfall_ns.geo.raster import write_raster
from skyfall_ns.models.appearance.lighting import ImageAppearance
from skyfall_ns.models.geometry.height_map import SOLID_ALPHA, nadir_view_of_grid
from skyfall_ns.models.renderer import Renderer, opaque_color

BLOCK_PX = 1024  # rendered at once, which bounds memory
SOFTWARE_TAGS = {"SOFTWARE": "skyfall-ns"}


@dataclass(frozen=True)
class Orthophoto:
    """Colors in 0..1 (NaN: nothing there) of map cells; `transform` maps (col, row) of cell corners to the CRS."""

    rgb: Float[ndarray, "h w 3"]
    crs: str
    transform: Affine

    def write_image(self, path: Path, tags: Mapping[str, str]) -> None:
        """Write red, green, blue and opacity (0 or 255) as a Cloud-optimized GeoTIFF of 8 bits."""
        known = np.isfinite(self.rgb).all(-1)
        colors = np.round(255 * np.nan_to_num(self.rgb).clip(0, 1)).astype(np.uint8)
        bands = np.concatenate([colors, np.where(known, 255, 0)[..., None].astype(np.uint8)], -1)
        names = ("red", "green", "blue", "opacity")
        write_raster(
            path, np.moveaxis(bands, -1, 0), crs=self.crs, transform=self.transform, tags={**SOFTWARE_TAGS, **tags},
            band_names=names, cog=True, color=True,
        )  # fmt: skip


def render_orthophoto(
    renderer: Renderer, appearance: ImageAppearance, resolution_m: float, crs: str | None = None
) -> Orthophoto:
    """Render the colors of the scene's box from above, in an appearance, on the cells of a DSM of this resolution and
    CRS. Raises CrsError for a CRS that is not projected in meters."""
    scene = renderer.normalized.scene
    cells = cover_box(scene.frame, scene.box_m, resolution_m, default_crs(scene.frame, crs))
    rgb = render_on_cells(cells, scene.frame, scene.box_m, lambda grid: render_colors(renderer, appearance, grid))
    return Orthophoto(rgb, cells.crs, cells.transform)


@torch.no_grad()
def render_colors(renderer: Renderer, appearance: ImageAppearance, grid: Grid) -> Float[ndarray, "h w 3"]:
    """Render colors in 0..1 of a north-up grid in local meters, block by block; NaN where the scene is not opaque."""
    rgb = np.zeros((grid.height, grid.width, 3), np.float32)
    for row in range(0, grid.height, BLOCK_PX):
        for column in range(0, grid.width, BLOCK_PX):
            block = slice(row, min(row + BLOCK_PX, grid.height)), slice(column, min(column + BLOCK_PX, grid.width))
            view = nadir_view_of_grid(renderer.normalized, grid.crop_cells(block))
            rendering = renderer.render(view, appearance=appearance)
            solid = (rendering.alpha >= SOLID_ALPHA)[..., None]
            rgb[block] = torch.where(solid, opaque_color(rendering), torch.nan).cpu().numpy()
    return rgb
