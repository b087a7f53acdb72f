"""scene.json: round trip, damaged files, and no access outside the scene directory."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from skyfall_ns.errors import SceneError
from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.scene.scene import SCENE_FILE, Scene, SceneImage, Tone

CAMERA = AffineCamera(np.array([[1.0, 0, 0, 0], [0, 1, 0, 0]]), None, (4, 3))


@pytest.fixture
def scene_directory(tmp_path):
    """A minimal scene with its files."""
    image = SceneImage(
        "a", "images/a.tif", 4, 3, CAMERA, Tone((0.0,), (100.0,)), mask="masks/a.png", acquired="2023-04-15T08:34:39",
        sun_deg=(151.2, 59.2), sun_direction=(0.0, -0.6, 0.8), shift_px=(1.5, -2.0), crop_px=(10, 20), source="A.TIF",
    )  # fmt: skip
    box = np.array([[-1.0, -2, -3], [1, 2, 3]])
    scene = Scene(LocalFrame("EPSG:32637", (3e5, 4e6, 700.0)), box, (image,))
    for file in ("images/a.tif", "masks/a.png", "points.ply"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    scene.save_to(tmp_path)
    return tmp_path


def edit_scene_json(scene_directory, edit):
    data = json.loads((scene_directory / SCENE_FILE).read_text())
    edit(data)
    (scene_directory / SCENE_FILE).write_text(json.dumps(data))


def test_round_trip(scene_directory):
    scene, text = Scene.from_directory(scene_directory), (scene_directory / SCENE_FILE).read_text()
    assert scene.frame == LocalFrame("EPSG:32637", (3e5, 4e6, 700.0)) and scene.images[0].camera.size == (4, 3)
    np.testing.assert_array_equal(scene.images[0].camera.matrix, CAMERA.matrix)
    assert scene.images[0].acquired == "2023-04-15T08:34:39"
    assert scene.images[0].shift_px == (1.5, -2.0) and scene.images[0].tone.high == (100.0,)
    np.testing.assert_array_equal(scene.box_m, [[-1.0, -2, -3], [1, 2, 3]])
    assert scene.image_by_name("a").crop_px == (10, 20)
    Scene.from_directory(scene_directory / SCENE_FILE).save_to(scene_directory)
    assert (scene_directory / SCENE_FILE).read_text() == text
    with pytest.raises(SceneError, match=r"no image b\. Choose one of: a"):
        scene.image_by_name("b")
    assert [p.name for p in scene_directory.glob(".*")] == []


LAYERS = {f"surface{part}": f"surface{part}.tif" for part in ("", "_confidence", "_source", "_sigma")}
SURFACE = {**LAYERS, "surface_grid": [-1.0, 2.0, 0.5]}


def test_surface_layers_are_read_and_required(scene_directory):
    edit_scene_json(scene_directory, lambda d: d.update(SURFACE))
    for file in LAYERS.values():
        (scene_directory / file).touch()
    scene = Scene.from_directory(scene_directory)
    assert (scene.surface_source, scene.surface_sigma) == ("surface_source.tif", "surface_sigma.tif")
    scene.save_to(scene_directory)
    assert Scene.from_directory(scene_directory).surface_grid == (-1.0, 2.0, 0.5)
    for file in LAYERS.values():
        (scene_directory / file).unlink()
        with pytest.raises(SceneError, match=rf"{file} is missing\. Run skyfall-process again"):
            Scene.from_directory(scene_directory)
        (scene_directory / file).touch()


def test_scenes_of_the_previous_version_are_refused(scene_directory):
    edit_scene_json(scene_directory, lambda d: d.update(version=1))
    with pytest.raises(SceneError, match=r"version 1, this program reads version 2\. Run skyfall-process again\."):
        Scene.from_directory(scene_directory)


DAMAGE = {
    "missing key": lambda d: d.pop("box_m"),
    "empty box": lambda d: d.update(box_m=[[0, 0, 0], [0, 0, 0]]),
    "no images": lambda d: d.update(images=[]),
    "same names": lambda d: d["images"].append(d["images"][0]),
    "camera without its matrix": lambda d: d["images"][0]["camera"].pop("matrix"),
    "name with a path": lambda d: d["images"][0].update(name="../a"),
    "unknown camera": lambda d: d["images"][0]["camera"].update(model="fisheye"),
    "inverted tone": lambda d: d["images"][0]["tone"].update(low=[200.0]),
    "odd split": lambda d: d["images"][0].update(split="maybe"),
    "path outside": lambda d: d["images"][0].update(path="../../secret.tif"),
    "absolute path": lambda d: d.update(points="/points.ply"),
    "half a surface": lambda d: d.update(surface="surface.tif"),
    "surface without sigma": lambda d: d.update({**SURFACE, "surface_sigma": None}),
    "surface without its source": lambda d: d.update({**SURFACE, "surface_source": None}),
    "sigma outside": lambda d: d.update({**SURFACE, "surface_sigma": "../sigma.tif"}),
    "sun that is not a unit vector": lambda d: d["images"][0].update(sun_direction=[0, 0, 5]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_reported_with_a_remedy(scene_directory, name):
    edit_scene_json(scene_directory, DAMAGE[name])
    with pytest.raises(SceneError, match=r"scene.json is damaged \(.+\)\. Run skyfall-process again\.$"):
        Scene.from_directory(scene_directory)


ODD = [None, True, -1, 0, 1e308, float("inf"), float("nan"), "", "x", "../x", "/x", [], [None], {}, {"a": 1}]


def iterate_paths(data, path=()):
    """Paths to everything inside nested lists and dictionaries."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from iterate_paths(value, (*path, key))


