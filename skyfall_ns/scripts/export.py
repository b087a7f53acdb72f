"""`skyfall-export`: trained splats as files that land on the map."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from skyfall_ns.errors import SkyfallError
from skyfall_ns.scripts._cli import check_outputs, run

if TYPE_CHECKING:
    from skyfall_ns.export.dsm import Dsm as ExportedDsm
    from skyfall_ns.export.evidence import DsmEvidence
    from skyfall_ns.models.skyfall import SkyfallModel


@dataclass(frozen=True)
class Dsm:
    """Heights of a trained run as a Cloud-optimized GeoTIFF (float32, ellipsoidal metres)."""

    load_config: Path
    """config.yml of the run."""
    output: Path
    """GeoTIFF to write."""
    resolution: float = 0.5
    """Cell size in metres."""
    crs: str | None = None
    """Target CRS, such as EPSG:32637; by default the scene's own."""
    unmatched: Literal["fill", "nodata"] = "fill"
    """Cells that are not matched in the scene's stereo surface: with the height that the run renders (fill), or without
    one, for surveys (nodata)."""
    mask: Path | None = None
    """GeoTIFF to write on the DSM's grid: 0 unknown, 1 matched, 2 filled."""
    sigma: Path | None = None
    """GeoTIFF to write on the DSM's grid: standard deviation of the heights in metres."""

    def main(self) -> None:
        """Check the flags before anything is loaded; render, write, say where."""
        if not 0.01 <= self.resolution <= 100:
            raise SkyfallError(f"--resolution {self.resolution} is not a sensible cell size. Give 0.01 to 100 metres.")
        check_outputs({"--output": self.output, "--mask": self.mask, "--sigma": self.sigma})
        self._export()

    def _export(self) -> None:
        from skyfall_ns.export.dsm import render_dsm
        from skyfall_ns.export.evidence import find_evidence
        from skyfall_ns.geo.frame import LocalFrame
        from skyfall_ns.pipelines.load_run import load_run

        model = load_run(self.load_config)
        scene, surface = model.on_model.scene, model.on_model.surface
        frame = LocalFrame.from_dict(scene.frame)
        if surface is None:
            self._refuse_evidence(scene.folder)
        dsm = render_dsm(model, frame, scene.box_m, self.resolution, self.crs)
        if surface is not None and self._needs_evidence():
            dsm = self._write_evidence(model, dsm, find_evidence(dsm, surface, frame))
        dsm.write(self.output)
        print(f"{self.output}: {dsm.height_m.shape[1]} x {dsm.height_m.shape[0]} cells, {dsm.crs}, ellipsoidal metres")

    def _needs_evidence(self) -> list[str]:
        """The flags given that need the scene's dense surface."""
        given = {"--unmatched nodata": self.unmatched == "nodata", "--mask": self.mask, "--sigma": self.sigma}
        return [flag for flag, value in given.items() if value]

    def _refuse_evidence(self, scene: Path) -> None:
        """SkyfallError for flags that need the dense surface that a scene does not have."""
        for flag in self._needs_evidence():
            raise SkyfallError(
                f"{flag} needs a dense surface, and {scene} has none (--points sparse). "
                f"Process the images again with --points dense, or leave {flag} out."
            )

    def _write_evidence(self, model: "SkyfallModel", dsm: "ExportedDsm", evidence: "DsmEvidence") -> "ExportedDsm":
        """Write the mask and sigma where they are wanted; the DSM with the cells that are."""
        from skyfall_ns.export.evidence import dsm_sigma_m, without_unmatched

        if self.mask is not None:
            dsm.write_classes(self.mask, evidence.source, "0 unknown, 1 matched, 2 filled")
        kept = without_unmatched(dsm, evidence) if self.unmatched == "nodata" else dsm
        if self.sigma is not None:
            kept.write_layer(self.sigma, dsm_sigma_m(model, evidence), "standard deviation of heights, metres")
        return kept


@dataclass(frozen=True)
class Rpc:
    """Adjusted RPCs of the vendor's files: the scene's bundle adjustment and the shifts that training learned."""

    load_config: Path
    """config.yml of the run."""
    output_dir: Path
    """Folder for one JSON and one .RPB file per image."""

    def main(self) -> None:
        """Write, say where and how far images were shifted."""
        from skyfall_ns.export.rpc import write_rpcs
        from skyfall_ns.pipelines.load_run import load_run

        model = load_run(self.load_config)
        shifts = model.learned_shifts_px()
        written = write_rpcs(model.on_model.scene, shifts, self.output_dir)
        longest = max((math.hypot(*shift) for shift in shifts.values()), default=0.0)
        print(f"{self.output_dir}: {len(written)} RPCs of whole vendor files, learned shifts up to {longest:.3f} px")


def main() -> None:
    """Entry point."""
    command = tyro.extras.subcommand_cli_from_dict({"dsm": Dsm, "rpc": Rpc}, prog="skyfall-export", description=__doc__)
    run(command.main)
