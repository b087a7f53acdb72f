"""Write the city as a vendor's delivery (raw/) and its ground truth (truth/)."""

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
from skyfall_ns.geo.grid import Grid
from skyfall_ns.geo.raster import write_raster
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.io.files import write_json
from skyfall_ns.io.images import bgr_image, write_png
from skyfall_ns.synthetic_city.acquisitions import Acquisition, plan_acquisitions, plan_hard_acquisitions
from skyfall_ns.synthetic_city.hard import apply_date, plan_hard_city
from skyfall_ns.synthetic_city.layout import FLAT, STREET_M, UNPAINTED, Boxes, City, plan_city
from skyfall_ns.synthetic_city.pushbroom import Pushbroom, fit_rpc, sun_position
from skyfall_ns.synthetic_city.render import render_heights, render_parallel, render_pinhole
from skyfall_ns.synthetic_city.sensor import GAMMA, encode_display, full_well_light

CITY_LONLATH = (1.4437, 43.6045, 190.0)  # lon, lat, ellipsoidal height of the city's ground
DSM_M = 0.5
SUMMER = datetime(2022, 6, 1, 10, 30)  # time of the oblique views, UTC
OBLIQUE_ELEVATIONS, OBLIQUE_AZIMUTHS, OBLIQUE_PX, OBLIQUE_FOV_DEG = (60.0, 45.0, 20.0), 4, 512, 40.0
MARGIN_M = 12.0
RAY_STEP_PX = 8


@dataclass(frozen=True)
class CityDelivery:
    """The written images, and the area that they show: (lon, lat) of its center and its side in meters."""

    images: tuple[Path, ...]
    center: tuple[float, float]
    size_m: float


