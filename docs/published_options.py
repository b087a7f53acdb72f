"""Options of Skyfall-GS, their values in its scripts, and where the methods of skyfall-ns have them.

`generate_reference.py` writes reference/published_presets.md from these rows and the registered methods;
tests/test_published_presets.py checks that every value is the published one or has a reason.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from skyfall_ns.models.appearance.embeddings import IMAGE_EMBEDDING_DIM, NUM_FREQUENCIES
from skyfall_ns.models.losses import RESET_COOLDOWN_STEPS
from skyfall_ns.models.rasterizers.types import EPS_2D
from skyfall_ns.refiners.model_catalog import FLUX1_DEV, SOURCE_PROMPT, TARGET_PROMPT
from skyfall_ns.scene.model_space import MODEL_PER_METER

EXTENT_M = 128  # of every scene of Skyfall-GS: the factor of its position_lr_init and percent_dense

Read = str | Callable[[Any], Any]
"""Path of an attribute of a method's configuration, or a function of the configuration."""


@dataclass(frozen=True)
class Row:
    """One option: its value per script (`published`), and where a method has it (`read`); `flag`: the option of
    skyfall-ns, empty for a constant. `reason`: why the value is another one."""

    option: str
    published: tuple[Any, ...]
    read: Read
    flag: str = ""
    reason: str = ""


STAGE1_METHODS = ("skyfall-reference", "skyfall-naive", "skyfall-idu-flux-nyc")
STAGE1_SCRIPTS = ("run_jax", "run_jax_naive", "run_nyc")
STAGE2_METHODS = ("skyfall-idu-flux", "skyfall-idu-flux-nyc")
STAGE2_SCRIPTS = ("run_jax_idu", "run_nyc_idu")


def read_value(config: Any, read: Read) -> Any:
    """Value of a row in a method's configuration."""
    if callable(read):
        return read(config)
    value = config
    for name in read.split("."):
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return value


def is_equal(published: Any, effective: Any) -> bool:
    """Whether two values are the same, numbers up to rounding."""
    if isinstance(published, tuple):
        return len(published) == len(effective) and all(map(is_equal, published, effective))
    if isinstance(published, bool | str) or published is None or isinstance(effective, bool | str | None):
        return published == effective
    return math.isclose(published, effective, rel_tol=1e-6)


def _rate(name: str, unit: float = 1.0) -> Callable[[Any], float]:
    return lambda config: config.optimizers[name]["optimizer"].lr / unit


def _stage1_steps(config: Any) -> int:
    return getattr(config.pipeline, "stage1_steps", config.max_num_iterations)


def _reset_interval(config: Any) -> int:
    return config.pipeline.model.reset_alpha_every * config.pipeline.model.refine_every


def _prior_is_on(config: Any) -> bool:
    return config.pipeline.depth.prior != "none"


