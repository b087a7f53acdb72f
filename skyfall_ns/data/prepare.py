"""Vendor images to a scene folder: heights from ties, crop, tone, adjust, fit cameras, points, previews, reports."""

import fnmatch
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from skyfall_ns.data.area import Area, check_overlap, check_shown, common_ground, share_seen_twice
from skyfall_ns.data.pictures import preview, write_png
from skyfall_ns.data.ply import Cloud, write_ply
from skyfall_ns.data.scene import Scene, SceneImage, Tone
from skyfall_ns.data.tone import DISPLAY_GAMMA, check_gamma, fit_tone
from skyfall_ns.data.vendor import Crop, VendorImage, open_images, read_crop, with_suns
from skyfall_ns.errors import SkyfallError
from skyfall_ns.geo.adjust import Adjustment, adjust
from skyfall_ns.geo.cameras import AffineCamera, CameraModel, camera_from_dict, fit_camera
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.geo.groups import look_alike
from skyfall_ns.geo.points import Points, surface_points
from skyfall_ns.geo.raster import write_raster
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.geo.stereo import Surface, dense_surface
from skyfall_ns.geo.stereo_pairs import good_pairs
from skyfall_ns.geo.ties import find_ties

POINTING_MARGIN_PX = 24  # vendor RPCs point a few pixels wrong
CROP_MARGIN_PX = 8
BORDER_M = 10.0  # around the area: what stands just outside it leans into the images, and needs splats of its own
SHARED_MORE_M = 12.0  # around the rectangle that all images show: some pairs show more
BELOW_M, ABOVE_M = 10.0, 40.0  # of the ties' 1st and 99th height percentiles: ties prefer the ground to roofs
GROUND_PERCENTILE = 10.0
LEAST_SEEN = 0.5  # of the area, by two images
RESOLUTION_M = 0.5
MAX_GROUND_POINTS = 600_000  # as many as a CPU trains in minutes
SURFACE, CONFIDENCE, SOURCE, SIGMA = (f"surface{part}.tif" for part in ("", "_confidence", "_source", "_sigma"))
PointsMode = Literal["dense", "sparse"]
Announce = Callable[[str], None]
Progress = Callable[[int, int], None]  # done, total


@dataclass(frozen=True)
class Options:
    """How to process; the defaults are the command's."""

    area: Area = field(default_factory=Area)
    height_range_m: tuple[float, float] | None = None
    camera: CameraModel = "quadratic"
    adjust: bool = True
    points: PointsMode = "dense"
    test_images: tuple[str, ...] = ()
    suns: tuple[str, ...] = ()
    resolution_m: float = RESOLUTION_M
    gamma: float | None = None  # of the tone curve; None: from the images


@dataclass(frozen=True)
class Prepared:
    """Everything that was found out about a scene: what reports tell."""

    scene: Scene
    vendor: tuple[VendorImage, ...]
    adjustment: Adjustment
    observations: Float64[ndarray, "n k 2"]  # ties, in pixels of the scene's crops
    heights_m: Float64[ndarray, " n"]  # ellipsoidal, of the ties that were kept
    surface: Surface | None
    points: int
    seconds: dict[str, float]


