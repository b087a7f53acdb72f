"""The synthetic city: reproducibility, true RPCs, pointing errors, tags, ground truth, oblique views."""

import json
from datetime import datetime
from unittest.mock import patch

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from skyfall_ns.errors import SceneError
from skyfall_ns.geo.frame import TOPOCENTRIC, LocalFrame
from skyfall_ns.geo.raster import read_raster
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.geo.rpc_readers import read_rpc
from skyfall_ns.synthetic_city import delivery as city_delivery
from skyfall_ns.synthetic_city.layout import FLAT, plan_city
from skyfall_ns.synthetic_city.pushbroom import Pushbroom, fit_rpc, sun_position
from skyfall_ns.synthetic_city.render import render_heights

CENTER = np.array(city_delivery.CITY_LONLATH)


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    directory = tmp_path_factory.mktemp("delivery")
    with patch.object(city_delivery, "OBLIQUE_PX", 48):
        return directory, city_delivery.write_city(directory, size_m=64, views=2, seed=5)


def test_same_arguments_give_the_same_bytes(city, tmp_path):
    directory, delivery = city
    with patch.object(city_delivery, "OBLIQUE_PX", 48):
        city_delivery.write_city(tmp_path, size_m=64, views=2, seed=5)
    files = sorted(p.relative_to(directory) for p in directory.rglob("*") if p.is_file())
    assert len(files) == 2 + 2 + 2 + 12 + 1  # images, RPCs, heights and classes, obliques, cameras
    for file in files:
        assert (directory / file).read_bytes() == (tmp_path / file).read_bytes(), file
    assert len(delivery.images) == 2


@pytest.mark.parametrize(("incidence", "azimuth"), [(0.0, 0.0), (12.0, 200.0), (28.0, 75.0)])
def test_fitted_rpcs_follow_the_pushbroom_camera(incidence, azimuth):
    camera = Pushbroom(LocalFrame.at_point(CENTER, TOPOCENTRIC), incidence, azimuth)
    rpc, residual = fit_rpc(camera, CENTER)
    assert residual < 1e-3
    up = np.array([[*CENTER[:2], CENTER[2]], [*CENTER[:2], CENTER[2] + 50.0]])
    lean = np.linalg.norm(np.diff(rpc.project(up), axis=0)) * gsd_m(incidence)
    # the lean is the sine across the track (perspective), and the tangent along the track (parallel)
    assert 50 * np.sin(np.radians(incidence)) - 0.2 < lean < 50 * np.tan(np.radians(incidence)) + 0.2


def gsd_m(incidence):
    """Ground sampling distance of an incidence angle in degrees."""
    return 0.5 / np.sqrt(np.cos(np.radians(incidence)))


def test_delivered_rpcs_have_a_constant_bias(city):
    directory, delivery = city
    for path in delivery.images:
        biased = read_rpc(path)
        true = RPC.from_dict(json.loads((directory / f"truth/rpc/{path.stem}.json").read_text()))
        error = biased.project(CENTER) - true.project(CENTER)
        assert 0.1 < np.linalg.norm(error) < 20
        np.testing.assert_allclose(
            biased.project(CENTER + [1e-3, 1e-3, 30]) - true.project(CENTER + [1e-3, 1e-3, 30]), error
        )
        tags = read_raster(path).tags
        azimuth, elevation = float(tags["SUN_AZIMUTH"]), float(tags["SUN_ELEVATION"])
        assert 120 < azimuth < 220 and 15 < elevation < 75 and tags["ACQUISITION_DATETIME"].startswith("20")


def test_roof_edges_are_at_the_pixels_of_the_true_rpc(city):
    """The image changes at the projected edge of a flat roof, which has a bright border."""
    directory, delivery = city
    plan_, frame = plan_city(64, 5), LocalFrame.at_point(CENTER)
    boxes = plan_.boxes
    contrasts = []
    for path in delivery.images:
        rpc = RPC.from_dict(json.loads((directory / f"truth/rpc/{path.stem}.json").read_text()))
        image = read_raster(path).bands.astype(float).mean(0)
        for i in np.flatnonzero((boxes.roof == FLAT) & (boxes.angle == 0) & (boxes.eave - boxes.base > 4)):
            # inward and outward of the middle of the sunlit edge
            edge = boxes.center[i] + [0, -boxes.half[i, 1]]
            inside, outside = (
                frame.to_geodetic(np.array([*(edge + [0, step]), boxes.eave[i]])) for step in (0.6, -0.6)
            )
            values = [
                map_coordinates(image, rpc.project(p)[::-1, None], order=1, cval=np.nan) for p in (inside, outside)
            ]
            contrasts.append(float((values[0] - values[1])[0]))
    contrasts = np.array([c for c in contrasts if np.isfinite(c)])
    assert len(contrasts) >= 6
    assert np.mean(contrasts > 40) > 0.7


