"""What stands behind the heights of an exported DSM: their source and their standard deviation, on the DSM's grid."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from skyfall_ns.export.dsm import Dsm
from skyfall_ns.export.sigma import combined_sigma_m
from skyfall_ns.export.surface_lookup import SurfaceSamples, sample_surface
from skyfall_ns.export.view_heights import TrainedScene, render_view_depths, spread_over_views_m
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.geo.surface_evidence import MATCHED, UNKNOWN
from skyfall_ns.scene.model_space import ModelSurface


@dataclass(frozen=True)
class DsmEvidence:
    """The cells of a DSM in local meters (z is 0 where they have no height), and the scene's surface there."""

    xyz_m: Float[ndarray, "h w 3"]
    has_height: Bool[ndarray, "h w"]
    surface: SurfaceSamples

    @property
    def source(self) -> UInt8[ndarray, "h w"]:
        """0 unknown, 1 matched, 2 filled; 0 where the DSM has no height."""
        return np.where(self.has_height, self.surface.source, np.uint8(UNKNOWN))


def find_evidence(dsm: Dsm, surface: ModelSurface, frame: LocalFrame) -> DsmEvidence:
    """Look up the scene's dense surface at a DSM's cells."""
    xyz = dsm.local_cells(frame)
    return DsmEvidence(xyz, np.isfinite(dsm.height_m), sample_surface(surface, xyz[..., 0], xyz[..., 1]))


def without_unmatched(dsm: Dsm, evidence: DsmEvidence) -> Dsm:
    """The DSM with the heights of matched cells only."""
    return replace(dsm, height_m=np.where(evidence.source == MATCHED, dsm.height_m, np.nan))


def dsm_sigma_m(model: TrainedScene, evidence: DsmEvidence) -> Float[ndarray, "h w"]:
    """Standard deviation of a DSM's heights, meters; NaN where the surface or the DSM has none (see `export.sigma`)."""
    surface, height = evidence.surface, evidence.xyz_m[..., 2]
    spread = spread_over_views_m(render_view_depths(model), evidence.xyz_m, model.on_model)
    sigma = combined_sigma_m(surface.sigma_m, np.abs(height - surface.height_m), spread)
    return np.where(evidence.has_height, sigma, np.nan)
