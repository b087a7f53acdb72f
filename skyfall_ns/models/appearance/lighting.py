"""Light: what sun, sky, haze and sensor do to colours in an image.

    light = gain * albedo * (sky * (0.6 + 0.4 n_z) + lit * max(n . s, 0)) / (sky + s_z) + haze

albedo is the splat's colour decoded with the power 2.2 of displays, which images are coded for (`data.tone`), n its
normal, s the direction to the sun, lit whether the sun reaches it; level ground in the sun keeps its colour.
0.6 + 0.4 n_z is the light of an even sky and of ground that throws back a fifth (Liu and Jordan, 1963). Splats are
blended as light, because a sensor's pixel adds up light, and the picture is encoded afterwards: blended as colours,
bright roofs would have to be drawn too wide.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from skyfall_ns.models.appearance.embeddings import Appearance, Reader
from skyfall_ns.scene.scene import DISPLAY_GAMMA

FILL_LIGHT = 2.0  # times the sky light of the images: views from the side show more that is in shadow
SKY_START = 0.3  # of the sun's light on a surface that faces it: clear air
DARKEST = 1e-3  # light below this has no colour worth a gradient
THINNEST = 1e-3  # alpha below this is nothing
FAINT = 1 / 255  # alpha that no 8-bit picture shows

Direction = tuple[float, float, float]


@dataclass(frozen=True)
class Look:
    """How one image looks: log gain, haze and log sky light per band (1 or 3), the image's embedding (or None), and the
    direction to its sun in the local frame (None: even light)."""

    log_gain: Float[Tensor, "b"]
    haze: Float[Tensor, "b"]
    log_sky: Float[Tensor, "b"]
    embedding: Float[Tensor, "32"] | None
    sun: Direction | None

    def tensors(self) -> dict[str, Tensor]:
        """What can be fitted to an image."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "sun"}
        return {name: value for name, value in values.items() if value is not None}

    def towards(self, other: "Look", share: float) -> "Look":
        """The look `share` of the way (0..1) to another; the sun is the nearer one's."""
        theirs = other.tensors()
        mixed = {name: torch.lerp(value, theirs[name], share) for name, value in self.tensors().items()}
        return replace(self, **mixed, sun=self.sun if share < 0.5 else other.sun)