def write_city(
    directory: Path,
    *,
    size_m: float = 192.0,
    views: int = 9,
    seed: int = 0,
    hard: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CityDelivery:
    """Write raw/ and truth/ to a directory. The same arguments give the same bytes.

    `hard` makes the city, its seasons, the sensor and the delivery as difficult as real ones, and the images 8-bit RGB,
    gamma-encoded. `progress` is called with (done, total). Raises SceneError for a size or number of views that is not
    possible, or a directory that already contains a city.
    """
    if not 32 <= size_m <= 2000:
        raise SceneError(f"--size {size_m:g} is not possible for a city. Give 32 to 2000 meters.")
    if not 2 <= views <= 99:
        raise SceneError(f"--views {views} is not a possible number of views. Give 2 to 99.")
    if (directory / "raw").exists() or (directory / "truth").exists():
        raise SceneError(f"{directory} already contains a city. Choose another directory.")
    for name in ("raw", "truth/rpc", "truth/oblique"):
        (directory / name).mkdir(parents=True)
    city, frame = (plan_hard_city if hard else plan_city)(size_m, seed), LocalFrame.at_point(np.array(CITY_LONLATH))
    total = views + len(OBLIQUE_ELEVATIONS) * OBLIQUE_AZIMUTHS
    images = []
    for number, acquisition in enumerate((plan_hard_acquisitions if hard else plan_acquisitions)(views, seed)):
        images.append(_write_view(directory, city, frame, number, acquisition, seed, hard))
        if progress:
            progress(number + 1, total)
    _write_true_heights(directory / "truth", city, frame)
    _write_oblique_views(
        directory / "truth/oblique", city, frame, hard, lambda done: progress and progress(views + done, total)
    )
    return CityDelivery(tuple(images), CITY_LONLATH[:2], size_m)


def sun_vector(moment: datetime, frame: LocalFrame) -> tuple[tuple[float, float], Float64[ndarray, "3"]]:
    """(azimuth from true north, elevation) of the sun in degrees, and the unit vector to it in the frame."""
    azimuth, elevation = sun_position(moment, *CITY_LONLATH[:2])
    return (azimuth, elevation), np.array(frame.direction_vector(azimuth, elevation))


def _write_view(
    directory: Path, city: City, frame: LocalFrame, number: int, acquisition: Acquisition, seed: int, hard: bool
) -> Path:  # fmt: skip
    """Write one satellite image with its tags, and its true RPC; the path of the image."""
    camera = Pushbroom(
        LocalFrame.at_point(np.array(CITY_LONLATH), TOPOCENTRIC), acquisition.incidence_deg, acquisition.azimuth_deg
    )
    rpc, _ = fit_rpc(camera, np.array(CITY_LONLATH))
    rpc, size = _crop_rpc(rpc, city, frame)
    sun_deg, sun = sun_vector(acquisition.time, frame)
    rng = np.random.default_rng([seed, 2, number])
    high, low = _sight_line_ends(rpc, frame, size)
    if hard:
        city = apply_date(city, acquisition.time, rng)
    light = render_parallel(_add_cars(city, rng, 250 if hard else 900), high, low, RAY_STEP_PX, size, sun)
    pixels = (
        encode_display(light, acquisition, full_well_light(sun[2], city.sky), rng)
        if hard
        else _digitize_light(light, acquisition, rng)
    )
    name = f"view_{number + 1:02d}_{acquisition.time:%Y%m%d}"
    tags = {
        "ACQUISITION_DATETIME": f"{acquisition.time:%Y-%m-%dT%H:%M:%S}",
        "SUN_AZIMUTH": f"{sun_deg[0]:.4f}",
        "SUN_ELEVATION": f"{sun_deg[1]:.4f}",
        "SATELLITE": "synthetic",
    }
    path = directory / f"raw/{name}.tif"
    nodata = 0 if acquisition.cloud_masked else None
    write_raster(
        path, pixels.transpose(2, 0, 1), rpc=rpc.with_offset(*acquisition.pointing_px), tags=tags, nodata=nodata
    )
    write_json(directory / f"truth/rpc/{name}.json", rpc.to_dict())
    return path


def _crop_rpc(rpc: RPC, city: City, frame: LocalFrame) -> tuple[RPC, tuple[int, int]]:
    """The RPC and size of the window of the strip that shows the square with a margin."""
    half = city.size_m / 2 + MARGIN_M
    corners = np.array([[x, y, z] for x in (-half, half) for y in (-half, half) for z in (-4.0, 4.0)])
    colrow = rpc.project(frame.to_geodetic(corners))
    low, high = np.floor(colrow.min(0)), np.ceil(colrow.max(0))
    width, height = (int(v) for v in high - low + 1)
    return rpc.for_crop(float(low[0]), float(low[1])), (width, height)


def _sight_line_ends(rpc: RPC, frame: LocalFrame, size: tuple[int, int]):
    """Points 120 m above and 60 m below the ground on the lines of sight through every RAY_STEP_PX-th pixel corner."""
    columns, rows = (np.arange(0, n + RAY_STEP_PX, RAY_STEP_PX) - 0.5 for n in size)
    corners = np.stack(np.meshgrid(columns, rows), -1)
    ends = [frame.from_geodetic(rpc.localize(corners, CITY_LONLATH[2] + z)) for z in (120.0, -60.0)]
    return np.ascontiguousarray(ends[0]), np.ascontiguousarray(ends[1])


def _add_cars(city: City, rng: np.random.Generator, m2_per_car: float) -> City:
    """Add random cars of 4.4 x 1.8 x 1.5 m to the streets; they are not in the ground truth."""
    pitch, reach = city.pitch_m, city.size_m / 2 + 20
    count = int(city.size_m**2 / m2_per_car)
    along, street = rng.uniform(-reach, reach, count), pitch * rng.integers(-4, 5, count)
    side, across_x = rng.choice([-1.0, 1.0], count) * 0.28 * STREET_M, rng.random(count) < 0.5
    center = np.where(across_x[:, None], np.stack([along, street + side], 1), np.stack([street + side, along], 1))
    half = np.where(across_x[:, None], [2.2, 0.9], [0.9, 2.2])
    base = city.ground_height(center[:, 0], center[:, 1])
    seeds = 10_000 + rng.integers(0, 1000, count)
    zero, roof = np.zeros(count), np.full(count, FLAT)
    paint = np.full((count, 3), UNPAINTED)
    cars = Boxes(center, half, zero, base, base + 1.5, base + 1.5, roof, seeds, paint)
    joined = {f: np.concatenate([getattr(city.boxes, f), getattr(cars, f)]) for f in Boxes.__dataclass_fields__}
    return replace(city, boxes=Boxes(**joined))


def _digitize_light(light: ndarray, acquisition: Acquisition, rng: np.random.Generator) -> ndarray:
    """11-bit digital numbers of reflected light, with path radiance, gain, shot and read noise."""
    signal = np.asarray(acquisition.gain) * (0.93 * light + np.asarray(acquisition.path_radiance)) * 1500.0 + 60.0
    noisy = signal + rng.normal(size=light.shape) * np.sqrt(4.0 + 0.02 * signal)
    return np.clip(np.round(noisy), 1, 2047).astype(np.uint16)


def _write_true_heights(directory: Path, city: City, frame: LocalFrame) -> None:
    """Write dsm.tif (ellipsoidal heights) and class.tif (0 ground, 1 building, 2 tree, 3 water) with 0.5 m cells."""
    half = city.size_m / 2
    grid = Grid.covering_box(np.array([[-half, -half], [half, half]]), DSM_M)
    height, classes = render_heights(city, grid.x_m(), grid.y_m())
    georeference = {"crs": frame.crs, "transform": grid.affine_transform(frame.origin)}
    tags = {"HEIGHTS": "ellipsoidal (WGS84), meters"}
    write_raster(directory / "dsm.tif", (height + frame.origin[2]).astype(np.float32)[None], tags=tags, **georeference)
    write_raster(directory / "class.tif", classes[None], **georeference)


def _write_oblique_views(
    directory: Path, city: City, frame: LocalFrame, hard: bool, done: Callable[[int], object]
) -> None:  # fmt: skip
    """Write oblique views without path radiance, under the sun of SUMMER, and their cameras."""
    _, sun = sun_vector(SUMMER, frame)
    white = full_well_light(sun[2], city.sky) if hard else 1.0
    city = apply_date(city, SUMMER, np.random.default_rng([city.seed, 5])) if hard else city
    focal = OBLIQUE_PX / (2 * math.tan(math.radians(OBLIQUE_FOV_DEG) / 2))
    middle = (OBLIQUE_PX - 1) / 2
    intrinsics = np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]])
    radius = 1.15 * city.size_m
    rows = []
    for elevation in OBLIQUE_ELEVATIONS:
        for k in range(OBLIQUE_AZIMUTHS):
            azimuth = 360.0 * k / OBLIQUE_AZIMUTHS + 30.0
            camera = _oblique_pose(elevation, azimuth, radius)
            light = render_pinhole(city, camera, intrinsics, (OBLIQUE_PX, OBLIQUE_PX), sun, samples=2)
            name = f"e{elevation:.0f}_a{azimuth:03.0f}.png"
            write_png(directory / name, bgr_image(np.clip(light / white, 0, 1) ** (1 / GAMMA)))
            rows.append({
                "file": name, "elevation_deg": elevation, "azimuth_deg": azimuth, "size": [OBLIQUE_PX, OBLIQUE_PX],
                "camera_from_local": camera.tolist(), "intrinsics": intrinsics.tolist(),
            })  # fmt: skip
            done(len(rows))
    data = {
        "frame": frame.to_dict(),
        "sun": sun.tolist(),  # unit vector to the sun in the frame
        "pixels": "(0, 0) is the center of the first pixel",
        "views": rows,
    }
    write_json(directory / "cameras.json", data)


def _oblique_pose(elevation_deg: float, azimuth_deg: float, radius_m: float) -> Float64[ndarray, "4 4"]:
    """camera_from_local (OpenCV axes) of a view of the city's middle, 8 m above ground, from a compass direction."""
    e, a = math.radians(elevation_deg), math.radians(azimuth_deg)
    target = np.array([0.0, 0.0, 8.0])
    back = np.array([math.cos(e) * math.sin(a), math.cos(e) * math.cos(a), math.sin(e)])
    right = np.cross(-back, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(-back, right), -back])
    camera = np.eye(4)
    camera[:3, :3], camera[:3, 3] = rotation, -rotation @ (target + radius_m * back)
    return camera
