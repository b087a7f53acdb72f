"""An episode in the viewer and in its overview: camera poses, images shown, and removal."""

import base64
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import viser.transforms as vtf
from helpers.plates import write_plate_renders
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from torch import nn

from skyfall_ns.idu.camera_placement import place_cameras
from skyfall_ns.idu.curriculum import Curriculum
from skyfall_ns.idu.episode_overview import (
    GAP_PX,
    make_contact_sheet,
    place_side_by_side,
    read_image_pair,
    select_evenly,
    write_overview,
)
from skyfall_ns.idu.episode_panel import SCENE_NODE, EpisodeStatus, episode_summary, show_episode, viewer_pose
from skyfall_ns.idu.episode_store import EpisodeStore
from skyfall_ns.idu.synthetic_views import nerfstudio_camera

BOX = np.array([[-30.0, -30.0, 0.0], [30.0, 30.0, 12.0]])
NORMALIZED = SimpleNamespace(center_m=(10.0, -20.0, 3.0), scale=0.01)


def make_refined_episode(idu, number=1, azimuths=4):
    """An episode whose refined images are its renders at half brightness."""
    curriculum = Curriculum(elevations_deg=(60.0, 45.0), radii_m=(120.0,), grid=1, azimuths=azimuths, size_px=48)
    episode = curriculum.plan_episodes(BOX)[number - 1]
    poses, _ = place_cameras(curriculum, episode, BOX, lambda x, y: 0.0, lambda eye, target: None)
    store = write_plate_renders(EpisodeStore.create(idu, episode, poses, 48, {"run": 1}, 300.0))
    store.set_refiner({"name": "bilateral"}, False)
    for name in store.view_names:
        store.write_refined(name, store.rendered_view(name).image / 2)
    return store


def make_plain_image(value, height=8, width=8):
    return np.full((height, width, 3), value, np.uint8)


def test_images_of_a_pair_are_side_by_side():
    pair = place_side_by_side(make_plain_image(10), make_plain_image(200), 8)
    assert pair.shape == (8, 16 + GAP_PX, 3)
    assert (pair[:, :8] == 10).all() and (pair[:, 8:-8] == 255).all() and (pair[:, -8:] == 200).all()
    shrunk = place_side_by_side(make_plain_image(10, 40, 20), make_plain_image(200, 40, 20), 8)
    assert shrunk.shape == (8, 8 + GAP_PX, 3)
    large = place_side_by_side(make_plain_image(10), make_plain_image(200), 100)
    assert large.shape == pair.shape  # small images are not enlarged


def test_contact_sheet_has_rows():
    sheet = make_contact_sheet([make_plain_image(v) for v in (1, 2, 3, 4)], 3)
    step = 8 + 2 * GAP_PX
    assert sheet.shape == (step + 8, 2 * step + 8, 3)
    assert [int(sheet[0, step * i, 0]) for i in range(3)] == [1, 2, 3]
    assert sheet[step, 0, 0] == 4 and (sheet[step:, 8:] == 255).all()
    assert make_contact_sheet([make_plain_image(1)], 3).shape == (8, 8, 3)


def test_views_are_selected_evenly():
    assert select_evenly("abc", 12) == ["a", "b", "c"]
    assert select_evenly(range(109), 3) == [0, 54, 108]
    assert len(set(select_evenly(range(100), 12))) == 12


def test_overview_shows_renders_and_refined_images(tmp_path):
    store = make_refined_episode(tmp_path)
    write_overview(store)
    sheet = cv2.imread(str(store.path / "overview.png"))[..., ::-1]
    assert sheet.shape == (2 * 48 + 2 * GAP_PX, 3 * (96 + GAP_PX) + 4 * GAP_PX, 3)
    render, refined = sheet[:48, :48].astype(int), sheet[:48, 48 + GAP_PX :][:, :48].astype(int)
    np.testing.assert_array_equal(render, (255 * store.rendered_view("000").image).round().int())
    assert np.abs(render / 2 - refined).max() <= 1
    assert not list(store.path.glob(".overview*"))


def test_cameras_have_the_pose_that_nerfstudio_gives_its_own(tmp_path):
    camera = make_refined_episode(tmp_path).view_camera("001")
    wxyz, position = viewer_pose(camera, NORMALIZED)
    nerfstudio_pose = nerfstudio_camera(camera, NORMALIZED, 0).camera_to_worlds[0].double().numpy()
    # as Viewer.init_scene
    expected = vtf.SO3.from_matrix(nerfstudio_pose[:3, :3]) @ vtf.SO3.from_x_radians(np.pi)
    np.testing.assert_allclose(vtf.SO3(wxyz).as_matrix(), expected.as_matrix(), atol=1e-6)
    np.testing.assert_allclose(position, nerfstudio_pose[:3, 3] * VISER_NERFSTUDIO_SCALE_RATIO, atol=1e-5)


def test_summary_describes_the_episode(tmp_path):
    store = make_refined_episode(tmp_path)
    expected = "**Episode 1**: elevation 60°, distance 120 m, 4 views, refined by bilateral."
    assert episode_summary(store) == expected
    store.set_refiner({"name": "flowedit"}, True)
    store.record_consistency({"raw": {"psnr": 20.04}, "refined": {"psnr": 22.26}})
    assert "flowedit, generative: may show content that no image shows." in episode_summary(store)
    assert episode_summary(store).endswith("neighboring views: 20.0 dB (renders), 22.3 dB (refined images).")
    store.record_consistency({"raw": {"psnr": None}, "refined": {"psnr": None}})
    assert "neighboring" not in episode_summary(store)