class Stopwatch:
    """Names the step under way, and how long each took."""

    def __init__(self, announce: Announce) -> None:
        self.seconds: dict[str, float] = {}
        self._announce = announce

    @contextmanager
    def step(self, name: str, text: str) -> Iterator[None]:
        """Time one step."""
        self._announce(text)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def prepare(
    paths: Sequence[Path], folder: Path, options: Options, announce: Announce, progress: Progress | None = None
) -> Prepared:
    """Process images into `folder` (which exists and is empty) and write all but the reports.

    `progress` follows the step announced last. Raises SkyfallError on bad input.
    """
    watch = Stopwatch(announce)
    check_gamma(options.gamma)
    with watch.step("read", f"Reading {len(paths)} images"):
        vendor = with_suns(open_images(paths), options.suns)
        held_out = _held_out([v.name for v in vendor], options.test_images)
        search = _search_range(vendor, options.height_range_m)
        rough, corners = _rough_crops(vendor, options.area, search)
    with watch.step("ties", "Finding tie points"):
        observations = _ties(vendor, rough, search, progress)
    with watch.step("adjust", f"Adjusting {len(vendor)} RPCs to {len(observations)} tie points"):
        rpcs = [v.rpc.cropped(c.col0, c.row0) for v, c in zip(vendor, rough, strict=True)]
        adjustment = adjust(rpcs, observations, float(np.mean(search)), refine=options.adjust)
    heights = adjustment.lonlath[adjustment.inliers, 2]
    frame, box = _place(corners, vendor, heights, options)
    if corners is not None:
        _check_seen([v for v in vendor if v.name not in held_out], frame, box, announce)
    wide = _grown(box, BORDER_M)
    with watch.step("crop", "Cropping and toning"):
        images, crops = _scene_images(vendor, adjustment, frame, wide, options, held_out)
        offsets = np.array([[r.col0 - c.col0, r.row0 - c.row0] for r, c in zip(rough, crops, strict=True)])
        _write_images(folder, images, crops, box, wide)
    scene = Scene(frame.to_dict(), box, tuple(images), folder=folder)
    if options.points == "dense":
        with watch.step("surface", "Matching a dense surface"):
            views = [_wide_view(v, i, frame, wide, options) for v, i in zip(vendor, images, strict=True) if _train(i)]
            toned, cameras = [v[0] for v in views], [v[1] for v in views]
            groups = _groups(adjustment, observations, rpcs, rough, images, announce)
            surface = dense_surface(toned, cameras, wide, options.resolution_m, progress, groups)
            scene = _write_surface(scene, surface, frame, folder)
        with watch.step("points", "Colouring points"):
            points = surface_points(surface, toned, cameras, _spacing_m(box, options))
    else:
        surface = None
        with watch.step("points", "Colouring points"):
            points = _tie_points(adjustment, frame, images, crops)
    write_ply(folder / "points.ply", _cloud(points))
    scene.save(folder)
    count = len(points.xyz_m)
    return Prepared(scene, tuple(vendor), adjustment, observations + offsets, heights, surface, count, watch.seconds)


def _held_out(names: list[str], globs: tuple[str, ...]) -> set[str]:
    """The images that --test-images names."""
    for glob in globs:
        if not fnmatch.filter(names, glob):
            raise SkyfallError(f"--test-images {glob} matches none of the images. They are: {', '.join(names)}.")
    held_out = {name for glob in globs for name in fnmatch.filter(names, glob)}
    if len(names) - len(held_out) < 2:
        raise SkyfallError("--test-images leaves fewer than two images to work with. Hold out fewer.")
    return held_out


def _train(image: SceneImage) -> bool:
    return image.split == "train"


def _search_range(vendor: Sequence[VendorImage], asked: tuple[float, float] | None) -> tuple[float, float]:
    """Ellipsoidal heights in which ties are looked for: the RPCs' common range, or what the user asked for."""
    low = max(v.rpc.height_range_m[0] for v in vendor)
    high = min(v.rpc.height_range_m[1] for v in vendor)
    if high <= low:
        raise SkyfallError("The RPCs of the --images have no height in common. Give images of the same place.")
    if asked is None:
        return low, high
    if not asked[0] < asked[1]:
        raise SkyfallError(f"--height-range {asked[0]:g} {asked[1]:g} is empty. Give the lower height first.")
    if asked[0] < low or asked[1] > high:
        raise SkyfallError(
            f"--height-range {asked[0]:g} {asked[1]:g} leaves the RPCs' range of {low:.0f} to {high:.0f} m. "
            "Give ellipsoidal heights within it, or leave the flag out."
        )
    return asked


def _rough_crops(vendor: list[VendorImage], area: Area, search: tuple[float, float]):
    """Windows that surely show the area whatever its height, and the area's corners (lon, lat)."""
    corners = area.lonlat()
    if corners is None:
        check_overlap(vendor, search)
        everything = [np.array([[0.0, 0.0], [v.width - 1.0, v.height - 1.0]]) for v in vendor]
        return [read_crop(v, e, 0) for v, e in zip(vendor, everything, strict=True)], None
    for image in vendor:
        check_shown(corners, image, search)
    ends = np.concatenate([np.column_stack([corners, np.full(len(corners), h)]) for h in search])
    return [read_crop(v, v.rpc.project(ends), POINTING_MARGIN_PX) for v in vendor], corners


