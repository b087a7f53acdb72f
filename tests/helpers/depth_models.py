"""Depth models with random weights for tests: a tiny one of transformers, and MoGe's own classes."""

import copy
import importlib
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


MOGE_CONFIGS = {
    "v1": {
        "encoder": "dinov2_vits14", "intermediate_layers": 1, "dim_proj": 32, "dim_upsample": [32, 32, 32],
        "num_tokens_range": [16, 25], "remap_output": "exp",
    },
    "v2": {
        "encoder": {"backbone": "dinov2_vits14", "intermediate_layers": 1, "dim_out": 32},
        "neck": {"dim_in": [34, 2, 2, 2, 2], "dim_res_blocks": [32] * 5, "dim_out": None,
                 "resamplers": ["bilinear"] * 4},
        "points_head": {"dim_in": [32] * 5, "dim_res_blocks": [32] * 5, "dim_out": [None] * 4 + [3],
                        "resamplers": ["bilinear"] * 4},
        "mask_head": {"dim_in": [32] * 5, "dim_res_blocks": [32] * 5, "dim_out": [None] * 4 + [1],
                      "resamplers": ["bilinear"] * 4},
        "num_tokens_range": [16, 25], "remap_output": "exp",
    },
}  # fmt: skip
"""Configurations of the real classes with the smallest encoder that they have, for images of some 64 pixels."""


def build_tiny_moge(directory: Path, version: str = "v2", mask_bias: float = 2.0) -> Path:
    """Write a MoGe model with random weights to `directory`; with a positive bias its mask is valid everywhere."""
    model_class = importlib.import_module(f"moge.model.{version}").MoGeModel
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(**copy.deepcopy(MOGE_CONFIGS[version]))
    last_layer = model.head.output_block[1][-1] if version == "v1" else model.mask_head.output_blocks[-1]
    torch.nn.init.constant_(last_layer.bias, mask_bias)
    directory.mkdir(parents=True, exist_ok=True)
    torch.save({"model_config": MOGE_CONFIGS[version], "model": model.state_dict()}, directory / "model.pt")
    return directory


def record_moge_calls(monkeypatch: pytest.MonkeyPatch, version: str = "v2") -> list[dict]:
    """Arguments of every later call of the real `infer`."""
    model_class = importlib.import_module(f"moge.model.{version}").MoGeModel
    calls: list[dict] = []
    infer = model_class.infer

    def recorded(self, image, **options):
        calls.append({"shape": tuple(image.shape), "low": image.min().item(), "high": image.max().item(),
                      "dtype": self.dtype, **options})  # fmt: skip
        return infer(self, image, **options)

    monkeypatch.setattr(model_class, "infer", recorded)
    return calls
