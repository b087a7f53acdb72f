"""`skyfall-info`: contents of a scene, pixels of a geographic point in its images, requirements of a refiner, or the
machine."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from skyfall_ns.errors import SkyfallError
from skyfall_ns.refiners.registry import RefinerName, RefinerOptions
from skyfall_ns.scripts._cli import run_command

if TYPE_CHECKING:
    from skyfall_ns.geo.rpc import RPC
    from skyfall_ns.scene.scene import Scene


@dataclass(frozen=True)
class Info:
    """Describe a scene, compute the pixel of a point in every image, check a refiner, or describe the machine."""

    scene: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="SCENE")] = None
    """Scene directory."""
    at: Annotated[tuple[float, float, float] | None, tyro.conf.arg(metavar="LON LAT HEIGHT")] = None
    """A point: longitude and latitude in degrees, height in meters above the ellipsoid."""
    refiner: RefinerName | None = None
    """Describe this refiner instead, with its default options, and check whether it can run on this machine."""
    system: bool = False
    """Describe this machine instead: devices, compilers, extras, and what to install."""
    json: bool = False
    """Print JSON."""

    def main(self) -> None:
        """Collect the information and print it."""
        if (self.refiner or self.system) and self.at:
            raise SkyfallError(
                "--at needs the images of a scene. Give a scene directory, without --refiner and --system."
            )
        if self.system and self.scene is None and self.refiner is None:
            from skyfall_ns.scripts._system import describe_system

            answer, text = describe_system(), _system_text
        elif self.refiner and self.scene is None and not self.system:
            answer, text = describe_refiner(RefinerOptions(name=self.refiner)), _refiner_text
        elif self.scene and self.refiner is None and not self.system:
            from skyfall_ns.scene.scene import Scene

            scene = Scene.from_directory(self.scene)
            answer, text = (
                (describe_scene(scene), _scene_text) if self.at is None else (locate_point(scene, self.at), _point_text)
            )
        else:
            raise SkyfallError(
                "skyfall-info describes one scene, one refiner or the machine. Give a scene directory, --refiner with "
                "a name, or --system."
            )
        print(json.dumps(answer, indent=1) if self.json else text(answer))


def describe_scene(scene: "Scene") -> dict[str, Any]:
    """Describe CRS, center, extent, images and points of a scene."""
    import numpy as np

    from skyfall_ns.geo.cameras import AffineCamera

    frame = scene.frame
    center = np.append(scene.box_m[:, :2].mean(0), 0.0)
    lon, lat, height = (float(v) for v in frame.to_geodetic(center))
    images = {}
    for image in scene.images:
        camera = image.camera
        images[image.name] = {
            "size": [image.width, image.height],
            "split": image.split,
            "acquired": image.acquired,
            "sun_deg": image.sun_deg,
            "camera": camera.model,
            "fit_max_px": camera.fit_px[1] if isinstance(camera, AffineCamera) else 0.0,
            "shift_px": list(image.shift_px),
            "gsd_m": camera.gsd_m() if isinstance(camera, AffineCamera) else None,
        }
    return {
        "crs": frame.crs,
        "origin": list(frame.origin),
        "center_lonlath": [lon, lat, height],
        "size_m": (scene.box_m[1] - scene.box_m[0]).tolist(),
        "heights_m": (scene.box_m[:, 2] + height).tolist(),
        "points": scene.points,
        "surface": scene.surface,
        "images": images,
    }


def locate_point(scene: "Scene", lonlath: tuple[float, float, float]) -> dict[str, Any]:
    """Compute (col, row) of a point in every image, by the adjusted RPC and by the fitted camera; (0, 0) is the center
    of the first pixel."""
    import numpy as np

    lon, lat, height = lonlath
    if not (-180 <= lon <= 180 and -90 <= lat <= 90 and np.isfinite(height)):
        raise SkyfallError(f"--at {lon} {lat} {height} is not a point on Earth. Give longitude, latitude and height.")
    point = np.array(lonlath)
    local = scene.frame.from_geodetic(point)
    images = {}
    for image in scene.images:
        camera = image.camera.project(local)
        rpc = None if image.rpc is None else _read_scene_rpc(scene, image.name).project(point).tolist()
        inside = bool(((camera >= -0.5) & (camera <= np.array([image.width, image.height]) - 0.5)).all())
        images[image.name] = {"rpc": rpc, "camera": camera.tolist(), "inside": inside}
    return {"lonlath": list(lonlath), "local_m": local.tolist(), "images": images}


def describe_refiner(options: RefinerOptions) -> dict[str, Any]:
    """Describe a refiner: whether it is generative, what its results depend on (unknown, and {}, while something is
    missing), and what is missing to run it on this machine (None if nothing)."""
    config, identity, missing = options.build(), {}, None
    try:
        config.check()
        identity = config.identity()
    except SkyfallError as error:
        missing = str(error)
    return {"name": options.name, "generative": config.generative, "identity": identity, "lacks": missing}


def _refiner_text(answer: dict[str, Any]) -> str:
    summary = (
        "generative: can add content that no image shows" if answer["generative"] else "not generative: adds no content"
    )
    rows = [(name, str(value)) for name, value in answer["identity"].items() if name != "name"]
    lines = [f"refiner {answer['name']}, {summary}", *([_align_columns(rows)] if rows else [])]
    return "\n".join([*lines, f"cannot run here: {answer['lacks']}" if answer["lacks"] else "ready to run here"])


def _system_text(answer: dict[str, Any]) -> str:
    from skyfall_ns.scripts._system import system_text

    return _align_columns(system_text(answer))


def _read_scene_rpc(scene: "Scene", name: str) -> "RPC":
    from skyfall_ns.errors import SceneError
    from skyfall_ns.geo.rpc import RPC

    try:
        return RPC.from_dict(scene.image_by_name(name).rpc or {})
    except (KeyError, TypeError, ValueError) as error:
        raise SceneError(f"The RPC of {name} in {scene.directory} is damaged. Run skyfall-process again.") from error


def _scene_text(answer: dict[str, Any]) -> str:
    lon, lat, _ = answer["center_lonlath"]
    width, depth, _ = answer["size_m"]
    low, high = answer["heights_m"]
    origin = ", ".join(f"{v:.3f}" for v in answer["origin"])
    head = ("image", "use", "pixels", "ground m", "acquired", "sun", "camera", "fit max px", "shift px")
    rows = [
        (
            name,
            image["split"],
            "{} x {}".format(*image["size"]),
            "" if image["gsd_m"] is None else f"{image['gsd_m']:.3f}",
            image["acquired"] or "unknown",
            "unknown" if image["sun_deg"] is None else "{:.1f}, {:.1f}".format(*image["sun_deg"]),
            image["camera"],
            f"{image['fit_max_px']:.2g}",
            "{:+.2f}, {:+.2f}".format(*image["shift_px"]),
        )
        for name, image in answer["images"].items()
    ]
    return "\n".join([
        f"{width:.0f} x {depth:.0f} m around lon {lon:.6f}, lat {lat:.6f}",
        f"heights {low:.1f} to {high:.1f} m above the ellipsoid",
        f"{answer['crs']}, origin {origin}",
        f"points: {answer['points'] or 'none'}, surface: {answer['surface'] or 'none'}",
        _align_columns([head, *rows]),
    ])  # fmt: skip


def _point_text(answer: dict[str, Any]) -> str:
    def format_pixel(colrow: list[float] | None) -> str:
        return "none" if colrow is None else "{:.3f}, {:.3f}".format(*colrow)

    rows = [
        (name, format_pixel(image["rpc"]), format_pixel(image["camera"]), "" if image["inside"] else "outside")
        for name, image in answer["images"].items()
    ]
    local = ", ".join(f"{v:.3f}" for v in answer["local_m"])
    return f"local x, y, z: {local} m\n" + _align_columns([("col, row in", "by the RPC", "by the camera", ""), *rows])


def _align_columns(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def main() -> None:
    """Entry point."""
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    command = tyro.cli(Info, prog="skyfall-info", description=__doc__, config=config)
    run_command(command.main)
