"""3DGS PLY files of any program, for rendering."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.errors import SkyfallError
from skyfall_ns.models.rasterizers import Gaussians, Rendering, pick_rasterizer
from skyfall_ns.view import View


@dataclass(frozen=True)
class PlyGaussians:
    """Gaussians in the unit of the file, with spherical harmonics "n k 3" up to degree 3."""

    gaussians: Gaussians
    harmonics: Float[Tensor, "n k 3"]

    def box(self) -> Float[np.ndarray, "2 3"]:
        """Box of the centers without the outermost hundredth on each side."""
        return np.quantile(self.gaussians.means.numpy(), [0.01, 0.99], axis=0)

    def render(self, view: View) -> Rendering:
        """Render a pinhole view; colors depend on the direction from the camera to each center."""
        from gsplat.cuda._torch_impl import _spherical_harmonics  # in plain torch

        pose = torch.linalg.inv(view.camera_from_model)
        directions = torch.nn.functional.normalize(self.gaussians.means - pose[:3, 3].float(), dim=-1)
        degree = int(np.sqrt(self.harmonics.shape[1])) - 1
        colors = (_spherical_harmonics(degree, directions, self.harmonics) + 0.5).clamp_min(0)
        return pick_rasterizer("cpu")(self.gaussians, colors, view)


def read_gaussian_ply(path: Path) -> PlyGaussians:
    """Read a PLY file of 3DGS. Raises SkyfallError if the file is missing, damaged or another kind of PLY."""
    from plyfile import PlyData, PlyParseError

    if not Path(path).is_file():
        raise SkyfallError(f"--ply {path} does not exist. Pass a PLY file of Gaussians.")
    try:
        rows = PlyData.read(str(path))["vertex"]
        means, quats = _columns(rows, "x", "y", "z"), _columns(rows, *(f"rot_{i}" for i in range(4)))
        scales, opacity = _columns(rows, *(f"scale_{i}" for i in range(3))).exp(), _columns(rows, "opacity")[:, 0]
        constant = _columns(rows, *(f"f_dc_{i}" for i in range(3)))[:, None]
        names = [p.name for p in rows.properties if p.name.startswith("f_rest_")]
        rest = _columns(rows, *(f"f_rest_{i}" for i in range(len(names)))) if names else means.new_zeros(len(means), 0)
    except (PlyParseError, KeyError, ValueError, UnicodeDecodeError) as error:
        raise SkyfallError(f"--ply {path} is not a PLY file of Gaussians ({error}). Pass one of 3DGS.") from error
    if rest.shape[1] not in (0, 9, 24, 45) or not len(means):
        raise SkyfallError(f"--ply {path} has {rest.shape[1]} harmonics or no Gaussians. Pass a PLY file of 3DGS.")
    harmonics = torch.cat([constant, rest.reshape(len(means), 3, -1).transpose(1, 2)], 1)
    quats = torch.nn.functional.normalize(quats, dim=-1)
    return PlyGaussians(Gaussians(means, quats, scales, opacity.sigmoid()), harmonics)


def _columns(rows, *names: str) -> Float[Tensor, "n c"]:
    return torch.from_numpy(np.stack([np.asarray(rows[name], np.float32) for name in names], 1))
