"""What a checkpoint says besides parameters: whose it is, and what a killed run needs to go on as if nothing had
happened (the host forgets the order of images, random numbers and the statistics of densification).

Everything is plain tensors, numbers and text, so that checkpoints load without pickled code.
"""

import random
from collections.abc import Mapping
from typing import Any

import torch

from skyfall_ns.dataparsers.skyfall_datamanager import SkyfallDatamanager
from skyfall_ns.errors import TrainingError
from skyfall_ns.models.skyfall import SkyfallModel
from skyfall_ns.scene.model_space import SceneOnModel

_ORDER = ("train_unseen_cameras", "eval_unseen_cameras")


def identity(on_model: SceneOnModel) -> dict[str, Any]:
    """{"images", "crs", "origin", "centre_m"}: what the tones of images and the places of splats belong to."""
    frame = on_model.scene.frame
    return {
        "images": list(on_model.image_names),
        "crs": str(frame["crs"]),
        "origin": [float(v) for v in frame["origin"]],
        "centre_m": [float(v) for v in on_model.centre_m],
    }


def check_identity(saved: Mapping[str, Any], on_model: SceneOnModel) -> None:
    """TrainingError if a checkpoint is of other images (or of another order of them), or of another frame."""
    ours, folder = identity(on_model), on_model.scene.folder
    if saved["images"] != ours["images"]:
        raise TrainingError(
            f"The checkpoint was trained on other images than those of {folder}: {_difference(saved, ours)}. "
            "Choose the same with --images and --eval-images, or train from the start without --load-dir."
        )
    for key in ("crs", "origin", "centre_m"):
        if saved[key] != ours[key]:
            raise TrainingError(
                f"The checkpoint belongs to another place or frame than {folder} "
                f"({key} {saved[key]}, not {ours[key]}). "
                "Pass the scene that it was trained on, or train from the start without --load-dir."
            )


def _difference(saved: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    gone = [name for name in saved["images"] if name not in ours["images"]]
    new = [name for name in ours["images"] if name not in saved["images"]]
    parts = [f"it knows {', '.join(gone)}"] * bool(gone) + [f"it does not know {', '.join(new)}"] * bool(new)
    return " and ".join(parts) or "their order differs"


def captured(model: SkyfallModel, data: SkyfallDatamanager) -> dict[str, Any]:
    """The state of a run after a step, to be restored before the next one."""
    state: dict[str, Any] = {name: list(getattr(data, name)) for name in _ORDER}
    state["random"] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if hasattr(data, "random_generator"):  # the host's, where images come in random order
        state["random"]["order"] = data.random_generator.getstate()
    if model.device.type == "cuda":
        state["random"]["cuda"] = torch.cuda.get_rng_state(model.device)
    return state | {"strategy": dict(model.strategy_state)}


def restore(state: Mapping[str, Any], model: SkyfallModel, data: SkyfallDatamanager) -> None:
    """Go on where `captured` was called. Statistics of another way to densify are left out."""
    for name in _ORDER:
        setattr(data, name, list(state[name]))
    numbers = state["random"]
    random.setstate(numbers["python"])
    torch.set_rng_state(numbers["torch"].cpu())
    if "order" in numbers and hasattr(data, "random_generator"):
        data.random_generator.setstate(numbers["order"])
    if "cuda" in numbers and model.device.type == "cuda":
        torch.cuda.set_rng_state(numbers["cuda"].cpu(), model.device)
    if state["strategy"].keys() == model.strategy_state.keys():
        for name, value in state["strategy"].items():
            model.strategy_state[name] = value.to(model.device) if isinstance(value, torch.Tensor) else value
