"""Baseline for the benchmark: a tile rasterizer in plain PyTorch with autograd and without custom kernels."""

import torch
from torch import Tensor

from skyfall_ns.models.rasterizers.types import EPS_2D, Gaussians
from skyfall_ns.view import View

TILE = 16


def project_gaussians(gaussians: Gaussians, view: View) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Project Gaussians to a parallel view: centers, conics (a, b, c), compensated opacities, depths and radii."""
    camera, k = view.camera_from_model.float(), view.intrinsics.float()
    points = gaussians.means @ camera[:3, :3].T + camera[:3, 3]
    w, x, y, z = torch.nn.functional.normalize(gaussians.quats, dim=-1).unbind(-1)
    rotation = torch.stack(
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
         2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
         2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1,
    ).reshape(-1, 3, 3)  # fmt: skip
    axes = (k[:2, :2] @ camera[:2, :3]) @ (rotation * gaussians.scales[:, None, :])
    a, b, c = (axes[:, i] * axes[:, j] for i, j in ((0, 0), (0, 1), (1, 1)))
    a, b, c = a.sum(-1), b.sum(-1), c.sum(-1)
    det_unblurred = a * c - b * b
    a, c = a + EPS_2D, c + EPS_2D
    det = a * c - b * b
    mean = 0.5 * (a + c)
    radii = (3 * (mean + (mean**2 - det).clamp_min(0.01).sqrt()).sqrt()).ceil()
    opacities = gaussians.opacities * (det_unblurred / det).clamp_min(0).sqrt()
    centers = points[:, :2] @ k[:2, :2].T + k[:2, 2]
    conics = torch.stack([c / det, -b / det, a / det], -1)
    return centers, conics, opacities, points[:, 2], radii.detach()


def rasterize_tiles(gaussians: Gaussians, colors: Tensor, view: View) -> tuple[Tensor, Tensor]:
    """Rasterize a parallel view tile by tile: color [h, w, c] and weighted depth [h, w]."""
    centers, conics, opacities, depths, radii = project_gaussians(gaussians, view)
    order = torch.argsort(depths.detach())
    centers, conics, opacities, depths, radii = (v[order] for v in (centers, conics, opacities, depths, radii))
    values = torch.cat([colors[order], depths[:, None]], -1)
    low, high = (centers - radii[:, None]).detach() / TILE, (centers + radii[:, None]).detach() / TILE
    rows = []
    for top in range(0, view.height, TILE):
        tiles = []
        for left in range(0, view.width, TILE):
            x, y = left // TILE, top // TILE
            hit = (low[:, 0] < x + 1) & (high[:, 0] > x) & (low[:, 1] < y + 1) & (high[:, 1] > y)
            size = min(TILE, view.height - top), min(TILE, view.width - left)
            tiles.append(_blend_tile(centers[hit], conics[hit], opacities[hit], values[hit], left, top, size))
        rows.append(torch.cat(tiles, 1))
    image = torch.cat(rows, 0)
    return image[..., :-1], image[..., -1]


def _blend_tile(
    centers: Tensor, conics: Tensor, opacities: Tensor, values: Tensor, left: int, top: int, size
) -> Tensor:
    y, x = torch.meshgrid(torch.arange(size[0]) + top + 0.5, torch.arange(size[1]) + left + 0.5, indexing="ij")
    d = torch.stack([x, y], -1).reshape(-1, 1, 2) - centers
    power = 0.5 * (conics[:, 0] * d[..., 0] ** 2 + conics[:, 2] * d[..., 1] ** 2) + conics[:, 1] * d[..., 0] * d[..., 1]
    alpha = (opacities * torch.exp(-power)).clamp_max(0.999)
    alpha = torch.where(alpha >= 1 / 255, alpha, torch.zeros_like(alpha))
    transmittance = torch.cumprod(1 - alpha, 1)
    transmittance_before = torch.cat([torch.ones_like(transmittance[:, :1]), transmittance[:, :-1]], 1)
    weights = torch.where(transmittance > 1e-4, alpha * transmittance_before, torch.zeros_like(alpha))
    return (weights @ values).reshape(*size, -1)
