"""gsplat on CUDA behind our call: general parallel views through its orthographic camera, expected depth, absgrad."""

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.models.rasterizers.types import EPS_2D, FAR, NEAR, Gaussians, Rendering, ViewLike


class GsplatRasterizer:
    """gsplat's `rasterization` never needs the view's linear part to be a rotation, so satellite views are exact."""

    def __call__(
        self, gaussians: Gaussians, colors: Float[Tensor, "n c"], view: ViewLike, *, absgrad: bool = False
    ) -> Rendering:
        from gsplat import rasterization  # compiles or loads CUDA code: only when something is drawn

        device = gaussians.means.device
        drawn, alpha, info = rasterization(
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
        return Rendering(drawn[0, ..., :-1], drawn[0, ..., -1], alpha[0, ..., 0], info)