def _ties(vendor: Sequence[VendorImage], crops: Sequence[Crop], search: tuple[float, float], progress):
    # Each image its own: SIFT wants contrast, not radiometry.
    tones = [fit_tone([c.dn], [c.valid], DISPLAY_GAMMA) for c in crops]
    gray = [np.round(255 * _toned(t, c, fill=0.0).mean(-1)).astype(np.uint8) for t, c in zip(tones, crops, strict=True)]
    rpcs = [v.rpc.cropped(c.col0, c.row0) for v, c in zip(vendor, crops, strict=True)]
    masks, names, acquired = [c.valid for c in crops], [v.name for v in vendor], [v.acquired for v in vendor]
    return find_ties(gray, rpcs, search, masks, names, acquired, progress).tracks


def _groups(
    adjustment: Adjustment, observations, rpcs: list[RPC], crops: Sequence[Crop], images: list[SceneImage], announce
) -> tuple[int, ...]:
    """Which of the training images may be matched with each other: those that look alike, or all where no two of those
    look from useful directions."""
    train = np.array([_train(image) for image in images])
    seen = np.isfinite(observations[adjustment.inliers][:, :, 0])
    shown = _shown(adjustment, rpcs, crops)
    groups = look_alike(seen[:, train], shown[:, train])
    if max(groups) == 0:
        return groups
    names = [image.name for image in images if _train(image)]
    parts = [", ".join(n for n, g in zip(names, groups, strict=True) if g == k) for k in range(max(groups) + 1)]
    if not good_pairs([_camera(image) for image in images if _train(image)], groups):
        announce("Note: images that differ much are matched, as those that look alike see from one direction")
        return (0,) * len(groups)
    announce(f"Note: images that differ much are not matched with each other; alike are: {'; '.join(parts)}")
    return groups


def _shown(adjustment: Adjustment, rpcs: list[RPC], crops: Sequence[Crop]) -> Bool[ndarray, "n v"]:
    """Which images the kept ties lie within, by the adjusted RPCs."""
    points = adjustment.lonlath[adjustment.inliers]
    shown = np.zeros((len(points), len(crops)), bool)
    for view, (rpc, crop, shift) in enumerate(zip(rpcs, crops, adjustment.shifts_px, strict=True)):
        colrow = np.round(rpc.shifted(*shift).project(points)).astype(int)
        inside = np.asarray(((colrow >= 0) & (colrow < crop.size)).all(-1))
        inside[inside] = crop.valid[colrow[inside, 1], colrow[inside, 0]]
        shown[:, view] = inside
    return shown


def _place(asked, vendor: list[VendorImage], heights: ndarray, options: Options):
    """The local frame at the area's centre on the ground, and the scene's box in it."""
    ground = float(np.percentile(heights, GROUND_PERCENTILE))
    corners = common_ground(vendor, float(np.median(heights))) if asked is None else asked
    middle = 0.5 * (corners.min(0) + corners.max(0))
    frame = LocalFrame.at(np.array([*middle, ground]))
    local = frame.from_geodetic(np.column_stack([corners, np.full(len(corners), ground)]))[:, :2]
    low, high = np.percentile(heights, [1, 99])
    bottom, top = options.height_range_m or (low - BELOW_M, high + ABOVE_M)
    box = np.array([[*local.min(0), bottom - ground], [*local.max(0), top - ground]])
    if asked is None:
        box = _grown(box, SHARED_MORE_M)
    if (box[1, :2] - box[0, :2]).min() < 10 * options.resolution_m:
        raise SkyfallError("The area of interest is only a few metres wide. Give a larger one.")
    return frame, box


