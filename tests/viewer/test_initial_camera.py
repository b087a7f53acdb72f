"""The viewer's initial camera: above and south of the scene, which fills the image."""

import contextlib
import math
from types import SimpleNamespace

import numpy as np
import pytest

from skyfall_ns.viewer.initial_camera import InitialCamera, initial_camera_pose

BOX = np.array([[-3.0, -2.0, 0.0], [5.0, 4.0, 1.5]])


@pytest.mark.parametrize("aspect", [0.5, 1.0, 2.0])
def test_the_whole_scene_fills_the_image(aspect):
    fov = math.radians(75)
    position, target = initial_camera_pose(BOX, fov, aspect)
    np.testing.assert_allclose(target, BOX.mean(0))
    assert position[1] < BOX[0, 1] and position[2] > BOX[1, 2]
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.array([1.0, 0.0, 0.0])
    axes = np.stack([right, np.cross(forward, right), forward])
    corners = np.stack(np.meshgrid(*BOX.T), -1).reshape(-1, 3)
    x, y, z = axes @ (corners - position).T
    assert (z > 0).all()
    extent = np.maximum(np.abs(x) / (z * math.tan(fov / 2) * aspect), np.abs(y) / (z * math.tan(fov / 2))).max()
    assert 0.5 < extent < 1


def test_every_page_starts_there_and_frusta_scale_with_the_scene():
    callbacks = []
    config = SimpleNamespace(camera_frustum_scale=0.1)
    server = SimpleNamespace(on_client_connect=callbacks.append)
    InitialCamera(BOX)._setup(SimpleNamespace(config=config, viser_server=server, render_statemachines={}))
    assert config.camera_frustum_scale == pytest.approx(0.1 * 10 * np.linalg.norm(BOX[1] - BOX[0]) / 2)
    camera = SimpleNamespace(fov=1.2, aspect=1.5)
    callbacks[0](SimpleNamespace(camera=camera, atomic=contextlib.nullcontext))
    np.testing.assert_allclose([camera.position, camera.look_at], initial_camera_pose(10 * BOX, 1.2, 1.5))
