"""The CUDA rasterizer: gsplat, with its orthographic camera for parallel views, expected depth and absgrad."""

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.models.rasterizers.cuda_toolkit import load_gsplat
from skyfall_ns.models.rasterizers.types import EPS_2D, FAR, NEAR, Gaussians, Rendering
from skyfall_ns.view import View


class GsplatRasterizer:
    """Renders with gsplat's `rasterization`. It never assumes that the view's linear part is a rotation, so satellite
    views are exact."""

    def __call__(
        self, gaussians: Gaussians, colors: Float[Tensor, "n c"], view: View, *, absgrad: bool = False
    ) -> Rendering:
        load_gsplat()
        from gsplat import rasterization  # loads CUDA code: only when it is used

        device = gaussians.means.device
        channels, alpha, info = rasterization(
            means=gaussians.means,
            quats=torch.nn.functional.normalize(gaussians.quats, dim=-1),
            scales=gaussians.scales,
            opacities=gaussians.opacities,
            colors=colors,
            viewmats=view.camera_from_model.to(device=device, dtype=torch.float32)[None],
            Ks=view.intrinsics.to(device=device, dtype=torch.float32)[None],
            width=view.width,
            height=view.height,
            near_plane=NEAR,
            far_plane=FAR,
            eps2d=EPS_2D,
            packed=False,
            render_mode="RGB+ED" if colors.shape[1] else "ED",
            rasterize_mode="antialiased",
            camera_model="ortho" if view.projection == "parallel" else "pinhole",
            absgrad=absgrad,
        )
        return Rendering(channels[0, ..., :-1], channels[0, ..., -1], alpha[0, ..., 0], info)
