"""A trained run against true pictures from directions that no satellite has, such as a synthetic city's obliques.

What is scored is the same for every run of a scene, because it follows from geometry alone: the pixels whose ray stays
over the scene's box from the height of most roofs down to the ground. Elsewhere a picture shows sky, or a city that no
run was asked to build.

Vendors point metres wrong, and an adjustment makes images agree without knowing where they are: a run is first moved by
one 3-D shift, that of its cameras (`evaluation.place`) or the one that registers its heights, as in `geo.dsm`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from skyfall_ns.errors import SceneError
from skyfall_ns.export.dsm import render_dsm
from skyfall_ns.geo.cameras import PinholeCamera, camera_from_dict
from skyfall_ns.geo.dsm_comparison import compare_dsm
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.geo.raster import Raster
from skyfall_ns.models.geometry.view import model_view
from skyfall_ns.models.metrics import fit_gain_bias, halves, image_scores
from skyfall_ns.models.skyfall import SkyfallModel

CAMERAS_FILE = "cameras.json"
ROOFS_M = 15.0  # above the frame's zero: what stands before the box hides little of what is behind rays this low
LEAST_PIXELS = 200  # of a half picture, to fit six numbers or to score
_MEND = "Pass a folder such as truth/oblique of skyfall-process city."


@dataclass(frozen=True)
class TrueView:
    """A true picture and its camera in the truth's frame."""

    path: Path
    elevation_deg: float
    azimuth_deg: float
    camera: PinholeCamera

    def picture(self) -> Float[Tensor, "h w 3"]:
        """Red, green, blue in 0..1. SceneError if the file is damaged or of another size."""
        image = cv2.imread(str(self.path), cv2.IMREAD_COLOR)
        if image is None or image.shape[:2] != self.camera.size[::-1]:
            raise SceneError(f"{self.path} is damaged or of another size than {CAMERAS_FILE} says. {_MEND}")
        return torch.from_numpy(image[..., ::-1].astype(np.float32) / 255)


@dataclass(frozen=True)
class Truth:
    """Pictures of one place under one sun (unit vector in the frame; None where it was not written down)."""

    frame: LocalFrame
    sun: tuple[float, float, float] | None
    views: tuple[TrueView, ...]

    @classmethod
    def load(cls, folder: Path) -> "Truth":
        """Read `cameras.json` of a folder. SceneError if there is none or if it is damaged."""
        path = Path(folder) / CAMERAS_FILE
        if not path.is_file():
            raise SceneError(f"{folder} holds no {CAMERAS_FILE}. {_MEND}")
        try:
            data = json.loads(path.read_text())
            frame = LocalFrame.from_dict(data["frame"])
            views = tuple(_view(Path(folder), row) for row in data["views"])
            sun = None if data.get("sun") is None else _triple(data["sun"])
        except (LookupError, TypeError, ValueError) as error:
            raise SceneError(f"{path} is damaged ({type(error).__name__}: {error}). {_MEND}") from error
        if not views:
            raise SceneError(f"{path} lists no views. {_MEND}")
        return cls(frame, sun, views)


def _view(folder: Path, row: dict[str, Any]) -> TrueView:
    camera = camera_from_dict({"model": "pinhole", **row})
    assert isinstance(camera, PinholeCamera)
    name = Path(str(row["file"])).name  # folders come from others: nothing outside is read
    return TrueView(folder / name, float(row["elevation_deg"]), float(row["azimuth_deg"]), camera)


def _triple(values: Any) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z


@dataclass(frozen=True)
class Similarity:
    """x -> scale * rotation @ x + shift, from one metric frame to another over one place."""

    scale: float
    rotation: Float[ndarray, "3 3"]
    shift_m: Float[ndarray, "3"]

    @classmethod
    def between(cls, source: LocalFrame, target: LocalFrame, box_m: Float[ndarray, "2 3"]) -> "Similarity":
        """The move from `source` to `target` that fits best over a box of the source (Umeyama 1991): exact for frames
        of one CRS, within the bend of the map's grid for others."""
        corners = np.stack(np.meshgrid(*np.asarray(box_m).T, indexing="ij"), -1).reshape(-1, 3)
        moved = target.from_geodetic(source.to_geodetic(corners))
        if source.crs == target.crs:  # no rounding by way of degrees
            return cls(1.0, np.eye(3), np.array(source.origin) - np.array(target.origin))
        centre, centre_moved = corners.mean(0), moved.mean(0)
        u, stretch, vt = np.linalg.svd((moved - centre_moved).T @ (corners - centre))
        sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
        scale = float(np.trace(np.diag(stretch) @ sign) / ((corners - centre) ** 2).sum())
        return cls(scale, u @ sign @ vt, centre_moved - scale * (u @ sign @ vt) @ centre)

    def then(self, shift_m: tuple[float, float, float]) -> "Similarity":
        """Followed by a shift in the target."""
        return Similarity(self.scale, self.rotation, self.shift_m + np.array(shift_m))

    def camera(self, camera: PinholeCamera) -> PinholeCamera:
        """A target's camera as the source's: the same picture, depths divided by the scale."""
        pose = camera.camera_from_local
        moved = np.eye(4)
        moved[:3, :3] = pose[:3, :3] @ self.rotation
        moved[:3, 3] = (pose[:3, :3] @ self.shift_m + pose[:3, 3]) / self.scale
        return PinholeCamera(moved, camera.intrinsics, camera.size)


