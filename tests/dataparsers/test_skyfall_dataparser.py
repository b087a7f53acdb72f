"""Scenes as Nerfstudio datasets: exact rows, proxy cameras, selected and held-out images, damaged files."""

import dataclasses
import shutil

import cv2
import numpy as np
import pytest
import torch

from skyfall_ns.dataparsers.camera_metadata import IMAGE_KEY, view_from_camera
from skyfall_ns.dataparsers.skyfall_dataparser import PROXY_DISTANCE, SkyfallDataParserConfig
from skyfall_ns.errors import SceneError
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.io.ply import read_ply
from skyfall_ns.scene.model_space import MODEL_PER_METER
from skyfall_ns.scene.scene import Scene
from skyfall_ns.view import apply_quadratic_term, training_views


def parse_scene(directory, split="train", **options):
    return SkyfallDataParserConfig(data=directory, **options).setup().get_dataparser_outputs(split)


def image_names(outputs) -> list[str]:
    return [image.name for image in outputs.metadata["scene_images"]]


@pytest.fixture
def scene_copy(city_scene, tmp_path):
    """A scene that a test may damage."""
    return shutil.copytree(city_scene, tmp_path / "scene", ignore=shutil.ignore_patterns("raw", "truth", "report"))


def test_model_space_is_a_shift_and_one_scale(city_scene):
    outputs, points = parse_scene(city_scene), read_ply(city_scene / "points.ply")
    scene = Scene.from_directory(city_scene)
    local = torch.from_numpy(points.xyz_m).double()
    transform = outputs.dataparser_transform.double()
    assert torch.equal(transform[:, :3], torch.eye(3, dtype=torch.float64))
    expected = (local + transform[:, 3]) * outputs.dataparser_scale
    torch.testing.assert_close(outputs.metadata["points3D_xyz"].double(), expected, atol=1e-7, rtol=0)
    low, high = outputs.scene_box.aabb.double().numpy() / MODEL_PER_METER + [*scene.box_m[:, :2].mean(0), 0.0]
    np.testing.assert_allclose([low, high], scene.box_m, atol=1e-4)


def test_satellite_rows_project_as_the_adjusted_rpc(city_scene):
    """Points all over the box, through metadata in model space, against the RPC in degrees: within 0.01 px."""
    scene = Scene.from_directory(city_scene)
    frame = scene.frame
    local = scene.box_m[0] + np.random.default_rng(0).random((200, 3)) * (scene.box_m[1] - scene.box_m[0])
    outputs = parse_scene(city_scene)
    normalized = outputs.metadata["normalized_scene"]
    means = torch.from_numpy((local - normalized.center_m) * normalized.scale)
    for index, image in enumerate(outputs.metadata["scene_images"]):
        view = view_from_camera(outputs.cameras[index : index + 1])
        assert view.camera_from_model.dtype == torch.float64 and view.projection == "parallel"
        in_camera = apply_quadratic_term(means, view) @ view.camera_from_model[:3, :3].T + view.camera_from_model[:3, 3]
        assert (in_camera[:, 2] > 0).all()
        colrow = (in_camera[:, :2] + view.intrinsics[:2, 2] - 0.5).numpy()
        expected = RPC.from_dict(image.rpc).project(frame.to_geodetic(local))
        assert np.abs(colrow - expected).max() < 0.01
        np.testing.assert_allclose(colrow, image.camera.project(local), atol=1e-6)


def test_training_views_are_those_of_the_cameras(city_scene):
    outputs = parse_scene(city_scene)
    views = training_views(outputs.metadata["normalized_scene"])
    assert len(views) == len(outputs.cameras)
    for index, view in enumerate(views):
        expected = view_from_camera(outputs.cameras[index : index + 1])
        assert (view.width, view.height) == (expected.width, expected.height)
        for name in ("camera_from_model", "intrinsics", "quadratic"):
            torch.testing.assert_close(getattr(view, name), getattr(expected, name), atol=0, rtol=0)


