"""`skyfall-export ply`, `spz`, `splat` and `glb`: flags and steps of the exports of Gaussians."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from skyfall_ns.errors import SkyfallError
from skyfall_ns.io.outputs import check_output_files

if TYPE_CHECKING:
    from skyfall_ns.export.gaussians.cloud import GaussianCloud
    from skyfall_ns.export.placement import FilePlacement


@dataclass(frozen=True)
class _GaussianExport:
    """Flags that all exports of Gaussians have."""

    load_config: Path
    """config.yml of the run."""
    output: Path
    """File to write; placement.json is written beside it."""
    appearance: str = "mean"
    """mean: as the viewer shows free views; IMAGE: the colors of a training image in uniform light; IMAGE:sun: with the
    shading and the shadows of its sun."""
    crs: str = "local"
    """local: meters in the frame of the scene; EPSG:N: meters from an origin in a projected CRS."""
    vertical: Literal["ellipsoid", "EGM2008", "EGM96"] = "ellipsoid"
    """Datum of the heights; geoid models need a grid of PROJ."""
    kernel_pixel: float | None = None
    """Size in meters of the pixels at which viewers shall show the scene as it was trained, although they widen
    Gaussians by 0.3 px²; closer views show it thinner. By default half of the finest image's pixel; 0 leaves Gaussians
    as they are, for viewers with antialiasing."""

    def run(self) -> None:
        """Check the flags before the run is loaded; write the file and its placement, print where they are."""
        from skyfall_ns.export.placement import check_placement_file, write_placement
        from skyfall_ns.io.files import atomic_write

        if self.kernel_pixel is not None and not 0 <= self.kernel_pixel <= 100:
            raise SkyfallError(f"--kernel-pixel {self.kernel_pixel:g} is no pixel size. Give 0 to 100 meters.")
        check_output_files({"--output": self.output})
        check_placement_file(self.output)
        self._check_packages()
        cloud, placement = self._load_cloud()
        atomic_write(self.output, self._encode(cloud, placement))
        write_placement(self.output, placement)
        print(f"{self.output}: {len(cloud)} Gaussians, {placement.summary()}")

    def _check_packages(self) -> None:
        """Raise MissingExtraError if a package that the format needs is missing."""

    def _encode(self, cloud: "GaussianCloud", placement: "FilePlacement") -> bytes:
        """Bytes of the file."""
        raise NotImplementedError

    def _load_cloud(self) -> "tuple[GaussianCloud, FilePlacement]":
        from skyfall_ns.export.gaussians.load_cloud import load_gaussian_cloud

        return load_gaussian_cloud(self.load_config, self.appearance, self.crs, self.vertical, self.kernel_pixel)


@dataclass(frozen=True)
class PlyExport(_GaussianExport):
    """Gaussians as a PLY file of 3DGS, which SuperSplat, Blender's and Unreal's plugins and other viewers read."""

    def _check_packages(self) -> None:
        from skyfall_ns.export.gaussians.formats import check_gsply

        check_gsply()

    def _encode(self, cloud: "GaussianCloud", placement: "FilePlacement") -> bytes:
        from skyfall_ns.export.gaussians.formats import encode_ply

        return encode_ply(cloud, placement.comments())


@dataclass(frozen=True)
class SpzExport(_GaussianExport):
    """Gaussians as an SPZ file: compressed to a tenth of the PLY."""

    spz_version: Literal[2, 3] = 3
    """Version of the format; 2 for older readers, with less accurate rotations."""

    def _check_packages(self) -> None:
        from skyfall_ns.export.gaussians.formats import check_gsply

        check_gsply()

    def _encode(self, cloud: "GaussianCloud", placement: "FilePlacement") -> bytes:
        from skyfall_ns.export.gaussians.formats import encode_spz

        return encode_spz(cloud, self.spz_version)


@dataclass(frozen=True)
class SplatExport(_GaussianExport):
    """Gaussians as a .splat file for viewers in browsers."""

    def _encode(self, cloud: "GaussianCloud", placement: "FilePlacement") -> bytes:
        from skyfall_ns.export.gaussians.formats import encode_splat

        return encode_splat(cloud)


@dataclass(frozen=True)
class GlbExport(_GaussianExport):
    """Gaussians as binary glTF with KHR_gaussian_splatting."""

    def _encode(self, cloud: "GaussianCloud", placement: "FilePlacement") -> bytes:
        from skyfall_ns.export.gaussians.formats import encode_gaussian_glb

        return encode_gaussian_glb(cloud, placement.to_dict())
