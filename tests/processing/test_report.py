"""The report: numbers that programs rely on, a page whose pictures exist, names that cannot break it."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from helpers.vendor_files import LAT, LON, deliver

from skyfall_ns.processing.area_of_interest import Area
from skyfall_ns.processing.process import Options, prepare
from skyfall_ns.processing.report import pair_residuals_px, write_reports
from skyfall_ns.processing.report_page import page

ERRORS_PX = ((2.3, -1.0), (-3.1, 1.4), (1.0, 2.2))
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Pictures and text of a page; every element that was opened is closed."""

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
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def processed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    scene = folder / "scene"
    scene.mkdir()
    paths = deliver(folder / "raw", ERRORS_PX)
    prepared = prepare(paths, scene, Options(area=Area(center=(LON, LAT), size_m=60.0)), lambda text: None)
    return scene, prepared, write_reports(scene, prepared)


def test_report_json_holds_what_was_promised(processed):
    folder, prepared, told = processed
    data = json.loads((folder / "report.json").read_text())
    assert data == json.loads(json.dumps(told))
    adjustment = data["adjustment"]
    assert adjustment["tracks"] == prepared.adjustment.inliers.sum() > 300
    assert adjustment["median_px_before"] > 1.5 > 0.02 > adjustment["median_px_after"]
    assert list(adjustment["shifts_px"]) == ["view_1", "view_2", "view_3"] and len(adjustment["pairs"]) == 3
    heights = data["heights_m"]
    assert heights["p1"] <= heights["median"] <= heights["p99"]
    camera = data["cameras"]["view_2"]
    assert camera["model"] == "quadratic" and 0 <= camera["fit_mean_px"] <= camera["fit_max_px"] < 1e-3
    assert data["points"]["count"] == prepared.points and data["crs"] == "EPSG:32636"
    steps = {k: v for k, v in data["seconds"].items() if k != "total"}
    assert set(steps) == {"read", "ties", "adjust", "heights", "crop", "surface", "points"}
    assert data["seconds"]["total"] == pytest.approx(sum(steps.values()), abs=0.05)
    surface = data["surface"]
    assert surface["known"] > 0.99 and surface["resolution_m"] == 0.5
    assert surface["matched"] > 0.9 and surface["notes"] == data["notes"] == []
    assert surface["matched"] + surface["filled"] + surface["unknown"] == pytest.approx(1)
    assert len(data["sources"]["view_1"]["sha256"]) == 64 and data["versions"]["skyfall-ns"]


def test_every_picture_of_the_page_is_there_and_shows_something(processed):
    folder, prepared, _ = processed
    report = Page((folder / "report.html").read_text())
    assert len(report.images) == 4 + 2 * len(prepared.scene.images)
    for source in report.images:
        picture = cv2.imread(str(folder / source))
        assert picture is not None and (picture.std() > 5 or "/sigma" in source), source
    assert report.elements.count("svg") == 3
    for words in ("EPSG:32636", "px before", "view_3.tif", "Dense surface", "0.5 m grid"):
        assert words in report.text


def test_ties_are_drawn_where_they_are(processed):
    folder, prepared, _ = processed
    picture = cv2.imread(str(folder / "report/view_1_ties.png")).astype(int)
    kept = prepared.observations[prepared.adjustment.inliers, 0]
    kept = kept[np.isfinite(kept[:, 0])]
    col, row = np.round(kept).astype(int).T
    inside = (col >= 0) & (row >= 0) & (col < picture.shape[1]) & (row < picture.shape[0])
    greener = picture[row[inside], col[inside], 1] - picture[row[inside], col[inside], 2]
    assert inside.sum() > 100 and np.mean(greener > 40) > 0.95


def test_residuals_of_the_plots_are_those_of_the_numbers(processed):
    _, prepared, _ = processed
    for pair in prepared.adjustment.pairs:
        before, after = pair_residuals_px(prepared, *pair.images)
        assert len(before) == len(after) == pair.tracks
        assert np.median(np.abs(before)) == pytest.approx(pair.median_px_before, abs=1e-3)
        assert np.median(np.abs(after)) == pytest.approx(pair.median_px_after, abs=1e-3)


def test_notes_are_on_the_page(processed):
    _, prepared, told = processed
    residuals = [pair_residuals_px(prepared, *pair.images) for pair in prepared.adjustment.pairs]
    report = Page(page({**told, "notes": ["3% of the area has no data in <A> & B"]}, residuals, "report"))
    assert "3% of the area has no data in <A> & B" in report.text and "Notes" in report.text
    assert "Notes" not in Page(page(told, residuals, "report")).text


def test_without_a_surface_the_page_has_none(processed):
    _, prepared, told = processed
    residuals = [pair_residuals_px(prepared, *pair.images) for pair in prepared.adjustment.pairs]
    report = Page(page({**told, "surface": None}, residuals, "report"))
    assert "Dense surface" not in report.text and len(report.images) == 6


def test_file_names_are_text_not_markup(processed, tmp_path):
    _, prepared, _ = processed
    (tmp_path / "previews").mkdir()
    for image in prepared.scene.images:
        cv2.imwrite(str(tmp_path / f"previews/{image.name}.png"), np.zeros((60, 60), np.uint8))
    evil = tmp_path / "<script>alert('x')&.tif"
    evil.touch()
    vendor = (replace(prepared.vendor[0], path=evil), *prepared.vendor[1:])
    write_reports(tmp_path, replace(prepared, vendor=vendor))
    report = Page((tmp_path / "report.html").read_text())
    assert "script" not in report.elements and "<script>alert('x')&.tif" in report.text
