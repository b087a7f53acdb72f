"""The methods this plugin registers, and every default in one place."""

import torch
from nerfstudio.configs.base_config import LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.plugins.types import MethodSpecification

from skyfall_ns import host
from skyfall_ns.host import FusedAdamConfig, PlainExponentialDecayConfig
from skyfall_ns.pipelines.skyfall_pipeline import SkyfallPipelineConfig

host.cure()

STEPS = 1500  # four minutes on two cores for half-megapixel images and 280 000 splats


def optimizers(steps: int = STEPS, **learning_rates: float) -> dict[str, dict]:
    """One optimizer per parameter group. Rates are per step in model units (100 m), log metres, logits and colours."""
    rates = {
        "means": 5e-5,  # 5 mm a step
        "scales": 5e-3,
        "quats": 1e-3,
        "features_dc": 2.5e-3 / 0.28,  # Skyfall-GS' 0.0025 in colours
        "opacities": 0.05,
        "looks": 2e-3,
        "embeddings": 5e-3,  # these three as Skyfall-GS
        "image_embeddings": 1e-3,
        "appearance": 5e-4,
    } | learning_rates
    table: dict[str, dict] = {
        name: {"optimizer": FusedAdamConfig(lr=rate, eps=1e-15), "scheduler": None} for name, rate in rates.items()
    }
    table["means"]["scheduler"] = PlainExponentialDecayConfig(lr_final=rates["means"] / 10, max_steps=steps)
    return table


skyfall = MethodSpecification(
    config=TrainerConfig(
        method_name="skyfall",
        max_num_iterations=STEPS,
        steps_per_save=500,
        steps_per_eval_image=500,
        steps_per_eval_batch=0,
        steps_per_eval_all_images=0,
        mixed_precision=False,
        machine=MachineConfig(device_type="cuda" if torch.cuda.is_available() else "cpu"),
        pipeline=SkyfallPipelineConfig(),
        optimizers=optimizers(),
        # the host would listen on all interfaces, and would never end
        viewer=ViewerConfig(websocket_host="127.0.0.1", quit_on_train_completion=True),
        logging=LoggingConfig(steps_per_log=20),
        vis="viewer+tensorboard",
    ),
    description="Splat city from satellite images, georeferenced, heights tied to stereo (stage 1).",
)
