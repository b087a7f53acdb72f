"""The methods of ns-train. Defaults are in the configuration classes; methods hold differences from them only."""

import math
import sys
from dataclasses import replace
from typing import Any

import torch
from nerfstudio.configs.base_config import LoggingConfig, ViewerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.plugins.types import MethodSpecification

from skyfall_ns import nerfstudio_patches
from skyfall_ns.idu.curriculum import REFERENCE_JAX, REFERENCE_NYC
from skyfall_ns.machine_options import SingleDeviceConfig
from skyfall_ns.models.skyfall import SkyfallModelConfig
from skyfall_ns.nerfstudio_patches import FusedAdamConfig, PlainExponentialDecayConfig
from skyfall_ns.pipelines.depth_supervision import DepthSupervisionConfig
from skyfall_ns.pipelines.idu_pipeline import IduPipelineConfig
from skyfall_ns.pipelines.skyfall_pipeline import SkyfallPipeline, SkyfallPipelineConfig
from skyfall_ns.preflight import check_command_line
from skyfall_ns.priors.pseudo_cameras import PseudoSchedule
from skyfall_ns.refiners.registry import FLUX, KLEIN
from skyfall_ns.scene.model_space import MODEL_PER_METER

nerfstudio_patches.apply_patches()
check_command_line(sys.argv)  # Nerfstudio's commands import the methods before they read their command line

DEFAULT_STEPS = 600  # time per run: benchmarks/stage1.md
FAST_STEPS = 250
REFERENCE_STEPS = 30_000
NO_STEP_LIMIT = 1_000_000  # the pipeline ends the run after the last episode


def make_optimizers(steps: int, decay: float = 1 / 3, **learning_rates: float) -> dict[str, dict]:
    """Configuration of one optimizer per parameter group.

    The learning rate of `means` decays to `decay` times its initial value. Rates are per step: `means` in model units
    (100 m), scales in log meters, opacities in logits, image offsets in pixels."""
    rates = {
        "means": 5e-5,  # 5 mm per step
        "scales": 5e-3,
        "quats": 1e-3,
        "features_dc": 2.5e-3 / 0.28,  # 0.0025 of Skyfall-GS, which is in colors
        "features_rest": 1.25e-4,
        "opacities": 0.05,
        "image_appearance": 2e-3,
        "image_offsets": 2e-3,
        "embeddings": 1e-3,  # 0.005 in Skyfall-GS: 0.4 dB less in a held-out image of the synthetic city
        "image_embeddings": 1e-3,  # this and the next as in Skyfall-GS
        "appearance_decoder": 5e-4,
    } | learning_rates
    table: dict[str, dict] = {
        name: {"optimizer": FusedAdamConfig(lr=rate, eps=1e-15), "scheduler": None} for name, rate in rates.items()
    }
    table["means"]["scheduler"] = PlainExponentialDecayConfig(lr_final=decay * rates["means"], max_steps=steps)
    return table


def make_method(
    name: str,
    description: str,
    steps: int,
    table: dict[str, dict],
    pipeline: type = SkyfallPipelineConfig,
    **parts: Any,
) -> MethodSpecification:
    """Make a method; `parts`: fields of the pipeline's configuration that differ from their defaults."""
    config = TrainerConfig(
        method_name=name,
        max_num_iterations=steps,
        steps_per_save=500,
        steps_per_eval_image=500,
        steps_per_eval_batch=0,
        steps_per_eval_all_images=0,
        mixed_precision=False,
        machine=SingleDeviceConfig(device_type="cuda" if torch.cuda.is_available() else "cpu"),
        pipeline=pipeline(**parts),
        optimizers=table,
        # by default Nerfstudio listens on all interfaces and never ends
        viewer=ViewerConfig(websocket_host=SkyfallPipeline.VIEWER_ADDRESS, quit_on_train_completion=True),
        logging=LoggingConfig(steps_per_log=20),
        vis="viewer+tensorboard",
    )
    return MethodSpecification(config=config, description=description)


skyfall = make_method(
    "skyfall",
    "Georeferenced 3D Gaussians from satellite images, with heights constrained by stereo (stage 1).",
    DEFAULT_STEPS,
    make_optimizers(DEFAULT_STEPS),
)

skyfall_fast = make_method(
    "skyfall-fast",
    "As skyfall in a third of the time, for a preview on a CPU.",
    FAST_STEPS,
    make_optimizers(FAST_STEPS),
    depth=DepthSupervisionConfig(prior="none"),
)