class Looks(nn.Module):
    """The looks of all training images; without a reader of embeddings, gain, haze and sky are all. `shown`: the images
    whose mean look is the canonical one (None: all)."""

    def __init__(
        self,
        suns: Sequence[Direction | None],
        reader: Reader | None,
        shown: Sequence[int] | None = None,
        bands: int = 3,
    ) -> None:
        super().__init__()
        n = len(suns)
        self.shown = tuple(range(n) if shown is None else shown)
        self.suns = tuple(suns)
        self.log_gain, self.haze = nn.Parameter(torch.zeros(n, bands)), nn.Parameter(torch.zeros(n, bands))
        self.log_sky = nn.Parameter(torch.full((n, bands), SKY_START).log())
        self.appearance = None if reader is None else Appearance(n, reader, bands)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by optimizer."""
        groups = {"looks": [self.log_gain, self.haze, self.log_sky]}
        if self.appearance is not None:
            groups["image_embeddings"] = [self.appearance.images]
            groups["appearance"] = list(self.appearance.reader.parameters())
        return groups

    def of(self, image: int) -> Look:
        """The look of a training image."""
        embedding = None if self.appearance is None else self.appearance.images[image]
        return Look(self.log_gain[image], self.haze[image], self.log_sky[image], embedding, self.suns[image])

    def canonical(self, sun: Direction | None = None) -> Look:
        """The mean of the looks that are shown, under a given sun or in even light."""
        looks = [self.of(image).tensors() for image in self.shown]
        mean = {name: torch.stack([look[name] for look in looks]).mean(0) for name in looks[0]}
        return replace(self.of(self.shown[0]), **mean, sun=sun)

    def free(self) -> Look:
        """The look of free views and exports: the canonical one under the mean sun of the images that are shown, with
        FILL_LIGHT. Even light would amplify what images hardly show, such as walls in shadow."""
        look = self.canonical(self.mean_sun())
        return replace(look, log_sky=look.log_sky + math.log(FILL_LIGHT))

    def blend(self, first: int | None, second: int | None, share: float) -> Look:
        """The look `share` of the way (0..1) from one image's to another's; None: the look of free views."""
        start, end = (self.free() if image is None else self.of(image) for image in (first, second))
        return start.towards(end, share)

    def mean_sun(self) -> Direction | None:
        """The mean of the known directions to the sun of the images that are shown; None where none is known."""
        known = [sun for image in self.shown if (sun := self.suns[image]) is not None]
        if not known:
            return None
        x, y, z = torch.nn.functional.normalize(torch.tensor(known, dtype=torch.float64).sum(0), dim=0).tolist()
        return x, y, z


def sunlight(
    normals: Float[Tensor, "n 3"] | None, lit: Float[Tensor, " n"] | None, sun: Direction, sky: Float[Tensor, "b"]
) -> Float[Tensor, "n b"]:
    """Light on surfaces relative to level ground in the sun; without normals all surfaces are level, without `lit` the
    sun reaches all."""
    direct = sun[2] if normals is None else (normals @ normals.new_tensor(sun)).clamp_min(0)
    if lit is not None:
        direct = direct * lit
    open_sky = 1.0 if normals is None else 0.6 + 0.4 * normals[:, 2:]
    direct = direct[:, None] if isinstance(direct, Tensor) else direct
    return (sky * open_sky + direct) / (sky + sun[2])


def encode(light: Tensor) -> Tensor:
    """Light to colours as pictures have them; linear below DARKEST, so that black keeps a gradient."""
    above = light.clamp_min(DARKEST) ** (1 / DISPLAY_GAMMA)
    return above + (light - DARKEST).clamp_max(0) * (DARKEST ** (1 / DISPLAY_GAMMA - 1) / DISPLAY_GAMMA)


def decode(colors: Tensor) -> Tensor:
    """Colours to light; negative ones are black."""
    return colors.clamp_min(0) ** DISPLAY_GAMMA


def seen(colors: Float[Tensor, "n b"], light: Float[Tensor, "n b"] | None, look: Look) -> Float[Tensor, "n b"]:
    """The light that comes from splats to a sensor with this look."""
    reflected = decode(colors)
    if light is not None:
        reflected = reflected * light
    return look.log_gain.exp() * reflected + look.haze


def picture(light: Float[Tensor, "h w b"], alpha: Float[Tensor, "h w"]) -> Float[Tensor, "h w 3"]:
    """Blended light as colours, still multiplied by alpha; one band is shown as gray."""
    cover = alpha[..., None]
    return (cover * encode(light / cover.clamp_min(THINNEST))).expand(-1, -1, 3)


def behind(alpha: Float[Tensor, "h w 1"], background: Float[Tensor, "3"], bands: int) -> Float[Tensor, "h w 3"]:
    """The background of each pixel. Gray scenes stay gray where they are thin: only behind nothing it has a hue."""
    if bands == 3:
        return background.expand(*alpha.shape[:2], 3)
    return torch.where(alpha.detach() > FAINT, background[1:2], background)


def in_bands(rgb: Float[Tensor, "h w 3"], bands: int) -> Float[Tensor, "h w b"]:
    """A picture in a scene's bands: gray scenes compare one."""
    return rgb if bands == 3 else rgb.mean(-1, keepdim=True)


def normals_of(quats: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3"]:
    """Third axis of each splat, which is its thin one at the start; quaternions wxyz, of any length."""
    w, x, y, z = nn.functional.normalize(quats, dim=-1).unbind(-1)
    return torch.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], -1)
