"""`skyfall-export points`: flags and steps of the export of a point cloud."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from skyfall_ns.errors import SkyfallError
from skyfall_ns.io.outputs import check_output_files


@dataclass(frozen=True)
class PointsExport:
    """Point cloud as LAZ 1.4: a point per cell of the heights, with color and its source in the stereo surface as class
    (64 matched, 65 filled, 1 unknown)."""

    load_config: Path
    """config.yml of the run."""
    output: Path
    """LAZ file to write."""
    resolution: float = 0.5
    """Distance between points in meters."""
    appearance: str = "mean"
    """mean: as the viewer shows free views; IMAGE: the colors of a training image in uniform light; IMAGE:sun: with the
    shading and the shadows of its sun."""
    crs: str | None = None
    """Target CRS, such as EPSG:32637; by default the scene's own."""
    vertical: Literal["ellipsoid", "EGM2008", "EGM96"] = "ellipsoid"
    """Datum of the heights; geoid models need a grid of PROJ."""

    def run(self) -> None:
        """Check the flags before the run is loaded; render, write, print where the points are."""
        from skyfall_ns.export.point_cloud import check_laspy
        from skyfall_ns.geo.vertical import check_vertical

        if not 0.01 <= self.resolution <= 100:
            raise SkyfallError(f"--resolution {self.resolution} is not a sensible distance. Give 0.01 to 100 meters.")
        check_output_files({"--output": self.output})
        check_laspy()
        check_vertical(self.vertical)
        self._render_and_write()

    def _render_and_write(self) -> None:
        import numpy as np

        from skyfall_ns.export.appearance_choice import choose_appearance
        from skyfall_ns.export.dsm import render_dsm
        from skyfall_ns.export.evidence import find_evidence
        from skyfall_ns.export.orthophoto import render_orthophoto
        from skyfall_ns.export.point_cloud import points_of_cells, write_laz
        from skyfall_ns.export.provenance import read_provenance
        from skyfall_ns.geo.target_frame import check_target_crs
        from skyfall_ns.pipelines.load_run import load_run

        renderer = load_run(self.load_config).renderer
        scene, surface = renderer.normalized.scene, renderer.normalized.surface
        if self.crs is not None:
            check_target_crs(self.crs, scene.frame, scene.box_m)
        provenance = read_provenance(self.load_config, scene)
        appearance = choose_appearance(renderer, self.appearance)
        dsm = render_dsm(renderer, scene.frame, scene.box_m, self.resolution, self.crs)
        rgb = render_orthophoto(renderer, appearance, self.resolution, self.crs).rgb
        unknown = np.zeros(dsm.height_m.shape, np.uint8)
        source = unknown if surface is None else find_evidence(dsm, surface, scene.frame).cell_source
        points = points_of_cells(dsm.above_datum(self.vertical), rgb, source)
        write_laz(self.output, points, provenance.attribution)
        heights = "ellipsoidal" if self.vertical == "ellipsoid" else self.vertical
        print(f"{self.output}: {len(points.xyz)} points, {points.crs}, {heights} heights, meters{provenance.note()}")
