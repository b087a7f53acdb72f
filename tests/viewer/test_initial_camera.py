"""Where the viewer begins: above and south of the scene, which is seen as a whole."""

import contextlib
import math
from types import SimpleNamespace

import numpy as np
import pytest

from skyfall_ns.viewer.initial_camera import HomeView, home

BOX = np.array([[-3.0, -2.0, 0.0], [5.0, 4.0, 1.5]])


@pytest.mark.parametrize("aspect", [0.5, 1.0, 2.0])
def test_the_whole_scene_is_seen_and_fills_the_picture(aspect):
    fov = math.radians(75)
    eye, target = home(BOX, fov, aspect)
    np.testing.assert_allclose(target, BOX.mean(0))
    assert eye[1] < BOX[0, 1] and eye[2] > BOX[1, 2]
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.array([1.0, 0.0, 0.0])
    axes = np.stack([right, np.cross(forward, right), forward])
    corners = np.stack(np.meshgrid(*BOX.T), -1).reshape(-1, 3)
    x, y, z = axes @ (corners - eye).T
    assert (z > 0).all()
    far = np.maximum(np.abs(x) / (z * math.tan(fov / 2) * aspect), np.abs(y) / (z * math.tan(fov / 2))).max()
    assert 0.5 < far < 1


def test_every_page_begins_there_and_frusta_are_as_large_as_the_scene_asks():
    begin = []
    config = SimpleNamespace(camera_frustum_scale=0.1)
    server = SimpleNamespace(on_client_connect=begin.append)
    HomeView(BOX)._setup(SimpleNamespace(config=config, viser_server=server, render_statemachines={}))
    assert config.camera_frustum_scale == pytest.approx(0.1 * 10 * np.linalg.norm(BOX[1] - BOX[0]) / 2)
    camera = SimpleNamespace(fov=1.2, aspect=1.5)
    begin[0](SimpleNamespace(camera=camera, atomic=contextlib.nullcontext))
    np.testing.assert_allclose([camera.position, camera.look_at], home(10 * BOX, 1.2, 1.5))
