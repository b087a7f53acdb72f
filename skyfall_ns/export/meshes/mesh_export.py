"""`skyfall-export mesh`: flags and steps of the export of a textured mesh."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from skyfall_ns.errors import SkyfallError
from skyfall_ns.io.outputs import check_output_files

if TYPE_CHECKING:
    from skyfall_ns.export.gaussians.cloud import GaussianCloud
    from skyfall_ns.export.meshes.height_mesh import TriangleMesh
    from skyfall_ns.export.placement import FilePlacement

SUFFIXES = (".glb", ".obj", ".ply")


@dataclass(frozen=True)
class MeshExport:
    """Closed, textured triangle mesh of the heights, with vertical walls: .glb, .obj (with .mtl and .png) or .ply (with
    colors of vertices)."""

    load_config: Path
    """config.yml of the run."""
    output: Path
    """File to write, .glb, .obj or .ply; placement.json is written beside it."""
    resolution: float = 0.5
    """Cell size in meters of the heights that the mesh connects."""
    triangles: int | None = None
    """Number of triangles after decimation; by default a quarter of those of the cells."""
    texture: int = 2048
    """Width of the texture in pixels."""
    appearance: str = "mean"
    """mean: as the viewer shows free views; IMAGE: the colors of a training image in uniform light; IMAGE:sun: with the
    shading and the shadows of its sun."""
    crs: str = "local"
    """local: meters in the frame of the scene; EPSG:N: meters from an origin in a projected CRS."""
    vertical: Literal["ellipsoid", "EGM2008", "EGM96"] = "ellipsoid"
    """Datum of the heights; geoid models need a grid of PROJ."""

    def run(self) -> None:
        """Check the flags before the run is loaded; mesh, texture, write, print where the mesh is."""
        from skyfall_ns.export.placement import check_placement_file, write_placement

        self._check_flags()
        check_placement_file(self.output)
        mesh, cloud, placement = self._build()
        self._write(mesh, cloud, placement)
        write_placement(self.output, placement)
        print(f"{self.output}: {len(mesh.faces)} triangles, {placement.summary()}")

    def _check_flags(self) -> None:
        if self.output.suffix not in SUFFIXES:
            raise SkyfallError(f"--output {self.output} is of no known format. Give a name in {', '.join(SUFFIXES)}.")
        if not 0.01 <= self.resolution <= 100:
            raise SkyfallError(f"--resolution {self.resolution} is not a sensible cell size. Give 0.01 to 100 meters.")
        if self.triangles is not None and self.triangles < 100:
            raise SkyfallError(f"--triangles {self.triangles} are too few for a city. Give at least 100.")
        if not 64 <= self.texture <= 16384:
            raise SkyfallError(f"--texture {self.texture} is not a sensible width. Give 64 to 16384 pixels.")
        beside = {".obj": (".mtl", ".png")}.get(self.output.suffix, ())
        check_output_files({"--output": self.output, **{f"--output ({s})": self.output.with_suffix(s) for s in beside}})

    def _build(self) -> "tuple[TriangleMesh, GaussianCloud, FilePlacement]":
        """Mesh and Gaussians in the target frame, and the placement of the file."""
        from skyfall_ns.export.appearance_choice import choose_appearance
        from skyfall_ns.export.gaussians.cloud import gaussian_cloud
        from skyfall_ns.export.meshes.height_mesh import TriangleMesh, decimate_mesh, mesh_of_heights
        from skyfall_ns.export.placement import FilePlacement
        from skyfall_ns.export.provenance import read_provenance
        from skyfall_ns.geo.grid import Grid
        from skyfall_ns.geo.target_frame import choose_target_frame
        from skyfall_ns.pipelines.load_run import load_run

        renderer = load_run(self.load_config).renderer
        scene = renderer.normalized.scene
        target = choose_target_frame(scene.frame, scene.box_m, self.crs, self.vertical)
        cloud = gaussian_cloud(renderer, choose_appearance(renderer, self.appearance), target)
        grid = Grid.covering_box(scene.box_m, self.resolution)
        full = mesh_of_heights(renderer.render_heights(grid), grid)
        small = decimate_mesh(full, self.triangles or len(full.faces) // 4)
        mesh = TriangleMesh(target.from_local(scene.frame, small.vertices), small.faces)
        return mesh, cloud, FilePlacement(target, read_provenance(self.load_config, scene), self.appearance)

    def _write(self, mesh: "TriangleMesh", cloud: "GaussianCloud", placement: "FilePlacement") -> None:
        from skyfall_ns.export.meshes.formats import write_mesh_glb, write_mesh_obj, write_mesh_ply
        from skyfall_ns.export.meshes.texture import texture_mesh

        if self.output.suffix == ".ply":
            write_mesh_ply(self.output, mesh, cloud, placement.comments("triangle mesh"))
            return
        textured = texture_mesh(mesh, cloud, self.texture)
        if self.output.suffix == ".glb":
            write_mesh_glb(self.output, textured, placement.to_dict())
        else:
            write_mesh_obj(self.output, textured, placement.comments("triangle mesh"))
