"""`skyfall-export dsm`: flags and steps of the DSM export."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from skyfall_ns.errors import SkyfallError
from skyfall_ns.io.outputs import check_output_files

if TYPE_CHECKING:
    from skyfall_ns.export.dsm import Dsm
    from skyfall_ns.export.evidence import DsmEvidence
    from skyfall_ns.models.renderer import Renderer


@dataclass(frozen=True)
class DsmExport:
    """Heights of a trained run as a Cloud-optimized GeoTIFF (float32, meters)."""

    load_config: Path
    """config.yml of the run."""
    output: Path
    """GeoTIFF to write."""
    resolution: float = 0.5
    """Cell size in meters."""
    crs: str | None = None
    """Target CRS, such as EPSG:32637; by default the scene's own."""
    vertical: Literal["ellipsoid", "EGM2008", "EGM96"] = "ellipsoid"
    """Datum of the heights; geoid models need a grid of PROJ."""
    unmatched: Literal["fill", "nodata"] = "fill"
    """Cells that are not matched in the scene's stereo surface get the height that the run renders (fill), or none, for
    surveys (nodata)."""
    mask: Path | None = None
    """GeoTIFF to write on the DSM's grid: 0 unknown, 1 matched, 2 filled."""
    sigma: Path | None = None
    """GeoTIFF to write on the DSM's grid: standard deviation of the heights in meters."""
    colors: Path | None = None
    """GeoTIFF to write on the DSM's grid: colors seen from above, with opacity."""
    appearance: str = "mean"
    """Of --colors: mean, as the viewer shows free views; IMAGE, the colors of a training image in uniform light; or
    IMAGE:sun, with the shading and the shadows of its sun."""

    def run(self) -> None:
        """Check the flags before the run is loaded; render, write, print where the DSM is."""
        if not 0.01 <= self.resolution <= 100:
            raise SkyfallError(f"--resolution {self.resolution} is not a sensible cell size. Give 0.01 to 100 meters.")
        files = {"--output": self.output, "--mask": self.mask, "--sigma": self.sigma, "--colors": self.colors}
        check_output_files(files)
        self._render_and_write()

    def _render_and_write(self) -> None:
        from skyfall_ns.export.appearance_choice import choose_appearance
        from skyfall_ns.export.dsm import render_dsm
        from skyfall_ns.export.evidence import find_evidence
        from skyfall_ns.export.orthophoto import render_orthophoto
        from skyfall_ns.export.provenance import read_provenance
        from skyfall_ns.geo.target_frame import check_target_crs
        from skyfall_ns.geo.vertical import check_vertical
        from skyfall_ns.pipelines.load_run import load_run

        check_vertical(self.vertical)
        renderer = load_run(self.load_config).renderer
        scene, surface = renderer.normalized.scene, renderer.normalized.surface
        if self.crs is not None:
            check_target_crs(self.crs, scene.frame, scene.box_m)
        if surface is None:
            self._refuse_evidence_flags(scene.directory)
        provenance = read_provenance(self.load_config, scene)
        appearance = choose_appearance(renderer, self.appearance)
        dsm = replace(render_dsm(renderer, scene.frame, scene.box_m, self.resolution, self.crs), tags=provenance.tags())
        if surface is not None and self._evidence_flags():
            dsm = self._write_evidence(renderer, dsm, find_evidence(dsm, surface, scene.frame))
        if self.colors is not None:
            render_orthophoto(renderer, appearance, self.resolution, dsm.crs).write_image(
                self.colors, provenance.tags()
            )
        dsm = dsm.above_datum(self.vertical)
        dsm.write_heights(self.output)
        heights = "ellipsoidal" if self.vertical == "ellipsoid" else f"{self.vertical},"
        size = f"{dsm.height_m.shape[1]} x {dsm.height_m.shape[0]} cells"
        print(f"{self.output}: {size}, {dsm.crs}, {heights} meters{provenance.note()}")

    def _evidence_flags(self) -> list[str]:
        """The given flags that need the scene's dense surface."""
        flags = {"--unmatched nodata": self.unmatched == "nodata", "--mask": self.mask, "--sigma": self.sigma}
        return [flag for flag, value in flags.items() if value]

    def _refuse_evidence_flags(self, scene: Path) -> None:
        """Raise SkyfallError for flags that need a dense surface, which this scene does not have."""
        for flag in self._evidence_flags():
            raise SkyfallError(
                f"{flag} needs a dense surface, and {scene} has none (--points sparse). "
                f"Process the images again with --points dense, or leave {flag} out."
            )

    def _write_evidence(self, renderer: "Renderer", dsm: "Dsm", evidence: "DsmEvidence") -> "Dsm":
        """Write mask and sigma if requested; return the DSM with the cells that are kept."""
        from skyfall_ns.export.evidence import dsm_sigma_m, keep_matched_cells

        if self.mask is not None:
            dsm.write_classes(self.mask, evidence.cell_source, "0 unknown, 1 matched, 2 filled")
        kept = keep_matched_cells(dsm, evidence) if self.unmatched == "nodata" else dsm
        if self.sigma is not None:
            kept.write_layer(self.sigma, dsm_sigma_m(renderer, evidence), "standard deviation of heights, meters")
        return kept
