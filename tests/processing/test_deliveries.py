"""Deliveries as users bring them: the scene of the untouched images, or a note or two sentences that say why not."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from helpers.vendor_files import GROUND_M, LAT, LEANS, LON, SIZE, vendor_rpc, write_vendor_image, write_vendor_images
from rasterio.enums import ColorInterp

from skyfall_ns.errors import RasterError, SkyfallError
from skyfall_ns.geo.rpc import COEFFICIENTS, RPC
from skyfall_ns.geo.rpc_readers import read_rpc
from skyfall_ns.processing.area_of_interest import AreaOfInterest
from skyfall_ns.processing.options import ProcessingOptions
from skyfall_ns.processing.process import ProcessingResult, process_scene
from skyfall_ns.processing.report import build_report
from skyfall_ns.processing.vendor_images import ImageFlags, open_images

AREA = AreaOfInterest(center=(LON, LAT), size_m=40.0)
Change = Callable[[np.ndarray, RPC, int], tuple[np.ndarray, RPC]]


def edit(rpc: RPC, **new) -> RPC:
    """An RPC with other numbers."""
    return RPC.from_dict(rpc.to_dict() | new)


def negative(values) -> list[float]:
    return [-v for v in values]


def half_turn(px, rpc):
    return px[..., ::-1, ::-1], edit(
        rpc,
        samp_off=px.shape[-1] - 1 - rpc.samp_off,
        line_off=px.shape[-2] - 1 - rpc.line_off,
        samp_num_coeff=negative(rpc.samp_num_coeff),
        line_num_coeff=negative(rpc.line_num_coeff),
    )


def quarter_turn(px, rpc):
    return np.rot90(px, 1, (-2, -1)), edit(
        rpc,
        samp_off=rpc.line_off, samp_scale=rpc.line_scale,
        samp_num_coeff=rpc.line_num_coeff, samp_den_coeff=rpc.line_den_coeff,
        line_off=px.shape[-1] - 1 - rpc.samp_off, line_scale=rpc.samp_scale,
        line_num_coeff=negative(rpc.samp_num_coeff), line_den_coeff=rpc.samp_den_coeff,
    )  # fmt: skip


def mirrored(px, rpc):
    return px[..., ::-1], edit(
        rpc, samp_off=px.shape[-1] - 1 - rpc.samp_off, samp_num_coeff=negative(rpc.samp_num_coeff)
    )


def halved(px, rpc):
    h, w = (n // 2 * 2 for n in px.shape[-2:])
    small = px[..., :h, :w].reshape(len(px), h // 2, 2, w // 2, 2).mean((2, 4)).astype(px.dtype)
    return small, rpc.for_scale(0.5)


def negative_latitude_scale(px, rpc):
    odd = {2, 4, 6, 10, 14, 15, 16}
    flipped = {n: [-v if i in odd else v for i, v in enumerate(getattr(rpc, n))] for n in COEFFICIENTS}
    record = rpc.to_rasterio()
    for name, value in (flipped | {"lat_scale": -rpc.lat_scale}).items():
        setattr(record, name, value)
    return px, record


def deliver(paths: Sequence[Path], change: Change, directory: Path) -> list[Path]:
    """Write images again, changed."""
    written = []
    for k, path in enumerate(paths):
        with rasterio.open(path) as file:
            px, rpc = change(file.read(), read_rpc(path), k)
        target = write_vendor_image(directory / path.name, px, rpc if isinstance(rpc, RPC) else None)
        if rpc is not None and not isinstance(rpc, RPC):
            with rasterio.open(target, "r+") as file:
                file.rpcs = rpc
        written.append(target)
    return written


def process(paths: Sequence[Path], directory: Path, **options) -> tuple[ProcessingResult, list[str]]:
    """Process with sparse points; the result, and the notes."""
    directory.mkdir(parents=True)
    given = {"area": AREA, "points": "sparse"} | options
    result = process_scene(paths, directory, ProcessingOptions(**given), lambda text: None)
    return result, list(result.notes)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> list[Path]:
    return write_vendor_images(tmp_path_factory.mktemp("plain"))[:3]


@pytest.fixture(scope="module")
def untouched(plain, tmp_path_factory) -> ProcessingResult:
    return process(plain, tmp_path_factory.mktemp("untouched") / "scene")[0]


CHANGES: dict[str, Change] = {
    "half turn of one": lambda p, r, k: half_turn(p, r) if k == 1 else (p, r),
    "quarter turn of one": lambda p, r, k: quarter_turn(p, r) if k == 1 else (p, r),
    "quarter turn of the first": lambda p, r, k: quarter_turn(p, r) if k == 0 else (p, r),
    "mirrored": lambda p, r, k: mirrored(p, r) if k == 1 else (p, r),
    "mirrored and turned": lambda p, r, k: quarter_turn(*mirrored(p, r)) if k == 2 else (p, r),
    "negative LAT_SCALE": lambda p, r, k: negative_latitude_scale(p, r),
    "LONG_OFF less 360": lambda p, r, k: (p, edit(r, long_off=r.long_off - 360)),
    "LONG_OFF less 360 in one": lambda p, r, k: (p, edit(r, long_off=r.long_off - 360 * (k == 1))),
    "uint32": lambda p, r, k: (p.astype("uint32"), r),
    "uint64": lambda p, r, k: (p.astype("uint64"), r),
    "int16": lambda p, r, k: (p.astype("int16"), r),
    "float64": lambda p, r, k: (p.astype("float64"), r),
    "reflectances": lambda p, r, k: (p.astype("float32") / 10_000, r),
    "8 and 16 bits": lambda p, r, k: ((p // 8).astype("uint8") if k == 1 else p, r),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_deliveries_give_the_same_scene(plain, untouched, tmp_path, name):
    result, _ = process(deliver(plain, CHANGES[name], tmp_path / "in"), tmp_path / "scene")
    found = int(result.adjustment.inliers.sum())
    assert found > 0.85 * untouched.adjustment.inliers.sum()
    assert np.median(np.abs(result.tie_heights_m - GROUND_M)) < 0.5
    for image in result.scene.images:  # what training reads
        pixels = cv2.imread(str(tmp_path / "scene" / image.path), cv2.IMREAD_UNCHANGED)
        assert pixels.shape == (image.height, image.width) and pixels.dtype in (np.uint8, np.uint16, np.float32)
        assert np.isfinite(pixels).all()


def test_images_of_half_the_sampling_are_tied(plain, tmp_path):
    change = lambda p, r, k: halved(p, r) if k == 1 else (p, r)  # noqa: E731
    result, _ = process(deliver(plain, change, tmp_path / "in"), tmp_path / "scene")
    assert np.isfinite(result.observations[result.adjustment.inliers][:, 1, 0]).sum() > 60
    assert np.median(np.abs(result.tie_heights_m - GROUND_M)) < 0.5


def test_each_image_has_its_own_tone_where_bit_depths_differ(plain, untouched, tmp_path):
    change = lambda p, r, k: ((p // 8).astype("uint8") if k == 1 else p, r)  # noqa: E731
    result, notes = process(deliver(plain, change, tmp_path / "in"), tmp_path / "scene")
    assert any("each image has its own tone curve" in note for note in notes)
    means = [
        [cv2.imread(str(r.scene.directory / f"previews/{image.name}.png")).mean() for image in r.scene.images]
        for r in (untouched, result)
    ]
    assert np.abs(np.subtract(*means)).max() < 12


@pytest.mark.parametrize("columns", [40, 1])
def test_pixels_that_are_nan_are_masked(plain, tmp_path, columns):
    def change(p, r, k):
        p = p.astype("float32")
        p[:, :, 100 : 100 + columns] = np.nan
        return p, r

    result, _ = process(deliver(plain, change, tmp_path / "in"), tmp_path / "scene")
    for image in result.scene.images:
        crop = np.s_[:, 100 - image.crop_px[0] : 100 - image.crop_px[0] + columns]
        mask = cv2.imread(str(tmp_path / "scene" / str(image.mask)), cv2.IMREAD_UNCHANGED)
        assert not mask[crop].any() and mask.any()
        assert np.isfinite(cv2.imread(str(tmp_path / "scene" / image.path), cv2.IMREAD_UNCHANGED)).all()


def test_alpha_internal_masks_and_mask_files_are_used(plain, tmp_path):
    hole = np.s_[80:120, 90:130]
    for name, options in (("alpha", {"count": 2}), ("internal", {}), ("msk", {})):
        for path in plain:
            with rasterio.open(path) as file:
                px, rpc = file.read(1), file.rpcs
            alpha = np.full(px.shape, 65535, np.uint16)
            alpha[hole] = 0
            target = write_vendor_image(
                tmp_path / name / path.name, np.stack([px, alpha][: options.get("count", 1)]), None
            )
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=name == "internal"), rasterio.open(target, "r+") as file:
                file.rpcs = rpc
                if name == "alpha":
                    file.colorinterp = (ColorInterp.gray, ColorInterp.alpha)
                else:
                    file.write_mask(alpha > 0)
        images = open_images([tmp_path / name / path.name for path in plain])
        assert images[0].pixels.bands == (1,)
        assert (tmp_path / name / f"{plain[0].name}.msk").exists() == (name == "msk")
        valid = images[0].windows.read_window(images[0].pixels, 0, 0, SIZE, SIZE)[1]
        assert not valid[hole].any() and valid.sum() == SIZE * SIZE - 1600, name


def test_masks_are_given_by_name(plain, tmp_path):
    mask = np.full((SIZE, SIZE), 255, np.uint8)
    mask[:, :100] = 0
    write_vendor_image(tmp_path / "clouds.tif", mask, None)
    images = open_images(plain, ImageFlags(mask=(f"view_1={tmp_path / 'clouds.tif'}",)))
    valid = [image.windows.read_window(image.pixels, 0, 0, SIZE, SIZE)[1] for image in images]
    assert not valid[0][:, :100].any() and valid[0][:, 100:].all() and valid[1].all()
    write_vendor_image(tmp_path / "small.tif", mask[:50], None)
    with pytest.raises(RasterError, match=r"small.tif has 220 x 50 pixels, and .*view_1.tif 220 x 220\. Give"):
        open_images(plain, ImageFlags(mask=(f"*={tmp_path / 'small.tif'}",)))
    for text, words in (("view_9=x.tif", "matches none of the images. They"), ("x.tif", "is not of the form"),
                        ("view_1=absent.tif", "absent.tif does not exist. Check")):  # fmt: skip
        with pytest.raises(RasterError, match=words):
            open_images(plain, ImageFlags(mask=(text,)))


def test_rpc_files_are_given_by_name(plain, tmp_path):
    other = tmp_path / "adjusted.json"
    other.write_text(json.dumps(vendor_rpc(LEANS[1]).with_offset(3.0, 0.0).to_dict()))
    images = open_images(plain, ImageFlags(rpc=(f"view_2={other}",)))
    assert images[1].rpc == vendor_rpc(LEANS[1]).with_offset(3.0, 0.0) and images[0].rpc == read_rpc(plain[0])


@pytest.mark.parametrize(
    "names", [("前视", "后视", "侧视"), ("Büro Süd", "Büro Nord", "Büro"), ("صورة", "تصوير", "ثالث")]
)
def test_names_of_any_script_are_kept(plain, tmp_path, names):
    paths = [Path(shutil.copy(path, tmp_path / f"{name}.tif")) for path, name in zip(plain, names, strict=True)]
    result, _ = process(paths, tmp_path / "scene")
    assert [image.name for image in result.scene.images] == list(names)
    assert (tmp_path / f"scene/images/{names[0]}.tif").is_file()


def test_characters_that_no_file_may_have_are_replaced(plain, tmp_path):
    paths = [
        Path(shutil.copy(path, tmp_path / name))
        for path, name in zip(plain, ("a:b.tif", "c?.tif", "d.tif"), strict=True)
    ]
    assert [image.name for image in open_images(paths)] == ["a_b", "c_", "d"]


def as_bands(plain, directory, order, descriptions=None):
    """Write red, green, blue (of brightness 4, 2, 1) in an order of bands."""
    colors = {"r": 1.0, "g": 0.5, "b": 0.25}
    paths = deliver(
        plain, lambda p, r, k: (np.concatenate([(p * colors[c]).astype("uint16") for c in order]), r), directory
    )
    for path in paths:
        with rasterio.open(path, "r+") as file:
            for k, text in enumerate(descriptions or (), start=1):
                file.set_band_description(k, text)
    return paths


def test_bands_are_found_by_their_descriptions(plain, tmp_path):
    names = ("coastal", "blue", "green", "yellow", "red", "red edge", "nir1", "nir2")
    images = open_images(as_bands(plain, tmp_path, "gbgrrrrr", names))
    assert all(image.pixels.bands == (5, 3, 2) and not image.notes for image in images)
    again = open_images(as_bands(plain, tmp_path / "2", "bgrr", ("Blue", "GREEN", "Red", "NIR")))
    assert again[0].pixels.bands == (3, 2, 1)


def test_unnamed_bands_are_noted_and_can_be_chosen(plain, tmp_path):
    paths = as_bands(plain, tmp_path / "in", "bgrr")
    images = open_images(paths)
    assert images[0].pixels.bands == (1, 2, 3)
    assert images[0].notes == (
        "view_1.tif has 4 bands that it does not name: bands 1, 2, 3 are taken as red, green and blue; "
        "choose others with --bands",
    )
    chosen = open_images(paths, ImageFlags(bands=(3, 2, 1)))
    assert chosen[0].pixels.bands == (3, 2, 1) and not chosen[0].notes
    for bands, words in (((5, 2, 1), "names band 5, and .*has 4. Give"), ((1, 2), "has 2 numbers. Give")):
        with pytest.raises(RasterError, match=words):
            open_images(paths, ImageFlags(bands=bands))


def test_images_across_the_antimeridian_are_one_scene(plain, untouched, tmp_path):
    paths = deliver(plain, lambda p, r, k: (p, edit(r, long_off=r.long_off + 180 - LON)), tmp_path / "in")
    for name, area in (("center", AreaOfInterest(center=(180.0, LAT), size_m=40.0)), ("whole", AreaOfInterest())):
        result, _ = process(paths, tmp_path / name, area=area)
        assert result.adjustment.inliers.sum() > 0.85 * untouched.adjustment.inliers.sum()
        assert result.scene.frame.crs in ("EPSG:32660", "EPSG:32601")
        assert np.median(np.abs(result.tie_heights_m - GROUND_M)) < 0.5
        size = np.diff(result.scene.box_m, axis=0)[0, :2]
        assert (size < 130).all()


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_areas_across_the_antimeridian_are_read(tmp_path, mark):
    d = 0.0003
    west, east = 180 - d, -180 + d
    polygon = [[west, LAT - d], [east, LAT - d], [east, LAT + d], [west, LAT + d], [west, LAT - d]]
    file = tmp_path / "area.geojson"
    file.write_text(mark + json.dumps({"type": "Polygon", "coordinates": [polygon]}), encoding="utf-8")
    corners = AreaOfInterest(aoi=file).corners_lonlat()
    assert corners is not None and np.ptp(corners[:, 0]) == pytest.approx(2 * d)


def test_an_area_at_a_pole_is_refused_by_name(plain, tmp_path):
    paths = deliver(plain, lambda p, r, k: (p, edit(r, lat_off=87.0)), tmp_path / "in")
    with pytest.raises(RasterError, match=r"view_1.tif lies at latitude 87.0, and scenes within 6 degrees of a pole"):
        process(paths, tmp_path / "scene", area=AreaOfInterest())


def test_rpcs_of_larger_images_are_noted_and_named_in_errors(plain, tmp_path):
    def shift(col, row):
        return lambda p, r, k: (p, edit(r, samp_off=r.samp_off + col[k], line_off=r.line_off + row[k]))

    # the terms stay those of the scene, so that it is only displaced
    _, notes = process(
        deliver(plain, shift((900,) * 3, (400,) * 3), tmp_path / "in"), tmp_path / "scene", area=AreaOfInterest()
    )
    assert any("center lies far outside the file" in n and "view_1 (SAMP_OFF 1010 and LINE_OFF 510" in n for n in notes)
    apart = deliver(plain, shift((0, 900, 0), (0, 0, 0)), tmp_path / "apart")
    for area, words in ((AreaOfInterest(), "do not overlap"), (AREA, "lies outside")):
        with pytest.raises(SkyfallError, match=rf"{words}.*\. .*view_2.tif: SAMP_OFF 1010") as raised:
            process(apart, tmp_path / f"scene_{words}", area=area)
        assert str(raised.value).count(". ") == 1


def test_plain_images_have_no_notes(plain, untouched):
    assert untouched.notes == ()


def test_suns_come_from_metadata_or_from_time_and_place(plain, tmp_path):
    paths = deliver(plain, lambda p, r, k: (p, r), tmp_path)
    stac = {"type": "Feature", "properties": {
        "datetime": "2022-06-21T10:00:00Z", "view:sun_azimuth": 150.5, "view:sun_elevation": 61.0,
        "view:off_nadir": 12.5, "view:azimuth": 200.0, "gsd": 0.5, "platform": "PHR1A"}}  # fmt: skip
    paths[0].with_suffix(".json").write_text(json.dumps(stac))
    paths[1].with_suffix(".IMD").write_text(
        'satId = "WV03";\nfirstLineTime = 2022-06-21T10:00:00.000000Z;\nmeanSunAz = 151.0;\nmeanSunEl = 60.0;\n'
        "meanOffNadirViewAngle = 8.5;\nmeanSatAz = 12.0;\nmeanCollectedGSD = 0.31;\n"
    )
    paths[2].with_suffix(".json").write_text(json.dumps({"properties": {"datetime": "2022-06-21T10:00:00Z"}}))
    images = open_images(paths)
    assert dataclasses.astuple(images[0].acquisition) == (
        "2022-06-21T10:00:00",
        (150.5, 61.0),
        12.5,
        200.0,
        0.5,
        "PHR1A",
    )
    assert dataclasses.astuple(images[1].acquisition) == ("2022-06-21T10:00:00", (151.0, 60.0), 8.5, 12.0, 0.31, "WV03")
    assert images[2].sun_deg is None
    result, notes = process(paths, tmp_path / "scene")
    assert "the sun of view_3 is computed from acquisition time (UTC) and place" in notes
    sun = result.scene.images[2].sun_deg
    # at 33 E, 45 N on the solstice local noon is at 9:50 UTC with the sun at 68.4 degrees
    assert sun is not None and abs(sun[1] - 68.4) < 0.3 and 178 < sun[0] < 190
    assert build_report(result)["cameras"]["view_2"]["sensor"] == "WV03"