def test_unexpected_values_raise_only_scene_errors(scene_directory):
    """Each value in turn is replaced by an unexpected one: the scene is read, or refused in two sentences, and names
    no file outside its directory."""
    whole = (scene_directory / SCENE_FILE).read_text()
    refused = 0
    for path in iterate_paths(json.loads(whole)):
        for odd in ODD:
            data = json.loads(whole)
            parent = data
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = odd
            (scene_directory / SCENE_FILE).write_text(json.dumps(data))
            try:
                scene = Scene.from_directory(scene_directory)
            except SceneError as error:
                refused += 1
                assert str(error).count(". ") >= 1 and str(error).endswith(".")
                continue
            for file in (scene.points, *(i.path for i in scene.images), *(i.mask for i in scene.images)):
                assert file is None or (scene_directory / file).resolve().is_relative_to(scene_directory.resolve())
    assert refused > 300


def test_other_versions_other_formats_and_missing_scenes_are_refused(scene_directory, tmp_path):
    edit_scene_json(scene_directory, lambda d: d.update(version=99))
    with pytest.raises(SceneError, match=r"version 99, this program reads version 2\. Update skyfall-ns\."):
        Scene.from_directory(scene_directory)
    edit_scene_json(scene_directory, lambda d: d.update(format="something"))
    with pytest.raises(SceneError, match="is not a skyfall scene"):
        Scene.from_directory(scene_directory)
    (scene_directory / SCENE_FILE).write_text("{ half")
    with pytest.raises(SceneError, match="is damaged"):
        Scene.from_directory(scene_directory)
    with pytest.raises(SceneError, match=r"There is no scene at .*\. Make one with skyfall-process\."):
        Scene.from_directory(tmp_path / "nowhere")


def test_error_for_a_relative_path_names_the_absolute_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    absolute = re.escape(str(tmp_path / "city/scene"))
    remedy = r"Make one with skyfall-process, or call the command from the directory that contains city/scene\."
    with pytest.raises(SceneError, match=rf"There is no scene at {absolute} \(scene.json not found\)\. {remedy}"):
        Scene.from_directory(Path("city/scene"))


def test_missing_file_is_named(scene_directory):
    (scene_directory / "images/a.tif").unlink()
    with pytest.raises(SceneError, match=r"images/a.tif is missing\. Run skyfall-process again"):
        Scene.from_directory(scene_directory)


def test_links_out_of_a_scene_are_refused(scene_directory, tmp_path_factory):
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.tif"
    secret.write_bytes((scene_directory / "images/a.tif").read_bytes())
    (scene_directory / "images/a.tif").unlink()
    (scene_directory / "images/a.tif").symlink_to(secret)
    with pytest.raises(SceneError, match=r"images/a.tif is a link out of the scene\. Copy"):
        Scene.from_directory(scene_directory)


@pytest.mark.parametrize("path", ["../a.tif", "/etc/passwd", "images/../../a.tif", "images\\..\\..\\a.tif", "", 5])
def test_paths_out_of_a_scene_are_refused(scene_directory, path):
    edit_scene_json(scene_directory, lambda d: d["images"][0].update(path=path))
    with pytest.raises(SceneError, match=r"scene.json is damaged \(ValueError.*leaves the scene directory"):
        Scene.from_directory(scene_directory)


def test_sizes_are_bounded_before_memory_is_taken(scene_directory, monkeypatch):
    edit_scene_json(scene_directory, lambda d: d["images"][0].update(width=10**9, height=10**9))
    with pytest.raises(SceneError, match=r"is damaged .*more than 400 megapixels.*\. Run"):
        Scene.from_directory(scene_directory)
    (scene_directory / SCENE_FILE).write_text("[" * 200_000)
    with pytest.raises(SceneError, match=r"is damaged \(.*\)\. Run"):
        Scene.from_directory(scene_directory)
    with open(scene_directory / SCENE_FILE, "wb") as file:
        file.truncate(65_000_000)
    with pytest.raises(SceneError, match=r"is damaged \(it has more than 64 MB\)\. Run"):
        Scene.from_directory(scene_directory)


def test_tone_curve_follows_its_formula():
    tone = Tone((100.0, 0.0), (300.0, 10.0), gamma=2.0)
    np.testing.assert_allclose(tone.apply_curve(np.array([[150, 10], [50, 20]], np.uint16)), [[0.5, 1.0], [0.0, 1.0]])
