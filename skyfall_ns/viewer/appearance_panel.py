"""The viewer's appearance panel: light and season of free views, blended between two training images."""

from collections.abc import Sequence

from nerfstudio.viewer.viewer_elements import ViewerDropdown, ViewerSlider
from torch import nn

REFERENCE = "reference"


class AppearancePanel(nn.Module):
    """Two appearances and a blend weight. A module, because the viewer collects its elements from modules."""

    def __init__(self, image_names: Sequence[str]) -> None:
        super().__init__()
        options = [REFERENCE, *image_names]
        self.first = ViewerDropdown("Appearance", REFERENCE, options)
        self.second = ViewerDropdown("Blend with", REFERENCE, options)
        self.blend_weight = ViewerSlider("Blend weight", 0.0, 0.0, 1.0, 0.05)

    def selected_appearances(self) -> tuple[int | None, int | None, float]:
        """Indices of the two selected training images (None: the mean appearance), and the second's weight in 0..1."""
        first, second = (
            None if dropdown.value == REFERENCE else dropdown.options.index(dropdown.value) - 1
            for dropdown in (self.first, self.second)
        )
        return first, second, self.blend_weight.value
