"""The whole chain on ground whose height and pixels are known exactly; on real images, the published numbers."""

import json

import cv2
import numpy as np
import pytest
import rasterio
from helpers.vendor_files import GROUND_M, HEIGHTS_M, LAT, LEANS, LON, deliver, seen, texture, vendor_rpc, write_vendor
from rasterio.transform import RPCTransformer

from skyfall_ns.errors import SkyfallError
from skyfall_ns.geo.cameras import camera_from_dict
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.geo.raster import read_raster
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.io.ply import read_ply
from skyfall_ns.processing.area_of_interest import Area
from skyfall_ns.processing.height_range import ABOVE_M, ABOVE_TIES_M, BELOW_M
from skyfall_ns.processing.process import BORDER_M, SHARED_MORE_M, Options, prepare
from skyfall_ns.scene.scene import Scene

SQUARE = Area(center=(LON, LAT), size_m=70.0)
ERRORS_PX = ((2.3, -1.0), (-3.1, 1.4), (1.0, 2.2), (0.4, -2.6))
METRE_DEG = np.array([1 / (6371008.8 * np.pi / 180 * np.cos(np.deg2rad(LAT))), 1 / (6371008.8 * np.pi / 180), 1.0])


SUNS = ("view_*=150,40", "view_2=-90,30")  # what is told last counts


def run(paths, folder, said=None, **options):
    folder.mkdir()
    return prepare(paths, folder, Options(**{"area": SQUARE, **options}), (said if said is not None else []).append)


@pytest.fixture(scope="module")
def true(tmp_path_factory):
    """RPCs that point right; the fourth image held out; a corner without data and one saturated pixel."""
    folder = tmp_path_factory.mktemp("true")
    paths = deliver(folder / "raw")
    dn = seen(texture(), LEANS[0]).copy()
    dn[60:70, 60:70], dn[100, 100] = 0, 4095
    tags = {"ACQUISITION_DATETIME": "2022-03-04T10:30:00", "SUN_AZIMUTH": "135", "SUN_ELEVATION": "45"}
    write_vendor(paths[0], dn, vendor_rpc(LEANS[0]), tags=tags)
    return folder / "scene", run(paths, folder / "scene", test_images=("*_4",))


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    """RPCs that point wrong by ERRORS_PX, without a dense surface."""
    folder = tmp_path_factory.mktemp("wrong")
    return folder / "scene", run(deliver(folder / "raw", ERRORS_PX), folder / "scene", points="sparse", suns=SUNS)


def test_heights_and_frame_come_from_ties(true):
    folder, prepared = true
    np.testing.assert_allclose(np.percentile(prepared.heights_m, [1, 50, 99]), GROUND_M, atol=0.1)
    scene = Scene.load(folder)
    frame = LocalFrame.from_dict(scene.frame)
    assert frame.crs == "EPSG:32636" and frame.origin[0] % 1 == 0 and frame.origin[1] % 1 == 0
    assert frame.origin[2] == pytest.approx(GROUND_M, abs=0.1)
    np.testing.assert_allclose(scene.box_m[:, 2], [-BELOW_M, ABOVE_M], atol=5.0)  # a step of the coarse surface is 4 m
    np.testing.assert_allclose(scene.box_m[1, :2] - scene.box_m[0, :2], 70, atol=0.1)
    np.testing.assert_allclose(scene.box_m[:, :2].mean(0), 0, atol=1.0)  # the origin is rounded to whole metres