def test_proxy_cameras_are_near_the_scene_and_view_it_as_the_satellite(city_scene):
    outputs = parse_scene(city_scene)
    half = float((outputs.scene_box.aabb[1] - outputs.scene_box.aabb[0]).max()) / 2
    for pose, image in zip(outputs.cameras.camera_to_worlds, outputs.metadata["scene_images"], strict=True):
        rotation, position = pose[:, :3].double(), pose[:, 3].double()
        torch.testing.assert_close(rotation.T @ rotation, torch.eye(3, dtype=torch.float64), atol=1e-6, rtol=0)
        assert torch.linalg.det(rotation) == pytest.approx(1, abs=1e-6)
        toward = torch.from_numpy(image.camera.view_direction())
        torch.testing.assert_close(position, toward * half * PROXY_DISTANCE, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(rotation[:, 2], toward, atol=1e-6, rtol=0)


def test_images_are_selected_and_held_out_by_name(city_scene):
    scene = Scene.from_directory(city_scene)
    every = [image.name for image in scene.images]
    held = [image.name for image in scene.images if image.split == "test"]
    assert len(held) == 1
    assert image_names(parse_scene(city_scene)) == [n for n in every if n not in held]
    assert image_names(parse_scene(city_scene, "test")) == image_names(parse_scene(city_scene, "val")) == held
    first = every[0]
    assert image_names(parse_scene(city_scene, eval_images=(first,))) == [n for n in every if n not in (*held, first)]
    assert image_names(parse_scene(city_scene, "test", eval_images=(first,))) == [
        n for n in every if n in (*held, first)
    ]
    two = (every[1], every[2][:7] + "*")
    assert image_names(parse_scene(city_scene, images=two)) == every[1:3]
    assert image_names(parse_scene(city_scene, "test", images=two)) == every[1:3]  # no held-out images: a score of fit
    assert parse_scene(city_scene).cameras.metadata[IMAGE_KEY].flatten().tolist() == list(range(len(every) - 1))
    assert parse_scene(city_scene, "test").cameras.metadata[IMAGE_KEY].item() == -1


def test_surface_is_in_local_meters(city_scene):
    surface = parse_scene(city_scene).metadata["normalized_scene"].surface
    scene = Scene.from_directory(city_scene)
    ellipsoidal = cv2.imread(str(city_scene / "surface.tif"), cv2.IMREAD_UNCHANGED)
    known = np.isfinite(surface.height_m)
    assert known.mean() > 0.5 and surface.confidence.min() >= 0 and surface.confidence.max() <= 1
    np.testing.assert_allclose(surface.height_m[known], ellipsoidal[known] - scene.frame.origin[2], atol=1e-3)
    assert ((surface.source == 0) == ~known).all() and (surface.source == 1).mean() > 0.5
    assert (np.isfinite(surface.sigma_m) == known).all() and (surface.sigma_m[known] > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": ("nowhere*",)}, r"dataparser\.images nowhere\* matches no image of .*\. It has: view_"),
        ({"eval_images": ("nowhere*",)}, r"dataparser\.eval-images nowhere\* matches no image"),
        ({"eval_images": ("*",)}, r"No image of .* is left to train on\. Widen .*dataparser\.images"),
    ],
)
def test_selections_without_training_images_are_refused(city_scene, options, message):
    with pytest.raises(SceneError, match=message):
        parse_scene(city_scene, **options)


LAYERS = ["surface.tif", "surface_confidence.tif", "surface_source.tif", "surface_sigma.tif"]


@pytest.mark.parametrize("file", LAYERS)
def test_damaged_surface_layer_is_named(scene_copy, file):
    (scene_copy / file).write_bytes(b"II*\0 not an image")
    with pytest.raises(SceneError, match=rf"{file} cannot be read as a layer of the surface\. Run skyfall-process"):
        parse_scene(scene_copy)


@pytest.mark.parametrize("file", LAYERS)
def test_surface_layers_of_another_size_or_type_are_refused(scene_copy, file):
    layer = cv2.imread(str(scene_copy / file), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(scene_copy / file), layer[1:])
    with pytest.raises(SceneError, match=r"surface.tif and its confidence, source and sigma differ in size\. Run"):
        parse_scene(scene_copy)
    cv2.imwrite(str(scene_copy / file), layer.astype(np.uint16))
    with pytest.raises(SceneError, match=rf"{file} cannot be read as a layer of the surface\. Run skyfall-process"):
        parse_scene(scene_copy)


def test_missing_image_is_named(scene_copy):
    missing = next((scene_copy / "images").glob("*.tif"))
    missing.unlink()
    with pytest.raises(SceneError, match=rf"{missing.name} is missing\. Run skyfall-process again"):
        parse_scene(scene_copy)


def test_scene_without_points_is_refused(scene_copy):
    dataclasses.replace(Scene.from_directory(scene_copy), points=None).save_to(scene_copy)
    with pytest.raises(SceneError, match=r"has no points for initialization\. Run skyfall-process again"):
        parse_scene(scene_copy)