def _check_seen(vendor: Sequence[VendorImage], frame: LocalFrame, box: ndarray, announce: Announce) -> None:
    """Complain where too little of the area is seen twice, and say where some is not."""
    share = share_seen_twice(vendor, frame, box)
    if share < LEAST_SEEN:
        raise SkyfallError(
            f"Only {share:.0%} of the area of interest is shown by two images. Give a smaller area, or more images."
        )
    if share < 0.99:
        announce(f"Note: two images show {share:.0%} of the area, the rest stays empty")


def _grown(box: ndarray, margin_m: float) -> Float64[ndarray, "2 3"]:
    """The box, wider by a margin on four sides."""
    margin = np.array([margin_m, margin_m, 0.0])
    return np.array([box[0] - margin, box[1] + margin])


def _box_corners(box: ndarray) -> Float64[ndarray, "8 3"]:
    return np.array([[x, y, z] for x in box[:, 0] for y in box[:, 1] for z in box[:, 2]])


def _scene_images(
    vendor, adjustment: Adjustment, frame: LocalFrame, box: ndarray, options: Options, held_out: set[str]
):
    """Images with cameras, and crops around the box's ground."""
    ground = frame.to_geodetic(_box_corners(np.array([box[0], [*box[1, :2], max(0.0, box[0, 2])]])))
    adjusted = [v.rpc.shifted(*shift) for v, shift in zip(vendor, adjustment.shifts_px, strict=True)]
    crops = [read_crop(v, r.project(ground), CROP_MARGIN_PX) for v, r in zip(vendor, adjusted, strict=True)]
    full_well = min(c.full_well for c in crops)
    tone = fit_tone([c.dn for c in crops], [c.valid for c in crops], options.gamma, full_well)
    images = []
    for v, rpc, crop, shift in zip(vendor, adjusted, crops, adjustment.shifts_px, strict=True):
        rpc = rpc.cropped(crop.col0, crop.row0)
        camera = fit_camera(rpc, frame, box, crop.size, options.camera)
        images.append(
            SceneImage(
                name=v.name,
                path=f"images/{v.name}.tif",
                width=crop.size[0],
                height=crop.size[1],
                camera=camera.to_dict(),
                tone=tone,
                split="test" if v.name in held_out else "train",
                mask=f"masks/{v.name}.png",
                acquired=v.acquired,
                sun_deg=v.sun_deg,
                sun_direction=None if v.sun_deg is None else frame.direction(*v.sun_deg),
                rpc=rpc.to_dict(),
                shift_px=(float(shift[0]), float(shift[1])),
                crop_px=(crop.col0, crop.row0),
                source=v.path.name,
            )
        )
    return images, crops


def _wide_view(vendor: VendorImage, image: SceneImage, frame: LocalFrame, box: ndarray, options: Options):
    """Toned values "h w b" of all that the box can show, and their camera: what is tall at the area's edge leans out of
    the scene's image, and heights need it (measured on a 150 m area: mean error 0.4 m instead of 1.9 m)."""
    rpc = vendor.rpc.shifted(*image.shift_px)
    crop = read_crop(vendor, rpc.project(frame.to_geodetic(_box_corners(box))), CROP_MARGIN_PX)
    camera = fit_camera(rpc.cropped(crop.col0, crop.row0), frame, box, crop.size, options.camera)
    return _toned(image.tone, crop), camera


def _over_box(camera: AffineCamera, box: ndarray) -> ndarray:
    """Pixels "h w" whose line of sight meets the box's area both at the ground and 10 m above it: where the scene can
    explain what is seen."""
    width, height = camera.size
    direction = camera.view_direction()
    inverse = np.linalg.inv(camera.matrix[:, :2])
    colrow = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float64)
    ground = (colrow - camera.matrix[:, 3]) @ inverse.T
    inside = np.ones((height, width), bool)
    for z in (max(box[0, 2], 0.0), min(box[1, 2], 10.0)):
        point = ground + z * direction[:2] / direction[2]
        inside &= ((point >= box[0, :2]) & (point <= box[1, :2])).all(-1)
    return inside


def _camera(image: SceneImage) -> AffineCamera:
    camera = camera_from_dict(image.camera)
    assert isinstance(camera, AffineCamera)
    return camera


