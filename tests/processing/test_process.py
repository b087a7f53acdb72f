"""All stages of processing on ground whose heights and pixels are known exactly."""

import json

import cv2
import numpy as np
import pytest
import rasterio
from helpers.vendor_files import (
    GROUND_M,
    HEIGHTS_M,
    LAT,
    LEANS,
    LON,
    make_texture,
    render_ground,
    vendor_rpc,
    write_vendor_image,
    write_vendor_images,
)
from rasterio.transform import RPCTransformer

from skyfall_ns.errors import SkyfallError
from skyfall_ns.geo.raster import read_raster
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.geo.rpc_readers import read_rpc
from skyfall_ns.io.ply import read_ply
from skyfall_ns.processing.area_of_interest import AreaOfInterest
from skyfall_ns.processing.height_range import ABOVE_TIE_POINTS_M
from skyfall_ns.processing.options import ProcessingOptions
from skyfall_ns.processing.process import process_scene
from skyfall_ns.processing.scene_volume import BORDER_M, COMMON_AREA_MARGIN_M
from skyfall_ns.scene.scene import Scene

SQUARE = AreaOfInterest(center=(LON, LAT), size_m=70.0)
ERRORS_PX = ((2.3, -1.0), (-3.1, 1.4), (1.0, 2.2), (0.4, -2.6))
METER_DEG = np.array([1 / (6371008.8 * np.pi / 180 * np.cos(np.deg2rad(LAT))), 1 / (6371008.8 * np.pi / 180), 1.0])


SUNS = ("view_*=150,40", "view_2=-90,30")  # the last one takes precedence


def process_images(paths, directory, messages=None, **options):
    directory.mkdir()
    messages = [] if messages is None else messages
    return process_scene(paths, directory, ProcessingOptions(**{"area": SQUARE, **options}), messages.append)


@pytest.fixture(scope="module")
def true_scene(tmp_path_factory):
    """True RPCs; the fourth image held out; a corner without data and one saturated pixel."""
    directory = tmp_path_factory.mktemp("true")
    paths = write_vendor_images(directory / "raw")
    dn = render_ground(make_texture(), LEANS[0]).copy()
    dn[60:70, 60:70], dn[100, 100] = 0, 4095
    tags = {"ACQUISITION_DATETIME": "2022-03-04T10:30:00", "SUN_AZIMUTH": "135", "SUN_ELEVATION": "45"}
    write_vendor_image(paths[0], dn, vendor_rpc(LEANS[0]), tags=tags)
    return directory / "scene", process_images(paths, directory / "scene", test_images=("*_4",))


@pytest.fixture(scope="module")
def biased_scene(tmp_path_factory):
    """RPCs with a bias of ERRORS_PX, without a dense surface."""
    directory = tmp_path_factory.mktemp("wrong")
    return directory / "scene", process_images(
        write_vendor_images(directory / "raw", ERRORS_PX), directory / "scene", points="sparse", suns=SUNS
    )


def test_heights_and_frame_follow_the_tie_points(true_scene):
    directory, result = true_scene
    np.testing.assert_allclose(np.percentile(result.tie_heights_m, [1, 50, 99]), GROUND_M, atol=0.1)
    scene = Scene.from_directory(directory)
    frame = scene.frame
    assert frame.crs == "EPSG:32636" and frame.origin[0] % 1 == 0 and frame.origin[1] % 1 == 0
    assert frame.origin[2] == pytest.approx(GROUND_M, abs=0.1)
    np.testing.assert_allclose(scene.box_m[:, 2], [-10.0, 8.0], atol=5.0)  # a step of the coarse surface is 4 m
    np.testing.assert_allclose(scene.box_m[1, :2] - scene.box_m[0, :2], 70, atol=0.1)
    np.testing.assert_allclose(scene.box_m[:, :2].mean(0), 0, atol=1.0)  # the origin is rounded to whole meters


