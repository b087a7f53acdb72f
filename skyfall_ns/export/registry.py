"""The table of exports: each entry is a subcommand of `skyfall-export`."""

from typing import Protocol

from skyfall_ns.export.dsm_export import DsmExport
from skyfall_ns.export.gaussians.exports import GlbExport, PlyExport, SplatExport, SpzExport
from skyfall_ns.export.meshes.mesh_export import MeshExport
from skyfall_ns.export.ortho_export import OrthoExport
from skyfall_ns.export.points_export import PointsExport
from skyfall_ns.export.rpc_export import RpcExport


class Export(Protocol):
    """A frozen dataclass whose fields are the flags of the subcommand.

    Its module is imported for `skyfall-export --help`, so it imports numpy, torch and models only inside of `run`.
    """

    def run(self) -> None:
        """Load the run, write its files, and print where they are. Raises SkyfallError for bad input."""


EXPORTS: dict[str, type[Export]] = {
    "dsm": DsmExport,
    "ortho": OrthoExport,
    "points": PointsExport,
    "mesh": MeshExport,
    "rpc": RpcExport,
    "ply": PlyExport,
    "spz": SpzExport,
    "splat": SplatExport,
    "glb": GlbExport,
}
"""Name of the subcommand to its class. How to add one: docs/extending/add_an_export.md."""
