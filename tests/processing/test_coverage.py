"""Images with missing, blank or unmatched areas: notes name the cause, and no height is wrong."""

import numpy as np
import pytest
from helpers.vendor_files import (
    LAT,
    LEANS,
    LON,
    METERS_PER_DEGREE,
    make_texture,
    render_ground,
    vendor_rpc,
    write_vendor_image,
    write_vendor_images,
)

from skyfall_ns.errors import SkyfallError
from skyfall_ns.geo.surface_evidence import FILLED
from skyfall_ns.processing.area_of_interest import AreaOfInterest
from skyfall_ns.processing.blank_images import find_blank_images
from skyfall_ns.processing.options import ProcessingOptions
from skyfall_ns.processing.process import process_scene
from skyfall_ns.processing.report import write_reports
from skyfall_ns.processing.vendor_images import open_images, read_crop

WRONG_M = 1.5


def process_square(paths, directory, size_m=70.0, north_m=0.0, **options):
    directory.mkdir()
    messages = []
    area = AreaOfInterest(center=(LON, LAT + north_m / METERS_PER_DEGREE), size_m=size_m)
    result = process_scene(paths, directory, ProcessingOptions(area=area, resolution_m=1.0, **options), messages.append)
    return result, write_reports(directory, result), messages


def correct_fraction(result):
    """Fraction of the known heights that are right within WRONG_M."""
    height = result.surface.height_m
    return (np.abs(height[np.isfinite(height)]) < WRONG_M).mean()


def test_area_shown_by_one_image_is_unknown(tmp_path):
    paths = write_vendor_images(tmp_path / "raw")
    for k in (1, 2, 3):  # only the first image shows what lies north of the middle
        write_vendor_image(paths[k], render_ground(make_texture(), LEANS[k])[80:], vendor_rpc(LEANS[k]).for_crop(0, 80))
    result, report, messages = process_square(paths, tmp_path / "scene")
    note = next(text for text in messages if "is shown by fewer than two images" in text)
    assert "unknown" in note and note.removeprefix("Note: ") in report["surface"]["notes"]
    surface = report["surface"]
    assert 0.2 < surface["unknown"] < 0.4 and surface["matched"] + surface["filled"] + surface[
        "unknown"
    ] == pytest.approx(1)
    assert correct_fraction(result) > 0.99
    assert "fewer than two images" in (tmp_path / "scene/report.html").read_text()


def write_waves(directory, part):
    """Write images with different waves in a part of the ground; the land around it has tie points."""
    paths = write_vendor_images(directory / "raw")
    for k, lean in enumerate(LEANS):
        ground = make_texture()
        ground[part] = make_texture(seed=20 + k)[part]
        write_vendor_image(paths[k], render_ground(ground, lean), vendor_rpc(lean))
    return paths


def test_area_of_water_only_is_refused(tmp_path):
    paths = write_waves(tmp_path, (slice(60, 200), slice(60, 200)))
    with pytest.raises(SkyfallError, match=r"^No height of the area .* is matched: .* water or cloud .*\. Choose a la"):
        process_square(paths, tmp_path / "scene", size_m=40.0)


def test_waves_are_filled_from_their_shore_and_noted(tmp_path):
    paths = write_waves(tmp_path, (slice(100, 160), slice(100, 160)))
    result, report, messages = process_square(paths, tmp_path / "scene")
    assert any("is not matched (hidden, water, cloud" in text for text in messages)
    assert report["notes"] == [text.removeprefix("Note: ") for text in messages if text.startswith("Note: ")]
    x, y = np.meshgrid(result.surface.grid.x_m(), result.surface.grid.y_m())
    lake = np.hypot(x, y) < 10
    assert (result.surface.source[lake] == FILLED).mean() > 0.8 and correct_fraction(result) > 0.98


def test_smooth_water_is_noted_as_blank_in_every_image(tmp_path):
    paths = write_vendor_images(tmp_path / "raw")
    for k, lean in enumerate(LEANS):
        ground = make_texture()
        ground[80:180, 80:180] = 300
        write_vendor_image(paths[k], render_ground(ground, lean), vendor_rpc(lean))
    result, _, messages = process_square(paths, tmp_path / "scene")
    assert any("is blank in every image (cloud, water" in text for text in messages)
    assert correct_fraction(result) > 0.99


