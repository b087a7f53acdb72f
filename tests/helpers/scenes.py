"""Small scenes for tests: synthetic cities of five satellite views, with all stages of processing."""

from pathlib import Path
from unittest.mock import patch

from skyfall_ns.io.directories import atomic_directory
from skyfall_ns.processing.area_of_interest import AreaOfInterest
from skyfall_ns.processing.options import ProcessingOptions
from skyfall_ns.processing.process import ProcessingResult, process_scene
from skyfall_ns.processing.report import write_reports
from skyfall_ns.synthetic_city import delivery

SIZE_M, VIEWS = 64.0, 5
HARD_SIZE_M = 96.0


def make_city_scene(directory: Path) -> ProcessingResult:
    """Write raw/, truth/ and the scene of a plain city; the last view is held out."""
    return _make_scene(directory, SIZE_M, VIEWS, hard=False)


def make_hard_city_scene(directory: Path, views: int = VIEWS) -> ProcessingResult:
    """Write raw/, truth/ and the scene of a difficult city; the last of five or more views is held out."""
    return _make_scene(directory, HARD_SIZE_M, views, hard=True)


def _make_scene(directory: Path, size_m: float, views: int, hard: bool) -> ProcessingResult:
    with patch.object(delivery, "OBLIQUE_PX", 96), atomic_directory(directory, force=False) as partial:
        city = delivery.write_city(partial, size_m=size_m, views=views, seed=3, hard=hard)
        held_out = (city.images[-1].stem,) if views >= 5 else ()
        options = ProcessingOptions(area=AreaOfInterest(center=city.center, size_m=size_m), test_images=held_out)
        result = process_scene(city.images, partial, options, lambda text: None)
        write_reports(partial, result)
    return result
