"""LocalFrame: round trips, hemispheres, zone edges, other CRSs, convergence; pyproj is the reference."""

import numpy as np
import pytest
from pyproj import Geod, Transformer

from skyfall_ns.errors import CrsError
from skyfall_ns.geo.frame import LocalFrame, utm_crs

PLACES = {
    "Toulouse": (1.44, 43.6, 190.0),
    "Sydney": (151.2, -33.87, 40.0),
    "zone edge": (5.9999, 52.0, 45.0),
    "antimeridian": (179.999, -17.0, 10.0),
    "high north": (25.0, 70.0, 300.0),
}


@pytest.mark.parametrize("crs", [None, "topocentric"])
@pytest.mark.parametrize("place", PLACES)
def test_round_trip_is_below_a_millimeter(place, crs):
    frame = LocalFrame.at_point(np.array(PLACES[place]), crs)
    xyz = np.random.default_rng(0).uniform(-3000, 3000, (200, 3))
    restored = frame.from_geodetic(frame.to_geodetic(xyz))
    assert np.abs(restored - xyz).max() < 1e-3


@pytest.mark.parametrize(
    ("lon", "lat", "code"),
    [(1.44, 43.6, 32631), (151.2, -33.87, 32756), (-180.0, 10, 32601), (179.99, 10, 32660), (0.0, -1.0, 32731)],
)
def test_utm_zones_of_points(lon, lat, code):
    assert utm_crs(lon, lat) == f"EPSG:{code}"


def test_utm_frame_equals_pyproj_minus_the_origin():
    frame = LocalFrame.at_point(np.array(PLACES["Toulouse"]))
    east, north = Transformer.from_crs(4326, 32631, always_xy=True).transform(1.45, 43.61)
    assert frame.origin[0] == round(frame.origin[0])
    np.testing.assert_allclose(
        frame.from_geodetic(np.array([1.45, 43.61, 250.0])), np.array([east, north, 250.0]) - frame.origin, atol=1e-6
    )


def test_topocentric_axes_are_true_east_north_up():
    lon, lat, height = PLACES["Sydney"]
    frame = LocalFrame.at_point(np.array([lon, lat, height]), "topocentric")
    for azimuth, axis in ((90.0, 0), (0.0, 1)):
        lon2, lat2, _ = Geod(ellps="WGS84").fwd(lon, lat, azimuth, 100.0)
        xyz = frame.from_geodetic(np.array([lon2, lat2, height]))
        assert xyz[axis] == pytest.approx(100.0, abs=0.02)
        assert abs(xyz[1 - axis]) < 0.01
    np.testing.assert_allclose(frame.from_geodetic(np.array([lon, lat, height + 7])), [0, 0, 7], atol=1e-6)


def test_conversion_to_another_crs_and_back():
    frame = LocalFrame.at_point(np.array(PLACES["zone edge"]))  # zone 31
    xyz = np.array([[500.0, -200, 30], [-50, 80, 0]])
    neighbor = frame.to_crs(xyz, "EPSG:32632")
    np.testing.assert_allclose(frame.from_crs(neighbor, "EPSG:32632"), xyz, atol=1e-3)
    np.testing.assert_allclose(frame.to_crs(xyz, frame.crs), xyz + frame.origin)
    np.testing.assert_allclose(neighbor[:, 2], xyz[:, 2] + 45.0, atol=1e-6)  # heights stay ellipsoidal


def test_convergence_rotates_true_north_to_the_grid():
    lon, lat, height = PLACES["Toulouse"]
    frame = LocalFrame.at_point(np.array([lon, lat, height]))
    here = frame.from_geodetic(np.array([lon, lat, height]))
    there = frame.from_geodetic(np.array([lon, lat + 1e-4, height]))
    grid_azimuth = np.degrees(np.arctan2(*(there - here)[:2]))  # of true north
    assert -frame.convergence_deg() == pytest.approx(grid_azimuth, abs=1e-3)
    assert abs(frame.convergence_deg()) > 0.5
    assert LocalFrame.at_point(np.array([lon, lat, height]), "topocentric").convergence_deg() == 0.0


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:99999", "nonsense", "EPSG:2263"])
def test_unsuitable_crs_are_rejected(crs):
    frame = LocalFrame(crs, (0.0, 0.0, 0.0))
    xyz = np.zeros(3)
    for convert in (
        frame.to_geodetic, frame.from_geodetic, lambda xyz: frame.to_crs(xyz, crs),
        lambda xyz: frame.from_crs(xyz, crs), lambda xyz: frame.direction_vector(0.0, 45.0),
        lambda xyz: LocalFrame.at_point(np.array(PLACES["Toulouse"]), crs),
    ):  # fmt: skip
        with pytest.raises(CrsError, match=r"\. .+\."):
            convert(xyz)


def test_dictionary_round_trip():
    frame = LocalFrame.at_point(np.array(PLACES["Sydney"]))
    assert LocalFrame.from_dict(frame.to_dict()) == frame


@pytest.mark.parametrize(
    "damage", [{"crs": 32631}, {"crs": None}, {"origin": [1.0, 2.0]}, {"origin": [1.0, 2.0, float("nan")]}]
)
def test_damaged_dictionaries_are_rejected(damage):
    with pytest.raises(ValueError, match=r"frame|unpack"):
        LocalFrame.from_dict({"crs": "EPSG:32631", "origin": [1.0, 2.0, 3.0], **damage})