class StubPipeline(nn.Module):
    """The parts of a pipeline that Nerfstudio's viewer uses."""

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(1, 1)
        self.datamanager = SimpleNamespace(includes_time=False)


@pytest.fixture
def trainer(tmp_path):
    """A trainer with Nerfstudio's viewer on a free port of this machine."""
    config = ViewerConfig(websocket_host="127.0.0.1", websocket_port_default=7107)
    lock = threading.Lock()
    viewer = Viewer(config, tmp_path / "log/viewer.log", Path(tmp_path), StubPipeline(), train_lock=lock)
    yield SimpleNamespace(viewer_state=viewer)
    viewer.viser_server.stop()


def shown_nodes(trainer):
    """Names of the episode's scene nodes that clients show, in order."""
    names = []
    buffer = trainer.viewer_state.viser_server._websock_server._broadcast_buffer
    for _, message in sorted(buffer.message_from_id.items()):
        if type(message).__name__ == "CameraFrustumMessage":
            names.append(message.name)
        if type(message).__name__ == "RemoveSceneNodeMessage" and message.name in names:
            names.remove(message.name)
    return [name for name in names if name.startswith(SCENE_NODE)]


def decode_pair(markdown):
    """Render and refined image of a text of the panel."""
    data = base64.b64decode(markdown.split("base64,")[1].split(")")[0])
    pair = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)
    width = (pair.shape[1] - GAP_PX) // 2
    return np.array([pair[:, :width], pair[:, -width:]])


def wait_until(condition):
    """Callbacks of the viewer run in threads."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def test_viewer_shows_an_episode_until_the_next_one(tmp_path, trainer):
    store = make_refined_episode(tmp_path / "idu")
    panel = show_episode(trainer, store, NORMALIZED)
    assert panel is not None and (store.path / "overview.png").exists()
    assert shown_nodes(trainer) == [f"{SCENE_NODE}/{name}" for name in store.view_names]
    frustum = panel.frustums[2]
    np.testing.assert_allclose(frustum.position, viewer_pose(store.view_camera("002"), NORMALIZED)[1])
    assert np.abs(decode_pair(panel.image_pair.content) - read_image_pair(store, "000")).mean() < 6  # JPEG
    (select_view,) = frustum._impl.click_cb
    select_view(None)
    assert panel.view_slider.value == 2
    wait_until(lambda: "View 002, elevation 60°" in panel.image_pair.content)
    assert np.abs(decode_pair(panel.image_pair.content) - read_image_pair(store, "002")).mean() < 6
    store.image_path("refined", "003").unlink()
    panel.view_slider.value = 3
    wait_until(lambda: "003.png is missing" in panel.image_pair.content)

    assert all(frustum.visible for frustum in panel.frustums.values())
    panel.show_cameras.value = False
    wait_until(lambda: not any(frustum.visible for frustum in panel.frustums.values()))
    following = show_episode(trainer, make_refined_episode(tmp_path / "idu", 2, azimuths=2), NORMALIZED, panel)
    assert shown_nodes(trainer) == [f"{SCENE_NODE}/000", f"{SCENE_NODE}/001"]
    assert not any(frustum.visible for frustum in following.frustums.values())
    following.remove_from_viewer()
    assert shown_nodes(trainer) == []
    root = trainer.viewer_state.viser_server.gui._container_handle_from_id["root"]
    assert not any(type(handle).__name__ == "GuiFolderHandle" for handle in root._children.values())


def test_number_of_frustums_is_limited(tmp_path, trainer):
    one_view = make_refined_episode(tmp_path / "a", azimuths=1)
    assert len(show_episode(trainer, one_view, NORMALIZED).frustums) == 1
    trainer.viewer_state.config.max_num_display_images = 2
    assert list(show_episode(trainer, make_refined_episode(tmp_path / "b"), NORMALIZED).frustums) == [0, 3]


def test_status_shows_step_and_phase(tmp_path, trainer):
    """Nerfstudio updates the viewer after a step only, and a step with an episode may take hours."""
    episode, gui = make_refined_episode(tmp_path).episode, trainer.viewer_state.viser_server.gui
    status = EpisodeStatus(trainer, 700)
    assert trainer.viewer_state.stats_markdown.content.startswith("Step: 700")
    status.show_phase(episode, "rendered")
    children = gui._container_handle_from_id["root"]._children
    texts = [getattr(handle, "content", "") for handle in children.values()]
    assert sum("**Episode 1** is being rendered" in text for text in texts) == 1
    status.remove_from_viewer()
    assert not any("being" in getattr(handle, "content", "") for handle in children.values())
    without_viewer = EpisodeStatus(SimpleNamespace(viewer_state=None), 700)
    without_viewer.show_phase(episode, "rendered"), without_viewer.remove_from_viewer()


def test_overview_is_written_without_a_viewer(tmp_path):
    store = make_refined_episode(tmp_path)
    assert show_episode(SimpleNamespace(viewer_state=None), store, NORMALIZED) is None
    assert (store.path / "overview.png").exists()
