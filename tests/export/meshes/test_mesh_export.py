"""Exported meshes, read by trimesh: close to the truth, without holes, at their place, and with the right colors."""

import json
import sys
from pathlib import Path

import numpy as np
import open3d as o3d
import pytest
import rasterio
import torch
import trimesh
from helpers.untrained_run import save_untrained_run
from pyproj import Transformer

from skyfall_ns.evaluation.georegistration import fit_shift_to_true_rpcs
from skyfall_ns.export.meshes.height_mesh import decimate_mesh, mesh_of_heights
from skyfall_ns.geo.grid import Grid
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.pipelines import load_run
from skyfall_ns.scene.scene import Scene
from skyfall_ns.scripts import export


@pytest.fixture(scope="module")
def config(city_scene, tmp_path_factory) -> Path:
    """config.yml of a run without training steps."""
    yield save_untrained_run(city_scene, tmp_path_factory.mktemp("runs"))
    torch.set_grad_enabled(True)  # loading a run disables it


@pytest.fixture(scope="module")
def model(config):
    return load_run.load_run(config)


@pytest.fixture
def call_export(config, model, monkeypatch, capsys):
    monkeypatch.setattr(load_run, "load_run", lambda _: model)

    def call(*arguments):
        words = ["skyfall-export", "mesh", *map(str, arguments), "--load-config", str(config)]
        monkeypatch.setattr(sys, "argv", words)
        try:
            export.main()
        except SystemExit as exit_error:
            return exit_error.code, capsys.readouterr().err
        return 0, capsys.readouterr().out

    return call


def read_mesh(path: Path) -> trimesh.Trimesh:
    """The mesh with z up; the node of a GLB file turns it to y up."""
    scene = trimesh.load(path, process=False, force="scene")
    (name,) = scene.graph.nodes_geometry
    matrix, geometry = scene.graph.get(name)
    mesh = scene.geometry[geometry].copy()
    mesh.apply_transform(matrix)
    if path.suffix == ".glb":
        x, y, z = mesh.vertices.T
        mesh.vertices = np.stack([x, -z, y], 1)
    return mesh


def truth_distance(city_scene: Path, points: np.ndarray) -> np.ndarray:
    """Distances from the true surface, whose walls are vertical, of local points moved by the error of the cameras."""
    scene = Scene.from_directory(city_scene)
    with rasterio.open(city_scene / "truth/dsm.tif") as file:
        heights, transform = file.read(1).astype(float), file.transform
    west, north = transform.c - scene.frame.origin[0], transform.f - scene.frame.origin[1]
    grid = Grid(west, north, transform.a, heights.shape[1], heights.shape[0])
    truth = mesh_of_heights(heights - scene.frame.origin[2], grid)
    caster = o3d.t.geometry.RaycastingScene()
    caster.add_triangles(
        o3d.core.Tensor(truth.vertices.astype(np.float32)), o3d.core.Tensor(truth.faces.astype(np.uint32))
    )
    shift = np.array(fit_shift_to_true_rpcs(scene, city_scene / "truth/rpc"))
    return caster.compute_distance(o3d.core.Tensor((points + shift).astype(np.float32))).numpy()


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply"])
def test_vertices_are_on_the_true_surface_and_project_to_the_pixels_of_the_model(
    suffix, call_export, model, city_scene, tmp_path
):
    path = tmp_path / f"new/city.{suffix}"
    code, out = call_export("--output", path, "--texture", 512)
    assert code == 0 and "triangles" in out
    mesh, scene = read_mesh(path), Scene.from_directory(city_scene)
    assert np.median(truth_distance(city_scene, mesh.vertices)) < 0.4
    entry = json.loads((path.parent / "placement.json").read_text())["files"][path.name]
    x, y, z = (np.array(entry["origin"]) + mesh.vertices).T
    lon, lat = Transformer.from_crs(entry["crs"], "EPSG:4326", always_xy=True).transform(x, y)
    for image in scene.images:
        projected = RPC.from_dict(image.rpc).project(np.stack([lon, lat, z], 1))
        distance = np.linalg.norm(projected - image.camera.project(mesh.vertices), axis=1)
        assert np.median(distance) < 0.3


