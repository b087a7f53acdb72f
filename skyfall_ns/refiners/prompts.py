"""Cache of encoded prompts on disk, so that text encoders, often the largest networks, are loaded only once."""

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
from skyfall_ns.refiners.model_loading import load_text_encoders
from skyfall_ns.refiners.options import DiffusionOptions
from skyfall_ns.refiners.resolved_options import ResolvedOptions
from skyfall_ns.refiners.weights import Weights

_FORMAT = 2
"""Version of the cache; increased when adapters encode prompts differently, so that old files are not used."""


def prompts_to_encode(resolved: ResolvedOptions, adapter: type[FlowAdapter]) -> list[str]:
    """Distinct prompts that the model needs; the negative prompt only with classifier-free guidance."""
    prompts = [resolved.source_prompt, resolved.target_prompt]
    strengths = [g for g in (resolved.source_guidance, resolved.target_guidance) if g is not None]
    if any(adapter.uses_negative(g) for g in strengths):
        prompts.append(resolved.negative_prompt)
    return list(dict.fromkeys(prompts))


def cache_directory() -> Path:
    """Directory of encoded prompts, in $XDG_CACHE_HOME or ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "skyfall-ns" / "prompts"


def cache_file(weights: Weights, text_parts: Iterable[str], dtype: str, prompt: str) -> Path:
    """File of an encoded prompt, named by the hash of everything that the embedding depends on; for local directories
    that includes sizes and times of the files of the text encoders."""
    key: list[Any] = [
        _FORMAT,
        weights.model if weights.revision else str(weights.directory),
        weights.revision,
        dtype,
        prompt,
    ]
    if weights.revision is None:
        files = [f for part in sorted(text_parts) for f in sorted((weights.directory / part).glob("*"))]
        key += [(f.parent.name, f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
    return cache_directory() / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.safetensors"


def are_cached(weights: Weights, text_parts: Iterable[str], dtype: str, prompts: Iterable[str]) -> bool:
    """Whether all prompts are cached, so that no text encoder is needed."""
    return all(cache_file(weights, text_parts, dtype, prompt).is_file() for prompt in prompts)


def encode_prompts(
    weights: Weights,
    adapter: type[FlowAdapter],
    options: DiffusionOptions,
    prompts: Iterable[str],
    device: torch.device,
) -> dict[str, Embedding]:
    """Embeddings on the CPU by prompt; text encoders are loaded, and released, only if a prompt is not cached."""
    safetensors = importlib.import_module("safetensors.torch")
    files = {p: cache_file(weights, adapter.text_parts, options.dtype, p) for p in prompts}
    missing = [prompt for prompt, file in files.items() if not file.is_file()]
    if missing:
        guided = weights.read_guidance() != "none"
        with load_text_encoders(weights, adapter.text_parts, options, device) as pipe, torch.no_grad():
            for prompt in missing:
                embedding = adapter.embed_prompt(pipe, prompt, device, guided)
                save_embedding({name: part.cpu().contiguous() for name, part in embedding.items()}, files[prompt])
    return {prompt: safetensors.load_file(file) for prompt, file in files.items()}


def save_embedding(embedding: Embedding, file: Path) -> None:
    """Write an embedding atomically; concurrent writers of the same file do not disturb each other."""
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
