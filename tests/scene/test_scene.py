"""scene.json: round trip, every kind of damage, and nothing outside the folder."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from skyfall_ns.errors import SceneError
from skyfall_ns.scene.scene import SCENE_FILE, Scene, SceneImage, Tone

CAMERA = {
    "model": "affine",
    "matrix": [[1, 0, 0, 0], [0, 1, 0, 0]],
    "quadratic": None,
    "size": [4, 3],
    "fit_px": [0, 0],
}


@pytest.fixture
def folder(tmp_path):
    """A minimal scene with its files."""
    image = SceneImage(
        "a", "images/a.tif", 4, 3, CAMERA, Tone((0.0,), (100.0,)), mask="masks/a.png", acquired="2023-04-15T08:34:39",
        sun_deg=(151.2, 59.2), sun_direction=(0.0, -0.6, 0.8), shift_px=(1.5, -2.0), crop_px=(10, 20), source="A.TIF",
    )  # fmt: skip
    box = np.array([[-1.0, -2, -3], [1, 2, 3]])
    scene = Scene({"crs": "EPSG:32637", "origin": [3e5, 4e6, 700.0]}, box, (image,))
    for file in ("images/a.tif", "masks/a.png", "points.ply"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    scene.save(tmp_path)
    return tmp_path


def change(folder, edit):
    data = json.loads((folder / SCENE_FILE).read_text())
    edit(data)
    (folder / SCENE_FILE).write_text(json.dumps(data))


def test_round_trip(folder):
    scene = Scene.load(folder)
    again = Scene.load(folder / SCENE_FILE)
    assert scene.images == again.images and scene.images[0].acquired == "2023-04-15T08:34:39"
    assert scene.images[0].shift_px == (1.5, -2.0) and scene.images[0].tone.high == (100.0,)
    np.testing.assert_array_equal(scene.box_m, again.box_m)
    assert scene.image("a").crop_px == (10, 20)
    with pytest.raises(SceneError, match=r"no image b\. Choose one of: a"):
        scene.image("b")
    assert [p.name for p in folder.glob(".*")] == []


LAYERS = {f"surface{part}": f"surface{part}.tif" for part in ("", "_confidence", "_source", "_sigma")}
SURFACE = {**LAYERS, "surface_grid": [-1.0, 2.0, 0.5]}


def test_layers_of_a_surface_are_read_and_missed(folder):
    change(folder, lambda d: d.update(SURFACE))
    for file in LAYERS.values():
        (folder / file).touch()
    scene = Scene.load(folder)
    assert (scene.surface_source, scene.surface_sigma) == ("surface_source.tif", "surface_sigma.tif")
    scene.save(folder)
    assert Scene.load(folder).surface_grid == (-1.0, 2.0, 0.5)
    for file in LAYERS.values():
        (folder / file).unlink()
        with pytest.raises(SceneError, match=rf"{file} is missing\. Run skyfall-process again"):
            Scene.load(folder)
        (folder / file).touch()


def test_scenes_of_the_version_before_are_processed_again(folder):
    change(folder, lambda d: d.update(version=1))
    with pytest.raises(SceneError, match=r"version 1, this program reads version 2\. Run skyfall-process again\."):
        Scene.load(folder)


DAMAGE = {
    "missing key": lambda d: d.pop("box_m"),
    "empty box": lambda d: d.update(box_m=[[0, 0, 0], [0, 0, 0]]),
    "no images": lambda d: d.update(images=[]),
    "same names": lambda d: d["images"].append(d["images"][0]),
    "camera without its matrix": lambda d: d["images"][0]["camera"].pop("matrix"),
    "name that leads elsewhere": lambda d: d["images"][0].update(name="../a"),
    "unknown camera": lambda d: d["images"][0]["camera"].update(model="fisheye"),
    "inverted tone": lambda d: d["images"][0]["tone"].update(low=[200.0]),
    "odd split": lambda d: d["images"][0].update(split="maybe"),
    "path outside": lambda d: d["images"][0].update(path="../../secret.tif"),
    "absolute path": lambda d: d.update(points="/points.ply"),
    "half a surface": lambda d: d.update(surface="surface.tif"),
    "surface without sigma": lambda d: d.update({**SURFACE, "surface_sigma": None}),
    "surface without its source": lambda d: d.update({**SURFACE, "surface_source": None}),
    "sigma that leads elsewhere": lambda d: d.update({**SURFACE, "surface_sigma": "../sigma.tif"}),
    "sun that is no direction": lambda d: d["images"][0].update(sun_direction=[0, 0, 5]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_mended(folder, name):
    change(folder, DAMAGE[name])
    with pytest.raises(SceneError, match=r"scene.json is damaged \(.+\)\. Run skyfall-process again\.$"):
        Scene.load(folder)


ODD = [None, True, -1, 0, 1e308, float("inf"), float("nan"), "", "x", "../x", "/x", [], [None], {}, {"a": 1}]


def places(data, path=()):
    """Paths to everything inside nested lists and dictionaries."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def test_nothing_odd_in_a_scene_is_more_than_an_error(folder):
    """Each value in turn becomes something odd: the scene is read, or refused in two sentences, and leads nowhere."""
    whole = (folder / SCENE_FILE).read_text()
    refused = 0
    for path in places(json.loads(whole)):
        for odd in ODD:
            data = json.loads(whole)
            spot = data
            for key in path[:-1]:
                spot = spot[key]
            spot[path[-1]] = odd
            (folder / SCENE_FILE).write_text(json.dumps(data))
            try:
                scene = Scene.load(folder)
            except SceneError as error:
                refused += 1
                assert str(error).count(". ") >= 1 and str(error).endswith(".")
                continue
            for file in (scene.points, *(i.path for i in scene.images), *(i.mask for i in scene.images)):
                assert file is None or (folder / file).resolve().is_relative_to(folder.resolve())
    assert refused > 300


def test_other_versions_other_files_and_no_scene(folder, tmp_path):
    change(folder, lambda d: d.update(version=99))
    with pytest.raises(SceneError, match=r"version 99, this program reads version 2\. Update skyfall-ns\."):
        Scene.load(folder)
    change(folder, lambda d: d.update(format="something"))
    with pytest.raises(SceneError, match="is not a skyfall scene"):
        Scene.load(folder)
    (folder / SCENE_FILE).write_text("{ half")
    with pytest.raises(SceneError, match="is damaged"):
        Scene.load(folder)
    with pytest.raises(SceneError, match=r"There is no scene at .*\. Make one with skyfall-process\."):
        Scene.load(tmp_path / "nowhere")


def test_a_scene_told_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = re.escape(str(tmp_path / "city/scene"))
    mend = r"Make one with skyfall-process, or call the command from where city/scene lies\."
    with pytest.raises(SceneError, match=rf"There is no scene at {place} \(scene.json not found\)\. {mend}"):
        Scene.load(Path("city/scene"))


def test_a_file_that_is_gone(folder):
    (folder / "images/a.tif").unlink()
    with pytest.raises(SceneError, match=r"images/a.tif is missing\. Run skyfall-process again"):
        Scene.load(folder)


def test_tone_is_its_formula():
    tone = Tone((100.0, 0.0), (300.0, 10.0), gamma=2.0)
    np.testing.assert_allclose(tone.apply(np.array([[150, 10], [50, 20]], np.uint16)), [[0.5, 1.0], [0.0, 1.0]])