def _toned(tone: Tone, crop: Crop, fill: float = np.nan) -> ndarray:
    """Values in 0..1 "h w b" with `fill` where there is no data."""
    return np.where(crop.valid[..., None], tone.apply(crop.dn), np.float32(fill))


def _write_images(folder: Path, images: list[SceneImage], crops: list[Crop], box: ndarray, wide: ndarray) -> None:
    """Images, pictures of them, and masks: training sees the border too, scores count the area that was asked for."""
    for sub in ("images", "masks", "previews"):
        (folder / sub).mkdir()
    for image, crop in zip(images, crops, strict=True):
        assert image.rpc is not None
        rpc = RPC.from_dict(image.rpc)
        write_raster(folder / image.path, crop.dn.transpose(2, 0, 1), rpc=rpc)
        rpc.write_rpb((folder / image.path).with_suffix(".RPB"))
        usable = crop.valid & _over_box(_camera(image), wide if _train(image) else box)
        write_png(folder / f"masks/{image.name}.png", np.where(usable, 255, 0).astype(np.uint8))
        write_png(folder / f"previews/{image.name}.png", preview(image.tone.apply(crop.dn)))


def _write_surface(scene: Scene, surface: Surface, frame: LocalFrame, folder: Path) -> Scene:
    """surface.tif (ellipsoidal height), surface_confidence.tif (0..1), surface_source.tif (0 unknown, 1 matched, 2
    filled) and surface_sigma.tif (meters), in the frame's CRS; one band each, because not every reader takes two."""
    grid, height = surface.grid, surface.height_m + np.float32(frame.origin[2])
    place = {"crs": frame.crs, "transform": grid.transform(frame.origin)}
    tags = {"HEIGHTS": "ellipsoidal (WGS84), metres"}
    none = float("nan")
    write_raster(folder / SURFACE, height[None], nodata=none, tags=tags, band_names=("height",), **place)
    write_raster(folder / CONFIDENCE, surface.confidence[None], band_names=("confidence in 0..1",), **place)
    write_raster(folder / SOURCE, surface.source[None], band_names=("0 unknown, 1 matched, 2 filled",), **place)
    write_raster(folder / SIGMA, surface.sigma_m[None], nodata=none, band_names=("sigma of height, metres",), **place)
    corner = (grid.x_min_m, grid.y_max_m, grid.resolution_m)
    layers = {"surface_confidence": CONFIDENCE, "surface_source": SOURCE, "surface_sigma": SIGMA}
    return replace(scene, surface=SURFACE, surface_grid=corner, **layers)


def _spacing_m(box: ndarray, options: Options) -> float:
    """Distance of points on the ground: a cell, or more where that would be too many splats to start from."""
    width, depth, _ = box[1] - box[0]
    return max(options.resolution_m, float(np.sqrt(width * depth / MAX_GROUND_POINTS)))


def _tie_points(adjustment: Adjustment, frame: LocalFrame, images, crops) -> Points:
    """The kept ties as points, coloured by the first image that shows them."""
    xyz = frame.from_geodetic(adjustment.lonlath[adjustment.inliers])
    colors = np.full((len(xyz), 3), 0.5, np.float32)
    open_points = np.ones(len(xyz), bool)
    for image, crop in zip(images, crops, strict=True):
        colrow = np.round(_camera(image).project(xyz)).astype(int)
        inside = open_points & ((colrow >= 0) & (colrow < crop.size)).all(-1)
        values = image.tone.apply(crop.dn[colrow[inside, 1], colrow[inside, 0]])
        colors[inside] = np.broadcast_to(values, (inside.sum(), 3))
        open_points &= ~inside
    up = np.tile(np.array([0, 0, 1], np.float32), (len(xyz), 1))
    return Points(xyz, up, colors, np.ones(len(xyz), np.float32))


def _cloud(points: Points) -> Cloud:
    rgb = np.round(255 * np.clip(np.nan_to_num(points.colors, nan=0.5), 0, 1)).astype(np.uint8)
    return Cloud(points.xyz_m, points.normals, rgb, points.confidence)
