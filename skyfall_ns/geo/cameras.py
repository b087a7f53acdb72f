"""Satellite cameras over a scene: an affine map plus a small quadratic term, fitted to an RPC; pinholes for imports.

    (col, row) = L x + b + q(x),   q: six monomials [x², y², z², xy, xz, yz] per axis,   x in local metres

The quadratic form is exact to 1e-3 px over a kilometre, and d(x) = Lᵀ(L Lᵀ)⁻¹ q(x) moves points so that the affine part
alone shows them at the right pixel: L (x + d) + b = L x + b + q(x). That is how a stock rasterizer draws it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

if TYPE_CHECKING:  # cameras are read where pyproj and rasterio may be absent
    from skyfall_ns.geo.frame import LocalFrame
    from skyfall_ns.geo.rpc import RPC

CameraModel = Literal["affine", "quadratic"]
FIT_SAMPLES = (17, 17, 9)
CHECK_SAMPLES = (24, 24, 11)  # other points than the fit's


def quadratic_monomials(xyz: ndarray) -> Float64[ndarray, "*n 6"]:
    """[x², y², z², xy, xz, yz]."""
    x, y, z = (xyz[..., i] for i in range(3))
    return np.stack([x * x, y * y, z * z, x * y, x * z, y * z], -1)


@dataclass(frozen=True)
class AffineCamera:
    """A satellite view over the scene box; `fit_px` is the (mean, max) distance from the RPC it was fitted to."""

    matrix: Float64[ndarray, "2 4"]  # [L | b], pixels per metre and pixels
    quadratic: Float64[ndarray, "2 6"] | None
    size: tuple[int, int]  # width, height
    fit_px: tuple[float, float] = (0.0, 0.0)

    @property
    def model(self) -> CameraModel:
        """The name used in scene.json and on the command line."""
        return "affine" if self.quadratic is None else "quadratic"

    def project(self, xyz_m: ndarray) -> Float64[ndarray, "*n 2"]:
        """(col, row) of local metres."""
        xyz_m = np.asarray(xyz_m, np.float64)
        colrow = xyz_m @ self.matrix[:, :3].T + self.matrix[:, 3]
        return colrow if self.quadratic is None else colrow + quadratic_monomials(xyz_m) @ self.quadratic.T

    def shift_m(self, xyz_m: ndarray) -> Float64[ndarray, "*n 3"]:
        """d(x), metres: where the affine part alone must see a point to answer the quadratic pixel."""
        xyz_m = np.asarray(xyz_m, np.float64)
        if self.quadratic is None:
            return np.zeros_like(xyz_m)
        return quadratic_monomials(xyz_m) @ (np.linalg.pinv(self.matrix[:, :3]) @ self.quadratic).T

    def view_direction(self) -> Float64[ndarray, "3"]:
        """Unit vector from the ground up to the satellite (the direction that does not move a pixel)."""
        direction = np.cross(self.matrix[0, :3], self.matrix[1, :3])
        direction /= np.linalg.norm(direction)
        return direction if direction[2] >= 0 else -direction

    def after(self, centre_m: ndarray, scale: float) -> "AffineCamera":
        """The same view of points given as m = (x - centre) * scale. Exact."""
        return _recentred(self, np.asarray(centre_m, np.float64), 1.0 / scale)

    def gsd_m(self) -> float:
        """Ground sampling distance: the square root of the horizontal area of one pixel."""
        return float(abs(np.linalg.det(self.matrix[:, :2])) ** -0.5)

    def to_dict(self) -> dict[str, Any]:
        """For scene.json."""
        return {
            "model": self.model,
            "matrix": self.matrix.tolist(),
            "quadratic": None if self.quadratic is None else self.quadratic.tolist(),
            "size": list(self.size),
            "fit_px": list(self.fit_px),
        }


@dataclass(frozen=True)
class PinholeCamera:
    """A perspective view: OpenCV axes (x right, y down, z forward), metres, (0, 0) the centre of the first pixel."""

    camera_from_local: Float64[ndarray, "4 4"]
    intrinsics: Float64[ndarray, "3 3"]
    size: tuple[int, int]

    model: Literal["pinhole"] = "pinhole"

    def project(self, xyz_m: ndarray) -> Float64[ndarray, "*n 2"]:
        """(col, row) of local metres; NaN behind the camera."""
        xyz = np.asarray(xyz_m, np.float64) @ self.camera_from_local[:3, :3].T + self.camera_from_local[:3, 3]
        depth = np.where(xyz[..., 2] > 0, xyz[..., 2], np.nan)
        return (xyz / depth[..., None]) @ self.intrinsics[:2].T

    def to_dict(self) -> dict[str, Any]:
        """For scene.json."""
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
        matrix, intrinsics = _array(data["camera_from_local"], (4, 4)), _array(data["intrinsics"], (3, 3))
        return PinholeCamera(matrix, intrinsics, (width, height))
    if data["model"] not in ("affine", "quadratic"):
        raise ValueError(f"camera model {data['model']!r} is unknown")
    quadratic = None if data["quadratic"] is None else _array(data["quadratic"], (2, 6))
    mean, largest = (float(v) for v in data["fit_px"])
    return AffineCamera(_array(data["matrix"], (2, 4)), quadratic, (width, height), (mean, largest))


def _array(values: Any, shape: tuple[int, int]) -> Float64[ndarray, "r c"]:
    array = np.asarray(values, np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"a camera needs finite matrices of shape {shape}, not {array.shape}")
    return array


def _grid(box_m: ndarray, samples: tuple[int, int, int]) -> Float64[ndarray, "n 3"]:
    axes = [np.linspace(low, high, n) for low, high, n in zip(box_m[0], box_m[1], samples, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def fit_camera(
    rpc: "RPC", frame: "LocalFrame", box_m: ndarray, size: tuple[int, int], model: CameraModel = "quadratic"
) -> AffineCamera:
    """Least squares over the scene box ([2, 3]: min, max in local metres), in coordinates scaled to -1..1.

    `fit_px` is measured on another, finer grid of the same box.
    """
    box_m = np.asarray(box_m, np.float64)
    centre, half = box_m.mean(0), np.maximum((box_m[1] - box_m[0]) / 2, 1e-6)
    xyz = _grid(box_m, FIT_SAMPLES)
    design = _design((xyz - centre) / half, model)
    solution = np.linalg.lstsq(design, rpc.project(frame.to_geodetic(xyz)), rcond=None)[0].T
    camera = _unscaled(solution, centre, half, size)
    check = _grid(box_m, CHECK_SAMPLES)
    error = np.linalg.norm(camera.project(check) - rpc.project(frame.to_geodetic(check)), axis=-1)
    return AffineCamera(camera.matrix, camera.quadratic, size, (float(error.mean()), float(error.max())))


def _design(u: ndarray, model: CameraModel) -> Float64[ndarray, "n m"]:
    columns = [u, np.ones((len(u), 1))]
    if model == "quadratic":
        columns.append(quadratic_monomials(u))
    return np.concatenate(columns, 1)


def _unscaled(solution: ndarray, centre: ndarray, half: ndarray, size: tuple[int, int]) -> AffineCamera:
    """From coefficients of u = (x - centre) / half to coefficients of x."""
    linear, constant = solution[:, :3] / half, solution[:, 3]
    quadratic = None
    if solution.shape[1] > 4:
        quadratic = solution[:, 4:] / np.array([half[i] * half[j] for i, j in _PAIRS])
    about_centre = AffineCamera(np.column_stack([linear, constant]), quadratic, size)
    return _recentred(about_centre, -centre, 1.0)


def _recentred(camera: AffineCamera, centre: ndarray, unit: float) -> AffineCamera:
    """The camera as a function of m, where it was one of x = unit * m + centre."""
    linear, constant, quadratic = camera.matrix[:, :3], camera.matrix[:, 3] + camera.matrix[:, :3] @ centre, None
    if camera.quadratic is not None:
        # q(m + c) = q(m) + (gradient of q at c) . m + q(c)
        gradient = np.zeros((2, 3))
        for column, (i, j) in enumerate(_PAIRS):
            gradient[:, i] += camera.quadratic[:, column] * centre[j]
            gradient[:, j] += camera.quadratic[:, column] * centre[i]
        linear = linear + gradient
        constant = constant + quadratic_monomials(centre) @ camera.quadratic.T
        quadratic = camera.quadratic * unit * unit
    return AffineCamera(np.column_stack([linear * unit, constant]), quadratic, camera.size, camera.fit_px)


_PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
