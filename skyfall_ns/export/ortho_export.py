"""`skyfall-export ortho`: flags and steps of the export of an orthophoto."""

from dataclasses import dataclass
from pathlib import Path

from skyfall_ns.errors import SkyfallError
from skyfall_ns.io.outputs import check_output_files


@dataclass(frozen=True)
class OrthoExport:
    """True orthophoto as a Cloud-optimized GeoTIFF: red, green, blue, opacity (8 bits)."""

    load_config: Path
    """config.yml of the run."""
    output: Path
    """GeoTIFF to write."""
    resolution: float = 0.25
    """Cell size in meters."""
    appearance: str = "mean"
    """mean: as the viewer shows free views; IMAGE: the colors of a training image in uniform light; IMAGE:sun: with the
    shading and the shadows of its sun."""
    crs: str | None = None
    """Target CRS, such as EPSG:32637; by default the scene's own."""

    def run(self) -> None:
        """Check the flags before the run is loaded; render, write, print where the image is."""
        if not 0.01 <= self.resolution <= 100:
            raise SkyfallError(f"--resolution {self.resolution} is not a sensible cell size. Give 0.01 to 100 meters.")
        check_output_files({"--output": self.output})

        from skyfall_ns.export.appearance_choice import choose_appearance
        from skyfall_ns.export.orthophoto import render_orthophoto
        from skyfall_ns.export.provenance import read_provenance
        from skyfall_ns.geo.target_frame import check_target_crs
        from skyfall_ns.pipelines.load_run import load_run

        renderer = load_run(self.load_config).renderer
        scene = renderer.normalized.scene
        if self.crs is not None:
            check_target_crs(self.crs, scene.frame, scene.box_m)
        provenance = read_provenance(self.load_config, scene)
        image = render_orthophoto(renderer, choose_appearance(renderer, self.appearance), self.resolution, self.crs)
        image.write_image(self.output, provenance.tags())
        height, width = image.rgb.shape[:2]
        print(f"{self.output}: {width} x {height} cells, {image.crs}{provenance.note()}")
