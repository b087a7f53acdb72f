"""The reports: numbers of report.json, images of the page, and file names with markup."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from helpers.vendor_files import LAT, LON, write_vendor_images

from skyfall_ns.processing.area_of_interest import AreaOfInterest
from skyfall_ns.processing.options import ProcessingOptions
from skyfall_ns.processing.process import process_scene
from skyfall_ns.processing.report import pair_residuals_px, write_reports
from skyfall_ns.processing.report_page import render_page

ERRORS_PX = ((2.3, -1.0), (-3.1, 1.4), (1.0, 2.2))
EMPTY_ELEMENTS = {"meta", "img"}


class Page(HTMLParser):
    """Images and text of a page; asserts that every opened element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.images, self.text, self.elements = [], [], "", []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        if tag not in EMPTY_ELEMENTS:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def processed_scene(tmp_path_factory):
    directory = tmp_path_factory.mktemp("report")
    scene = directory / "scene"
    scene.mkdir()
    paths = write_vendor_images(directory / "raw", ERRORS_PX)
    result = process_scene(
        paths, scene, ProcessingOptions(area=AreaOfInterest(center=(LON, LAT), size_m=60.0)), lambda text: None
    )
    return scene, result, write_reports(scene, result)


def test_report_json_has_the_documented_content(processed_scene):
    directory, result, report = processed_scene
    data = json.loads((directory / "report.json").read_text())
    assert data == json.loads(json.dumps(report))
    adjustment = data["adjustment"]
    assert adjustment["tracks"] == result.adjustment.inliers.sum() > 300
    assert adjustment["median_px_before"] > 1.5 > 0.02 > adjustment["median_px_after"]
    assert list(adjustment["shifts_px"]) == ["view_1", "view_2", "view_3"] and len(adjustment["pairs"]) == 3
    heights = data["heights_m"]
    assert heights["p1"] <= heights["median"] <= heights["p99"]
    camera = data["cameras"]["view_2"]
    assert camera["model"] == "quadratic" and 0 <= camera["fit_mean_px"] <= camera["fit_max_px"] < 1e-3
    assert data["points"]["count"] == result.point_count and data["crs"] == "EPSG:32636"
    stages = {k: v for k, v in data["seconds"].items() if k != "total"}
    assert set(stages) == {"read", "tie_points", "adjust", "heights", "crop", "surface", "points"}
    assert data["seconds"]["total"] == pytest.approx(sum(stages.values()), abs=0.05)
    surface = data["surface"]
    assert surface["known"] > 0.99 and surface["resolution_m"] == 0.5
    assert surface["matched"] > 0.9 and surface["notes"] == data["notes"] == []
    assert surface["matched"] + surface["filled"] + surface["unknown"] == pytest.approx(1)
    assert len(data["sources"]["view_1"]["sha256"]) == 64 and data["versions"]["skyfall-ns"]


def test_every_image_of_the_page_exists_and_is_not_uniform(processed_scene):
    directory, result, _ = processed_scene
    page = Page((directory / "report.html").read_text())
    assert len(page.images) == 4 + 2 * len(result.scene.images)
    for source in page.images:
        image = cv2.imread(str(directory / source))
        assert image is not None and (image.std() > 5 or "/sigma" in source), source
    assert page.elements.count("svg") == 3
    for words in ("EPSG:32636", "px before", "view_3.tif", "Dense surface", "0.5 m grid"):
        assert words in page.text


def test_tie_points_are_drawn_at_their_pixels(processed_scene):
    directory, result, _ = processed_scene
    image = cv2.imread(str(directory / "report/view_1_tie_points.png")).astype(int)
    kept = result.observations[result.adjustment.inliers, 0]
    kept = kept[np.isfinite(kept[:, 0])]
    col, row = np.round(kept).astype(int).T
    inside = (col >= 0) & (row >= 0) & (col < image.shape[1]) & (row < image.shape[0])
    greener = image[row[inside], col[inside], 1] - image[row[inside], col[inside], 2]
    assert inside.sum() > 100 and np.mean(greener > 40) > 0.95


def test_plotted_residuals_have_the_reported_medians(processed_scene):
    _, result, _ = processed_scene
    for pair in result.adjustment.pairs:
        before, after = pair_residuals_px(result, *pair.images)
        assert len(before) == len(after) == pair.tracks
        assert np.median(np.abs(before)) == pytest.approx(pair.median_px_before, abs=1e-3)
        assert np.median(np.abs(after)) == pytest.approx(pair.median_px_after, abs=1e-3)


def test_page_has_the_notes(processed_scene):
    _, result, report = processed_scene
    residuals = [pair_residuals_px(result, *pair.images) for pair in result.adjustment.pairs]
    page = Page(render_page({**report, "notes": ["3% of the area has no data in <A> & B"]}, residuals, "report"))
    assert "3% of the area has no data in <A> & B" in page.text and "Notes" in page.text
    assert "Notes" not in Page(render_page(report, residuals, "report")).text


def test_page_without_a_surface_has_no_section_for_it(processed_scene):
    _, result, report = processed_scene
    residuals = [pair_residuals_px(result, *pair.images) for pair in result.adjustment.pairs]
    page = Page(render_page({**report, "surface": None}, residuals, "report"))
    assert "Dense surface" not in page.text and len(page.images) == 6


def test_file_names_are_escaped(processed_scene, tmp_path):
    _, result, _ = processed_scene
    (tmp_path / "previews").mkdir()
    for image in result.scene.images:
        cv2.imwrite(str(tmp_path / f"previews/{image.name}.png"), np.zeros((60, 60), np.uint8))
    evil = tmp_path / "<script>alert('x')&.tif"
    evil.touch()
    vendor = (
        replace(result.vendor_images[0], pixels=replace(result.vendor_images[0].pixels, path=evil)),
        *result.vendor_images[1:],
    )
    write_reports(tmp_path, replace(result, vendor_images=vendor))
    page = Page((tmp_path / "report.html").read_text())
    assert "script" not in page.elements and "<script>alert('x')&.tif" in page.text
