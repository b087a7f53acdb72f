"""`skyfall-export rpc`: flags and steps of the export of adjusted RPCs."""

import math
from dataclasses import dataclass
from pathlib import Path

from skyfall_ns.io.outputs import check_output_directory


@dataclass(frozen=True)
class RpcExport:
    """Adjusted RPCs of the vendor's files, with the scene's bundle adjustment and the offsets learned in training."""

    load_config: Path
    """config.yml of the run."""
    output_dir: Path
    """Directory for one JSON and one .RPB file per image."""

    def run(self) -> None:
        """Write the RPCs; print their directory and the largest learned offset."""
        check_output_directory("--output-dir", self.output_dir)
        from skyfall_ns.export.rpc import write_rpcs
        from skyfall_ns.models.geometry.image_offsets import named_offsets_px
        from skyfall_ns.pipelines.load_run import load_run

        model = load_run(self.load_config)
        offsets = named_offsets_px(model.image_offsets, model.normalized.image_names)
        written = write_rpcs(model.normalized.scene, offsets, self.output_dir)
        longest = max((math.hypot(*offset) for offset in offsets.values()), default=0.0)
        print(f"{self.output_dir}: {len(written)} RPCs of whole vendor files, learned offsets up to {longest:.3f} px")