def test_images_have_the_vendors_digital_numbers(true_scene):
    directory, result = true_scene
    for vendor, image in zip(result.vendor_images, result.scene.images, strict=True):
        col, row = image.crop_px
        with rasterio.open(vendor.path) as source:
            expected = source.read(1)[row : row + image.height, col : col + image.width]
        np.testing.assert_array_equal(read_raster(directory / image.path).bands[0], expected)
        np.testing.assert_array_equal(cv2.imread(str(directory / image.path), cv2.IMREAD_UNCHANGED), expected)
        assert image.source == vendor.path.name and image.width < vendor.width  # the square, not the whole image
        values = image.tone.apply_curve(expected[..., None])[..., 0]
        preview = cv2.imread(str(directory / f"previews/{image.name}.png"), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(preview, np.round(255 * values))


def test_adjusted_rpcs_include_bias_and_crop_and_gdal_reads_them(biased_scene):
    directory, result = biased_scene
    lonlath = np.array([LON, LAT, GROUND_M]) + np.array([[9, -14, 3], [-20, 11, 12.0]]) * METER_DEG
    for image, lean, error in zip(result.scene.images, LEANS, ERRORS_PX, strict=True):
        moved = np.subtract(image.shift_px, image.crop_px)
        expected = vendor_rpc(lean).with_offset(*error).project(lonlath) + moved
        np.testing.assert_allclose(RPC.from_dict(image.rpc).project(lonlath), expected, atol=1e-6)
        np.testing.assert_allclose(read_rpc(directory / image.path).project(lonlath), expected, atol=1e-6)
        rpb = (directory / image.path).with_suffix(".RPB")
        carried = write_vendor_image(directory.parent / f"{image.name}.tif", np.ones((9, 9), np.uint8), None)
        carried.with_suffix(".RPB").write_bytes(rpb.read_bytes())
        for path in (directory / image.path, carried):
            with rasterio.open(path) as source, RPCTransformer(source.rpcs) as gdal:
                rows, cols = gdal.rowcol(*lonlath.T, op=float)
            np.testing.assert_allclose(np.stack([cols, rows], 1) - 0.5, expected, atol=1e-5)


def test_adjustment_corrects_the_bias_up_to_a_common_translation_of_the_ground(biased_scene):
    _, result = biased_scene
    assert result.adjustment.median_px_before > 1.5 and result.adjustment.median_px_after < 0.02
    remaining = (result.adjustment.offsets_px + ERRORS_PX).ravel()
    ground = np.array([LON, LAT, GROUND_M])
    slopes = [[(vendor_rpc(n).project(ground + step) - vendor_rpc(n).project(ground)) for n in LEANS] for step in
              np.diag(METER_DEG)]  # fmt: skip
    common = np.array(slopes).reshape(3, -1).T
    translation = np.linalg.lstsq(common, remaining, rcond=None)[0]
    np.testing.assert_allclose(common @ translation, remaining, atol=0.03)
    assert np.abs(remaining).max() > 0.1  # the translation with the smallest offsets, not the exact correction


def test_cameras_project_as_the_adjusted_rpcs(true_scene):
    _, result = true_scene
    scene = result.scene
    frame = scene.frame
    points = np.random.default_rng(0).uniform(*scene.box_m, (50, 3))
    for image in scene.images:
        camera = image.camera
        expected = RPC.from_dict(image.rpc).project(frame.to_geodetic(points))
        np.testing.assert_allclose(camera.project(points), expected, atol=1e-4)
        assert camera.fit_px[1] < 1e-4 and image.camera.model == "quadratic"


def test_masks_exclude_missing_data_and_ground_outside_the_area_but_not_saturation(true_scene):
    directory, result = true_scene
    scene = result.scene
    image = scene.images[0]
    mask = cv2.imread(str(directory / image.mask), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (image.height, image.width) and set(np.unique(mask)) == {0, 255}
    col, row = image.crop_px
    assert not mask[60 - row : 70 - row, 60 - col : 70 - col].any()
    assert mask[100 - row, 100 - col] and mask[71 - row, 71 - col]
    assert image.tone.apply_curve(np.array([4095])) == 1
    for other, border in ((image, BORDER_M), (scene.images[3], 0.0)):  # held-out images are scored on the area itself
        mask = cv2.imread(str(directory / other.mask), cv2.IMREAD_UNCHANGED)
        camera = other.camera
        low, high = scene.box_m[0] - border, scene.box_m[1] + border
        for x in np.linspace(low[0] - 8, high[0] + 8, 60):  # no ground outside the area is used
            for y in (low[1] - 1.0, high[1] + 1.0):
                c, r = np.round(camera.project(np.array([x, y, 0.0]))).astype(int)
                assert not (0 <= c < other.width and 0 <= r < other.height) or not mask[r, c]
    for other, side in ((scene.images[1], 70 + 2 * BORDER_M), (scene.images[3], 70)):
        used = cv2.imread(str(directory / other.mask), cv2.IMREAD_UNCHANGED) > 0
        assert 0.97 * side**2 / 0.25 < used.sum() < 1.01 * side**2 / 0.25  # and all ground inside it is


def test_split_dates_and_sun_are_those_of_the_files(true_scene):
    _, result = true_scene
    assert [image.split for image in result.scene.images] == ["train", "train", "train", "test"]
    first, second = result.scene.images[:2]
    assert first.acquired == "2022-03-04T10:30:00" and first.sun_deg == (135.0, 45.0)
    np.testing.assert_allclose(first.sun_direction, [0.5, -0.5, np.sqrt(0.5)], atol=1e-3)  # no convergence at 33 E
    assert second.acquired is None and second.sun_deg is None and second.sun_direction is None


def test_surface_matches_the_ground_up_to_its_edges(true_scene):
    directory, result = true_scene
    surface = read_raster(directory / "surface.tif")
    origin = result.scene.frame.origin
    assert surface.crs == "EPSG:32636" and surface.bands.dtype == np.float32
    heights = surface.band_values()
    error = np.abs(heights - GROUND_M)  # a few cells lie in the hole of the first image
    assert np.isfinite(heights).all() and np.mean(error < 0.3) > 0.97
    sides = np.ones(heights.shape, bool)
    sides[8:-8, 8:-8] = False
    assert error[sides].max() < 0.3
    x, y, cell = result.scene.surface_grid
    np.testing.assert_allclose(surface.transform[:6], [cell, 0, origin[0] + x, 0, -cell, origin[1] + y])
    confidence = read_raster(directory / "surface_confidence.tif").bands[0]
    assert confidence.shape == heights.shape and 0.5 < np.median(confidence) <= 1


def test_points_lie_on_the_ground_and_have_its_colors(true_scene):
    directory, result = true_scene
    points = read_ply(directory / "points.ply")
    assert len(points.xyz_m) == result.point_count > 15_000
    assert np.percentile(np.abs(points.xyz_m[:, 2]), 96) < 0.3
    image = result.scene.images[1]
    inner = (np.abs(points.xyz_m[:, :2]) < 30).all(1)
    colrow = image.camera.project(points.xyz_m[inner]).astype(np.float32)
    toned = image.tone.apply_curve(read_raster(directory / image.path).bands[0][..., None])[..., 0]
    expected = cv2.remap(toned, colrow[:, None], None, cv2.INTER_LINEAR)[:, 0]
    np.testing.assert_allclose(np.median(np.abs(points.rgb[inner, 0] / 255 - expected)), 0, atol=0.02)


def test_sparse_points_are_the_kept_tie_points(biased_scene):
    directory, result = biased_scene
    points = read_ply(directory / "points.ply")
    assert len(points.xyz_m) == result.adjustment.inliers.sum() == result.point_count
    frame = result.scene.frame
    tie_points = frame.from_geodetic(result.adjustment.lonlath[result.adjustment.inliers])
    np.testing.assert_allclose(points.xyz_m, tie_points, atol=1e-4)
    assert result.surface is None and result.scene.surface is None
    np.testing.assert_allclose(result.scene.box_m[:, 2], [-10.0, ABOVE_TIE_POINTS_M], atol=0.5)


def test_observations_are_pixels_of_the_scenes_images(biased_scene):
    _, result = biased_scene
    kept = result.adjustment.inliers
    for index, image in enumerate(result.scene.images):
        observed = kept & np.isfinite(result.observations[:, index, 0])
        predicted = RPC.from_dict(image.rpc).project(result.adjustment.lonlath[observed])
        assert np.abs(predicted - result.observations[observed, index]).max() < 0.2


def test_without_adjustment_the_vendors_rpcs_stay(tmp_path):
    result = process_images(
        write_vendor_images(tmp_path / "raw", ERRORS_PX), tmp_path / "scene", adjust=False, points="sparse"
    )
    assert [image.shift_px for image in result.scene.images] == [(0.0, 0.0)] * 4
    assert result.adjustment.median_px_after == result.adjustment.median_px_before > 1.5
    image = result.scene.images[0]
    there = np.array([LON, LAT, GROUND_M])
    expected = vendor_rpc(LEANS[0]).with_offset(*ERRORS_PX[0]).project(there) - image.crop_px
    np.testing.assert_allclose(RPC.from_dict(image.rpc).project(there), expected, atol=1e-6)


def test_area_height_range_and_camera_are_those_requested(tmp_path):
    half = 35 * METER_DEG[:2]
    ring = [[LON + i * half[0], LAT + j * half[1]] for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    options = {"area": AreaOfInterest(aoi=tmp_path / "a.geojson"), "height_range_m": (105.0, 155.0), "camera": "affine"}
    result = process_images(write_vendor_images(tmp_path / "raw"), tmp_path / "scene", points="sparse", **options)
    np.testing.assert_allclose(result.scene.box_m[:, 2] + result.scene.frame.origin[2], [105, 155])
    np.testing.assert_allclose(np.ptp(result.scene.box_m, axis=0)[:2], 70, rtol=0.01)
    assert all(i.camera.model == "affine" and i.camera.quadratic is None for i in result.scene.images)


def test_default_area_is_the_ground_that_all_images_show_with_a_margin(tmp_path):
    result = process_images(
        write_vendor_images(tmp_path / "raw"), tmp_path / "scene", area=AreaOfInterest(), points="sparse"
    )
    widest = 110 - 0.5 * np.ptp(20 * np.array(LEANS), axis=0)  # half meters, lost on the sides
    np.testing.assert_allclose(np.ptp(result.scene.box_m, axis=0)[:2], widest + 2 * COMMON_AREA_MARGIN_M, atol=2.0)


def test_color_images_keep_the_order_of_their_bands(tmp_path):
    ground = make_texture()
    paths = []
    for k, lean in enumerate(LEANS[:3]):
        bands = np.stack([render_ground(ground, lean) // d for d in (1, 2, 4, 3)])
        paths.append(write_vendor_image(tmp_path / f"raw/v{k}.tif", bands, vendor_rpc(lean)))
    result = process_images(paths, tmp_path / "scene")
    image = result.scene.images[0]
    stored = cv2.imread(str(tmp_path / "scene" / image.path), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert stored.shape == (image.height, image.width, 3) and stored.dtype == np.uint16
    np.testing.assert_array_equal(stored[..., 1], stored[..., 0] // 2)
    assert len(image.tone.low) == 3 and image.tone.high[0] > 1.9 * image.tone.high[1]
    points = read_ply(tmp_path / "scene/points.ply")
    assert np.abs(np.diff(points.rgb.astype(int), axis=1)).mean() < 8  # each band is stretched to its own range: gray


def test_areas_shown_in_part_are_noted_and_hardly_shown_ones_refused(tmp_path):
    paths, messages = write_vendor_images(tmp_path / "raw"), []
    process_images(
        paths,
        tmp_path / "most",
        messages,
        area=AreaOfInterest(center=(LON, LAT + 20 * METER_DEG[1]), size_m=80.0),
        points="sparse",
    )
    assert any("two images show" in text for text in messages)
    with pytest.raises(SkyfallError, match=r"Only \d+% of the area of interest is shown by two images\. Give"):
        process_images(
            paths, tmp_path / "little", area=AreaOfInterest(center=(LON, LAT + 60 * METER_DEG[1]), size_m=100.0)
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"height_range_m": (250.0, 350.0)},
            rf"leaves the RPCs' range of {HEIGHTS_M[0]:.0f} to {HEIGHTS_M[1]:.0f} m",
        ),
        ({"height_range_m": (150.0, 100.0)}, "--height-range 150 100 is empty"),
        ({"height_range_m": (float("nan"), 100.0)}, "--height-range nan 100 is empty"),
        ({"test_images": ("view_9",)}, "--test-images view_9 matches none of the images"),
        ({"test_images": ("view_*",)}, "leaves fewer than two images"),
        ({"suns": ("view_9=1,2",)}, "--sun view_9=1,2 matches none of the images"),
        ({"suns": ("151.2,59.2",)}, "--sun 151.2,59.2 is not a sun position"),
        ({"suns": ("view_*=150,95",)}, r"--sun view_\*=150,95 is not a sun position"),
        ({"area": AreaOfInterest(center=(LON, LAT), size_m=2.0)}, "only a few meters wide"),
        ({"area": AreaOfInterest(center=(LON + 1, LAT), size_m=70.0)}, "lies outside .*view_1.tif"),
    ],
)
def test_unusable_options_are_refused(tmp_path, options, message):
    with pytest.raises(SkyfallError, match=rf"{message}.*\. [A-Z].*\.$"):
        process_images(write_vendor_images(tmp_path / "raw"), tmp_path / "scene", **options)


def test_missing_sun_angles_may_be_specified(biased_scene):
    """Directions are in the scene's frame, whose north differs from true north by half a degree here."""
    images = Scene.from_directory(biased_scene[0]).images
    assert [image.sun_deg for image in images] == [(150, 40), (270, 30), (150, 40), (150, 40)]
    east, north, up = images[1].sun_direction
    assert up == pytest.approx(0.5) and east == pytest.approx(-(0.75**0.5), abs=1e-3) and abs(north) < 0.02


def test_images_of_another_place_are_named(tmp_path):
    paths = write_vendor_images(tmp_path / "raw")
    write_vendor_image(paths[2], make_texture(seed=9)[:220, :220], vendor_rpc(LEANS[2]))
    with pytest.raises(SkyfallError, match=r"view_3 shares at most \d+ tie points.*\. Leave it out of --images"):
        process_images(paths, tmp_path / "scene")


def rewrite_as_other_season(paths, k):
    """Rewrite image k with other ground, except for the middle."""
    ground, kept = make_texture(seed=9), slice(90, 170)
    ground[kept, kept] = make_texture()[kept, kept]
    write_vendor_image(paths[k], render_ground(ground, LEANS[k]), vendor_rpc(LEANS[k]))


def test_image_without_a_partner_in_its_cluster_is_matched_with_the_others(tmp_path):
    """The second image has no data in the middle, where the third shows the same ground."""
    paths, messages = write_vendor_images(tmp_path / "raw")[:3], []
    rewrite_as_other_season(paths, 2)
    dn = render_ground(make_texture(), LEANS[1]).copy()
    dn[105:155, 105:155] = 0
    write_vendor_image(paths[1], dn, vendor_rpc(LEANS[1]))
    result = process_images(paths, tmp_path / "scene", messages)
    note = "similar appearance: view_1, view_2; view_3. view_3 has no partner in its cluster"
    assert any(note in text for text in messages)
    surface = result.surface
    x, y = np.meshgrid(surface.grid.x_m(), surface.grid.y_m())
    colrow = result.scene.images[1].camera.project(np.stack([x, y, np.zeros_like(x)], -1))
    colrow += result.scene.images[1].crop_px
    hole = ((colrow > 110) & (colrow < 150)).all(-1)
    assert hole.sum() > 1000 and (surface.source[hole] == 1).mean() > 0.75
    assert np.median(np.abs(surface.height_m[hole])) < 0.3
    assert len(result.scene.images) == 3


def test_images_of_two_dates_are_matched_separately(tmp_path):
    paths, messages = write_vendor_images(tmp_path / "raw"), []
    for k in (2, 3):
        rewrite_as_other_season(paths, k)
    process_images(paths, tmp_path / "scene", messages)
    note = "appearance: view_1, view_2; view_3, view_4. Only images of one cluster are matched with each other"
    assert any(text.endswith(note) for text in messages)


def test_all_images_are_matched_if_a_cluster_has_one_view_direction(tmp_path):
    """Two views from one direction, and the third of another season: a rough surface is better than none."""
    paths, messages = write_vendor_images(tmp_path / "raw")[:3], []
    write_vendor_image(paths[1], render_ground(make_texture(), LEANS[0]), vendor_rpc(LEANS[0]))
    rewrite_as_other_season(paths, 2)
    result = process_images(paths, tmp_path / "scene", messages)
    assert any("All are matched with each other" in text for text in messages)
    assert np.isfinite(result.surface.height_m).any()
