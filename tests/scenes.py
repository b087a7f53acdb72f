"""A small scene for tests of training: a synthetic city of 64 m seen by five satellites, processed for real."""

from pathlib import Path
from unittest.mock import patch

from skyfall_ns.data.area import Area
from skyfall_ns.data.city import deliver
from skyfall_ns.data.folder import new_folder
from skyfall_ns.data.prepare import Options, Prepared, prepare
from skyfall_ns.data.report import write_reports

SIZE_M, VIEWS = 64.0, 5


def make_city_scene(folder: Path) -> Prepared:
    """raw/, truth/ and the scene in `folder`; the last view is held out."""
    with patch.object(deliver, "OBLIQUE_PX", 96), new_folder(folder, force=False) as partial:
        city = deliver.write_city(partial, size_m=SIZE_M, views=VIEWS, seed=3)
        options = Options(area=Area(center=city.center, size_m=SIZE_M), test_images=(city.images[-1].stem,))
        prepared = prepare(city.images, partial, options, lambda text: None)
        write_reports(partial, prepared)
    return prepared
