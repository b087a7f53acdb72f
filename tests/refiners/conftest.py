"""Tiny pipelines, built once per session; encoded prompts are cached in a directory of the test run."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Function that returns the directory of a tiny pipeline of a family."""
    pytest.importorskip("diffusers", reason="the extra `diffusion` is not installed")
    from helpers import tiny_pipelines

    gc.collect()
    gc.freeze()  # imported objects stay alive: scanning them at the end of each `load` would take most of the time
    built: dict[str, Path] = {}

    def directory_of(family: str) -> Path:
        if family not in built:
            built[family] = tiny_pipelines.build_tiny_pipeline(family, tmp_path_factory.mktemp("tiny") / family)
        return built[family]

    yield directory_of
    gc.unfreeze()


@pytest.fixture(autouse=True)
def cached_prompts(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Cache directory of the user, shared by the tests of a run; the hub is offline."""
    directory = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(directory))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return directory
