"""`skyfall-path`: camera paths for `ns-render camera-path` and `skyfall-render`, in meters."""

import tyro

from skyfall_ns.scripts._cli import run_command
from skyfall_ns.scripts._path_files import FromGeojson, FromSkyfallGs, ToKml, ToSkyfallGs
from skyfall_ns.scripts._path_shapes import Flyover, Named, NodeGrid, Orbit, Spiral

PATHS: dict[str, type] = {
    "orbit": Orbit,
    "spiral": Spiral,
    "grid": NodeGrid,
    "flyover": Flyover,
    "named": Named,
    "from-skyfall-gs": FromSkyfallGs,
    "to-skyfall-gs": ToSkyfallGs,
    "from-geojson": FromGeojson,
    "to-kml": ToKml,
}
"""Subcommands: frozen dataclasses whose `main` does the work."""


def main() -> None:
    """Entry point."""
    command = tyro.extras.subcommand_cli_from_dict(PATHS, prog="skyfall-path", description=__doc__)
    run_command(command.main)
