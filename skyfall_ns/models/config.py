"""Every option of the model, with the defaults that won (benchmarks/stage1.md)."""

import math
from dataclasses import dataclass
from typing import Literal

from nerfstudio.models.splatfacto import SplatfactoModelConfig


@dataclass
class SkyfallModelOptions(SplatfactoModelConfig):
    """Splats over a satellite scene. Lengths are metres."""

    sh_degree: Literal[0, 1] = 0  # type: ignore[assignment]
    """0: colours do not change with the direction (satellites all look from above, and light is a matter of the image);
    1: they do, from step sh-degree-interval on (Skyfall-GS)."""
    background_color: Literal["random", "black", "white"] = "random"
    """A random background closes holes: what shines through can never match an image."""
    start_opacity: float | None = None
    """Opacity of new splats; higher ones take longer to give way where a wall is not where stereo put it. None: 0.6, or
    0.9 with fewer than five images, which cannot tell better than stereo where it is."""
    start_scale: float = 0.5
    """Size of new splats (standard deviation along the surface) relative to the points' spacing."""
    max_scale_m: float = 2.0
    """Longest axis (standard deviation) a splat may have, metres."""
    max_gaussians: int = 1_000_000
    """Splats never grow beyond this number; close to it the strongest gradients grow first."""
    filter_3d: bool = False
    """Draw no splat thinner than the images can resolve (Mip-Splatting's 3D filter), and export it like that."""
    pose_shift: bool = False
    """Learn a shift of each image, in pixels; the scene stays where the bundle adjustment put it."""
    pose_shift_weight: float = 0.001
    """Weight of the mean squared shift, per square pixel."""
    surface_weight: float = 0.2
    """Weight per metre of the distance between rendered heights and the scene's dense surface, five times that with
    fewer than five images; 0 turns the surface's terms off."""
    surface_every: int = 2
    """Steps between two looks at the surface."""
    smooth_weight: float = 0.02
    """Weight per metre of the total variation of rendered heights."""
    closed_weight: float = 0.1
    """Weight of what shines through the surface seen from straight above."""
    bright_weight: float = 1.0
    """Weight of the mean square of what base colors have above white."""
    neighbor_weight: float = 0.03
    """Weight of the mean squared difference of base colors and embeddings from those of their nearest neighbors, which
    decide where no image does."""
    entropy_weight: float = 0.0
    """Weight of the entropy of visible splats' opacities (Skyfall-GS: 10); pushes them to be there or not."""
    sparsity_weight: float = 0.0
    """Weight of the sum of opacities relative to the number of splats at the start (EOGS: 0.1)."""
    shear_weight: float = 0.0
    """Weight of the consistency with a view tilted a little (EOGS: 1 from iteration 1000)."""
    shear_every: int = 2
    """Steps between two tilted views; each costs a drawing."""
    appearance: Literal["light", "linear", "perceptron"] = "linear"
    """What makes images differ: gain, haze and sky light; these and embeddings per image and per splat, multiplied, so
    that splats may look different on different dates; or these and embeddings that a perceptron reads (WildGaussians;
    nearly three times the time)."""
    canonical: tuple[str, ...] = ("*",)
    """Names or globs of the training images whose mean look free views and exports have: 'post*' shows one date of two.
    Stage 2 renders in the look of one of them."""
    shading: bool = True
    """Shade splats by how they face each image's sun, where its place is known."""
    shadows: bool = True
    """Shade splats by the shadows of each image's date, where the sun's place is known."""
    shadows_every: int = 1
    """Steps after which an image's shadows are drawn anew; a step that draws them also moves what throws them."""
    pixel_shadows: bool = True
    """Ask for each pixel of smooth ground whether the sun reaches it, not only for each splat."""
    growth: Literal["none", "default", "relocate"] = "default"
    """How splats come and go: not at all; split, duplicated and pruned as gsplat's default strategy does; or faint ones
    moved onto opaque ones, their number constant (3DGS-MCMC)."""
    warmup_length: int = 200
    """Steps before growth begins."""
    stop_split_at: int = 500
    """Step at which growth ends."""
    cull_alpha_thresh: float = 0.02
    """Splats fainter than this are removed, or moved, while growth runs."""
    cull_scale_thresh: float = math.inf
    """Splats whose longest axis is above this are removed, metres; max-scale-m bounds it anyway."""
    reset_alpha_every: int = 1_000_000
    """Opacity resets every so many refinements; off, because few views never recover from one."""
    densify_grad_thresh: float = 0.0006
    """Mean gradient of the image position (normalised; absolute with use-absgrad) above which a splat grows."""
    densify_abs_quantile: bool = False
    """Grow as many splats by absolute gradients as the threshold chooses (Skyfall-GS; without use-absgrad)."""
    densify_size_thresh: float | None = None  # type: ignore[assignment]
    """Growing splats whose longest axis is up to this are duplicated, others split, metres; None: points' spacing."""
    num_downscales: int = 0
    """Satellite images are trained at full size from the start."""