def test_true_heights_are_the_analytic_ones(city):
    directory, _ = city
    dsm, classes = read_raster(directory / "truth/dsm.tif"), read_raster(directory / "truth/class.tif").bands[0]
    frame, plan_ = LocalFrame.at_point(CENTER), plan_city(64, 5)
    rows, columns = dsm.bands.shape[1:]
    x = dsm.transform.c + (np.arange(columns) + 0.5) * 0.5 - frame.origin[0]
    y = dsm.transform.f - (np.arange(rows) + 0.5) * 0.5 - frame.origin[1]
    xx, yy = np.meshgrid(x, y)
    z = dsm.band_values() - frame.origin[2]
    ground = classes == 0
    assert np.abs(z - plan_.ground_height(xx, yy))[ground].max() < 1e-3
    boxes = plan_.boxes
    for i in np.flatnonzero((boxes.roof == FLAT) & (boxes.angle == 0)):
        top = (np.abs(xx - boxes.center[i, 0]) < boxes.half[i, 0]) & (
            np.abs(yy - boxes.center[i, 1]) < boxes.half[i, 1]
        )
        assert (z[top] >= boxes.eave[i] - 1e-3).all()
    again, _ = render_heights(plan_, x, y)
    np.testing.assert_allclose(again, z, atol=1e-3)
    assert {0, 1}.issubset(np.unique(classes))


def test_oblique_cameras_look_at_the_center(city):
    directory, _ = city
    data = json.loads((directory / "truth/oblique/cameras.json").read_text())
    assert LocalFrame.from_dict(data["frame"]).crs == "EPSG:32631"
    assert sorted({v["elevation_deg"] for v in data["views"]}) == [20.0, 45.0, 60.0]
    for view in data["views"]:
        camera = np.array(view["camera_from_local"])
        target = camera @ [0, 0, 8, 1]
        assert abs(target[0]) < 1e-9 and abs(target[1]) < 1e-9 and target[2] > 0
        eye = -camera[:3, :3].T @ camera[:3, 3] - [0, 0, 8]
        assert np.degrees(np.arcsin(eye[2] / np.linalg.norm(eye))) == pytest.approx(view["elevation_deg"])
        assert (directory / "truth/oblique" / view["file"]).is_file()


def test_oblique_views_have_their_sun_direction(city):
    directory, _ = city
    east, north, up = json.loads((directory / "truth/oblique/cameras.json").read_text())["sun"]
    azimuth, elevation = sun_position(datetime(2022, 6, 1, 10, 30), *city_delivery.CITY_LONLATH[:2])
    assert np.degrees(np.arcsin(up)) == pytest.approx(elevation)
    turned = np.degrees(np.arctan2(east, north)) % 360 - azimuth
    assert turned == pytest.approx(-(CENTER[0] - 3.0) * np.sin(np.radians(CENTER[1])), abs=0.01)  # to the zone's grid


def test_sun_position_matches_almanacs():
    azimuth, elevation = sun_position(datetime(2023, 6, 21, 11, 55), 1.44, 43.6)  # noon of the solstice in Toulouse
    assert elevation == pytest.approx(69.8, abs=0.3) and azimuth == pytest.approx(180, abs=3)
    assert sun_position(datetime(2013, 2, 8, 8, 36, 9), 31.134, 29.979) == pytest.approx((141.0, 34.0), abs=12)


def test_impossible_cities_are_refused(tmp_path):
    for kwargs in ({"size_m": 0.0}, {"views": 1}):
        with pytest.raises(SceneError, match=r"^--.*\. Give"):
            city_delivery.write_city(tmp_path, **kwargs)
    (tmp_path / "raw").mkdir()
    with pytest.raises(SceneError, match="already contains a city"):
        city_delivery.write_city(tmp_path)
