"""Scores of a trained run against ground-truth images from other directions, such as a synthetic city's obliques.

The scored pixels follow from geometry alone, so they are the same for every run of a scene: those whose ray stays over
the scene's box from the height of most roofs down to the ground. Elsewhere an image shows the sky, or surroundings that
are not part of the scene.

Vendor RPCs are off by meters, and a bundle adjustment leaves the absolute position undetermined. So a run is first
moved by one 3-D shift: that of its cameras (`evaluation.georegistration`), or the one that registers its heights
(`geo.dsm_comparison`).
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
from skyfall_ns.models.metrics import fit_gain_bias, image_scores, split_mask
from skyfall_ns.models.renderer import Renderer
from skyfall_ns.view import view_from_pinhole

CAMERAS_FILE = "cameras.json"
ROOF_HEIGHT_M = 15.0  # above z = 0 of the frame; most objects in front of the box are lower
MIN_PIXELS = 200  # of half an image, to fit gain and bias of three channels, or to score
_REMEDY = "Pass a directory such as truth/oblique of skyfall-process city."


@dataclass(frozen=True)
class GroundTruthView:
    """A ground-truth image and its camera, in the frame of the ground truth."""

    path: Path
    elevation_deg: float
    azimuth_deg: float
    camera: PinholeCamera

    def read_image(self) -> Float[Tensor, "h w 3"]:
        """Read red, green, blue in 0..1. Raises SceneError if the file is damaged or of another size."""
        image = cv2.imread(str(self.path), cv2.IMREAD_COLOR)
        if image is None or image.shape[:2] != self.camera.size[::-1]:
            raise SceneError(f"{self.path} is damaged or of another size than {CAMERAS_FILE} says. {_REMEDY}")
        return torch.from_numpy(image[..., ::-1].astype(np.float32) / 255)


@dataclass(frozen=True)
class GroundTruth:
    """Images of one place under one sun (unit vector toward it, in the frame; None if unknown)."""

    frame: LocalFrame
    sun: tuple[float, float, float] | None
    views: tuple[GroundTruthView, ...]

    @classmethod
    def from_directory(cls, directory: Path) -> "GroundTruth":
        """Read `cameras.json` of a directory. Raises SceneError if it is missing or damaged."""
        path = Path(directory) / CAMERAS_FILE
        if not path.is_file():
            raise SceneError(f"{directory} has no {CAMERAS_FILE}. {_REMEDY}")
        try:
            data = json.loads(path.read_text())
            frame = LocalFrame.from_dict(data["frame"])
            views = tuple(_parse_view(Path(directory), row) for row in data["views"])
            sun = None if data.get("sun") is None else _as_triple(data["sun"])
        except (LookupError, TypeError, ValueError) as error:
            raise SceneError(f"{path} is damaged ({type(error).__name__}: {error}). {_REMEDY}") from error
        if not views:
            raise SceneError(f"{path} lists no views. {_REMEDY}")
        return cls(frame, sun, views)


def _parse_view(directory: Path, row: dict[str, Any]) -> GroundTruthView:
    camera = camera_from_dict({"model": "pinhole", **row})
    assert isinstance(camera, PinholeCamera)
    name = Path(str(row["file"])).name  # untrusted input: no file outside the directory is read
    return GroundTruthView(directory / name, float(row["elevation_deg"]), float(row["azimuth_deg"]), camera)


def _as_triple(values: Any) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z


@dataclass(frozen=True)
class Similarity:
    """Similarity transform x -> scale * rotation @ x + shift_m between two metric frames of one place."""

    scale: float
    rotation: Float[ndarray, "3 3"]
    shift_m: Float[ndarray, "3"]

    @classmethod
    def fit_between(cls, source: LocalFrame, target: LocalFrame, box_m: Float[ndarray, "2 3"]) -> "Similarity":
        """Fit the transform from `source` to `target` over a box of the source by least squares (Umeyama 1991): exact
        for frames of one CRS, up to the curvature of the map projection for others."""
        corners = np.stack(np.meshgrid(*np.asarray(box_m).T, indexing="ij"), -1).reshape(-1, 3)
        moved = target.from_geodetic(source.to_geodetic(corners))
        if source.crs == target.crs:  # without the rounding of a detour through degrees
            return cls(1.0, np.eye(3), np.array(source.origin) - np.array(target.origin))
        center, center_moved = corners.mean(0), moved.mean(0)
        u, singular_values, vt = np.linalg.svd((moved - center_moved).T @ (corners - center))
        sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
        scale = float(np.trace(np.diag(singular_values) @ sign) / ((corners - center) ** 2).sum())
        return cls(scale, u @ sign @ vt, center_moved - scale * (u @ sign @ vt) @ center)

    def with_shift(self, shift_m: tuple[float, float, float]) -> "Similarity":
        """This transform, followed by a shift in the target frame."""
        return Similarity(self.scale, self.rotation, self.shift_m + np.array(shift_m))

    def camera_in_source(self, camera: PinholeCamera) -> PinholeCamera:
        """Camera of the target frame, in the source frame: the same image, with depths divided by the scale."""
        pose = camera.camera_from_local
        moved = np.eye(4)
        moved[:3, :3] = pose[:3, :3] @ self.rotation
        moved[:3, 3] = (pose[:3, :3] @ self.shift_m + pose[:3, 3]) / self.scale
        return PinholeCamera(moved, camera.intrinsics, camera.size)


def footprint_mask(camera: PinholeCamera, box_m: Float[ndarray, "2 3"]) -> Bool[ndarray, "h w"]:
    """Mask of the pixels whose ray is over the box's footprint from `ROOF_HEIGHT_M` down to the ground at z = 0."""
    width, height = camera.size
    colrow = np.stack([*np.meshgrid(np.arange(width), np.arange(height)), np.ones((height, width))], -1)
    rays = colrow @ np.linalg.inv(camera.intrinsics).T @ camera.camera_from_local[:3, :3]  # rotated back
    position = -camera.camera_from_local[:3, :3].T @ camera.camera_from_local[:3, 3]
    inside = rays[..., 2] < 0
    for z in (0.0, min(ROOF_HEIGHT_M, position[2])):
        distance = (z - position[2]) / np.where(inside, rays[..., 2], -1.0)
        ground = position[:2] + distance[..., None] * rays[..., :2]
        inside &= ((ground >= box_m[0][:2]) & (ground <= box_m[1][:2])).all(-1)
    return inside


