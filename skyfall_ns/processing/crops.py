"""Windows of vendor images that show the area, and their cameras: of the scene, and for matching."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Float64
from numpy import ndarray

from skyfall_ns.geo.cameras import AffineCamera, CameraModel, camera_from_dict, fit_camera
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.processing.tone_mapping import fit_tone
from skyfall_ns.processing.vendor_images import Crop, VendorImage, read_crop
from skyfall_ns.scene.scene import DISPLAY_GAMMA, SceneImage, Tone

CROP_MARGIN_PX = 8
Shifts = Float64[ndarray, "v 2"]


def widen_box(box_m: Float64[ndarray, "2 d"], margin_m: float) -> Float64[ndarray, "2 d"]:
    """The box (min and max), wider by a margin on four sides."""
    margin = np.zeros(box_m.shape[1])
    margin[:2] = margin_m
    return np.array([box_m[0] - margin, box_m[1] + margin])


def box_corners(box_m: Float64[ndarray, "2 3"]) -> Float64[ndarray, "8 3"]:
    """The eight corners of a box."""
    return np.array([[x, y, z] for x in box_m[:, 0] for y in box_m[:, 1] for z in box_m[:, 2]])


def read_crops(
    vendor: Sequence[VendorImage], shifts_px: Shifts, frame: LocalFrame, points_m: Float64[ndarray, "n 3"]
) -> list[Crop]:
    """The window of each image that shows all of the points (local meters), by the adjusted RPCs."""
    lonlath = frame.to_geodetic(points_m)
    return [
        read_crop(v, v.rpc.shifted(*shift).project(lonlath), CROP_MARGIN_PX)
        for v, shift in zip(vendor, shifts_px, strict=True)
    ]


def scene_images(
    vendor: Sequence[VendorImage], crops: Sequence[Crop], shifts_px: Shifts, frame: LocalFrame, box_m: ndarray,
    model: CameraModel, held_out: set[str], gamma: float | None,
) -> list[SceneImage]:  # fmt: skip
    """The images of a scene, with a common tone, and cameras fitted over the box."""
    full_well = min(c.full_well for c in crops)
    tone = fit_tone([c.dn for c in crops], [c.valid for c in crops], gamma, full_well)
    images = []
    for v, crop, shift in zip(vendor, crops, shifts_px, strict=True):
        rpc = v.rpc.shifted(*shift).cropped(crop.col0, crop.row0)
        camera = fit_camera(rpc, frame, box_m, crop.size, model)
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
    return images


def matching_view(
    vendor: VendorImage, shift_px: ndarray, frame: LocalFrame, box_m: ndarray, model: CameraModel, tone: Tone | None
) -> tuple[Float32[ndarray, "h w b"], AffineCamera]:
    """Toned values of all that the box can show (its own tone if none is given), and their camera: what is tall at the
    area's edge leans out of the scene's image, and heights need it (measured on a 150 m area: mean error 0.4 m instead
    of 1.9 m)."""
    rpc = vendor.rpc.shifted(*shift_px)
    crop = read_crop(vendor, rpc.project(frame.to_geodetic(box_corners(box_m))), CROP_MARGIN_PX)
    camera = fit_camera(rpc.cropped(crop.col0, crop.row0), frame, box_m, crop.size, model)
    return apply_tone(tone or fit_tone([crop.dn], [crop.valid], DISPLAY_GAMMA), crop), camera


def apply_tone(tone: Tone, crop: Crop, fill: float = np.nan) -> Float32[ndarray, "h w b"]:
    """Values in 0..1 with `fill` where there is no data."""
    return np.where(crop.valid[..., None], tone.apply(crop.dn), np.float32(fill))


def camera_of(image: SceneImage) -> AffineCamera:
    """The satellite camera of an image."""
    camera = camera_from_dict(image.camera)
    assert isinstance(camera, AffineCamera)
    return camera