@pytest.mark.parametrize("value", [0, 700])
def test_image_that_is_blank_over_the_area_is_left_out(tmp_path, value):
    """Without data, or without contrast; outside the area it shows the ground."""
    paths = write_vendor_images(tmp_path / "raw")
    dn = render_ground(make_texture(), LEANS[1]).copy()
    dn[52:176, 42:166] = value
    write_vendor_image(paths[1], dn, vendor_rpc(LEANS[1]))
    result, report, messages = process_square(paths, tmp_path / "scene", size_m=30.0)
    note = "view_2 is blank over the area (no data or no contrast) and left out of the scene"
    assert f"Note: {note}" in messages and note in report["notes"]
    assert [image.name for image in result.scene.images] == ["view_1", "view_3", "view_4"] == list(report["cameras"])
    assert list(report["adjustment"]["shifts_px"]) == ["view_1", "view_3", "view_4"]
    assert {name for pair in report["adjustment"]["pairs"] for name in pair["images"]} == set(report["cameras"])
    assert report["surface"]["matched"] > 0.9 and correct_fraction(result) > 0.99


@pytest.mark.parametrize("value", [0, 700])
def test_image_that_is_entirely_blank_is_left_out(tmp_path, value):
    paths = write_vendor_images(tmp_path / "raw")
    write_vendor_image(paths[3], np.full((220, 220), value, np.uint16), vendor_rpc(LEANS[3]))
    result, _, messages = process_square(paths, tmp_path / "scene", points="sparse")
    assert any("view_4 is blank over the area" in text for text in messages) and len(result.vendor_images) == 3


def test_one_remaining_image_is_refused(tmp_path):
    paths = write_vendor_images(tmp_path / "raw")[:3]
    for k in (1, 2):
        write_vendor_image(paths[k], np.full((220, 220), 700, np.uint16), vendor_rpc(LEANS[k]))
    with pytest.raises(SkyfallError, match=r"^Fewer than two images show the area of interest: view_2, view_3 .*\. Ch"):
        process_square(paths, tmp_path / "scene")


@pytest.fixture(scope="module")
def clouded_scene(tmp_path_factory):
    """The second of two images is white over the western third of the area."""
    directory = tmp_path_factory.mktemp("cloud")
    paths = write_vendor_images(directory / "raw")[:2]
    dn = render_ground(make_texture(), LEANS[1]).copy()
    dn[:, :95] = 1900  # the area begins at column 34
    write_vendor_image(paths[1], dn, vendor_rpc(LEANS[1]))
    return process_square(paths, directory / "scene")


def test_cloud_over_a_third_of_one_of_two_images_is_noted(clouded_scene):
    _, report, messages = clouded_scene
    note = next(text for text in report["notes"] if "is blank in view_2 (cloud, water, or saturated)" in text)
    assert 25 < int(note.partition("%")[0]) < 60 and f"Note: {note}" in messages


def test_no_height_under_a_cloud_is_wrong(clouded_scene):
    """Except in three cells along its edge, where matching windows are half in the cloud; none is far off."""
    result, report, _ = clouded_scene
    assert report["surface"]["matched"] < 0.75 and correct_fraction(result) > 0.96
    assert np.nanmax(np.abs(result.surface.height_m)) < 6.0


def test_images_with_contrast_are_not_blank(tmp_path):
    """A fifth of the other images' contrast is enough."""
    paths = write_vendor_images(tmp_path / "raw")
    dn = render_ground(make_texture(), LEANS[0])
    write_vendor_image(paths[0], (900 + 0.2 * (dn.astype(float) - 900)).astype(np.uint16), vendor_rpc(LEANS[0]))
    crops = [read_crop(v, np.array([[0, 0], [219, 219]]), 0) for v in open_images(paths)]
    assert not find_blank_images(crops).any()
