"""Options of the model; the defaults are those of benchmarks/stage1.md."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from skyfall_ns.models.splatfacto_options import SplatfactoOptions
from skyfall_ns.option_checks import COUNT, POSITIVE, SHARE, InRange


@dataclass
class SkyfallModelOptions(SplatfactoOptions):
    """Options of the Gaussians of a satellite scene. Lengths are meters."""

    sh_degree: Literal[0, 1] = 0  # type: ignore[assignment]
    """0: colors do not depend on the view direction (satellites look down, and light belongs to the image); 1: they do,
    from step sh-degree-interval on (Skyfall-GS)."""
    background_color: Literal["random", "black", "white"] = "random"
    """A random background closes holes, because a hole can never match an image."""
    init_opacity: Annotated[float | None, InRange(0, 1, above=True, below=True)] = None
    """Opacity of the initial Gaussians; with a high one, walls that stereo misplaced take longer to vanish. None: 0.6,
    or 0.9 with fewer than dense-view-threshold images."""
    init_shape: Literal["disc", "sphere"] = "disc"
    """Initial Gaussians. disc: flat, along the surface; sphere: isotropic, each as large as its distance from the three
    nearest points (3D Gaussian splatting, Skyfall-GS)."""
    init_scale: Annotated[float, POSITIVE] = 0.5
    """Standard deviation of the initial Gaussians, relative to the point spacing (disc), or to the root mean square
    distance of the three nearest points (sphere; Skyfall-GS: 1)."""
    max_scale_m: Annotated[float | None, POSITIVE] = 2.0
    """Upper bound of the longest axis of a Gaussian (standard deviation), meters; None: unbounded, as in Skyfall-GS."""
    max_gaussians: Annotated[int, COUNT] = 1_000_000
    """Upper bound of the number of Gaussians; close to it only those with the largest gradients are densified."""
    filter_3d: bool = False
    """Render and export no Gaussian that is thinner than the images resolve (3D filter of Mip-Splatting)."""
    image_offsets: bool = False
    """Learn an offset of each image in pixels (RPC bias); the scene stays where the bundle adjustment placed it."""
    image_offsets_weight: Annotated[float, InRange(0)] = 0.001
    """Weight of the mean squared offset, per square pixel."""
    surface_weight: Annotated[float, InRange(0)] = 0.2
    """Weight per meter of the distance between rendered heights and the dense surface of the scene, times
    sparse-view-scale with few images; 0 disables all terms of the surface."""
    dense_view_threshold: Annotated[int, COUNT] = 5
    """Number of images from which colors, not the surface, determine walls; with fewer images the surface also acts
    there."""
    sparse_view_scale: Annotated[float, InRange(0)] = 5.0
    """Factor of surface-weight with fewer than dense-view-threshold images, which explain colors by wrong heights."""
    surface_every: Annotated[int, COUNT] = 2
    """Steps between two evaluations of the surface terms."""
    height_tv_weight: Annotated[float, InRange(0)] = 0.02
    """Weight per meter of the total variation of rendered heights."""
    coverage_weight: Annotated[float, InRange(0)] = 0.1
    """Weight of the missing coverage (1 - alpha) of the surface in the nadir view."""
    bright_weight: Annotated[float, InRange(0)] = 1.0
    """Weight of the mean squared excess of the albedo over white."""
    neighbor_weight: Annotated[float, InRange(0)] = 0.03
    """Weight of the mean squared difference of albedo and embeddings from those of the nearest neighbors, which
    determine Gaussians that no image shows."""
    entropy_weight: Annotated[float, InRange(0)] = 0.0
    """Weight of the entropy of opacities (Skyfall-GS: 10), which pushes them toward 0 or 1."""
    entropy_gaussians: Literal["visible", "all"] = "visible"
    """Gaussians whose entropy is reduced: those that the image of the step shows, or all of them (Skyfall-GS), which
    also removes Gaussians that no image shows."""
    sparsity_weight: Annotated[float, InRange(0)] = 0.0
    """Weight of the sum of opacities relative to the initial number of Gaussians (EOGS: 0.1)."""
    view_consistency_weight: Annotated[float, InRange(0)] = 0.0
    """Weight of the consistency with a slightly tilted view (EOGS: 1 from iteration 1000)."""
    view_consistency_every: Annotated[int, COUNT] = 2
    """Steps between two tilted views; each is one more rendering."""
    appearance: Literal["light", "linear", "perceptron"] = "linear"
    """Model of the differences between images. light: gain, path radiance and ambient light per image; linear: in
    addition, products of embeddings per image and per Gaussian, so that Gaussians may change between dates; perceptron:
    these embeddings decoded by a perceptron (WildGaussians; nearly three times the time)."""
    reference_images: tuple[str, ...] = ("*",)
    """Names or globs of the training images whose mean appearance free views and exports have: 'post*' selects one date
    of two. Stage 2 renders in the appearance of one of them."""
    free_view_ambient_scale: Annotated[float, POSITIVE] = 2.0
    """Ambient light of free views and exports relative to that of the images: oblique views show more shadow."""
    shading: bool = True
    """Shade Gaussians by the angle between their normal and the sun of each image, if its direction is known."""
    shadows: bool = True
    """Shade Gaussians by the cast shadows of each image, if its sun direction is known."""
    shadows_every: Annotated[int, COUNT] = 1
    """Steps between two renderings of an image's shadow map; only a step that renders it has gradients to the Gaussians
    that cast the shadows."""
    pixel_shadows: bool = True
    """Evaluate shadows per pixel on smooth ground, not only per Gaussian."""
    densification: Literal["none", "default", "mcmc"] = "default"
    """Densification and pruning. none: a constant set of Gaussians; default: split, duplicate and prune as gsplat's
    default strategy does; mcmc: relocate faint Gaussians to opaque ones, at a constant number (3DGS-MCMC)."""
    warmup_length: Annotated[int, InRange(0)] = 200
    """Steps before densification begins."""
    stop_split_at: Annotated[int, InRange(0)] = 500
    """Step at which densification ends."""
    cull_alpha_thresh: Annotated[float, SHARE] = 0.02
    """Opacity below which Gaussians are pruned or relocated during densification."""
    cull_scale_thresh: float = math.inf
    """Longest axis above which Gaussians are pruned, meters; max-scale-m bounds it anyway."""
    reset_alpha_every: Annotated[int, COUNT] = 1_000_000
    """Refinements between two opacity resets; disabled by default, because few views do not recover from a reset."""
    pause_after_reset: Annotated[int | None, InRange(0)] = None
    """Steps without densification after an opacity reset; None: one per image and refine-every more. Skyfall-GS: 0."""
    densify_grad_thresh: Annotated[float, InRange(0)] = 0.0006
    """Mean gradient of the image position (normalized; absolute with use-absgrad) above which a Gaussian is
    densified."""
    densify_abs_quantile: bool = False
    """Also densify as many Gaussians with the largest absolute gradients (Skyfall-GS; without use-absgrad)."""
    densify_size_thresh: Annotated[float | None, POSITIVE] = None  # type: ignore[assignment]
    """Longest axis up to which Gaussians are duplicated instead of split, meters; None: the point spacing."""
