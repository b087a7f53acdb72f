"""Models for tests: setup, training steps without a trainer, checkpoints of some Gaussians, and a free camera."""

import copy

import torch
from nerfstudio.cameras.cameras import Cameras

from skyfall_ns.method_configs import skyfall
from skyfall_ns.models.skyfall import SkyfallModel


def make_pipeline(scene, **options):
    """Pipeline of stage 1 on the CPU; `options` are fields of the model's configuration."""
    config = copy.deepcopy(skyfall.config.pipeline)
    config.datamanager.data = scene
    for name, value in options.items():
        setattr(config.model, name, value)
    torch.manual_seed(0)
    return config.setup(device="cpu")


def make_optimizers(model: SkyfallModel) -> dict[str, torch.optim.Optimizer]:
    """One optimizer per parameter group, with the learning rates of the method."""
    groups = model.get_param_groups()
    return {name: torch.optim.Adam(group, lr=skyfall.config.optimizers[name]["optimizer"].lr, eps=1e-15)
            for name, group in groups.items()}  # fmt: skip


def train_step(model: SkyfallModel, pipeline, step: int, optimizers) -> None:
    """One training step as Nerfstudio's trainer makes it."""
    model.optimizers, model.step = optimizers, step
    camera, batch = pipeline.datamanager.next_train(step)
    for optimizer in optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    loss = sum(model.get_loss_dict(model.get_outputs(camera), batch).values())
    loss.backward()
    for optimizer in optimizers.values():
        optimizer.step()
    model.step_post_backward(step)


def densify_often(model: SkyfallModel, **thresholds: float) -> None:
    """Densify at every second step."""
    settings = {"refine_start_iter": 1, "refine_every": 2, **thresholds}
    for name, value in settings.items():
        assert hasattr(model.densifier.strategy, name)
        setattr(model.densifier.strategy, name, value)


def last_gaussians(model: SkyfallModel, count: int) -> dict[str, torch.Tensor]:
    """State dictionary with only the last Gaussians."""
    state = model.state_dict()
    return {name: value[-count:].clone() if name.startswith("gauss_params.") else value
            for name, value in state.items()}  # fmt: skip


def viewer_camera() -> Cameras:
    """Free camera 3 km above the scene; the viewer gives it the index of the first training camera."""
    pose = torch.eye(4)[:3].clone()
    pose[2, 3] = 30.0
    return Cameras(pose[None], 1200.0, 1200.0, 24.0, 24.0, 48, 48, metadata={"cam_idx": 0})
