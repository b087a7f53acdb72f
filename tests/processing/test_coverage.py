"""Bad input: what stays unknown is named with its reason, and no height is wrong."""

import numpy as np
import pytest
from helpers.vendor_files import LAT, LEANS, LON, METRES_PER_DEGREE, deliver, seen, texture, vendor_rpc, write_vendor

from skyfall_ns.errors import SkyfallError
from skyfall_ns.geo.surface_evidence import FILLED
from skyfall_ns.processing.area_of_interest import Area
from skyfall_ns.processing.blank_images import blank_images
from skyfall_ns.processing.process import Options, prepare
from skyfall_ns.processing.report import write_reports
from skyfall_ns.processing.vendor_images import open_images, read_crop

WRONG_M = 1.5


def run(paths, folder, size_m=70.0, north_m=0.0, **options):
    folder.mkdir()
    said = []
    area = Area(center=(LON, LAT + north_m / METRES_PER_DEGREE), size_m=size_m)
    prepared = prepare(paths, folder, Options(area=area, resolution_m=1.0, **options), said.append)
    return prepared, write_reports(folder, prepared), said


def no_wrong_heights(prepared):
    height = prepared.surface.height_m
    return (np.abs(height[np.isfinite(height)]) < WRONG_M).mean()


def test_a_rim_that_is_seen_once_is_unknown(tmp_path):
    paths = deliver(tmp_path / "raw")
    for k in (1, 2, 3):  # only the first image shows what lies north of the middle
        write_vendor(paths[k], seen(texture(), LEANS[k])[80:], vendor_rpc(LEANS[k]).cropped(0, 80))
    prepared, report, said = run(paths, tmp_path / "scene")
    note = next(text for text in said if "is shown by fewer than two images" in text)
    assert "unknown" in note and note.removeprefix("Note: ") in report["surface"]["notes"]
    surface = report["surface"]
    assert 0.2 < surface["unknown"] < 0.4 and surface["matched"] + surface["filled"] + surface[
        "unknown"
    ] == pytest.approx(1)
    assert no_wrong_heights(prepared) > 0.99
    assert "fewer than two images" in (tmp_path / "scene/report.html").read_text()


def write_waves(folder, part):
    """Images whose waves are other ones each time, in a part of the ground; ties come from the land around it."""
    paths = deliver(folder / "raw")
    for k, lean in enumerate(LEANS):
        ground = texture()
        ground[part] = texture(seed=20 + k)[part]
        write_vendor(paths[k], seen(ground, lean), vendor_rpc(lean))
    return paths


def test_water_only_is_refused_by_name(tmp_path):
    paths = write_waves(tmp_path, (slice(60, 200), slice(60, 200)))
    with pytest.raises(SkyfallError, match=r"^No height of the area .* is matched: .* water or cloud .*\. Choose a la"):
        run(paths, tmp_path / "scene", size_m=40.0)


def test_waves_take_the_height_of_their_shore_and_are_named(tmp_path):
    paths = write_waves(tmp_path, (slice(100, 160), slice(100, 160)))
    prepared, report, said = run(paths, tmp_path / "scene")
    assert any("is not matched (hidden, water, cloud" in text for text in said)
    assert report["notes"] == [text.removeprefix("Note: ") for text in said if text.startswith("Note: ")]
    x, y = np.meshgrid(prepared.surface.grid.x_m(), prepared.surface.grid.y_m())
    lake = np.hypot(x, y) < 10
    assert (prepared.surface.source[lake] == FILLED).mean() > 0.8 and no_wrong_heights(prepared) > 0.98


def test_smooth_water_is_blank_in_all_images(tmp_path):
    paths = deliver(tmp_path / "raw")
    for k, lean in enumerate(LEANS):
        ground = texture()
        ground[80:180, 80:180] = 300
        write_vendor(paths[k], seen(ground, lean), vendor_rpc(lean))
    prepared, _, said = run(paths, tmp_path / "scene")
    assert any("is blank in every image (cloud, water" in text for text in said)
    assert no_wrong_heights(prepared) > 0.99


@pytest.mark.parametrize("value", [0, 700])
def test_an_image_that_is_blank_over_the_area_is_left_out(tmp_path, value):
    """Without data, or without contrast; beyond the area it shows the ground."""
    paths = deliver(tmp_path / "raw")
    dn = seen(texture(), LEANS[1]).copy()
    dn[52:176, 42:166] = value
    write_vendor(paths[1], dn, vendor_rpc(LEANS[1]))
    prepared, report, said = run(paths, tmp_path / "scene", size_m=30.0)
    note = "view_2 is blank over the area (no data or no contrast) and left out of the scene"
    assert f"Note: {note}" in said and note in report["notes"]
    assert [image.name for image in prepared.scene.images] == ["view_1", "view_3", "view_4"] == list(report["cameras"])
    assert list(report["adjustment"]["shifts_px"]) == ["view_1", "view_3", "view_4"]
    assert {name for pair in report["adjustment"]["pairs"] for name in pair["images"]} == set(report["cameras"])
    assert report["surface"]["matched"] > 0.9 and no_wrong_heights(prepared) > 0.99


@pytest.mark.parametrize("value", [0, 700])
def test_an_image_that_is_all_blank_is_left_out(tmp_path, value):
    paths = deliver(tmp_path / "raw")
    write_vendor(paths[3], np.full((220, 220), value, np.uint16), vendor_rpc(LEANS[3]))
    prepared, _, said = run(paths, tmp_path / "scene", points="sparse")
    assert any("view_4 is blank over the area" in text for text in said) and len(prepared.vendor) == 3


def test_one_image_that_is_left_is_too_few(tmp_path):
    paths = deliver(tmp_path / "raw")[:3]
    for k in (1, 2):
        write_vendor(paths[k], np.full((220, 220), 700, np.uint16), vendor_rpc(LEANS[k]))
    with pytest.raises(SkyfallError, match=r"^Fewer than two images show the area of interest: view_2, view_3 .*\. Ch"):
        run(paths, tmp_path / "scene")


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    """The second of two images is white over the western third of the area."""
    folder = tmp_path_factory.mktemp("cloud")
    paths = deliver(folder / "raw")[:2]
    dn = seen(texture(), LEANS[1]).copy()
    dn[:, :95] = 1900  # the area begins at column 34
    write_vendor(paths[1], dn, vendor_rpc(LEANS[1]))
    return run(paths, folder / "scene")


def test_a_cloud_over_a_third_of_one_of_two_images_is_named(cloud):
    _, report, said = cloud
    note = next(text for text in report["notes"] if "is blank in view_2 (cloud, water, or saturated)" in text)
    assert 25 < int(note.partition("%")[0]) < 60 and f"Note: {note}" in said


def test_under_a_cloud_no_height_is_wrong(cloud):
    """But for a strip of three cells along its edge, which windows half in the cloud bend; none is far off."""
    prepared, report, _ = cloud
    assert report["surface"]["matched"] < 0.75 and no_wrong_heights(prepared) > 0.96
    assert np.nanmax(np.abs(prepared.surface.height_m)) < 6.0


def test_images_with_contrast_are_not_blank(tmp_path):
    """A fifth of the others' contrast is enough."""
    paths = deliver(tmp_path / "raw")
    dn = seen(texture(), LEANS[0])
    write_vendor(paths[0], (900 + 0.2 * (dn.astype(float) - 900)).astype(np.uint16), vendor_rpc(LEANS[0]))
    crops = [read_crop(v, np.array([[0, 0], [219, 219]]), 0) for v in open_images(paths)]
    assert not blank_images(crops).any()
