"""Prompts are encoded once and kept on disk: text encoders, often larger than the rest, are not loaded again."""

import hashlib
import importlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from skyfall_ns.refiners.diffusion_models import FlowAdapter
from skyfall_ns.refiners.diffusion_models.base import Embedding
from skyfall_ns.refiners.model_loading import lend_text_encoders
from skyfall_ns.refiners.options import DiffusionOptions
from skyfall_ns.refiners.weights import Weights

_FORMAT = 1
"""Raised when adapters encode prompts differently, so that old files are not used."""


def cache_folder() -> Path:
    """Of this user: $XDG_CACHE_HOME or ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "skyfall-ns" / "prompts"


def cache_file(weights: Weights, text_parts: Iterable[str], dtype: str, prompt: str) -> Path:
    """A name made of all that the embedding depends on; of a local folder, the sizes and times of its files."""
    key: list[Any] = [
        _FORMAT,
        weights.model if weights.revision else str(weights.folder),
        weights.revision,
        dtype,
        prompt,
    ]
    if weights.revision is None:
        files = [f for part in sorted(text_parts) for f in sorted((weights.folder / part).glob("*"))]
        key += [(f.parent.name, f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
    return cache_folder() / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.safetensors"


def are_cached(weights: Weights, text_parts: Iterable[str], dtype: str, prompts: Iterable[str]) -> bool:
    """Whether no text encoder is needed."""
    return all(cache_file(weights, text_parts, dtype, prompt).is_file() for prompt in prompts)


def encoded(
    weights: Weights,
    adapter: type[FlowAdapter],
    options: DiffusionOptions,
    prompts: Iterable[str],
    device: torch.device,
) -> dict[str, Embedding]:
    """Embeddings on the CPU by prompt; text encoders are lent and given back only if one is not cached."""
    safetensors = importlib.import_module("safetensors.torch")
    files = {p: cache_file(weights, adapter.text_parts, options.dtype, p) for p in prompts}
    missing = [prompt for prompt, file in files.items() if not file.is_file()]
    if missing:
        with lend_text_encoders(weights, adapter.text_parts, options, device) as pipe, torch.no_grad():
            for prompt in missing:
                embedding = adapter.embed(pipe, prompt, device)
                save({name: part.cpu().contiguous() for name, part in embedding.items()}, files[prompt])
    return {prompt: safetensors.load_file(file) for prompt, file in files.items()}


def save(embedding: Embedding, file: Path) -> None:
    """Whole or not at all, whoever else writes the same."""
    safetensors = importlib.import_module("safetensors.torch")
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, suffix=".partial")
    os.close(handle)
    try:
        safetensors.save_file(embedding, name)
        os.replace(name, file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
