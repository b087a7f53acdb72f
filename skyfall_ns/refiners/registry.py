"""Which refiner, and its options: what the command line and the manifests of episodes say.

Light: options are plain dataclasses; the refiner's own module is imported when it is chosen.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from skyfall_ns.refiners.bilateral_options import SmoothOptions
from skyfall_ns.refiners.denoiser_options import SceneOptions
from skyfall_ns.refiners.model_catalog import FLUX1_DEV, FLUX2_KLEIN_BASE, SOURCE_PROMPT, TARGET_PROMPT
from skyfall_ns.refiners.options import DiffusionOptions

if TYPE_CHECKING:
    from skyfall_ns.refiners.base import RefinerConfig

RefinerName = Literal["none", "smooth", "scene", "flowedit", "img2img", "instruct"]


@dataclass(frozen=True)
class RefinerOptions:
    """What makes pictures of renders."""

    name: RefinerName = "smooth"
    """none: renders stay as they are. smooth: edges stay, grain goes. scene: a small network trained on this scene
    alone; like smooth, it invents nothing. flowedit, img2img, instruct: diffusion models, which invent what no image
    shows."""
    smooth: SmoothOptions = field(default_factory=SmoothOptions)
    """Of the refiner `smooth`."""
    scene: SceneOptions = field(default_factory=SceneOptions)
    """Of the refiner `scene`."""

    diffusion: DiffusionOptions = field(default_factory=DiffusionOptions)
    """Of the refiners `flowedit`, `img2img` and `instruct`."""

    def choose(self) -> "RefinerConfig":
        """The refiner of this name, not checked yet."""
        match self.name:
            case "none":
                from skyfall_ns.refiners.identity import NoneRefinerConfig

                return NoneRefinerConfig()
            case "smooth":
                from skyfall_ns.refiners.bilateral import SmoothRefinerConfig

                return SmoothRefinerConfig(self.smooth)
            case "scene":
                from skyfall_ns.refiners.denoiser import SceneRefinerConfig

                return SceneRefinerConfig(self.scene)
            case "flowedit":
                from skyfall_ns.refiners.diffusion import FlowEditRefinerConfig

                return FlowEditRefinerConfig(**self.diffusion.given())
            case "img2img":
                from skyfall_ns.refiners.img2img import Img2ImgRefinerConfig

                return Img2ImgRefinerConfig(**self.diffusion.given())
            case "instruct":
                from skyfall_ns.refiners.instruct import InstructRefinerConfig

                return InstructRefinerConfig(**self.diffusion.given())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON for manifests."""
        return _plain(asdict(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "RefinerOptions":
        """What `to_dict` wrote; options that are not told have their defaults.

        Raises ValueError for options that this version does not know."""
        options = _rebuilt(cls, data)
        if options.name not in get_args(RefinerName):
            raise ValueError(f"the refiner {str(options.name)[:40]!r} is unknown")
        return options


FLUX = RefinerOptions(
    "flowedit",
    diffusion=DiffusionOptions(
        model=FLUX1_DEV, steps=28, n_max=10, n_min=4, n_avg=1, source_guidance=1.5, target_guidance=5.5,
        source_prompt=SOURCE_PROMPT, target_prompt=TARGET_PROMPT,
    ),
)  # fmt: skip
"""The published recipe (arXiv 2510.15869, fixed n_max): FLUX.1-dev, 16 evaluations per view of 1024 pixels."""
KLEIN = RefinerOptions("flowedit", diffusion=DiffusionOptions(model=FLUX2_KLEIN_BASE))
"""FlowEdit on weights of the Apache-2.0 licence, with the published noise levels."""


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)  # paths


def _rebuilt(kind: type, data: Any) -> Any:
    """A dataclass of plain values, tuples, paths and other such dataclasses."""
    if not isinstance(data, Mapping):
        raise ValueError(f"options of {kind.__name__} are no names with values")
    hints = get_type_hints(kind)
    unknown = set(data) - {field.name for field in fields(kind)}
    if unknown:
        raise ValueError(f"the option {str(min(unknown))[:40]!r} is unknown")
    return kind(**{name: _value(hints[name], value) for name, value in data.items()})


def _value(hint: Any, value: Any) -> Any:
    if is_dataclass(hint):
        return _rebuilt(hint, value)  # type: ignore[arg-type]
    if isinstance(value, list):
        return tuple(value)
    wants_path = hint is Path or Path in get_args(hint)
    return Path(value) if wants_path and isinstance(value, str) else value
