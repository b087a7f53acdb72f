"""Tiny pipelines, made once per session; prompts are cached in a folder of the test run."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Folder of a tiny pipeline by family."""
    pytest.importorskip("diffusers", reason="the extra `diffusion` is not installed")
    from helpers import tiny_pipelines

    gc.collect()
    gc.freeze()  # what the imports brought stays: collecting it at the end of each loan would take most of the time
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = tiny_pipelines.build(family, tmp_path_factory.mktemp("tiny") / family)
        return made[family]

    yield get
    gc.unfreeze()


@pytest.fixture(autouse=True)
def cached_prompts(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder, shared by the tests of a run, and no network."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder
