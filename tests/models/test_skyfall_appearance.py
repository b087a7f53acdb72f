"""Appearance of free views: reference images, exports, and the viewer's panel and background."""

import math
from dataclasses import replace

import pytest
import torch
from helpers.models import make_pipeline, viewer_camera
from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer_elements import ViewerControl, ViewerElement

from skyfall_ns.dataparsers.camera_metadata import view_from_camera
from skyfall_ns.errors import SceneError
from skyfall_ns.models.appearance.lighting import gamma_encode
from skyfall_ns.models.appearance.spherical_harmonics import SH_C0
from skyfall_ns.scene.scene import Scene
from skyfall_ns.viewer.appearance_panel import REFERENCE


def test_exported_colors_have_the_mean_gain(model):
    with torch.no_grad():
        model.appearance_model.log_gain[0] = 0.3
    model.appearance_model.sun_directions = (None,) * len(model.appearance_model.sun_directions)
    torch.testing.assert_close(model.shs_0 * SH_C0 + 0.5, model.colors)
    mean = math.exp(0.3 / len(model.appearance_model.log_gain)) ** (1 / 2.2)
    expected = (mean * model.renderer.albedo()).clamp(0, 1)
    bright = (expected > 0.05).all(-1)  # below, the gamma code is linear
    torch.testing.assert_close(model.colors[bright], expected[bright])
    assert model.shs_rest.shape == (model.num_points, 0, 3)


def test_exports_and_free_views_have_the_appearance_of_the_reference_images(city_scene):
    name = Scene.from_directory(city_scene).images[1].name
    model = make_pipeline(city_scene, reference_images=(name,)).model.eval()
    with torch.no_grad():
        model.appearance_model.log_gain[1] = 0.3
        image_appearance, view = model.appearance_model.image_appearance(1), view_from_camera(viewer_camera())
        appearance = replace(
            image_appearance, log_ambient=image_appearance.log_ambient + math.log(model.config.free_view_ambient_scale)
        )
        visibility = model.renderer.shadow_map(appearance, None).sun_visibility(model.means)
        assert visibility.min() < 0.1 < 0.9 < visibility.max()  # exports have the shadows of free views
        light = model.renderer.shade(model.renderer.albedo(), appearance, visibility)
        torch.testing.assert_close(model.colors, gamma_encode(light).clamp(0, 1))
        torch.testing.assert_close(
            model.renderer.render(view, appearance=model.appearance_model.free_view_appearance()).color,
            model.renderer.render(view, appearance=appearance).color,
        )


def test_reference_images_without_a_match_are_refused(city_scene):
    with pytest.raises(
        SceneError, match=r"--pipeline.model.reference-images summer\* matches no image of .*\. It has: "
    ):
        make_pipeline(city_scene, reference_images=("summer*",))


def test_viewer_finds_the_elements_of_the_model(model):
    """It evaluates every property of a model."""
    elements = dict(parse_object(model, ViewerElement, "model"))
    assert {path: element.name for path, element in elements.items() if path.startswith("model/appearance/")} == {
        "model/appearance/first": "Appearance", "model/appearance/second": "Blend with",
        "model/appearance/blend_weight": "Blend weight",
    }  # fmt: skip
    assert [path for path, _ in parse_object(model, ViewerControl, "model")] == ["model/initial_camera"]


def test_viewer_panel_selects_the_appearance(model):
    model.eval()
    names, view = model.normalized.image_names, view_from_camera(viewer_camera())
    choices = {
        REFERENCE: model.appearance_model.free_view_appearance(),
        names[0]: model.appearance_model.image_appearance(0),
        names[2]: model.appearance_model.image_appearance(2),
    }
    images = []
    with torch.no_grad():
        for name, appearance in choices.items():
            model.appearance.first.value = name
            image = model.get_outputs(viewer_camera())["rgb"]
            rendering = model.renderer.render(view, appearance=appearance)
            background = (1 - rendering.alpha[..., None]) * model.background_color
            torch.testing.assert_close(image, (rendering.color + background).clamp(0, 1))
            images.append(image)
    assert all((a - b).abs().mean() > 1e-3 for a, b in zip(images[1:], images, strict=False))


def test_empty_pixels_are_behind_everything_in_the_viewer(model):
    """The viewer composes frustums of cameras beside and behind the scene by depth."""
    with torch.no_grad():
        outputs = model.eval().get_outputs(viewer_camera())
    empty = outputs["accumulation"] < 0.5
    assert 0.1 < empty.float().mean() < 0.9
    assert outputs["depth"][empty].min() > 2 * outputs["depth"][~empty].max()
