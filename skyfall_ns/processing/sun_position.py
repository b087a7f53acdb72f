"""The sun's position from time and place, for images whose metadata have a time of day but no sun."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from skyfall_ns.processing.vendor_images import VendorImage


def complete_sun_angles(images: Sequence[VendorImage]) -> tuple[list[VendorImage], str | None]:
    """The images with a sun computed from their acquisition time where it is missing, and a note that names them.

    Times are UTC, as vendors give them; images without a time of day are left as they are."""
    completed, names = [], []
    for image in images:
        if image.sun_deg is None and image.acquired and "T" in image.acquired:
            center = image.rpc.localize(np.array([image.width - 1.0, image.height - 1.0]) / 2, image.rpc.height_off)
            sun = sun_angles_deg(image.acquired, *(float(v) for v in center))
            if sun[1] > 0:
                image = replace(image, acquisition=replace(image.acquisition, sun_deg=sun))
                names.append(image.name)
        completed.append(image)
    note = f"the sun of {', '.join(names)} is computed from acquisition time (UTC) and place" if names else None
    return completed, note


def sun_angles_deg(time: str, lon_deg: float, lat_deg: float, height_m: float) -> tuple[float, float]:
    """Azimuth from true north and elevation (geometric, without refraction) at a UTC time in ISO 8601, by pvlib."""
    import pandas as pd
    from pvlib.solarposition import get_solarposition

    moment = datetime.fromisoformat(time).replace(tzinfo=UTC)
    positions = pd.DataFrame(get_solarposition(pd.DatetimeIndex([moment]), lat_deg, lon_deg, altitude=height_m))
    return float(positions["azimuth"].iloc[0]), float(positions["elevation"].iloc[0])