@dataclass(frozen=True)
class ViewScore:
    """PSNR (dB) and SSIM of one image; `comparison` shows ground truth and rendering side by side."""

    view: GroundTruthView
    psnr: float
    ssim: float
    pixels: int
    comparison: Float[Tensor, "h w2 3"]


def find_dsm_shift(renderer: Renderer, dsm: Raster) -> tuple[float, float, float]:
    """Find the shift (meters east, north, up) that registers the rendered heights of a run with a true DSM."""
    scene = renderer.normalized.scene
    rendered = render_dsm(renderer, scene.frame, scene.box_m, 0.5)
    raster = Raster(rendered.height_m[None], rendered.crs, rendered.transform)
    return _as_triple(compare_dsm(raster, dsm, ("The run", "the true DSM")).report["shift_m"])


@torch.no_grad()
def score_views(
    renderer: Renderer, truth: GroundTruth, shift_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> Iterator[ViewScore]:
    """Score a run on each ground-truth image in turn, with the run moved by `shift_m` (see `find_dsm_shift`).

    Light and exposure are not scored: a gain and a bias per channel are fitted on the left half of the image, and the
    scores are those of the right half. SSIM is averaged over the scored pixels only. Raises SceneError for images that
    show too little of the scene's box.
    """
    normalized = renderer.normalized
    scene, frame = normalized.scene, normalized.scene.frame
    alignment = Similarity.fit_between(frame, truth.frame, scene.box_m)
    sun = None if truth.sun is None else _as_triple(alignment.rotation.T @ np.array(truth.sun))
    for view in truth.views:
        mask = torch.from_numpy(footprint_mask(alignment.camera_in_source(view.camera), scene.box_m)).float()[..., None]
        camera = alignment.with_shift(shift_m).camera_in_source(view.camera)
        left, right = split_mask(mask)
        if min(float(left.sum()), float(right.sum())) < MIN_PIXELS:
            raise SceneError(
                f"{view.path} shows too little of the scene at {scene.directory}. Pass images of the same place."
            )
        rendering = renderer.render(
            view_from_pinhole(camera, np.array(normalized.center_m), normalized.scale), None, sun=sun
        )
        rgb, image = rendering.color.cpu(), view.read_image()
        gain, bias = fit_gain_bias(rgb, image, left)
        metrics, comparison = image_scores((gain * rgb + bias).clamp(0, 1), image, right)
        share = right.sum() / (
            right.shape[0] * right[..., 0].any(0).sum()
        )  # of the columns over which SSIM is averaged
        ssim = 1 - (1 - metrics["ssim"]) / float(share)  # masked pixels are 0 in both images, with an SSIM of 1
        yield ViewScore(view, metrics["psnr"], ssim, int(right.sum()), comparison["img"])


def summarize_scores(
    scores: list[ViewScore], sunlit: bool, shift_m: tuple[float, float, float] | None
) -> dict[str, Any]:
    """Summarize scores as {"elevations": {"60": {"psnr", "ssim", "n"}, ...}, "views": [...], "sunlit", "shift_m"}, with
    elevations in descending order."""
    elevations = {}
    for elevation in sorted({s.view.elevation_deg for s in scores}, reverse=True):
        scored = [s for s in scores if s.view.elevation_deg == elevation]
        elevations[f"{elevation:g}"] = {
            "psnr": float(np.mean([s.psnr for s in scored])),
            "ssim": float(np.mean([s.ssim for s in scored])),
            "n": len(scored),
        }
    rows = [
        {
            "file": s.view.path.name, "elevation_deg": s.view.elevation_deg, "azimuth_deg": s.view.azimuth_deg,
            "psnr": s.psnr, "ssim": s.ssim, "pixels": s.pixels,
        }
        for s in scores
    ]  # fmt: skip
    return {"elevations": elevations, "views": rows, "sunlit": sunlit, "shift_m": shift_m}
