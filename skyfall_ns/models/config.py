"""Every option of the model, with the defaults that won (benchmarks/stage1.md)."""

from dataclasses import dataclass, field
from typing import Literal

from nerfstudio.models.splatfacto import SplatfactoModelConfig


def _model() -> type:
    from skyfall_ns.models.skyfall import SkyfallModel  # the model reads this file

    return SkyfallModel


@dataclass
class SkyfallModelConfig(SplatfactoModelConfig):
    """Splats over a satellite scene. Lengths are metres."""

    _target: type = field(default_factory=_model)
    sh_degree: int = 0
    """Colours do not change with the direction: satellites all look from above, and light is a matter of the image."""
    background_color: Literal["random", "black", "white"] = "random"
    """A random background closes holes: what shines through can never match an image."""
    start_opacity: float = 0.6
    """Opacity of new splats; higher ones take longer to give way where a wall is not where stereo put it."""
    start_scale: float = 0.5
    """Size of new splats (standard deviation along the surface) relative to the points' spacing."""
    max_scale_m: float = 2.0
    """Longest axis (standard deviation) a splat may have, metres."""
    max_gaussians: int = 1_000_000
    """Densification stops at this many splats."""
    surface_weight: float = 0.2
    """Weight per metre of the distance between rendered heights and the scene's dense surface; 0 turns it off."""
    surface_every: int = 2
    """Steps between two looks at the surface."""
    smooth_weight: float = 0.02
    """Weight per metre of the total variation of rendered heights."""
    closed_weight: float = 0.1
    """Weight of what shines through the surface seen from straight above."""
    entropy_weight: float = 0.0
    """Weight of the entropy of visible splats' opacities (Skyfall-GS: 10); pushes them to be there or not."""
    sparsity_weight: float = 0.0
    """Weight of the sum of opacities relative to the number of splats at the start (EOGS: 0.1)."""
    shear_weight: float = 0.0
    """Weight of the consistency with a view tilted a little (EOGS: 1 from iteration 1000)."""
    shear_every: int = 2
    """Steps between two tilted views; each costs a drawing."""
    appearance: Literal["light", "embedding"] = "light"
    """Per image: gain, haze and sky light, or these and an embedding that a perceptron turns into colours."""
    shading: bool = True
    """Shade splats by how they face each image's sun, where its place is known."""
    shadows: bool = True
    """Shade splats by the shadows of each image's date, where the sun's place is known."""
    shadows_every: int = 200
    """Steps after which an image's shadows are computed anew."""
    densify: bool = True
    """Let gsplat's strategy split, duplicate and prune splats."""
    warmup_length: int = 500
    """Steps before densification begins."""
    stop_split_at: int = 1000
    """Step at which densification ends."""
    cull_alpha_thresh: float = 0.02
    """Splats fainter than this are removed while densification runs."""
    reset_alpha_every: int = 1_000_000
    """Opacity resets every so many refinements; off, because few views never recover from one."""
    densify_grad_thresh: float = 0.0006
    """Mean absolute gradient of the image position (normalised) above which a splat is split or duplicated."""
    num_downscales: int = 0
    """Satellite images are trained at full size from the start."""
