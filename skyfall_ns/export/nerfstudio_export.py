"""`ns-export` on runs of this package: placement.json beside `gaussian-splat`, and messages for its other kinds.

Nerfstudio's commands for meshes and points cast rays of perspective training cameras, which a satellite scene does not
have; its camera poses cannot describe satellite cameras.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from skyfall_ns.export.placement import FilePlacement, check_placement_file, write_placement
from skyfall_ns.export.provenance import read_provenance
from skyfall_ns.geo.target_frame import TargetFrame
from skyfall_ns.models.skyfall import SkyfallModel
from skyfall_ns.preflight import flag_value
from skyfall_ns.scene.model_space import NormalizedScene


def prepare_export(exporter: ModuleType, model: SkyfallModel, arguments: list[str]) -> None:
    """Make the export that is in progress in Nerfstudio's module write a placement; `arguments` are those of
    `ns-export`."""
    config_path = flag_value(arguments, "--load-config")
    if config_path is not None:
        exporter.ExportGaussianSplat.write_ply = _write_with_placement(
            exporter.ExportGaussianSplat.write_ply, model.normalized, Path(config_path)
        )


def _write_with_placement(
    write_ply: Callable[..., None], normalized: NormalizedScene, config_path: Path
) -> Callable[..., None]:
    def write_ply_and_placement(filename: str, *arguments: Any) -> None:
        check_placement_file(Path(filename))
        write_ply(filename, *arguments)
        scene = normalized.scene
        write_placement(
            Path(filename),
            FilePlacement(
                TargetFrame(scene.frame), read_provenance(config_path, scene), "mean", 1 / normalized.scale,
                normalized.center_m,
            ),
        )  # fmt: skip

    return write_ply_and_placement


def prepare_running_export(model: SkyfallModel) -> None:
    """`prepare_export` if this process is `ns-export`."""
    exporter = sys.modules.get("nerfstudio.scripts.exporter")
    if exporter is not None and Path(sys.argv[0]).stem == "ns-export":
        prepare_export(exporter, model, sys.argv[1:])
