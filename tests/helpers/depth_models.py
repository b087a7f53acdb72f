"""Depth models for tests: a tiny real one of transformers, and a stub with MoGe's interface."""

import sys
import types
from pathlib import Path

import pytest
import torch


def build_tiny_depth_anything(directory: Path, **options) -> Path:
    """Write a Depth Anything model of 0.4 MB to `directory`."""
    transformers = pytest.importorskip("transformers", reason="the extra `depth` is not installed")
    backbone = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=56, patch_size=14,
        out_indices=[1, 2, 3, 4], apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=32, neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=8,
        head_hidden_size=8, patch_size=14, **options,
    )  # fmt: skip
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(directory)
    transformers.DPTImageProcessor(size={"height": 56, "width": 56}, ensure_multiple_of=14).save_pretrained(directory)
    return directory


class StubMoge(torch.nn.Module):
    """Predicts the depth of a slope, infinity in the first ten rows; records its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict] = []
        self.layer = torch.nn.Linear(3, 3)  # weights that must not end up in a checkpoint

    def infer(self, image, fov_x=None, apply_mask=True, use_fp16=True):
        self.calls.append({"fov_x": fov_x, "shape": tuple(image.shape), "low": image.min().item(),
                           "high": image.max().item(), "use_fp16": use_fp16})  # fmt: skip
        depth = torch.linspace(6.0, 5.0, image.shape[1])[:, None].repeat(1, image.shape[2])
        depth[:10] = torch.inf
        return {"depth": depth}


def install_stub_moge(monkeypatch: pytest.MonkeyPatch, version: str = "v2") -> StubMoge:
    """Put the stub where `import moge.model.VERSION` finds it."""
    stub = StubMoge()

    class MoGeModel:
        @classmethod
        def from_pretrained(cls, weights):
            stub.weights = weights
            return stub

    for name in ("moge", "moge.model", f"moge.model.{version}"):
        module = types.ModuleType(name)
        module.__spec__ = types.SimpleNamespace(name=name)  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules[f"moge.model.{version}"].MoGeModel = MoGeModel  # type: ignore[attr-defined]
    return stub
