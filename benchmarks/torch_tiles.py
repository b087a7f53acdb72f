"""The peer: a tile rasterizer in plain PyTorch with autograd, same rules, as one would write it without kernels."""

import torch
from torch import Tensor

from skyfall_ns.models.rasterizers.types import EPS_2D, Gaussians, ViewLike

TILE = 16


def project(gaussians: Gaussians, view: ViewLike) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Centres, conics (a, b, c), compensated opacities, depths and radii of a parallel view."""
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
    before = a * c - b * b
    a, c = a + EPS_2D, c + EPS_2D
    after = a * c - b * b
    middle = 0.5 * (a + c)
    radii = (3 * (middle + (middle**2 - after).clamp_min(0.01).sqrt()).sqrt()).ceil()
    opacities = gaussians.opacities * (before / after).clamp_min(0).sqrt()
    centres = points[:, :2] @ k[:2, :2].T + k[:2, 2]
    return centres, torch.stack([c / after, -b / after, a / after], -1), opacities, points[:, 2], radii.detach()


def rasterize(gaussians: Gaussians, colors: Tensor, view: ViewLike) -> tuple[Tensor, Tensor]:
    """(color [h, w, c], weighted depth [h, w]) of a parallel view, tile by tile."""
    centres, conics, opacities, depths, radii = project(gaussians, view)
    order = torch.argsort(depths.detach())
    centres, conics, opacities, depths, radii = (v[order] for v in (centres, conics, opacities, depths, radii))
    values = torch.cat([colors[order], depths[:, None]], -1)
    low, high = (centres - radii[:, None]).detach() / TILE, (centres + radii[:, None]).detach() / TILE
    rows = []
    for top in range(0, view.height, TILE):
        tiles = []
        for left in range(0, view.width, TILE):
            x, y = left // TILE, top // TILE
            hit = (low[:, 0] < x + 1) & (high[:, 0] > x) & (low[:, 1] < y + 1) & (high[:, 1] > y)
            size = min(TILE, view.height - top), min(TILE, view.width - left)
            tiles.append(_tile(centres[hit], conics[hit], opacities[hit], values[hit], left, top, size))
        rows.append(torch.cat(tiles, 1))
    image = torch.cat(rows, 0)
    return image[..., :-1], image[..., -1]


def _tile(centres: Tensor, conics: Tensor, opacities: Tensor, values: Tensor, left: int, top: int, size) -> Tensor:
    y, x = torch.meshgrid(torch.arange(size[0]) + top + 0.5, torch.arange(size[1]) + left + 0.5, indexing="ij")
    d = torch.stack([x, y], -1).reshape(-1, 1, 2) - centres
    power = 0.5 * (conics[:, 0] * d[..., 0] ** 2 + conics[:, 2] * d[..., 1] ** 2) + conics[:, 1] * d[..., 0] * d[..., 1]
    alpha = (opacities * torch.exp(-power)).clamp_max(0.999)
    alpha = torch.where(alpha >= 1 / 255, alpha, torch.zeros_like(alpha))
    left_over = torch.cumprod(1 - alpha, 1)
    before = torch.cat([torch.ones_like(left_over[:, :1]), left_over[:, :-1]], 1)
    weights = torch.where(left_over > 1e-4, alpha * before, torch.zeros_like(alpha))
    return (weights @ values).reshape(*size, -1)