def over_box(camera: PinholeCamera, box_m: Float[ndarray, "2 3"]) -> Bool[ndarray, "h w"]:
    """Pixels whose ray is over the box's footprint from `ROOFS_M` down to the ground at z = 0."""
    width, height = camera.size
    colrow = np.stack([*np.meshgrid(np.arange(width), np.arange(height)), np.ones((height, width))], -1)
    rays = colrow @ np.linalg.inv(camera.intrinsics).T @ camera.camera_from_local[:3, :3]  # rotated back
    eye = -camera.camera_from_local[:3, :3].T @ camera.camera_from_local[:3, 3]
    inside = rays[..., 2] < 0
    for z in (0.0, min(ROOFS_M, eye[2])):
        distance = (z - eye[2]) / np.where(inside, rays[..., 2], -1.0)
        ground = eye[:2] + distance[..., None] * rays[..., :2]
        inside &= ((ground >= box_m[0][:2]) & (ground <= box_m[1][:2])).all(-1)
    return inside


@dataclass(frozen=True)
class ViewScore:
    """PSNR (dB) and SSIM of one picture, and truth beside rendering [h, 2w, 3]."""

    view: TrueView
    psnr: float
    ssim: float
    pixels: int
    pictures: Float[Tensor, "h w2 3"]


def register(model: SkyfallModel, dsm: Raster) -> tuple[float, float, float]:
    """Metres east, north and up to add to a run so that its heights are a true DSM's."""
    scene = model.on_model.scene
    mine = render_dsm(model, LocalFrame.from_dict(scene.frame), scene.box_m, 0.5)
    raster = Raster(mine.height_m[None], mine.crs, mine.transform)
    return _triple(compare_dsm(raster, dsm, ("The run", "the true DSM")).report["shift_m"])


@torch.no_grad()
def score_views(
    model: SkyfallModel, truth: Truth, shift_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> Iterator[ViewScore]:
    """Each true picture in turn, the run moved by `shift_m` (see `register`).

    Light and exposure are no run's business: a gain and a bias per channel are fitted on the left half, and the scores
    are those of the right half; SSIM is averaged over the scored pixels only. Raises SceneError for pictures that show
    too little of the scene's box.
    """
    on_model = model.on_model
    scene, frame = on_model.scene, LocalFrame.from_dict(on_model.scene.frame)
    move = Similarity.between(frame, truth.frame, scene.box_m)
    sun = None if truth.sun is None else _triple(move.rotation.T @ np.array(truth.sun))
    for view in truth.views:
        mask = torch.from_numpy(over_box(move.camera(view.camera), scene.box_m)).float()[..., None]
        camera = move.then(shift_m).camera(view.camera)
        left, right = halves(mask)
        if min(float(left.sum()), float(right.sum())) < LEAST_PIXELS:
            raise SceneError(
                f"{view.path} shows too little of the scene at {scene.folder}. Pass true pictures of the same place."
            )
        drawn = model.render(model_view(camera, np.array(on_model.centre_m), on_model.scale), None, sun=sun)
        rgb, picture = drawn.color.cpu(), view.picture()
        gain, bias = fit_gain_bias(rgb, picture, left)
        numbers, pictures = image_scores((gain * rgb + bias).clamp(0, 1), picture, right)
        share = right.sum() / (right.shape[0] * right[..., 0].any(0).sum())  # of the columns whose SSIM is taken
        ssim = 1 - (1 - numbers["ssim"]) / float(share)  # what is masked is 0 in both, and its SSIM 1
        yield ViewScore(view, numbers["psnr"], ssim, int(right.sum()), pictures["img"])


def report(scores: list[ViewScore], sunlit: bool, shift_m: tuple[float, float, float] | None) -> dict[str, Any]:
    """{"elevations": {"60": {"psnr", "ssim", "n"}, ...}, "views": [...], "sunlit", "shift_m"}; elevations from high to
    low."""
    elevations = {}
    for elevation in sorted({s.view.elevation_deg for s in scores}, reverse=True):
        of_it = [s for s in scores if s.view.elevation_deg == elevation]
        elevations[f"{elevation:g}"] = {
            "psnr": float(np.mean([s.psnr for s in of_it])),
            "ssim": float(np.mean([s.ssim for s in of_it])),
            "n": len(of_it),
        }
    rows = [
        {
            "file": s.view.path.name, "elevation_deg": s.view.elevation_deg, "azimuth_deg": s.view.azimuth_deg,
            "psnr": s.psnr, "ssim": s.ssim, "pixels": s.pixels,
        }
        for s in scores
    ]  # fmt: skip
    return {"elevations": elevations, "views": rows, "sunlit": sunlit, "shift_m": shift_m}
