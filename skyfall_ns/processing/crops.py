"""Windows of vendor images that show the area, with their cameras: for the scene and for matching."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Float64
from numpy import ndarray

from skyfall_ns.geo.cameras import AffineCamera, CameraModel, fit_camera
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.processing.image_windows import Crop
from skyfall_ns.processing.tone_mapping import fit_tone, fit_tones
from skyfall_ns.processing.vendor_images import VendorImage, read_crop
from skyfall_ns.scene.scene import DISPLAY_GAMMA, SceneImage, Tone

CROP_MARGIN_PX = 8
ImageOffsets = Float64[ndarray, "v 2"]  # RPC bias (column, row) of each image, by the adjustment


def widen_box(box_m: Float64[ndarray, "2 d"], margin_m: float) -> Float64[ndarray, "2 d"]:
    """The box (min and max), wider by a margin on four sides."""
    margin = np.zeros(box_m.shape[1])
    margin[:2] = margin_m
    return np.array([box_m[0] - margin, box_m[1] + margin])


def box_corners(box_m: Float64[ndarray, "2 3"]) -> Float64[ndarray, "8 3"]:
    """The eight corners of a box."""
    return np.array([[x, y, z] for x in box_m[:, 0] for y in box_m[:, 1] for z in box_m[:, 2]])


def read_crops(
    vendor_images: Sequence[VendorImage], offsets_px: ImageOffsets, frame: LocalFrame, points_m: Float64[ndarray, "n 3"]
) -> list[Crop]:
    """Read the window of each image that shows all of the points (local meters), by the adjusted RPCs."""
    lonlath = frame.to_geodetic(points_m)
    return [
        read_crop(image, image.rpc.with_offset(*offset).project(lonlath), CROP_MARGIN_PX)
        for image, offset in zip(vendor_images, offsets_px, strict=True)
    ]


def make_scene_images(
    vendor_images: Sequence[VendorImage], crops: Sequence[Crop], offsets_px: ImageOffsets, frame: LocalFrame,
    box_m: ndarray, model: CameraModel, held_out: frozenset[str], gamma: float | None,
) -> tuple[list[SceneImage], str | None]:  # fmt: skip
    """The images of a scene with cameras fitted over the box (local meters), and a note if their tone curves differ."""
    tones, note = fit_tones([c.dn for c in crops], [c.valid for c in crops], gamma, [c.full_well for c in crops])
    images = []
    for v, crop, offset, tone in zip(vendor_images, crops, offsets_px, tones, strict=True):
        rpc = v.rpc.with_offset(*offset).for_crop(crop.col0, crop.row0)
        camera = fit_camera(rpc, frame, box_m, crop.size_px, model)
        images.append(
            SceneImage(
                name=v.name,
                path=f"images/{v.name}.tif",
                width=crop.size_px[0],
                height=crop.size_px[1],
                camera=camera,
                tone=tone,
                split="test" if v.name in held_out else "train",
                mask=f"masks/{v.name}.png",
                acquired=v.acquired,
                sun_deg=v.sun_deg,
                sun_direction=None if v.sun_deg is None else frame.direction_vector(*v.sun_deg),
                rpc=rpc.to_dict(),
                shift_px=(float(offset[0]), float(offset[1])),
                crop_px=(crop.col0, crop.row0),
                source=v.path.name,
            )
        )
    return images, note


def read_matching_view(
    vendor_image: VendorImage,
    offset_px: ndarray,
    frame: LocalFrame,
    box_m: ndarray,
    model: CameraModel,
    tone: Tone | None,
) -> tuple[Float32[ndarray, "h w b"], AffineCamera]:
    """Read the window that shows the whole box, tone-mapped (by its own tone curve without `tone`), and its camera.

    It is larger than the scene's image, because tall objects at the area's edge lean out of that one and are needed to
    match their heights (mean error 0.4 m instead of 1.9 m on a 150 m area)."""
    rpc = vendor_image.rpc.with_offset(*offset_px)
    crop = read_crop(vendor_image, rpc.project(frame.to_geodetic(box_corners(box_m))), CROP_MARGIN_PX)
    camera = fit_camera(rpc.for_crop(crop.col0, crop.row0), frame, box_m, crop.size_px, model)
    return apply_tone(tone or fit_tone([crop.dn], [crop.valid], DISPLAY_GAMMA), crop), camera


def apply_tone(tone: Tone, crop: Crop, fill: float = np.nan) -> Float32[ndarray, "h w b"]:
    """Map a crop to values in 0..1, with `fill` where there is no data."""
    return np.where(crop.valid[..., None], tone.apply_curve(crop.dn), np.float32(fill))


def affine_camera(image: SceneImage) -> AffineCamera:
    """The camera of an image made by processing."""
    assert isinstance(image.camera, AffineCamera)
    return image.camera