@pytest.mark.parametrize("suffix", ["glb", "obj"])
def test_the_texture_shows_the_gaussians_at_its_places(suffix, call_export, model, tmp_path):
    """Colors of the texture at the triangles' centers are those of the Gaussians there; a mirrored texture is not."""
    path = tmp_path / f"city.{suffix}"
    call_export("--output", path, "--texture", 1024)
    mesh = read_mesh(path)
    material = mesh.visual.material
    image = np.asarray(material.baseColorTexture if suffix == "glb" else material.image)[..., :3].astype(float) / 255
    uv = mesh.visual.uv[mesh.faces].mean(1)  # trimesh counts v from the bottom

    def error(u, v):
        row, column = ((1 - v) * len(image)).astype(int), (u * len(image)).astype(int)
        return np.abs(image[row.clip(0, len(image) - 1), column.clip(0, len(image) - 1)] - expected).mean()

    from scipy.spatial import cKDTree

    means = model.means.detach().numpy() / model.normalized.scale + np.array(model.normalized.center_m)
    nearest = cKDTree(means).query(mesh.triangles_center)[1]
    expected = model.colors.detach().numpy()[nearest]
    assert error(*uv.T) < 0.04
    assert min(error(1 - uv[:, 0], uv[:, 1]), error(uv[:, 0], 1 - uv[:, 1])) > 0.08


def test_a_mesh_has_neither_holes_nor_open_walls(call_export, tmp_path):
    call_export("--output", tmp_path / "city.ply")
    mesh = trimesh.load(tmp_path / "city.ply")
    boundary = mesh.edges_sorted[trimesh.grouping.group_rows(mesh.edges_sorted, require_count=1)]
    assert mesh.euler_number == 1 and mesh.body_count == 1  # a disc: its only border is the outline
    outline = mesh.vertices[np.unique(boundary)][:, :2]
    low, high = mesh.bounds[:, :2]
    assert (np.minimum(outline - low, high - outline).min(1) < 0.01).all()
    assert (mesh.face_normals[:, 2] > -0.2).mean() > 0.99  # outside is up
    assert mesh.visual.kind == "vertex"


def test_cells_without_a_height_are_closed_and_flat_parts_need_few_triangles():
    grid = Grid(0.0, 20.0, 0.5, 40, 40)
    heights = np.zeros((40, 40))
    heights[10:20, 10:20] = 12.0
    heights[30:33, 5:9] = np.nan
    full = mesh_of_heights(heights, grid)
    small = decimate_mesh(full, 200)
    assert len(full.faces) == 2 * 39 * 39 and len(small.faces) <= 210
    mesh = trimesh.Trimesh(small.vertices, small.faces)
    assert mesh.euler_number == 1 and np.isfinite(small.vertices).all()
    inner = (np.abs(small.vertices[:, :2] - [7.5, 12.5]) < 2.0).all(1)
    np.testing.assert_allclose(small.vertices[inner, 2], 12.0, atol=0.02)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--output", "city.fbx"), "city.fbx is of no known format"),
        (("--resolution", 0), "--resolution 0.0 is not a sensible cell size"),
        (("--triangles", 3), "--triangles 3 are too few"),
        (("--texture", 9), "--texture 9 is not a sensible width"),
        (("--crs", "EPSG:32656"), "--crs EPSG:32656 is made for"),
    ],
)
def test_bad_flags_are_errors_of_two_sentences(flags, words, call_export, tmp_path):
    output = () if "--output" in flags else ("--output", tmp_path / "city.glb")
    code, err = call_export(*output, *flags)
    assert code == 1 and words in err and err.count(". ") == 1
    assert not list(tmp_path.iterdir())
