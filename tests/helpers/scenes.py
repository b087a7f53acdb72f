"""Small scenes for tests: synthetic cities seen by five satellites, processed for real."""

from pathlib import Path
from unittest.mock import patch

from skyfall_ns.io.directories import new_folder
from skyfall_ns.processing.area_of_interest import Area
from skyfall_ns.processing.process import Options, Prepared, prepare
from skyfall_ns.processing.report import write_reports
from skyfall_ns.synthetic_city import delivery

SIZE_M, VIEWS = 64.0, 5
HARD_SIZE_M = 96.0


def make_city_scene(folder: Path) -> Prepared:
    """raw/, truth/ and the scene of a plain city in `folder`; the last view is held out."""
    return _make_scene(folder, SIZE_M, VIEWS, hard=False)


def make_hard_city_scene(folder: Path, views: int = VIEWS) -> Prepared:
    """raw/, truth/ and the scene of a difficult city in `folder`; the last view of five or more is held out."""
    return _make_scene(folder, HARD_SIZE_M, views, hard=True)


def _make_scene(folder: Path, size_m: float, views: int, hard: bool) -> Prepared:
    with patch.object(delivery, "OBLIQUE_PX", 96), new_folder(folder, force=False) as partial:
        city = delivery.write_city(partial, size_m=size_m, views=views, seed=3, hard=hard)
        held_out = (city.images[-1].stem,) if views >= 5 else ()
        options = Options(area=Area(center=city.center, size_m=size_m), test_images=held_out)
        prepared = prepare(city.images, partial, options, lambda text: None)
        write_reports(partial, prepared)
    return prepared
