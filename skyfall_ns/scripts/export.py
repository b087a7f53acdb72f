"""`skyfall-export`: trained Gaussians as georeferenced files."""

import tyro

from skyfall_ns.export.registry import EXPORTS
from skyfall_ns.scripts._cli import run_command


def main() -> None:
    """Entry point."""
    command = tyro.extras.subcommand_cli_from_dict(EXPORTS, prog="skyfall-export", description=__doc__)
    run_command(command.run)
