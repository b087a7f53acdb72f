"""The methods this plugin registers, and every default in one place."""

from dataclasses import replace
from typing import Any

import torch
from nerfstudio.configs.base_config import LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.plugins.types import MethodSpecification

from skyfall_ns import nerfstudio_patches
from skyfall_ns.idu.curriculum import REFERENCE_JAX
from skyfall_ns.models.skyfall import SkyfallModelConfig
from skyfall_ns.nerfstudio_patches import FusedAdamConfig, PlainExponentialDecayConfig
from skyfall_ns.pipelines.depth_supervision import DepthSupervisionConfig
from skyfall_ns.pipelines.idu_pipeline import IduPipelineConfig
from skyfall_ns.pipelines.skyfall_pipeline import SkyfallPipelineConfig
from skyfall_ns.priors.pseudo_cameras import PseudoSchedule
from skyfall_ns.refiners.registry import FLUX, KLEIN
from skyfall_ns.scene.model_space import MODEL_PER_METRE

nerfstudio_patches.cure()

STEPS = 600  # on two cores of an AMD EPYC, 351 s for eight images of 0.28 megapixels
FAST_STEPS = 250
REFERENCE_STEPS = 30_000
UNTIL_DONE = 1_000_000  # more than any curriculum has


def optimizers(steps: int, decay: float = 1 / 3, **learning_rates: float) -> dict[str, dict]:
    """One optimizer per parameter group; the means' rate falls to `decay` of itself. Rates are per step: `means` in
    model units (100 m), scales in log metres, opacities in logits, shifts in pixels."""
    rates = {
        "means": 5e-5,  # 5 mm a step
        "scales": 5e-3,
        "quats": 1e-3,
        "features_dc": 2.5e-3 / 0.28,  # Skyfall-GS' 0.0025 in colours
        "features_rest": 1.25e-4,
        "opacities": 0.05,
        "looks": 2e-3,
        "shift": 2e-3,
        "embeddings": 1e-3,  # Skyfall-GS takes 0.005: 0.4 dB less in a city's held-out image
        "image_embeddings": 1e-3,  # these two as Skyfall-GS
        "appearance": 5e-4,
    } | learning_rates
    table: dict[str, dict] = {
        name: {"optimizer": FusedAdamConfig(lr=rate, eps=1e-15), "scheduler": None} for name, rate in rates.items()
    }
    table["means"]["scheduler"] = PlainExponentialDecayConfig(lr_final=decay * rates["means"], max_steps=steps)
    return table


def method(
    name: str,
    description: str,
    steps: int,
    table: dict[str, dict],
    pipeline: type = SkyfallPipelineConfig,
    **parts: Any,
) -> MethodSpecification:
    """A method; `parts` are those of the pipeline that differ from its defaults."""
    config = TrainerConfig(
        method_name=name,
        max_num_iterations=steps,
        steps_per_save=500,
        steps_per_eval_image=500,
        steps_per_eval_batch=0,
        steps_per_eval_all_images=0,
        mixed_precision=False,
        machine=MachineConfig(device_type="cuda" if torch.cuda.is_available() else "cpu"),
        pipeline=pipeline(**parts),
        optimizers=table,
        # the host would listen on all interfaces, and would never end
        viewer=ViewerConfig(websocket_host="127.0.0.1", quit_on_train_completion=True),
        logging=LoggingConfig(steps_per_log=20),
        vis="viewer+tensorboard",
    )
    return MethodSpecification(config=config, description=description)


skyfall = method(
    "skyfall",
    "Splat city from satellite images, georeferenced, heights tied to stereo (stage 1).",
    STEPS,
    optimizers(STEPS),
)

skyfall_fast = method(
    "skyfall-fast",
    "As skyfall in a third of the time: a first look on a CPU.",
    FAST_STEPS,
    optimizers(FAST_STEPS),
    depth=DepthSupervisionConfig(prior="none"),
)

REFERENCE_OPTIMIZERS = optimizers(
    REFERENCE_STEPS,
    decay=0.01,
    means=1.6e-4 * 128 * MODEL_PER_METRE,  # position_lr_init times the scene's extent of 128 m
    scales=1e-3,
    features_dc=2.5e-3,
    embeddings=5e-3,
)
REFERENCE_MODEL = SkyfallModelConfig(
    sh_degree=1,
    background_color="black",
    start_opacity=0.5,
    max_scale_m=12.8,
    filter_3d=True,
    surface_weight=0.0,
    bright_weight=0.0,
    neighbor_weight=0.0,
    entropy_weight=10.0,
    appearance="perceptron",
    shading=False,
    shadows=False,
    warmup_length=1000,
    stop_split_at=21_000,
    cull_alpha_thresh=0.005,
    cull_scale_thresh=12.8,
    reset_alpha_every=30,
    densify_grad_thresh=1e-4,
    use_absgrad=False,
    densify_abs_quantile=True,
    densify_size_thresh=1.28,
    max_gaussians=5_000_000,
)
REFERENCE_DEPTH = DepthSupervisionConfig(
    prior="moge", moge_version="v1", loss="pearson", weight=0.5, schedule=PseudoSchedule()
)

skyfall_reference = method(
    "skyfall-reference",
    "Stage 1 with the published flags of Skyfall-GS (docs/stage1.md); needs a GPU and MoGe's weights.",
    REFERENCE_STEPS,
    REFERENCE_OPTIMIZERS,
    model=REFERENCE_MODEL,
    depth=REFERENCE_DEPTH,
)

PUBLISHED_IDU: dict[str, Any] = {  # run_jax_idu.py
    "model": replace(REFERENCE_MODEL, entropy_weight=0.0),
    "depth": REFERENCE_DEPTH,
    "stage1_steps": REFERENCE_STEPS,
    "curriculum": REFERENCE_JAX,
    "synthetic_share": 0.75,
    "keep_earlier": 0.0,
    "agreement": False,
    "moves": 1.0,
    "episode_rates": 1.0,
    "episode_depth": 0.5,
    "grow_share": 0.9,
    "grow_thresh": 2e-4,
    "reset_share": 0.5,
}

skyfall_idu = method(
    "skyfall-idu",
    "Stage 2: renders from ever lower elevations are refined and trained on, episode by episode; needs no weights.",
    UNTIL_DONE,
    optimizers(STEPS),
    IduPipelineConfig,
)

skyfall_idu_klein = method(
    "skyfall-idu-klein",
    "Stage 2 with FlowEdit on FLUX.2-klein-base-4B (Apache-2.0); needs a GPU and the model's weights.",
    UNTIL_DONE,
    REFERENCE_OPTIMIZERS,
    IduPipelineConfig,
    refiner=KLEIN,
    **PUBLISHED_IDU,
)

skyfall_idu_flux = method(
    "skyfall-idu-flux",
    "Stage 2 as published: FlowEdit on FLUX.1-dev (non-commercial, gated); needs a GPU and the model's weights.",
    UNTIL_DONE,
    REFERENCE_OPTIMIZERS,
    IduPipelineConfig,
    refiner=FLUX,
    **PUBLISHED_IDU,
)
