"""Options that Splatfacto has and this model does not use: hidden from --help, and refused by name."""

from dataclasses import dataclass, field
from typing import Literal

from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.models.splatfacto import SplatfactoModelConfig

from skyfall_ns.option_checks import Unused


def _no_camera_optimizer() -> CameraOptimizerConfig:
    return CameraOptimizerConfig(mode="off")


@dataclass
class SplatfactoOptions(SplatfactoModelConfig):
    """Splatfacto's options; satellite images are trained at full size, and Gaussians start on the scene's points."""

    enable_collider: Unused[bool] = True
    collider_params: Unused[dict[str, float] | None] = field(
        default_factory=lambda: {"near_plane": 2.0, "far_plane": 6.0}
    )
    loss_coefficients: Unused[dict[str, float]] = field(
        default_factory=lambda: {"rgb_loss_coarse": 1.0, "rgb_loss_fine": 1.0}
    )
    eval_num_rays_per_chunk: Unused[int] = 4096
    prompt: Unused[str | None] = None
    resolution_schedule: Unused[int] = 3000
    num_downscales: Unused[int] = 0
    n_split_samples: Unused[int] = 2
    random_init: Unused[bool] = False
    num_random: Unused[int] = 50_000
    random_scale: Unused[float] = 10.0
    use_scale_regularization: Unused[bool] = False
    max_gauss_ratio: Unused[float] = 10.0
    output_depth_during_training: Unused[bool] = False
    rasterize_mode: Unused[Literal["classic", "antialiased"]] = "classic"
    camera_optimizer: Unused[CameraOptimizerConfig] = field(default_factory=_no_camera_optimizer)
    use_bilateral_grid: Unused[bool] = False
    grid_shape: Unused[tuple[int, int, int]] = (16, 16, 8)
    color_corrected_metrics: Unused[bool] = False
