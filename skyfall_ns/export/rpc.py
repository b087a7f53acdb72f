"""Adjusted RPCs of the vendor's images: what the bundle adjustment and training found out about their pointing."""

import json
from collections.abc import Mapping
from pathlib import Path

from skyfall_ns.errors import SceneError
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.scene.scene import Scene, SceneImage


def adjusted_rpc(image: SceneImage, shift_px: tuple[float, float] = (0.0, 0.0)) -> RPC:
    """The RPC of the vendor's whole file, with the scene's adjustment and a learned shift (col, row).

    Raises SceneError if the scene has no RPC for the image.
    """
    if image.rpc is None:
        raise SceneError(f"{image.name} has no RPC in its scene. Make the scene with skyfall-process images.")
    return RPC.from_dict(image.rpc).cropped(-image.crop_px[0], -image.crop_px[1]).shifted(*shift_px)


def write_rpcs(scene: Scene, shifts_px: Mapping[str, tuple[float, float]], folder: Path) -> list[Path]:
    """NAME.json (the numbers of `RPC.to_dict`) and NAME.RPB for every image of the scene; images without a learned
    shift have the scene's. The written JSON files."""
    rpcs = {image.name: adjusted_rpc(image, shifts_px.get(image.name, (0.0, 0.0))) for image in scene.images}
    folder.mkdir(parents=True, exist_ok=True)
    for name, rpc in rpcs.items():
        (folder / f"{name}.json").write_text(json.dumps(rpc.to_dict(), indent=1))
        rpc.write_rpb(folder / f"{name}.RPB")
    return [folder / f"{name}.json" for name in rpcs]
