"""Small scenes for tests: synthetic cities seen by five satellites, processed for real."""

from pathlib import Path
from unittest.mock import patch

from skyfall_ns.data.area import Area
from skyfall_ns.data.city import deliver
from skyfall_ns.data.folder import new_folder
from skyfall_ns.data.prepare import Options, Prepared, prepare
from skyfall_ns.data.report import write_reports

SIZE_M, VIEWS = 64.0, 5
HARD_SIZE_M = 96.0


def make_city_scene(folder: Path) -> Prepared:
    """raw/, truth/ and the scene of a plain city in `folder`; the last view is held out."""
    return _make_scene(folder, SIZE_M, VIEWS, hard=False)


def make_hard_city_scene(folder: Path, views: int = VIEWS) -> Prepared:
    """raw/, truth/ and the scene of a difficult city in `folder`; the last view of five or more is held out."""
    return _make_scene(folder, HARD_SIZE_M, views, hard=True)


def _make_scene(folder: Path, size_m: float, views: int, hard: bool) -> Prepared:
    with patch.object(deliver, "OBLIQUE_PX", 96), new_folder(folder, force=False) as partial:
        city = deliver.write_city(partial, size_m=size_m, views=views, seed=3, hard=hard)
        held_out = (city.images[-1].stem,) if views >= 5 else ()
        options = Options(area=Area(center=city.center, size_m=size_m), test_images=held_out)
        prepared = prepare(city.images, partial, options, lambda text: None)
        write_reports(partial, prepared)
    return prepared