REFERENCE_RATES = {
    "decay": 0.01,
    "means": 1.6e-4 * 128 * MODEL_PER_METER,  # position_lr_init times the scene's extent of 128 m
    "scales": 1e-3,
    "features_dc": 2.5e-3,
    "embeddings": 5e-3,
    "image_appearance": 0.0,  # the perceptron alone models the differences between images
}
REFERENCE_OPTIMIZERS = make_optimizers(REFERENCE_STEPS, **REFERENCE_RATES)
REFERENCE_MODEL = SkyfallModelConfig(
    sh_degree=1,
    background_color="black",
    init_opacity=0.5,
    init_shape="sphere",
    init_scale=1.0,
    max_scale_m=None,
    filter_3d=True,
    surface_weight=0.0,
    bright_weight=0.0,
    neighbor_weight=0.0,
    entropy_weight=10.0,
    entropy_gaussians="all",
    appearance="perceptron",
    shading=False,
    shadows=False,
    warmup_length=1000,
    stop_split_at=21_000,
    cull_alpha_thresh=0.005,
    cull_scale_thresh=12.8,
    stop_screen_size_at=0,  # the screen sizes of Skyfall-GS are always 0 when they are tested
    reset_alpha_every=30,
    pause_after_reset=0,
    densify_grad_thresh=1e-4,
    use_absgrad=False,
    densify_abs_quantile=True,
    densify_size_thresh=1.28,
    max_gaussians=5_000_000,
)
REFERENCE_DEPTH = DepthSupervisionConfig(
    prior="moge", moge_version="v1", loss="pearson", weight=0.5, schedule=PseudoSchedule()
)

skyfall_reference = make_method(
    "skyfall-reference",
    "Stage 1 with the published settings of Skyfall-GS; needs a GPU and the weights of MoGe.",
    REFERENCE_STEPS,
    REFERENCE_OPTIMIZERS,
    model=REFERENCE_MODEL,
    depth=REFERENCE_DEPTH,
)

skyfall_naive = make_method(
    "skyfall-naive",
    "The baseline of Skyfall-GS: stage 1 without depth prior, entropy and limit of sizes; needs a GPU.",
    REFERENCE_STEPS,
    make_optimizers(REFERENCE_STEPS, **REFERENCE_RATES | {"scales": 5e-3}),
    model=replace(REFERENCE_MODEL, entropy_weight=0.0, cull_scale_thresh=math.inf, reset_alpha_every=40),
    depth=DepthSupervisionConfig(prior="none"),
)

PUBLISHED_IDU: dict[str, Any] = {  # run_jax_idu.py
    "model": REFERENCE_MODEL,
    "depth": REFERENCE_DEPTH,
    "stage1_steps": REFERENCE_STEPS,
    "curriculum": REFERENCE_JAX,
    "synthetic_share": 0.75,
    "replay_decay": 0.0,
    "consistency_weighting": False,
    "geometry_gradient_scale": 1.0,
    "episode_lr_scale": 1.0,
    "episode_depth": 0.5,
    "episode_depth_elevations_deg": (85.0, 45.0),
    "episode_depth_radii_m": (150.0, 75.0),
    "episode_entropy_weight": 0.0,
    "densify_fraction": 0.9,
    "densify_grad_thresh": 2e-4,
    "opacity_reset_fraction": 0.5,
}

skyfall_idu = make_method(
    "skyfall-idu",
    "Stage 2: renders at decreasing elevations are refined and used for training, by episode; needs no weights.",
    NO_STEP_LIMIT,
    make_optimizers(DEFAULT_STEPS),
    IduPipelineConfig,
)

skyfall_idu_klein = make_method(
    "skyfall-idu-klein",
    "Stage 2 with FlowEdit on FLUX.2-klein-base-4B (Apache-2.0); needs a GPU and the weights of the model.",
    NO_STEP_LIMIT,
    REFERENCE_OPTIMIZERS,
    IduPipelineConfig,
    refiner=KLEIN,
    **PUBLISHED_IDU,
)

skyfall_idu_flux = make_method(
    "skyfall-idu-flux",
    "Stage 2 as published: FlowEdit on FLUX.1-dev (non-commercial, gated); needs a GPU and the weights of the model.",
    NO_STEP_LIMIT,
    REFERENCE_OPTIMIZERS,
    IduPipelineConfig,
    refiner=FLUX,
    **PUBLISHED_IDU,
)

PUBLISHED_NYC: dict[str, Any] = PUBLISHED_IDU | {  # run_nyc.py and run_nyc_idu.py
    "model": replace(REFERENCE_MODEL, densify_grad_thresh=2e-4, reset_alpha_every=40),
    "depth": replace(REFERENCE_DEPTH, schedule=PseudoSchedule(target_std_m=32.0)),
    "curriculum": REFERENCE_NYC,
    "episode_depth": 0.0,
    "episode_entropy_weight": 10.0,
}

skyfall_idu_flux_nyc = make_method(
    "skyfall-idu-flux-nyc",
    "As skyfall-idu-flux with the published cameras and weights of New York: six episodes from 600 m.",
    NO_STEP_LIMIT,
    REFERENCE_OPTIMIZERS,
    IduPipelineConfig,
    refiner=FLUX,
    **PUBLISHED_NYC,
)
