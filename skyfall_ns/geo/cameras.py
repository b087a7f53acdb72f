"""Satellite cameras over a scene: an affine map plus a small quadratic term, fitted to an RPC; pinholes for imports.

    (col, row) = L x + b + q(x),   q: six monomials [x², y², z², xy, xz, yz] per axis,   x in local meters

The quadratic form is exact to 1e-3 px over a kilometer, and d(x) = Lᵀ(L Lᵀ)⁻¹ q(x) moves points so that the affine part
alone projects them to the right pixel: L (x + d) + b = L x + b + q(x). In this form rasterizers can render the camera.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

if TYPE_CHECKING:  # this module must not need pyproj and rasterio
    from skyfall_ns.geo.frame import LocalFrame
    from skyfall_ns.geo.rpc import RPC

CameraModel = Literal["affine", "quadratic"]
FIT_SAMPLES = (17, 17, 9)
CHECK_SAMPLES = (24, 24, 11)  # different points from those of the fit


def quadratic_monomials(xyz: ndarray) -> Float64[ndarray, "*n 6"]:
    """Monomials [x², y², z², xy, xz, yz] of points."""
    x, y, z = (xyz[..., i] for i in range(3))
    return np.stack([x * x, y * y, z * z, x * y, x * z, y * z], -1)


@dataclass(frozen=True)
class AffineCamera:
    """A satellite view over the scene box; `fit_px` is the (mean, maximum) distance from the RPC it was fitted to."""

    matrix: Float64[ndarray, "2 4"]  # [L | b], pixels per meter and pixels
    quadratic: Float64[ndarray, "2 6"] | None
    size: tuple[int, int]  # width, height
    fit_px: tuple[float, float] = (0.0, 0.0)

    @property
    def model(self) -> CameraModel:
        """The name used in scene.json and on the command line."""
        return "affine" if self.quadratic is None else "quadratic"

    def project(self, xyz_m: ndarray) -> Float64[ndarray, "*n 2"]:
        """(col, row) of points in local meters."""
        xyz_m = np.asarray(xyz_m, np.float64)
        colrow = xyz_m @ self.matrix[:, :3].T + self.matrix[:, 3]
        return colrow if self.quadratic is None else colrow + quadratic_monomials(xyz_m) @ self.quadratic.T

    def quadratic_displacement_m(self, xyz_m: ndarray) -> Float64[ndarray, "*n 3"]:
        """Displacement d(x), meters, after which the affine part alone projects a point to its exact pixel."""
        xyz_m = np.asarray(xyz_m, np.float64)
        if self.quadratic is None:
            return np.zeros_like(xyz_m)
        return quadratic_monomials(xyz_m) @ (np.linalg.pinv(self.matrix[:, :3]) @ self.quadratic).T

    def view_direction(self) -> Float64[ndarray, "3"]:
        """Unit vector from the ground up to the satellite (the direction that does not move a pixel)."""
        direction = np.cross(self.matrix[0, :3], self.matrix[1, :3])
        direction /= np.linalg.norm(direction)
        return direction if direction[2] >= 0 else -direction

    def to_model_space(self, center_m: ndarray, scale: float) -> "AffineCamera":
        """The same view as a camera of points m = (x - center) * scale. Exact."""
        return _recenter_camera(self, np.asarray(center_m, np.float64), 1.0 / scale)

    def gsd_m(self) -> float:
        """Ground sampling distance: the square root of the horizontal area of one pixel."""
        return float(abs(np.linalg.det(self.matrix[:, :2])) ** -0.5)

    def to_dict(self) -> dict[str, Any]:
        """Dictionary for scene.json."""
        return {
            "model": self.model,
            "matrix": self.matrix.tolist(),
            "quadratic": None if self.quadratic is None else self.quadratic.tolist(),
            "size": list(self.size),
            "fit_px": list(self.fit_px),
        }


@dataclass(frozen=True)
class PinholeCamera:
    """A perspective view: OpenCV axes (x right, y down, z forward), meters, (0, 0) the center of the first pixel."""

    camera_from_local: Float64[ndarray, "4 4"]
    intrinsics: Float64[ndarray, "3 3"]
    size: tuple[int, int]

    model: Literal["pinhole"] = "pinhole"

    def project(self, xyz_m: ndarray) -> Float64[ndarray, "*n 2"]:
        """(col, row) of points in local meters; NaN behind the camera."""
        xyz = np.asarray(xyz_m, np.float64) @ self.camera_from_local[:3, :3].T + self.camera_from_local[:3, 3]
        depth = np.where(xyz[..., 2] > 0, xyz[..., 2], np.nan)
        return (xyz / depth[..., None]) @ self.intrinsics[:2].T

    def to_dict(self) -> dict[str, Any]:
        """Dictionary for scene.json."""
        return {
            "model": self.model,
            "camera_from_local": self.camera_from_local.tolist(),
            "intrinsics": self.intrinsics.tolist(),
            "size": list(self.size),
        }


def camera_from_dict(data: Mapping[str, Any]) -> AffineCamera | PinholeCamera:
    """The camera written by `to_dict`; ValueError or KeyError if it is incomplete."""
    width, height = (int(v) for v in data["size"])
    if data["model"] == "pinhole":
        matrix, intrinsics = _parse_matrix(data["camera_from_local"], (4, 4)), _parse_matrix(data["intrinsics"], (3, 3))
        return PinholeCamera(matrix, intrinsics, (width, height))
    if data["model"] not in ("affine", "quadratic"):
        raise ValueError(f"camera model {data['model']!r} is unknown")
    quadratic = None if data["quadratic"] is None else _parse_matrix(data["quadratic"], (2, 6))
    mean, maximum = (float(v) for v in data["fit_px"])
    return AffineCamera(_parse_matrix(data["matrix"], (2, 4)), quadratic, (width, height), (mean, maximum))


def _parse_matrix(values: Any, shape: tuple[int, int]) -> Float64[ndarray, "r c"]:
    """A finite float64 matrix of the given shape; ValueError otherwise."""
    array = np.asarray(values, np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"a camera needs finite matrices of shape {shape}, not {array.shape}")
    return array


def _sample_box(box_m: ndarray, samples: tuple[int, int, int]) -> Float64[ndarray, "n 3"]:
    """Points of a regular grid over a box, including its faces."""
    axes = [np.linspace(low, high, n) for low, high, n in zip(box_m[0], box_m[1], samples, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def fit_camera(
    rpc: "RPC", frame: "LocalFrame", box_m: ndarray, size: tuple[int, int], model: CameraModel = "quadratic"
) -> AffineCamera:
    """Fit a camera to an RPC by least squares over the scene box ([2, 3]: min, max in local meters).

    Coordinates are scaled to -1..1 for the fit. `fit_px` is measured on another, finer grid of the same box.
    """
    box_m = np.asarray(box_m, np.float64)
    center, half_size = box_m.mean(0), np.maximum((box_m[1] - box_m[0]) / 2, 1e-6)
    xyz = _sample_box(box_m, FIT_SAMPLES)
    design = _design_matrix((xyz - center) / half_size, model)
    solution = np.linalg.lstsq(design, rpc.project(frame.to_geodetic(xyz)), rcond=None)[0].T
    camera = _undo_scaling(solution, center, half_size, size)
    check_points = _sample_box(box_m, CHECK_SAMPLES)
    error = np.linalg.norm(camera.project(check_points) - rpc.project(frame.to_geodetic(check_points)), axis=-1)
    return AffineCamera(camera.matrix, camera.quadratic, size, (float(error.mean()), float(error.max())))


def _design_matrix(u: ndarray, model: CameraModel) -> Float64[ndarray, "n m"]:
    """Columns [u, 1] and, for the quadratic model, the quadratic monomials."""
    columns = [u, np.ones((len(u), 1))]
    if model == "quadratic":
        columns.append(quadratic_monomials(u))
    return np.concatenate(columns, 1)


def _undo_scaling(solution: ndarray, center: ndarray, half_size: ndarray, size: tuple[int, int]) -> AffineCamera:
    """The camera of x from coefficients of u = (x - center) / half_size."""
    linear, constant = solution[:, :3] / half_size, solution[:, 3]
    quadratic = None
    if solution.shape[1] > 4:
        quadratic = solution[:, 4:] / np.array([half_size[i] * half_size[j] for i, j in _MONOMIAL_AXES])
    centered = AffineCamera(np.column_stack([linear, constant]), quadratic, size)
    return _recenter_camera(centered, -center, 1.0)


def _recenter_camera(camera: AffineCamera, center: ndarray, unit: float) -> AffineCamera:
    """The camera as a function of m instead of x = unit * m + center."""
    linear, constant, quadratic = camera.matrix[:, :3], camera.matrix[:, 3] + camera.matrix[:, :3] @ center, None
    if camera.quadratic is not None:
        # q(m + c) = q(m) + (gradient of q at c) . m + q(c)
        gradient = np.zeros((2, 3))
        for column, (i, j) in enumerate(_MONOMIAL_AXES):
            gradient[:, i] += camera.quadratic[:, column] * center[j]
            gradient[:, j] += camera.quadratic[:, column] * center[i]
        linear = linear + gradient
        constant = constant + quadratic_monomials(center) @ camera.quadratic.T
        quadratic = camera.quadratic * unit * unit
    return AffineCamera(np.column_stack([linear * unit, constant]), quadratic, camera.size, camera.fit_px)


_MONOMIAL_AXES = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
