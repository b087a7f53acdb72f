"""The appearance of an export: `mean`, `IMAGE` or `IMAGE:sun`."""

from dataclasses import replace

from skyfall_ns.errors import SkyfallError
from skyfall_ns.models.appearance.lighting import ImageAppearance
from skyfall_ns.models.renderer import Renderer

MEAN, SUN = "mean", ":sun"


def choose_appearance(renderer: Renderer, text: str) -> ImageAppearance:
    """The appearance that `--appearance` names.

    `mean` is that of free views, as the viewer shows it: the mean of the reference images, in their mean sun. `IMAGE`
    has the colors of a training image in uniform light; with `:sun` also the shading and the shadows of its sun. Raises
    SkyfallError if there is no such image, or if the run has no shading or shadows.
    """
    model, names = renderer.appearance_model, renderer.normalized.image_names
    if text == MEAN:
        return model.free_view_appearance()
    name, with_sun = text.removesuffix(SUN), text.endswith(SUN)
    if name not in names:
        raise SkyfallError(
            f"--appearance {text} names no training image. Give mean, or one of {', '.join(names)}, with :sun after it "
            "for its shadows."
        )
    appearance = model.image_appearance(names.index(name))
    if not with_sun:
        return replace(appearance, sun=None)
    if appearance.sun is None:
        raise SkyfallError(f"The sun of {name} is not known. Give --appearance {name} without :sun.")
    if not renderer.options.shading and not renderer.options.shadows:
        raise SkyfallError(f"The run was trained without shading and shadows. Give --appearance {name} without :sun.")
    return appearance