def test_images_are_windows_of_the_vendors_numbers(true):
    folder, prepared = true
    for vendor, image in zip(prepared.vendor, prepared.scene.images, strict=True):
        col, row = image.crop_px
        with rasterio.open(vendor.path) as source:
            expected = source.read(1)[row : row + image.height, col : col + image.width]
        np.testing.assert_array_equal(read_raster(folder / image.path).bands[0], expected)
        np.testing.assert_array_equal(cv2.imread(str(folder / image.path), cv2.IMREAD_UNCHANGED), expected)
        assert image.source == vendor.path.name and image.width < vendor.width  # the square, not all the image
        values = image.tone.apply(expected[..., None])[..., 0]
        shown = cv2.imread(str(folder / f"previews/{image.name}.png"), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(shown, np.round(255 * values))


def test_adjusted_rpcs_move_by_shift_and_crop_and_gdal_reads_them(wrong):
    folder, prepared = wrong
    lonlath = np.array([LON, LAT, GROUND_M]) + np.array([[9, -14, 3], [-20, 11, 12.0]]) * METRE_DEG
    for image, lean, error in zip(prepared.scene.images, LEANS, ERRORS_PX, strict=True):
        moved = np.subtract(image.shift_px, image.crop_px)
        expected = vendor_rpc(lean).shifted(*error).project(lonlath) + moved
        np.testing.assert_allclose(RPC.from_dict(image.rpc).project(lonlath), expected, atol=1e-6)
        np.testing.assert_allclose(RPC.from_file(folder / image.path).project(lonlath), expected, atol=1e-6)
        rpb = (folder / image.path).with_suffix(".RPB")
        carried = write_vendor(folder.parent / f"{image.name}.tif", np.ones((9, 9), np.uint8), None)
        carried.with_suffix(".RPB").write_bytes(rpb.read_bytes())
        for path in (folder / image.path, carried):
            with rasterio.open(path) as source, RPCTransformer(source.rpcs) as gdal:
                rows, cols = gdal.rowcol(*lonlath.T, op=float)
            np.testing.assert_allclose(np.stack([cols, rows], 1) - 0.5, expected, atol=1e-5)


def test_shifts_undo_the_pointing_errors_up_to_a_common_move_of_the_ground(wrong):
    _, prepared = wrong
    assert prepared.adjustment.median_px_before > 1.5 and prepared.adjustment.median_px_after < 0.02
    left = (prepared.adjustment.shifts_px + ERRORS_PX).ravel()
    ground = np.array([LON, LAT, GROUND_M])
    slopes = [[(vendor_rpc(n).project(ground + step) - vendor_rpc(n).project(ground)) for n in LEANS] for step in
              np.diag(METRE_DEG)]  # fmt: skip
    common = np.array(slopes).reshape(3, -1).T
    move = np.linalg.lstsq(common, left, rcond=None)[0]
    np.testing.assert_allclose(common @ move, left, atol=0.03)
    assert np.abs(left).max() > 0.1  # of all moves the smallest shifts: not simply the errors undone


def test_cameras_are_the_adjusted_rpcs(true):
    _, prepared = true
    scene = prepared.scene
    frame = LocalFrame.from_dict(scene.frame)
    points = np.random.default_rng(0).uniform(*scene.box_m, (50, 3))
    for image in scene.images:
        camera = camera_from_dict(image.camera)
        expected = RPC.from_dict(image.rpc).project(frame.to_geodetic(points))
        np.testing.assert_allclose(camera.project(points), expected, atol=1e-4)
        assert camera.fit_px[1] < 1e-4 and image.camera["model"] == "quadratic"


def test_masks_leave_out_no_data_and_what_is_not_above_the_area_but_saturation_is_white(true):
    folder, prepared = true
    scene = prepared.scene
    image = scene.images[0]
    mask = cv2.imread(str(folder / image.mask), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (image.height, image.width) and set(np.unique(mask)) == {0, 255}
    col, row = image.crop_px
    assert not mask[60 - row : 70 - row, 60 - col : 70 - col].any()
    assert mask[100 - row, 100 - col] and mask[71 - row, 71 - col]
    assert image.tone.apply(np.array([4095])) == 1
    for other, border in ((image, BORDER_M), (scene.images[3], 0.0)):  # held-out images are scored on the area itself
        mask = cv2.imread(str(folder / other.mask), cv2.IMREAD_UNCHANGED)
        camera = camera_from_dict(other.camera)
        low, high = scene.box_m[0] - border, scene.box_m[1] + border
        for x in np.linspace(low[0] - 8, high[0] + 8, 60):  # of the ground nothing outside the sides is used
            for y in (low[1] - 1.0, high[1] + 1.0):
                c, r = np.round(camera.project(np.array([x, y, 0.0]))).astype(int)
                assert not (0 <= c < other.width and 0 <= r < other.height) or not mask[r, c]
    for other, side in ((scene.images[1], 70 + 2 * BORDER_M), (scene.images[3], 70)):
        used = cv2.imread(str(folder / other.mask), cv2.IMREAD_UNCHANGED) > 0
        assert 0.97 * side**2 / 0.25 < used.sum() < 1.01 * side**2 / 0.25  # and inside them everything is


def test_split_dates_and_sun(true):
    _, prepared = true
    assert [image.split for image in prepared.scene.images] == ["train", "train", "train", "test"]
    first, second = prepared.scene.images[:2]
    assert first.acquired == "2022-03-04T10:30:00" and first.sun_deg == (135.0, 45.0)
    np.testing.assert_allclose(first.sun_direction, [0.5, -0.5, np.sqrt(0.5)], atol=1e-3)  # no convergence at 33 E
    assert second.acquired is None and second.sun_deg is None and second.sun_direction is None


def test_the_surface_is_the_ground_to_its_edges(true):
    folder, prepared = true
    surface = read_raster(folder / "surface.tif")
    origin = prepared.scene.frame["origin"]
    assert surface.crs == "EPSG:32636" and surface.bands.dtype == np.float32
    heights = surface.values()
    error = np.abs(heights - GROUND_M)  # a few cells see the hole of the first image
    assert np.isfinite(heights).all() and np.mean(error < 0.3) > 0.97
    sides = np.ones(heights.shape, bool)
    sides[8:-8, 8:-8] = False
    assert error[sides].max() < 0.3
    x, y, cell = prepared.scene.surface_grid
    np.testing.assert_allclose(surface.transform[:6], [cell, 0, origin[0] + x, 0, -cell, origin[1] + y])
    confidence = read_raster(folder / "surface_confidence.tif").bands[0]
    assert confidence.shape == heights.shape and 0.5 < np.median(confidence) <= 1


def test_points_lie_on_the_ground_in_its_colours(true):
    folder, prepared = true
    cloud = read_ply(folder / "points.ply")
    assert len(cloud.xyz_m) == prepared.points > 15_000
    assert np.percentile(np.abs(cloud.xyz_m[:, 2]), 96) < 0.3
    image = prepared.scene.images[1]
    inner = (np.abs(cloud.xyz_m[:, :2]) < 30).all(1)
    colrow = camera_from_dict(image.camera).project(cloud.xyz_m[inner]).astype(np.float32)
    toned = image.tone.apply(read_raster(folder / image.path).bands[0][..., None])[..., 0]
    expected = cv2.remap(toned, colrow[:, None], None, cv2.INTER_LINEAR)[:, 0]
    np.testing.assert_allclose(np.median(np.abs(cloud.rgb[inner, 0] / 255 - expected)), 0, atol=0.02)


def test_sparse_points_are_the_kept_ties(wrong):
    folder, prepared = wrong
    cloud = read_ply(folder / "points.ply")
    assert len(cloud.xyz_m) == prepared.adjustment.inliers.sum() == prepared.points
    frame = LocalFrame.from_dict(prepared.scene.frame)
    ties = frame.from_geodetic(prepared.adjustment.lonlath[prepared.adjustment.inliers])
    np.testing.assert_allclose(cloud.xyz_m, ties, atol=1e-4)
    assert prepared.surface is None and prepared.scene.surface is None
    np.testing.assert_allclose(prepared.scene.box_m[:, 2], [-BELOW_M, ABOVE_TIES_M], atol=0.5)


def test_ties_are_told_in_pixels_of_the_scenes_images(wrong):
    _, prepared = wrong
    kept = prepared.adjustment.inliers
    for index, image in enumerate(prepared.scene.images):
        seen_there = kept & np.isfinite(prepared.observations[:, index, 0])
        predicted = RPC.from_dict(image.rpc).project(prepared.adjustment.lonlath[seen_there])
        assert np.abs(predicted - prepared.observations[seen_there, index]).max() < 0.2


def test_without_adjustment_the_vendors_pointing_stays(tmp_path):
    prepared = run(deliver(tmp_path / "raw", ERRORS_PX), tmp_path / "scene", adjust=False, points="sparse")
    assert [image.shift_px for image in prepared.scene.images] == [(0.0, 0.0)] * 4
    assert prepared.adjustment.median_px_after == prepared.adjustment.median_px_before > 1.5
    image = prepared.scene.images[0]
    there = np.array([LON, LAT, GROUND_M])
    expected = vendor_rpc(LEANS[0]).shifted(*ERRORS_PX[0]).project(there) - image.crop_px
    np.testing.assert_allclose(RPC.from_dict(image.rpc).project(there), expected, atol=1e-6)


def test_area_from_geojson_heights_and_affine_cameras(tmp_path):
    half = 35 * METRE_DEG[:2]
    ring = [[LON + i * half[0], LAT + j * half[1]] for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    options = {"area": Area(aoi=tmp_path / "a.geojson"), "height_range_m": (105.0, 155.0), "camera": "affine"}
    prepared = run(deliver(tmp_path / "raw"), tmp_path / "scene", points="sparse", **options)
    np.testing.assert_allclose(prepared.scene.box_m[:, 2] + prepared.scene.frame["origin"][2], [105, 155])
    np.testing.assert_allclose(np.ptp(prepared.scene.box_m, axis=0)[:2], 70, rtol=0.01)
    assert all(i.camera["model"] == "affine" and i.camera["quadratic"] is None for i in prepared.scene.images)


def test_by_default_all_ground_that_every_image_shows_and_a_little_more(tmp_path):
    prepared = run(deliver(tmp_path / "raw"), tmp_path / "scene", area=Area(), points="sparse")
    widest = 110 - 0.5 * np.ptp(20 * np.array(LEANS), axis=0)  # half metres lost on the sides
    np.testing.assert_allclose(np.ptp(prepared.scene.box_m, axis=0)[:2], widest + 2 * SHARED_MORE_M, atol=2.0)


def test_colour_images_keep_their_bands(tmp_path):
    ground = texture()
    paths = []
    for k, lean in enumerate(LEANS[:3]):
        bands = np.stack([seen(ground, lean) // d for d in (1, 2, 4, 3)])
        paths.append(write_vendor(tmp_path / f"raw/v{k}.tif", bands, vendor_rpc(lean)))
    prepared = run(paths, tmp_path / "scene")
    image = prepared.scene.images[0]
    stored = cv2.imread(str(tmp_path / "scene" / image.path), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert stored.shape == (image.height, image.width, 3) and stored.dtype == np.uint16
    np.testing.assert_array_equal(stored[..., 1], stored[..., 0] // 2)
    assert len(image.tone.low) == 3 and image.tone.high[0] > 1.9 * image.tone.high[1]
    cloud = read_ply(tmp_path / "scene/points.ply")
    assert np.abs(np.diff(cloud.rgb.astype(int), axis=1)).mean() < 8  # each band toned to its own range: gray


def test_areas_partly_shown_are_told_and_hardly_shown_refused(tmp_path):
    paths, said = deliver(tmp_path / "raw"), []
    run(paths, tmp_path / "most", said, area=Area(center=(LON, LAT + 20 * METRE_DEG[1]), size_m=80.0), points="sparse")
    assert any("two images show" in text for text in said)
    with pytest.raises(SkyfallError, match=r"Only \d+% of the area of interest is shown by two images\. Give"):
        run(paths, tmp_path / "little", area=Area(center=(LON, LAT + 60 * METRE_DEG[1]), size_m=100.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height_range_m": (-50.0, 150.0)}, rf"leaves the RPCs' range of {HEIGHTS_M[0]:.0f} to {HEIGHTS_M[1]:.0f} m"),
        ({"height_range_m": (150.0, 100.0)}, "--height-range 150 100 is empty"),
        ({"height_range_m": (float("nan"), 100.0)}, "--height-range nan 100 is empty"),
        ({"test_images": ("view_9",)}, "--test-images view_9 matches none of the images"),
        ({"test_images": ("view_*",)}, "leaves fewer than two images"),
        ({"suns": ("view_9=1,2",)}, "--sun view_9=1,2 matches none of the images"),
        ({"suns": ("151.2,59.2",)}, "--sun 151.2,59.2 is no sun"),
        ({"suns": ("view_*=150,95",)}, r"--sun view_\*=150,95 is no sun"),
        ({"area": Area(center=(LON, LAT), size_m=2.0)}, "only a few metres wide"),
        ({"area": Area(center=(LON + 1, LAT), size_m=70.0)}, "lies outside .*view_1.tif"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path, options, message):
    with pytest.raises(SkyfallError, match=rf"{message}.*\. [A-Z].*\.$"):
        run(deliver(tmp_path / "raw"), tmp_path / "scene", **options)


def test_suns_that_files_do_not_tell_may_be_given(wrong):
    """In the scene's own frame: north is the grid's, half a degree from the true one here."""
    images = Scene.load(wrong[0]).images
    assert [image.sun_deg for image in images] == [(150, 40), (270, 30), (150, 40), (150, 40)]
    east, north, up = images[1].sun_direction
    assert up == pytest.approx(0.5) and east == pytest.approx(-(0.75**0.5), abs=1e-3) and abs(north) < 0.02


def test_images_that_show_something_else_are_named(tmp_path):
    paths = deliver(tmp_path / "raw")
    write_vendor(paths[2], texture(seed=9)[:220, :220], vendor_rpc(LEANS[2]))
    with pytest.raises(SkyfallError, match=r"view_3 shares at most \d+ tie points.*\. Leave it out of --images"):
        run(paths, tmp_path / "scene")


def other_season(paths, k):
    """Image k shows other ground, but for the middle's seventh."""
    ground, kept = texture(seed=9), slice(90, 170)
    ground[kept, kept] = texture()[kept, kept]
    write_vendor(paths[k], seen(ground, LEANS[k]), vendor_rpc(LEANS[k]))


def test_an_image_of_another_season_is_matched_as_the_only_one_of_its_kind(tmp_path):
    """The second image has no data in the middle, where the third still shows the same ground."""
    paths, said = deliver(tmp_path / "raw")[:3], []
    other_season(paths, 2)
    dn = seen(texture(), LEANS[1]).copy()
    dn[105:155, 105:155] = 0
    write_vendor(paths[1], dn, vendor_rpc(LEANS[1]))
    prepared = run(paths, tmp_path / "scene", said)
    assert any("alike are: view_1, view_2; view_3. view_3 has no partner that looks alike" in text for text in said)
    surface = prepared.surface
    x, y = np.meshgrid(surface.grid.x_m(), surface.grid.y_m())
    colrow = camera_from_dict(prepared.scene.images[1].camera).project(np.stack([x, y, np.zeros_like(x)], -1))
    colrow += prepared.scene.images[1].crop_px
    hole = ((colrow > 110) & (colrow < 150)).all(-1)
    assert hole.sum() > 1000 and (surface.source[hole] == 1).mean() > 0.75
    assert np.median(np.abs(surface.height_m[hole])) < 0.3
    assert len(prepared.scene.images) == 3


def test_two_dates_are_matched_apart(tmp_path):
    paths, said = deliver(tmp_path / "raw"), []
    for k in (2, 3):
        other_season(paths, k)
    run(paths, tmp_path / "scene", said)
    note = "alike are: view_1, view_2; view_3, view_4. Only those that look alike are matched with each other"
    assert any(text.endswith(note) for text in said)


def test_images_that_differ_are_matched_where_those_alike_see_no_heights(tmp_path):
    """Two views from one direction, and the third of another season: better a rough surface than none."""
    paths, said = deliver(tmp_path / "raw")[:3], []
    write_vendor(paths[1], seen(texture(), LEANS[0]), vendor_rpc(LEANS[0]))
    other_season(paths, 2)
    prepared = run(paths, tmp_path / "scene", said)
    assert any("All are matched with each other" in text for text in said)
    assert np.isfinite(prepared.surface.height_m).any()
