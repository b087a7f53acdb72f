"""Adjusted RPCs of the vendor's images, with the RPC biases found by the bundle adjustment and by training."""

from collections.abc import Mapping
from pathlib import Path

from skyfall_ns.errors import SceneError
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.io.files import write_json
from skyfall_ns.scene.scene import Scene, SceneImage


def adjusted_rpc(image: SceneImage, offset_px: tuple[float, float] = (0.0, 0.0)) -> RPC:
    """RPC of the vendor's whole file, with the scene's adjustment and a learned offset (col, row).

    Raises SceneError if the scene has no RPC for the image.
    """
    if image.rpc is None:
        raise SceneError(f"{image.name} has no RPC in its scene. Make the scene with skyfall-process images.")
    return RPC.from_dict(image.rpc).for_crop(-image.crop_px[0], -image.crop_px[1]).with_offset(*offset_px)


def write_rpcs(scene: Scene, offsets_px: Mapping[str, tuple[float, float]], directory: Path) -> list[Path]:
    """Write NAME.json (`RPC.to_dict`) and NAME.RPB for every image of the scene; return the JSON files.

    Images without a learned offset keep the scene's RPC.
    """
    rpcs = {image.name: adjusted_rpc(image, offsets_px.get(image.name, (0.0, 0.0))) for image in scene.images}
    directory.mkdir(parents=True, exist_ok=True)
    for name, rpc in rpcs.items():
        write_json(directory / f"{name}.json", rpc.to_dict())
        rpc.write_rpb(directory / f"{name}.RPB")
    return [directory / f"{name}.json" for name in rpcs]
