"""Write the city as a vendor delivers a place (raw/), and the truth that a vendor does not have (truth/)."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from skyfall_ns.errors import SceneError
from skyfall_ns.geo.frame import TOPOCENTRIC, LocalFrame
from skyfall_ns.geo.raster import Grid, write_raster
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.io.images import preview, write_png
from skyfall_ns.synthetic_city.acquisitions import Look, plan_hard_looks, plan_looks
from skyfall_ns.synthetic_city.hard import dated, plan_hard
from skyfall_ns.synthetic_city.layout import FLAT, STREET_M, UNPAINTED, Boxes, City, plan
from skyfall_ns.synthetic_city.pushbroom import Pushbroom, fit_rpc, sun_position
from skyfall_ns.synthetic_city.render import heights, render_parallel, render_pinhole
from skyfall_ns.synthetic_city.sensor import GAMMA, deliver_display, well_light

PLACE = (1.4437, 43.6045, 190.0)  # lon, lat, ellipsoidal height of the city's ground
DSM_M = 0.5
SUMMER = datetime(2022, 6, 1, 10, 30)  # of the oblique pictures
OBLIQUE_ELEVATIONS, OBLIQUE_AZIMUTHS, OBLIQUE_PX, OBLIQUE_FOV_DEG = (60.0, 45.0, 20.0), 4, 512, 40.0
MARGIN_M = 12.0
RAY_STEP_PX = 8


@dataclass(frozen=True)
class CityDelivery:
    """What was written: the images, and the area (lon, lat of the centre, side in metres) they were ordered for."""

    images: tuple[Path, ...]
    center: tuple[float, float]
    size_m: float


def write_city(
    folder: Path,
    *,
    size_m: float = 192.0,
    views: int = 9,
    seed: int = 0,
    hard: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CityDelivery:
    """Write raw/ and truth/ into a folder. The same arguments give the same bytes.

    `hard` makes the city, its seasons, the sensor and the delivery as difficult as real ones, and the images 8-bit RGB
    that is ready for display.

    Raises SceneError for a size of no length, fewer than two views, or a folder that holds a city already.
    """
    if not 32 <= size_m <= 2000:
        raise SceneError(f"--size {size_m:g} is not a size for a city. Give 32 to 2000 metres.")
    if not 2 <= views <= 99:
        raise SceneError(f"--views {views} is not a number of views to see a city with. Give 2 to 99.")
    if (folder / "raw").exists() or (folder / "truth").exists():
        raise SceneError(f"{folder} holds a city already. Choose another folder.")
    for sub in ("raw", "truth/rpc", "truth/oblique"):
        (folder / sub).mkdir(parents=True)
    city, frame = (plan_hard if hard else plan)(size_m, seed), LocalFrame.at(np.array(PLACE))
    total = views + len(OBLIQUE_ELEVATIONS) * OBLIQUE_AZIMUTHS
    images = []
    for number, look in enumerate((plan_hard_looks if hard else plan_looks)(views, seed)):
        images.append(_write_view(folder, city, frame, number, look, seed, hard))
        if progress:
            progress(number + 1, total)
    _write_heights(folder / "truth", city, frame)
    _write_obliques(
        folder / "truth/oblique", city, frame, hard, lambda done: progress and progress(views + done, total)
    )
    return CityDelivery(tuple(images), PLACE[:2], size_m)


def sun_vector(moment: datetime, frame: LocalFrame) -> tuple[tuple[float, float], Float64[ndarray, "3"]]:
    """(azimuth from true north, elevation) and the unit vector to the sun in the frame."""
    azimuth, elevation = sun_position(moment, *PLACE[:2])
    return (azimuth, elevation), np.array(frame.direction(azimuth, elevation))


def _write_view(
    folder: Path, city: City, frame: LocalFrame, number: int, look: Look, seed: int, hard: bool
) -> Path:  # fmt: skip
    """One satellite image with its tags, and its true RPC."""
    camera = Pushbroom(LocalFrame.at(np.array(PLACE), TOPOCENTRIC), look.incidence_deg, look.azimuth_deg)
    rpc, _ = fit_rpc(camera, np.array(PLACE))
    rpc, size = _cropped(rpc, city, frame)
    sun_deg, sun = sun_vector(look.moment, frame)
    rng = np.random.default_rng([seed, 2, number])
    high, low = _lines_of_sight(rpc, frame, size)
    if hard:
        city = dated(city, look.moment, rng)
    light = render_parallel(_with_cars(city, rng, 250 if hard else 900), high, low, RAY_STEP_PX, size, sun)
    pixels = deliver_display(light, look, well_light(sun[2], city.sky), rng) if hard else _numbers(light, look, rng)
    name = f"view_{number + 1:02d}_{look.moment:%Y%m%d}"
    tags = {
        "ACQUISITION_DATETIME": f"{look.moment:%Y-%m-%dT%H:%M:%S}",
        "SUN_AZIMUTH": f"{sun_deg[0]:.4f}",
        "SUN_ELEVATION": f"{sun_deg[1]:.4f}",
        "SATELLITE": "synthetic",
    }
    path = folder / f"raw/{name}.tif"
    nodata = 0 if look.cloud_masked else None
    write_raster(path, pixels.transpose(2, 0, 1), rpc=rpc.shifted(*look.pointing_px), tags=tags, nodata=nodata)
    (folder / f"truth/rpc/{name}.json").write_text(json.dumps(rpc.to_dict(), indent=1))
    return path


def _cropped(rpc: RPC, city: City, frame: LocalFrame) -> tuple[RPC, tuple[int, int]]:
    """The RPC of the part of the strip that shows the square with a margin."""
    half = city.size_m / 2 + MARGIN_M
    corners = np.array([[x, y, z] for x in (-half, half) for y in (-half, half) for z in (-4.0, 4.0)])
    colrow = rpc.project(frame.to_geodetic(corners))
    low, high = np.floor(colrow.min(0)), np.ceil(colrow.max(0))
    width, height = (int(v) for v in high - low + 1)
    return rpc.cropped(float(low[0]), float(low[1])), (width, height)


def _lines_of_sight(rpc: RPC, frame: LocalFrame, size: tuple[int, int]):
    """Points of the lines of sight through every RAY_STEP_PX-th pixel corner, 120 m above and 60 m below the ground."""
    columns, rows = (np.arange(0, n + RAY_STEP_PX, RAY_STEP_PX) - 0.5 for n in size)
    corners = np.stack(np.meshgrid(columns, rows), -1)
    ends = [frame.from_geodetic(rpc.localize(corners, PLACE[2] + z)) for z in (120.0, -60.0)]
    return np.ascontiguousarray(ends[0]), np.ascontiguousarray(ends[1])


def _with_cars(city: City, rng: np.random.Generator, m2_per_car: float) -> City:
    """The city with today's cars on its streets: 4.4 x 1.8 x 1.5 m, nowhere in the truth."""
    pitch, reach = city.pitch_m, city.size_m / 2 + 20
    count = int(city.size_m**2 / m2_per_car)
    along, street = rng.uniform(-reach, reach, count), pitch * rng.integers(-4, 5, count)
    side, across_x = rng.choice([-1.0, 1.0], count) * 0.28 * STREET_M, rng.random(count) < 0.5
    centre = np.where(across_x[:, None], np.stack([along, street + side], 1), np.stack([street + side, along], 1))
    half = np.where(across_x[:, None], [2.2, 0.9], [0.9, 2.2])
    base = city.ground(centre[:, 0], centre[:, 1])
    seeds = 10_000 + rng.integers(0, 1000, count)
    zero, roof = np.zeros(count), np.full(count, FLAT)
    paint = np.full((count, 3), UNPAINTED)
    cars = Boxes(centre, half, zero, base, base + 1.5, base + 1.5, roof, seeds, paint)
    joined = {f: np.concatenate([getattr(city.boxes, f), getattr(cars, f)]) for f in Boxes.__dataclass_fields__}
    return replace(city, boxes=Boxes(**joined))


