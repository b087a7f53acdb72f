"""`skyfall-export`: trained splats as files that land on the map."""

import math
from dataclasses import dataclass
from pathlib import Path

import tyro

from skyfall_ns.errors import SkyfallError
from skyfall_ns.scripts._cli import run


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

    def main(self) -> None:
        """Render, write, say where."""
        from skyfall_ns.export.dsm import render_dsm
        from skyfall_ns.geo.frame import LocalFrame
        from skyfall_ns.pipelines.loading import load_run

        if not 0.01 <= self.resolution <= 100:
            raise SkyfallError(f"--resolution {self.resolution} is not a sensible cell size. Give 0.01 to 100 metres.")
        self.output.parent.mkdir(parents=True, exist_ok=True)
        model = load_run(self.load_config)
        scene = model.on_model.scene
        dsm = render_dsm(model, LocalFrame.from_dict(scene.frame), scene.box_m, self.resolution, self.crs)
        dsm.write(self.output)
        print(f"{self.output}: {dsm.height_m.shape[1]} x {dsm.height_m.shape[0]} cells, {dsm.crs}, ellipsoidal metres")


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
        from skyfall_ns.pipelines.loading import load_run

        model = load_run(self.load_config)
        shifts = model.learned_shifts_px()
        written = write_rpcs(model.on_model.scene, shifts, self.output_dir)
        longest = max((math.hypot(*shift) for shift in shifts.values()), default=0.0)
        print(f"{self.output_dir}: {len(written)} RPCs of whole vendor files, learned shifts up to {longest:.3f} px")


def main() -> None:
    """Entry point."""
    command = tyro.extras.subcommand_cli_from_dict({"dsm": Dsm, "rpc": Rpc}, prog="skyfall-export", description=__doc__)
    run(command.main)
