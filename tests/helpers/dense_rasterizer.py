"""A dense reference rasterizer in plain PyTorch: every Gaussian at every pixel, gsplat's rules, any precision."""

import torch

EPS_2D, NEAR, FAR = 0.1, 0.01, 1e10


def rotation_matrices(quats):
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def project_gaussians(gaussians, view):
    """means2d [n, 2], covariance [n, 2, 2] with eps, compensation [n], depth [n], radii [n] (0: culled)."""
    dtype = gaussians.means.dtype
    A, k = view.camera_from_model.to(dtype), view.intrinsics.to(dtype)
    p = gaussians.means @ A[:3, :3].T + A[:3, 3]
    z = p[:, 2]
    n = len(z)
    J = torch.zeros(n, 2, 3, dtype=dtype)
    if view.projection == "parallel":
        means2d = p[:, :2] @ k[:2, :2].T + k[:2, 2]
        J[:, :, :2] = k[:2, :2]
    else:
        slopes = p[:, :2] / z[:, None]
        means2d = slopes @ k[:2, :2].T + k[:2, 2]
        size = torch.tensor([view.width, view.height], dtype=dtype)
        f, c = k.diagonal()[:2], k[:2, 2]
        low, high = -(c / f + 0.15 * size / f), (size - c) / f + 0.15 * size / f
        clamped = torch.minimum(torch.maximum(slopes, low), high)
        J = torch.stack(
            [
                torch.stack([f[0] / z, torch.zeros_like(z), -f[0] * clamped[:, 0] / z], -1),
                torch.stack([torch.zeros_like(z), f[1] / z, -f[1] * clamped[:, 1] / z], -1),
            ],
            1,
        )
    P = J @ A[:3, :3] @ rotation_matrices(gaussians.quats) @ torch.diag_embed(gaussians.scales)
    cov0 = P @ P.transpose(1, 2)
    cov = cov0 + EPS_2D * torch.eye(2, dtype=dtype)
    det0, det = torch.linalg.det(cov0), torch.linalg.det(cov)
    compensation = (det0 / det).clamp_min(0).sqrt()
    mean = 0.5 * (cov[:, 0, 0] + cov[:, 1, 1])
    radii = (3 * (mean + (mean**2 - det).clamp_min(0.01).sqrt()).sqrt()).ceil()
    x, y = means2d.unbind(-1)
    visible = (z > NEAR) & (z < FAR) & (x + radii > 0) & (x - radii < view.width)
    visible &= (y + radii > 0) & (y - radii < view.height)
    return means2d, cov, compensation, z, torch.where(visible, radii, torch.zeros_like(radii))


def render_dense(gaussians, colors, view):
    """color [h, w, c], depth [h, w], alpha [h, w], means2d (retains grad), the leaf of per-pixel offsets for absgrad,
    and a mask [h, w] of the pixels where no test is within 2e-4 of its threshold."""
    dtype = gaussians.means.dtype
    means2d, cov, compensation, depth, radii = project_gaussians(gaussians, view)
    if means2d.requires_grad:
        means2d.retain_grad()
    opacity = gaussians.opacities * compensation
    y, x = torch.meshgrid(
        torch.arange(view.height, dtype=dtype) + 0.5, torch.arange(view.width, dtype=dtype) + 0.5, indexing="ij"
    )
    pixels = torch.stack([x, y], -1)
    per_pixel = torch.zeros(len(depth), view.height, view.width, 2, dtype=dtype, requires_grad=True)
    conic = torch.linalg.inv(cov)
    transmittance = torch.ones(view.height, view.width, dtype=dtype)
    live = torch.ones(view.height, view.width, dtype=torch.bool)
    color = torch.zeros(view.height, view.width, colors.shape[1], dtype=dtype)
    weighted = torch.zeros_like(transmittance)
    safe = torch.ones_like(live)
    for i in torch.argsort(depth.detach(), stable=True).tolist():
        if radii[i] == 0:
            continue
        d = pixels - (means2d[i] + per_pixel[i])
        sigma = 0.5 * (d @ conic[i] * d).sum(-1)
        raw = opacity[i] * torch.exp(-sigma)
        alpha = raw.clamp_max(0.999)
        tile_low = ((means2d[i] - radii[i]) / 16).floor() * 16
        tile_high = ((means2d[i] + radii[i]) / 16).ceil() * 16
        in_tile = ((pixels > tile_low) & (pixels < tile_high)).all(-1)
        visible = in_tile & live & (alpha >= 1 / 255)
        after = transmittance * (1 - alpha)
        contributing = visible & (after > 1e-4)
        near_cutoff = in_tile & live & ((alpha * 255 - 1).abs() < 2e-4)
        near_stop = visible & ((after / 1e-4 - 1).abs() < 2e-3)
        near_cap = in_tile & ((raw / 0.999 - 1).abs() < 1e-5)
        safe &= ~(near_cutoff | near_stop | near_cap)
        weight = torch.where(contributing, alpha * transmittance, torch.zeros_like(transmittance))
        color = color + weight[..., None] * colors[i]
        weighted = weighted + weight * depth[i]
        transmittance = torch.where(contributing, after, transmittance)
        live = live & ~(visible & ~contributing)
    alpha = 1 - transmittance
    expected = torch.where(alpha > 0, weighted / alpha.clamp_min(1e-10), torch.zeros_like(alpha))
    return color, expected, alpha, means2d, per_pixel, safe
