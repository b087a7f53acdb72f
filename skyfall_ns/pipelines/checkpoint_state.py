"""State of a run in its checkpoints besides parameters: the scene that it belongs to, and the state for an exact
resume.

Nerfstudio saves neither the order of images nor random states nor the statistics of densification. The state consists
of tensors, numbers and text, so that checkpoints load without pickled code.
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from skyfall_ns.dataparsers.skyfall_datamanager import SkyfallDatamanager
from skyfall_ns.errors import TrainingError
from skyfall_ns.models.skyfall import SkyfallModel
from skyfall_ns.scene.model_space import NormalizedScene

VERSION = 1  # of the extra state in checkpoints
_IMAGE_ORDERS = ("train_unseen_cameras", "eval_unseen_cameras")


def scene_identity(normalized: NormalizedScene) -> dict[str, Any]:
    """{"images", "crs", "origin", "center_m"} of the scene that appearances and positions of Gaussians belong to."""
    frame = normalized.scene.frame
    return {
        "images": list(normalized.image_names),
        "crs": frame.crs,
        "origin": list(frame.origin),
        "center_m": [float(v) for v in normalized.center_m],
    }


def check_version(state: Mapping[str, Any] | None) -> None:
    """Raise TrainingError for a checkpoint of another version."""
    version = None if state is None else state.get("version")
    if version != VERSION:
        raise TrainingError(
            f"The checkpoint has version {version}, this program reads version {VERSION}. "
            "Train again, or use the version of skyfall-ns that wrote it."
        )


def check_identity(saved: Mapping[str, Any], normalized: NormalizedScene) -> None:
    """Raise TrainingError if a checkpoint belongs to other images, to another order of them, or to another frame."""
    expected, directory = scene_identity(normalized), normalized.scene.directory
    if saved["images"] != expected["images"]:
        raise TrainingError(
            f"The checkpoint was trained on other images than those of {directory}: "
            f"{_describe_difference(saved, expected)}. "
            "Choose the same with --pipeline.datamanager.dataparser.images and .eval-images, or train from the start "
            "without --load-dir."
        )
    for key in ("crs", "origin", "center_m"):
        if saved[key] != expected[key]:
            raise TrainingError(
                f"The checkpoint belongs to another place or frame than {directory} "
                f"({key} {saved[key]}, not {expected[key]}). "
                "Pass the scene that it was trained on, or train from the start without --load-dir."
            )


def _describe_difference(saved: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    additional = [name for name in saved["images"] if name not in expected["images"]]
    missing = [name for name in expected["images"] if name not in saved["images"]]
    parts = [f"it has {', '.join(additional)}"] * bool(additional) + [f"it lacks {', '.join(missing)}"] * bool(missing)
    return " and ".join(parts) or "their order differs"


def capture_state(model: SkyfallModel, data: SkyfallDatamanager) -> dict[str, Any]:
    """State of a run after a step, for `restore_state`."""
    state: dict[str, Any] = {name: list(getattr(data, name)) for name in _IMAGE_ORDERS}
    state["random"] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if hasattr(data, "random_generator"):  # where Nerfstudio draws images at random
        state["random"]["order"] = data.random_generator.getstate()
    if model.device.type == "cuda":
        state["random"]["cuda"] = torch.cuda.get_rng_state(model.device)
    return state | {"strategy": dict(model.densifier.state)}


def restore_state(state: Mapping[str, Any], model: SkyfallModel, data: SkyfallDatamanager) -> None:
    """Restore the state of `capture_state`; statistics of another densification strategy are ignored."""
    for name in _IMAGE_ORDERS:
        setattr(data, name, list(state[name]))
    rng_states = state["random"]
    random.setstate(rng_states["python"])
    torch.set_rng_state(rng_states["torch"].cpu())
    if "order" in rng_states and hasattr(data, "random_generator"):
        data.random_generator.setstate(rng_states["order"])
    if "cuda" in rng_states and model.device.type == "cuda":
        torch.cuda.set_rng_state(rng_states["cuda"].cpu(), model.device)
    if state["strategy"].keys() == model.densifier.state.keys():
        for name, value in state["strategy"].items():
            model.densifier.state[name] = value.to(model.device) if isinstance(value, torch.Tensor) else value


@contextmanager
def preserve_rng_state(device: torch.device) -> Iterator[None]:
    """Restore the random states of Python and torch at the end of the context."""
    state = random.getstate()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
    random.setstate(state)