def _numbers(light: ndarray, look: Look, rng: np.random.Generator) -> ndarray:
    """11-bit digital numbers of reflected light: haze, gain, shot and read noise."""
    signal = np.asarray(look.gain) * (0.93 * light + np.asarray(look.haze)) * 1500.0 + 60.0
    noisy = signal + rng.normal(size=light.shape) * np.sqrt(4.0 + 0.02 * signal)
    return np.clip(np.round(noisy), 1, 2047).astype(np.uint16)


def _write_heights(folder: Path, city: City, frame: LocalFrame) -> None:
    """dsm.tif (ellipsoidal) and class.tif (0 ground, 1 building, 2 tree, 3 water) on the square's half-metre grid."""
    half = city.size_m / 2
    grid = Grid.over(np.array([[-half, -half], [half, half]]), DSM_M)
    height, kinds = heights(city, grid.x_m(), grid.y_m())
    place = {"crs": frame.crs, "transform": grid.transform(frame.origin)}
    tags = {"HEIGHTS": "ellipsoidal (WGS84), metres"}
    write_raster(folder / "dsm.tif", (height + frame.origin[2]).astype(np.float32)[None], tags=tags, **place)
    write_raster(folder / "class.tif", kinds[None], **place)


def _write_obliques(
    folder: Path, city: City, frame: LocalFrame, hard: bool, done: Callable[[int], object]
) -> None:  # fmt: skip
    """True views from low elevations, without haze, under a fixed late-morning sun, and their cameras."""
    _, sun = sun_vector(SUMMER, frame)
    white = well_light(sun[2], city.sky) if hard else 1.0
    city = dated(city, SUMMER, np.random.default_rng([city.seed, 5])) if hard else city
    focal = OBLIQUE_PX / (2 * math.tan(math.radians(OBLIQUE_FOV_DEG) / 2))
    middle = (OBLIQUE_PX - 1) / 2
    intrinsics = np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]])
    radius = 1.15 * city.size_m
    rows = []
    for elevation in OBLIQUE_ELEVATIONS:
        for k in range(OBLIQUE_AZIMUTHS):
            azimuth = 360.0 * k / OBLIQUE_AZIMUTHS + 30.0
            camera = _look_at(elevation, azimuth, radius)
            light = render_pinhole(city, camera, intrinsics, (OBLIQUE_PX, OBLIQUE_PX), sun, samples=2)
            name = f"e{elevation:.0f}_a{azimuth:03.0f}.png"
            write_png(folder / name, preview(np.clip(light / white, 0, 1) ** (1 / GAMMA)))
            rows.append({
                "file": name, "elevation_deg": elevation, "azimuth_deg": azimuth, "size": [OBLIQUE_PX, OBLIQUE_PX],
                "camera_from_local": camera.tolist(), "intrinsics": intrinsics.tolist(),
            })  # fmt: skip
            done(len(rows))
    data = {
        "frame": frame.to_dict(),
        "sun": sun.tolist(),  # unit vector to the sun in the frame
        "pixels": "(0, 0) is the centre of the first pixel",
        "views": rows,
    }
    (folder / "cameras.json").write_text(json.dumps(data, indent=1))


def _look_at(elevation_deg: float, azimuth_deg: float, radius_m: float) -> Float64[ndarray, "4 4"]:
    """OpenCV camera looking at the city's middle, 8 m above ground, from a compass direction."""
    e, a = math.radians(elevation_deg), math.radians(azimuth_deg)
    target = np.array([0.0, 0.0, 8.0])
    back = np.array([math.cos(e) * math.sin(a), math.cos(e) * math.cos(a), math.sin(e)])
    right = np.cross(-back, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(-back, right), -back])
    camera = np.eye(4)
    camera[:3, :3], camera[:3, 3] = rotation, -rotation @ (target + radius_m * back)
    return camera