def _while_prior(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The value of an option of depth supervision; None without a prior."""
    return lambda config: read(config) if _prior_is_on(config) else None


def _of_episode(fraction: str) -> Callable[[Any], float]:
    return lambda config: getattr(config.pipeline, fraction) * config.pipeline.curriculum.steps[0]


def _of_episode_depth(name: str) -> Callable[[Any], Any]:
    """An option of depth supervision in episodes; None where its weight is 0."""
    return lambda config: getattr(config.pipeline.depth.schedule, name) if config.pipeline.episode_depth else None


MODEL, CURRICULUM = "pipeline.model.", "pipeline.curriculum."
DIFFUSION = "pipeline.refiner.diffusion."

STAGE1_ROWS = (
    Row("iterations", (30_000,) * 3, _stage1_steps, "max-num-iterations, pipeline.stage1-steps"),
    Row("sh_degree", (1,) * 3, MODEL + "sh_degree", MODEL + "sh-degree"),
    Row("(steps per degree)", (1000,) * 3, MODEL + "sh_degree_interval", MODEL + "sh-degree-interval"),
    Row("white_background", (False,) * 3, lambda c: c.pipeline.model.background_color == "white",
        MODEL + "background-color"),
    Row("resolution", (1,) * 3, lambda c: 2**c.pipeline.model.num_downscales),
    Row("kernel_size", (0.1,) * 3, lambda c: EPS_2D),
    Row("appearance_enabled", (True,) * 3, lambda c: c.pipeline.model.appearance == "perceptron",
        MODEL + "appearance"),
    Row("appearance_n_fourier_freqs", (4,) * 3, lambda c: NUM_FREQUENCIES),
    Row("appearance_embedding_dim", (32,) * 3, lambda c: IMAGE_EMBEDDING_DIM),
    Row("position_lr_init, m", (1.6e-4 * EXTENT_M,) * 3, _rate("means", MODEL_PER_METER),
        "optimizers.means.optimizer.lr"),
    Row("position_lr_final, m", (1.6e-6 * EXTENT_M,) * 3,
        lambda c: c.optimizers["means"]["scheduler"].lr_final / MODEL_PER_METER, "optimizers.means.scheduler.lr-final"),
    Row("position_lr_max_steps", (30_000,) * 3, "optimizers.means.scheduler.max_steps",
        "optimizers.means.scheduler.max-steps"),
    Row("feature_lr", (0.0025,) * 3, _rate("features_dc"), "optimizers.features-dc.optimizer.lr"),
    Row("feature_lr / 20", (1.25e-4,) * 3, _rate("features_rest"), "optimizers.features-rest.optimizer.lr"),
    Row("opacity_lr", (0.05,) * 3, _rate("opacities"), "optimizers.opacities.optimizer.lr"),
    Row("scaling_lr", (0.001, 0.005, 0.001), _rate("scales"), "optimizers.scales.optimizer.lr"),
    Row("rotation_lr", (0.001,) * 3, _rate("quats"), "optimizers.quats.optimizer.lr"),
    Row("embedding_lr", (0.005,) * 3, _rate("embeddings"), "optimizers.embeddings.optimizer.lr"),
    Row("appearance_embedding_lr", (0.001,) * 3, _rate("image_embeddings"), "optimizers.image-embeddings.optimizer.lr"),
    Row("appearance_embedding_regularization", (0,) * 3, "optimizers.image_embeddings.optimizer.weight_decay",
        "optimizers.image-embeddings.optimizer.weight-decay"),
    Row("appearance_mlp_lr", (0.0005,) * 3, _rate("appearance_decoder"), "optimizers.appearance-decoder.optimizer.lr"),
    Row("(no gain and path radiance per image)", (0,) * 3, _rate("image_appearance"),
        "optimizers.image-appearance.optimizer.lr"),
    Row("(epsilon of Adam)", (1e-15,) * 3, "optimizers.means.optimizer.eps", "optimizers.means.optimizer.eps"),
    Row("lambda_dssim", (0.2,) * 3, MODEL + "ssim_lambda", MODEL + "ssim-lambda"),
    Row("lambda_depth", (0,) * 3, MODEL + "surface_weight", MODEL + "surface-weight"),
    Row("lambda_opacity", (10, 0, 10), MODEL + "entropy_weight", MODEL + "entropy-weight"),
    Row("(entropy of all Gaussians)", ("all",) * 3, MODEL + "entropy_gaussians", MODEL + "entropy-gaussians"),
    Row("lambda_pseudo_depth", (0.5, 0, 0.5), lambda c: c.pipeline.depth.weight if _prior_is_on(c) else 0,
        "pipeline.depth.weight"),
    Row("start_sample_pseudo", (1000, None, 1000), _while_prior(lambda c: c.pipeline.depth.schedule.start),
        "pipeline.depth.start"),
    Row("end_sample_pseudo", (21_000, None, 21_000), _while_prior(lambda c: c.pipeline.depth.schedule.end),
        "pipeline.depth.end"),
    Row("sample_pseudo_interval", (10, None, 10), _while_prior(lambda c: c.pipeline.depth.schedule.interval),
        "pipeline.depth.interval"),
    Row("num_pseudo_cams", (24, None, 24), _while_prior(lambda c: c.pipeline.depth.schedule.stack),
        "pipeline.depth.stack"),
    Row("target_std, m", (64, None, 32), _while_prior(lambda c: c.pipeline.depth.schedule.target_std_m),
        "pipeline.depth.target-std-m"),
    Row("(ramp of the depth loss)", (500, None, 500), _while_prior(lambda c: c.pipeline.depth.schedule.ramp),
        "pipeline.depth.ramp"),
    Row("(elevations of pseudo cameras)", ((80, 45), None, (80, 45)),
        _while_prior(lambda c: c.pipeline.depth.schedule.elevations_deg), "pipeline.depth.elevations-deg"),
    Row("(distances of pseudo cameras, m)", ((300, 250), None, (300, 250)),
        _while_prior(lambda c: c.pipeline.depth.schedule.radii_m), "pipeline.depth.radii-m"),
    Row("(size of pseudo views)", (1024, None, 1024), _while_prior(lambda c: c.pipeline.depth.schedule.size_px),
        "pipeline.depth.size-px"),
    Row("(depth prior)", ("moge v1", None, "moge v1"),
        _while_prior(lambda c: f"{c.pipeline.depth.prior} {c.pipeline.depth.moge_version}"), "pipeline.depth.prior"),
    Row("(depth loss)", ("pearson", None, "pearson"), _while_prior(lambda c: c.pipeline.depth.loss),
        "pipeline.depth.loss"),
    Row("(initial opacity)", (0.5,) * 3, MODEL + "init_opacity", MODEL + "init-opacity"),
    Row("(initial shape)", ("sphere",) * 3, MODEL + "init_shape", MODEL + "init-shape"),
    Row("(initial size over that of 3DGS)", (1,) * 3, MODEL + "init_scale", MODEL + "init-scale"),
    Row("densify_from_iter", (1000,) * 3, MODEL + "warmup_length", MODEL + "warmup-length"),
    Row("densify_until_iter", (21_000,) * 3, MODEL + "stop_split_at", MODEL + "stop-split-at"),
    Row("densification_interval", (100,) * 3, MODEL + "refine_every", MODEL + "refine-every"),
    Row("densify_grad_threshold", (1e-4, 1e-4, 2e-4), MODEL + "densify_grad_thresh", MODEL + "densify-grad-thresh"),
    Row("(quantile of absolute gradients)", (True,) * 3, MODEL + "densify_abs_quantile",
        MODEL + "densify-abs-quantile"),
    Row("percent_dense, m", (0.01 * EXTENT_M,) * 3, MODEL + "densify_size_thresh", MODEL + "densify-size-thresh"),
    Row("size_threshold: largest size, m", (12.8, 12.8, 12.8), MODEL + "cull_scale_thresh", MODEL + "cull-scale-thresh",
        "1e5 in the naive script is meant as no limit; its code then still removes what is larger than 12.8 m"),
    Row("size_threshold: steps with screen sizes", (0,) * 3, MODEL + "stop_screen_size_at",
        MODEL + "stop-screen-size-at"),
    Row("(opacity of pruning)", (0.005,) * 3, MODEL + "cull_alpha_thresh", MODEL + "cull-alpha-thresh"),
    Row("opacity_reset_interval", (3000, 4000, 4000), _reset_interval, MODEL + "reset-alpha-every"),
    Row("(pause of densification after a reset)", (0,) * 3, MODEL + "pause_after_reset", MODEL + "pause-after-reset"),
    Row("(largest size in training, m)", (None,) * 3, MODEL + "max_scale_m", MODEL + "max-scale-m"),
    Row("(largest number of Gaussians)", (None,) * 3, MODEL + "max_gaussians", MODEL + "max-gaussians",
        "Skyfall-GS has no limit; its users report that memory runs out"),
)  # fmt: skip

STAGE2_ROWS = (
    Row("datasets_type: elevations", ((85, 75, 65, 55, 45),) * 2, CURRICULUM + "elevations_deg",
        CURRICULUM + "elevations-deg",
        "nyc_v1 has a sixth elevation, 25 degrees; its code leaves it out because its list of distances is shorter"),
    Row("datasets_type: distances, m", ((300, 275, 275, 250, 250), (600,) * 5), CURRICULUM + "radii_m",
        CURRICULUM + "radii-m", "the distance of the sixth episode"),
    Row("datasets_type: field of view", (60, 20), lambda c: c.pipeline.curriculum.fov_deg[0], CURRICULUM + "fov-deg"),
    Row("idu_episode_iterations", (10_000,) * 2, lambda c: c.pipeline.curriculum.steps[0], CURRICULUM + "steps"),
    Row("idu_num_cams", (6,) * 2, CURRICULUM + "azimuths", CURRICULUM + "azimuths"),
    Row("idu_num_samples_per_view", (2,) * 2, CURRICULUM + "samples_per_view", CURRICULUM + "samples-per-view"),
    Row("(directions rotate by)", (0,) * 2, CURRICULUM + "azimuth_step", CURRICULUM + "azimuth-step"),
    Row("(samples differ by, degrees)", (0,) * 2, CURRICULUM + "sample_jitter_deg", CURRICULUM + "sample-jitter-deg"),
    Row("idu_render_size", (1024,) * 2, CURRICULUM + "size_px", CURRICULUM + "size-px"),
    Row("idu_grid_size", (3, 4), CURRICULUM + "grid", CURRICULUM + "grid"),
    Row("idu_grid_width, m", (512,) * 2, CURRICULUM + "grid_extent_m", CURRICULUM + "grid-extent-m"),
    Row("idu_grid_height, m", (512,) * 2, CURRICULUM + "grid_extent_m", CURRICULUM + "grid-extent-m"),
    Row("idu_train_ratio", (0.75,) * 2, "pipeline.synthetic_share", "pipeline.synthetic-share"),
    Row("(earlier episodes)", (0,) * 2, "pipeline.replay_decay", "pipeline.replay-decay"),
    Row("(weights by consistency)", (False,) * 2, "pipeline.consistency_weighting", "pipeline.consistency-weighting"),
    Row("(gradients of geometry)", (1,) * 2, "pipeline.geometry_gradient_scale", "pipeline.geometry-gradient-scale"),
    Row("(learning rates over those of stage 1)", (1,) * 2, "pipeline.episode_lr_scale", "pipeline.episode-lr-scale"),
    Row("idu_position_lr_max_steps", (10_000,) * 2, lambda c: c.pipeline.curriculum.steps[0], CURRICULUM + "steps"),
    Row("idu_densify_until_iter", (9000,) * 2, _of_episode("densify_fraction"), "pipeline.densify-fraction"),
    Row("densify_grad_threshold", (2e-4,) * 2, "pipeline.densify_grad_thresh", "pipeline.densify-grad-thresh"),
    Row("idu_opacity_reset_interval", (5000,) * 2, _of_episode("opacity_reset_fraction"),
        "pipeline.opacity-reset-fraction"),
    Row("idu_opacity_cooling_iterations", (500,) * 2, lambda c: RESET_COOLDOWN_STEPS),
    Row("lambda_opacity", (0, 10), "pipeline.episode_entropy_weight", "pipeline.episode-entropy-weight"),
    Row("lambda_depth", (0,) * 2, MODEL + "surface_weight", MODEL + "surface-weight"),
    Row("lambda_pseudo_depth", (0.5, 0), "pipeline.episode_depth", "pipeline.episode-depth"),
    Row("(elevations of pseudo cameras)", ((85, 45),) * 2, "pipeline.episode_depth_elevations_deg",
        "pipeline.episode-depth-elevations-deg"),
    Row("(distances of pseudo cameras, m)", ((150, 75),) * 2, "pipeline.episode_depth_radii_m",
        "pipeline.episode-depth-radii-m"),
    Row("target_std, m", (64, None), _of_episode_depth("target_std_m"), "pipeline.depth.target-std-m"),
    Row("sample_pseudo_interval", (10, None), _of_episode_depth("interval"), "pipeline.depth.interval"),
    Row("num_pseudo_cams", (24, None), _of_episode_depth("stack"), "pipeline.depth.stack"),
    Row("idu_refine", (True,) * 2, lambda c: c.pipeline.refiner.name != "identity", "pipeline.refiner.name"),
    Row("idu_use_flow_edit", (True,) * 2, lambda c: c.pipeline.refiner.name == "flowedit", "pipeline.refiner.name"),
    Row("idu_model_type", (FLUX1_DEV,) * 2, DIFFUSION + "model", DIFFUSION + "model"),
    Row("idu_flow_edit_n_min", (4,) * 2, DIFFUSION + "n_min", DIFFUSION + "n-min"),
    Row("idu_flow_edit_n_max", (10,) * 2, DIFFUSION + "n_max", DIFFUSION + "n-max"),
    Row("idu_flow_edit_n_max_end", (10,) * 2, lambda c: -1, "",
        "-1 as in its README: the scripts draw n_max per image from 4 to 10, and 4 edits nothing"),
    Row("idu_flow_edit_n_avg", (1,) * 2, DIFFUSION + "n_avg", DIFFUSION + "n-avg"),
    Row("(steps)", (28,) * 2, DIFFUSION + "steps", DIFFUSION + "steps"),
    Row("(guidance of source and target)", ((1.5, 5.5),) * 2,
        lambda c: (c.pipeline.refiner.diffusion.source_guidance, c.pipeline.refiner.diffusion.target_guidance),
        DIFFUSION + "source-guidance"),
    Row("(prompts of its FlowEdit at 9489c5b)", (True,) * 2,
        lambda c: (c.pipeline.refiner.diffusion.source_prompt, c.pipeline.refiner.diffusion.target_prompt)
        == (SOURCE_PROMPT, TARGET_PROMPT), DIFFUSION + "source-prompt"),
    Row("(number format)", ("float16",) * 2, DIFFUSION + "dtype", DIFFUSION + "dtype",
        "float16 overflows in some models; FLUX.1 is published in bfloat16"),
)  # fmt: skip

NO_COUNTERPART = {
    "paths and machine": "source_path model_path images data_device eval ip port quiet start_checkpoint "
    "iterative_datasets_update idu_params",
    "times of tests and checkpoints": "test_iterations save_iterations checkpoint_iterations idu_testing_interval",
    "without effect in Skyfall-GS": "position_lr_delay_mult ray_jitter resample_gt_image post_training_iterations "
    "idu_ddim_strength idu_ddim_eta idu_ddim_step idu_ddim_guidance_scale idu_use_sd21",
    "off in every script": "load_allres sample_more_highres use_lpips_loss lpips_net idu_no_curriculum idu_random_ap "
    "idu_iter_full_train",
    "switches of its rasterizer and its debugger": "convert_SHs_python compute_cov3D_python debug debug_from "
    "detect_anomaly",
    "of classes that it lacks": "idu_use_difix3d idu_use_dreamscene",
}
"""Options without a row, by reason."""

FIXED_DIFFERENCES = (
    ("3D filter", "nearest depth and longest focal length of different cameras, which nearly disables it",
     "sampling distance of the same camera", "the filter of Mip-Splatting"),
    ("footprint of a Gaussian in a satellite image", "the Jacobian ignores the principal point",
     "the exact affine camera", "areas are off by up to 20 %, and tall Gaussians lean in a wrong direction"),
    ("blending", "display colors", "light, encoded for display after blending",
     "the mean of two surfaces in one pixel is the mean of their light; one renderer serves all methods"),
    ("border of images in SSIM", "black", "reflected", "a black border is an edge that both images have"),
    ("pixels that are white in an image", "equal to 1", "at least 1", "the sensor is saturated there"),
    ("start of the appearance model", "gain 0: every Gaussian is gray", "gain 1, offset 0",
     "colors are those of the points from the first step on"),
    ("gain of the appearance model", "multiplies the distance of display colors from gray", "multiplies light",
     "an image of twice the exposure has twice the light"),
    ("spherical harmonics", "clamped to 1: no color above 0.78", "not clamped",
     "white roofs; colors are clamped where an image is written"),
    ("rendered depth", "sum of weighted depths", "divided by alpha", "half transparent pixels would be too near"),
    ("input of MoGe", "colors above 1 wrap around", "clamped to 0..1", "white roofs would be black"),
    ("valid pixels of the depth loss", "one masked pixel skips the view", "masked pixels are left out",
     "most oblique views show some empty pixels"),
    ("pseudo cameras", "around z = 0, some 30 m below ground, anywhere",
     "above the ground, with targets in the scene and no camera inside the surface",
     "depths of the inside of buildings teach nothing"),
    ("look-at points of episodes", "z = 0, some 30 m below ground, also outside the scene",
     "on the ground; those outside the scene's box at its edge",
     "other views would show nothing"),
    ("obstructed cameras of episodes", "rendered", "moved up or back, or left out",
     "a view of the inside of a building is not refined to a city"),
    ("appearance of refined views", "the seventh image in the order of the file system",
     "the training image with the highest sun; `--pipeline.appearance-image` selects one",
     "the same on every machine"),
    ("empty pixels of refined views", "trained as black", "without weight, and filled before refinement",
     "they are unknown, not black"),
    ("entropy after a reset in an episode", "off", "a thousandth of its weight", "as in stage 1; 0 in Jacksonville"),
    ("choice of refined and satellite images", "at random", "at even intervals", "runs resume exactly"),
)  # fmt: skip
"""(what, Skyfall-GS, skyfall-ns, reason) of what has no option in Skyfall-GS."""
