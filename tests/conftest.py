"""Shared fixtures: where the real satellite sets are, if they are."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: two workers share the cores

REAL = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Directory of the real satellite sets; tests that need it are skipped where it is absent."""
    if not (REAL / "kahramanmaras_west").is_dir():
        pytest.skip(f"the real satellite sets are not at {REAL.name}")
    return REAL


@pytest.fixture(scope="session")
def kahramanmaras(real_data: Path) -> list[Path]:
    """Four Pléiades images with vendor RPCs."""
    return sorted((real_data / "kahramanmaras_west/images").glob("*.tif"))


@pytest.fixture(scope="session")
def city_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A processed synthetic city; tests only read it."""
    from helpers.scenes import make_city_scene

    directory = tmp_path_factory.mktemp("city") / "scene"
    make_city_scene(directory)
    return directory


@pytest.fixture(scope="session")
def hard_city_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A processed difficult city of 96 m and five views; tests only read it."""
    from helpers.scenes import make_hard_city_scene

    directory = tmp_path_factory.mktemp("hard_city") / "scene"
    make_hard_city_scene(directory)
    return directory


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with slow tests first, so that the two workers finish together."""
    slow_files = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow_files)
