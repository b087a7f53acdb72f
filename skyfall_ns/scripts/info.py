"""`skyfall-info`: what a scene holds, where a point of the Earth appears in its images, and what a refiner needs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from skyfall_ns.errors import SkyfallError
from skyfall_ns.refiners.registry import RefinerName, RefinerOptions
from skyfall_ns.scripts._cli import run

if TYPE_CHECKING:
    from skyfall_ns.geo.rpc import RPC
    from skyfall_ns.scene.scene import Scene


@dataclass(frozen=True)
class Info:
    """Describe a scene, tell the pixel of a point in every image, or check a refiner."""

    scene: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="SCENE")] = None
    """Scene folder."""
    at: Annotated[tuple[float, float, float] | None, tyro.conf.arg(metavar="LON LAT HEIGHT")] = None
    """A point of the Earth: degrees, and metres above the ellipsoid."""
    refiner: RefinerName | None = None
    """Describe this refiner instead, with its default options, and say whether it can work here."""
    json: bool = False
    """Answer in JSON."""

    def main(self) -> None:
        """Read, describe."""
        if self.refiner and self.at:
            raise SkyfallError("--at asks for pixels of a scene's images. Give a scene folder, without --refiner.")
        if self.refiner and self.scene is None:
            answer, text = refiner(RefinerOptions(name=self.refiner)), _refiner_text
        elif self.scene and self.refiner is None:
            from skyfall_ns.scene.scene import Scene

            scene = Scene.load(self.scene)
            answer, text = (describe(scene), _scene_text) if self.at is None else (pixels(scene, self.at), _pixels_text)
        else:
            raise SkyfallError("skyfall-info describes one thing. Give a scene folder, or --refiner with a name.")
        print(json.dumps(answer, indent=1) if self.json else text(answer))


def describe(scene: "Scene") -> dict[str, Any]:
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


def pixels(scene: "Scene", lonlath: tuple[float, float, float]) -> dict[str, Any]:
    """(col, row) of a point in every image, (0, 0) the centre of the first pixel: through the adjusted RPC and through
    the fitted camera."""
    import numpy as np

    from skyfall_ns.geo.cameras import camera_from_dict
    from skyfall_ns.geo.frame import LocalFrame

    lon, lat, height = lonlath
    if not (-180 <= lon <= 180 and -90 <= lat <= 90 and np.isfinite(height)):
        raise SkyfallError(f"--at {lon} {lat} {height} is no point of the Earth. Give longitude, latitude and height.")
    point = np.array(lonlath)
    local = LocalFrame.from_dict(scene.frame).from_geodetic(point)
    images = {}
    for image in scene.images:
        camera = camera_from_dict(image.camera).project(local)
        rpc = None if image.rpc is None else _rpc(scene, image.name).project(point).tolist()
        inside = bool(((camera >= -0.5) & (camera <= np.array([image.width, image.height]) - 0.5)).all())
        images[image.name] = {"rpc": rpc, "camera": camera.tolist(), "inside": inside}
    return {"lonlath": list(lonlath), "local_m": local.tolist(), "images": images}


def refiner(options: RefinerOptions) -> dict[str, Any]:
    """Whether a refiner is generative, all that its results depend on, and what it lacks here (None if nothing)."""
    config, lacks = options.choose(), None
    try:
        config.check()
    except SkyfallError as error:
        lacks = str(error)
    return {"name": options.name, "generative": config.generative, "identity": config.identity(), "lacks": lacks}


def _refiner_text(answer: dict[str, Any]) -> str:
    kind = "generative: can show what no image shows" if answer["generative"] else "not generative: invents nothing"
    rows = [(name, str(value)) for name, value in answer["identity"].items() if name != "name"]
    lines = [f"refiner {answer['name']}, {kind}", *([_aligned(rows)] if rows else [])]
    return "\n".join([*lines, f"cannot work here: {answer['lacks']}" if answer["lacks"] else "ready to work here"])


def _rpc(scene: "Scene", name: str) -> "RPC":
    from skyfall_ns.errors import SceneError
    from skyfall_ns.geo.rpc import RPC

    try:
        return RPC.from_dict(scene.image(name).rpc or {})
    except (KeyError, TypeError, ValueError) as error:
        raise SceneError(f"The RPC of {name} in {scene.folder} is damaged. Run skyfall-process again.") from error


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
        _aligned([head, *rows]),
    ])  # fmt: skip


def _pixels_text(answer: dict[str, Any]) -> str:
    def pixel(colrow: list[float] | None) -> str:
        return "none" if colrow is None else "{:.3f}, {:.3f}".format(*colrow)

    rows = [
        (name, pixel(image["rpc"]), pixel(image["camera"]), "" if image["inside"] else "outside")
        for name, image in answer["images"].items()
    ]
    local = ", ".join(f"{v:.3f}" for v in answer["local_m"])
    return f"local x, y, z: {local} m\n" + _aligned([("col, row in", "by the RPC", "by the camera", ""), *rows])


def _aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def main() -> None:
    """Entry point."""
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    command = tyro.cli(Info, prog="skyfall-info", description=__doc__, config=config)
    run(command.main)
