"""`skyfall-info`: what a scene holds, and where a point of the Earth appears in its images."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from skyfall_ns.scripts._cli import run


@dataclass(frozen=True)
class Info:
    """Describe a scene, or tell the pixel of a point in every image."""

    scene: tyro.conf.Positional[Path]
    """Scene folder."""
    at: tuple[float, float, float] | None = None
    """LON LAT HEIGHT (degrees, ellipsoidal metres) of a point."""
    json: bool = False
    """Answer in JSON."""

    def main(self) -> None:
        """Read, describe."""
        from skyfall_ns.data.scene import Scene

        scene = Scene.load(self.scene)
        answer = describe(scene) if self.at is None else pixels(scene, self.at)
        print(json.dumps(answer, indent=1) if self.json else _text(answer))


def describe(scene) -> dict[str, Any]:  # type: ignore[no-untyped-def]
    """CRS, centre, extent, images and points of a scene."""
    import numpy as np

    from skyfall_ns.geo.cameras import AffineCamera, camera_from_dict
    from skyfall_ns.geo.frame import LocalFrame

    frame = LocalFrame.from_dict(scene.frame)
    middle = np.append(scene.box_m[:, :2].mean(0), 0.0)
    lon, lat, height = (float(v) for v in frame.to_geodetic(middle))
    images = {}
    for image in scene.images:
        camera = camera_from_dict(image.camera)
        images[image.name] = {
            "size": [image.width, image.height],
            "split": image.split,
            "acquired": image.acquired,
            "sun_deg": image.sun_deg,
            "camera": image.camera["model"],
            "fit_max_px": image.camera.get("fit_px", [0.0, 0.0])[1],
            "shift_px": list(image.shift_px),
            "gsd_m": camera.gsd_m() if isinstance(camera, AffineCamera) else None,
        }
    return {
        "crs": scene.frame["crs"],
        "origin": list(scene.frame["origin"]),
        "center_lonlath": [lon, lat, height],
        "size_m": (scene.box_m[1] - scene.box_m[0]).tolist(),
        "heights_m": (scene.box_m[:, 2] + height).tolist(),
        "points": scene.points,
        "surface": scene.surface,
        "images": images,
    }


def pixels(scene, lonlath: tuple[float, float, float]) -> dict[str, Any]:  # type: ignore[no-untyped-def]
    """(col, row) of a point in every image, (0, 0) the centre of the first pixel: through the adjusted RPC and through
    the fitted camera."""
    import numpy as np

    from skyfall_ns.errors import SkyfallError
    from skyfall_ns.geo.cameras import camera_from_dict
    from skyfall_ns.geo.frame import LocalFrame
    from skyfall_ns.geo.rpc import RPC

    lon, lat, height = lonlath
    if not (-180 <= lon <= 180 and -90 <= lat <= 90 and np.isfinite(height)):
        raise SkyfallError(f"--at {lon} {lat} {height} is no point of the Earth. Give longitude, latitude and height.")
    point = np.array(lonlath)
    local = LocalFrame.from_dict(scene.frame).from_geodetic(point)
    images = {}
    for image in scene.images:
        camera = camera_from_dict(image.camera).project(local)
        rpc = None if image.rpc is None else RPC.from_dict(image.rpc).project(point).tolist()
        inside = bool(((camera >= -0.5) & (camera <= np.array([image.width, image.height]) - 0.5)).all())
        images[image.name] = {"rpc": rpc, "camera": camera.tolist(), "inside": inside}
    return {"lonlath": list(lonlath), "local_m": local.tolist(), "images": images}


def _text(answer: dict[str, Any], indent: str = "") -> str:
    lines = []
    for key, value in answer.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", _text(value, indent + "  ")]
        elif isinstance(value, list) and all(isinstance(v, float) for v in value):
            lines.append(f"{indent}{key}: {', '.join(f'{v:.7g}' if abs(v) < 180 else f'{v:.3f}' for v in value)}")
        else:
            lines.append(f"{indent}{key}: {value}")
    return "\n".join(lines)


def main() -> None:
    """Entry point."""
    run(lambda: tyro.cli(Info, prog="skyfall-info", description=__doc__).main())
