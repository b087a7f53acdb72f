"""The viewer's panel "look": light and season of free views, from one image's to another's."""

from collections.abc import Sequence

from nerfstudio.viewer.viewer_elements import ViewerDropdown, ViewerSlider
from torch import nn

CANONICAL = "canonical"


class LookPanel(nn.Module):
    """Two choices and a slider between them; a module because the viewer looks for its elements in modules."""

    def __init__(self, image_names: Sequence[str]) -> None:
        super().__init__()
        options = [CANONICAL, *image_names]
        self.first = ViewerDropdown("Look", CANONICAL, options)
        self.second = ViewerDropdown("Blend with", CANONICAL, options)
        self.share = ViewerSlider("Share of the second", 0.0, 0.0, 1.0, 0.05)

    def selection(self) -> tuple[int | None, int | None, float]:
        """Indices of the two chosen training images (None: the mean appearance) and the second's share in 0..1."""
        first, second = (
            None if choice.value == CANONICAL else choice.options.index(choice.value) - 1
            for choice in (self.first, self.second)
        )
        return first, second, self.share.value
