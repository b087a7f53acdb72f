"""Evidence for the heights of an exported DSM: their source and their standard deviation, on the DSM's grid."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from skyfall_ns.export.dsm import Dsm
from skyfall_ns.export.sigma import combined_sigma_m
from skyfall_ns.export.surface_lookup import SurfaceSamples, sample_surface
from skyfall_ns.export.view_heights import render_view_depths, spread_over_views_m
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.geo.surface_evidence import MATCHED, UNKNOWN
from skyfall_ns.models.renderer import Renderer
from skyfall_ns.scene.height_grid import SurfaceLayers


@dataclass(frozen=True)
class DsmEvidence:
    """The cells of a DSM in local meters (z is about 0 without a height), and the scene's surface at them."""

    xyz_m: Float[ndarray, "h w 3"]
    has_height: Bool[ndarray, "h w"]
    surface: SurfaceSamples

    @property
    def cell_source(self) -> UInt8[ndarray, "h w"]:
        """Source of each height: 0 unknown (also where the DSM has no height), 1 matched, 2 filled."""
        return np.where(self.has_height, self.surface.source, np.uint8(UNKNOWN))


def find_evidence(dsm: Dsm, surface: SurfaceLayers, frame: LocalFrame) -> DsmEvidence:
    """Sample the scene's dense surface at the cells of a DSM."""
    xyz = dsm.local_cell_centers(frame)
    return DsmEvidence(xyz, np.isfinite(dsm.height_m), sample_surface(surface, xyz[..., 0], xyz[..., 1]))


def keep_matched_cells(dsm: Dsm, evidence: DsmEvidence) -> Dsm:
    """Keep the heights of matched cells only."""
    return replace(dsm, height_m=np.where(evidence.cell_source == MATCHED, dsm.height_m, np.nan))


def dsm_sigma_m(renderer: Renderer, evidence: DsmEvidence) -> Float[ndarray, "h w"]:
    """Standard deviation of a DSM's heights, meters (see `export.sigma`); NaN without a height or a surface sigma."""
    surface, height = evidence.surface, evidence.xyz_m[..., 2]
    spread = spread_over_views_m(render_view_depths(renderer), evidence.xyz_m, renderer.normalized)
    sigma = combined_sigma_m(surface.sigma_m, np.abs(height - surface.height_m), spread)
    return np.where(evidence.has_height, sigma, np.nan)
