"""An episode in the viewer and on its sheet: where cameras stand, which pictures are shown, what is gone afterwards."""

import base64
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import viser.transforms as vtf
from helpers.plates import fill
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from torch import nn

from skyfall_ns.idu.curriculum import Curriculum, poses
from skyfall_ns.idu.episode_overview import GAP_PX, evenly, pictures, sheet, side_by_side, write_overview
from skyfall_ns.idu.episode_panel import NODES, EpisodeNote, pose_in_viewer, show_episode, told
from skyfall_ns.idu.episode_store import EpisodeFolder
from skyfall_ns.idu.synthetic_views import host_camera

BOX = np.array([[-30.0, -30.0, 0.0], [30.0, 30.0, 12.0]])
ON_MODEL = SimpleNamespace(centre_m=(10.0, -20.0, 3.0), scale=0.01)


def refined_episode(idu, number=1, azimuths=4):
    """Refined images are the renders, darker."""
    curriculum = Curriculum(elevations_deg=(60.0, 45.0), radii_m=(120.0,), grid=1, azimuths=azimuths, size_px=48)
    shot = curriculum.episodes(BOX)[number - 1]
    views = poses(curriculum, shot, BOX, lambda x, y: 0.0, lambda eye, target: True)
    folder = fill(EpisodeFolder.begin(idu, shot, views, 48, {"run": 1}, 300.0))
    folder.begin_refining({"name": "smooth"}, False)
    for name in folder.names:
        folder.write_refined(name, folder.view(name).image / 2)
    return folder


def plain(value, height=8, width=8):
    return np.full((height, width, 3), value, np.uint8)


def test_pairs_stand_side_by_side():
    both = side_by_side(plain(10), plain(200), 8)
    assert both.shape == (8, 16 + GAP_PX, 3)
    assert (both[:, :8] == 10).all() and (both[:, 8:-8] == 255).all() and (both[:, -8:] == 200).all()
    assert side_by_side(plain(10, 40, 20), plain(200, 40, 20), 8).shape == (8, 8 + GAP_PX, 3)
    assert side_by_side(plain(10), plain(200), 100).shape == both.shape  # nothing is blown up


def test_sheets_have_rows():
    whole = sheet([plain(v) for v in (1, 2, 3, 4)], 3)
    step = 8 + 2 * GAP_PX
    assert whole.shape == (step + 8, 2 * step + 8, 3)
    assert [int(whole[0, step * i, 0]) for i in range(3)] == [1, 2, 3]
    assert whole[step, 0, 0] == 4 and (whole[step:, 8:] == 255).all()
    assert sheet([plain(1)], 3).shape == (8, 8, 3)


def test_a_dozen_is_chosen_evenly():
    assert evenly("abc", 12) == ["a", "b", "c"]
    assert evenly(range(109), 3) == [0, 54, 108]
    assert len(set(evenly(range(100), 12))) == 12


def test_the_overview_shows_renders_and_refined_images(tmp_path):
    folder = refined_episode(tmp_path)
    write_overview(folder)
    whole = cv2.imread(str(folder.path / "overview.png"))[..., ::-1]
    assert whole.shape == (2 * 48 + 2 * GAP_PX, 3 * (96 + GAP_PX) + 4 * GAP_PX, 3)
    render, refined = whole[:48, :48].astype(int), whole[:48, 48 + GAP_PX :][:, :48].astype(int)
    np.testing.assert_array_equal(render, (255 * folder.view("000").image).round().int())
    assert np.abs(render / 2 - refined).max() <= 1
    assert not list(folder.path.glob(".overview*"))


def test_cameras_stand_in_the_viewer_as_the_host_puts_its_own(tmp_path):
    camera = refined_episode(tmp_path).camera("001")
    wxyz, position = pose_in_viewer(camera, ON_MODEL)
    host = host_camera(camera, ON_MODEL, 0).camera_to_worlds[0].double().numpy()
    theirs = vtf.SO3.from_matrix(host[:3, :3]) @ vtf.SO3.from_x_radians(np.pi)  # as Viewer.init_scene
    np.testing.assert_allclose(vtf.SO3(wxyz).as_matrix(), theirs.as_matrix(), atol=1e-6)
    np.testing.assert_allclose(position, host[:3, 3] * VISER_NERFSTUDIO_SCALE_RATIO, atol=1e-5)


def test_the_episode_is_told(tmp_path):
    folder = refined_episode(tmp_path)
    assert told(folder) == "**Episode 1**: 60° high, 120 m away, 4 views, refined by smooth."
    folder.begin_refining({"name": "flowedit"}, True)
    folder.record_consistency({"raw": {"psnr": 20.04}, "refined": {"psnr": 22.26}})
    assert "flowedit, generative: can show what no image shows." in told(folder)
    assert told(folder).endswith("agree to 20.0 dB as rendered, 22.3 dB as refined.")
    folder.record_consistency({"raw": {"psnr": None}, "refined": {"psnr": None}})
    assert "agree" not in told(folder)


class Pipeline(nn.Module):
    """What the host's viewer looks at."""

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(1, 1)
        self.datamanager = SimpleNamespace(includes_time=False)


@pytest.fixture
def trainer(tmp_path):
    """With the host's viewer on a free port of this machine."""
    config = ViewerConfig(websocket_host="127.0.0.1", websocket_port_default=7107)
    lock = threading.Lock()
    viewer = Viewer(config, tmp_path / "log/viewer.log", Path(tmp_path), Pipeline(), train_lock=lock)
    yield SimpleNamespace(viewer_state=viewer)
    viewer.viser_server.stop()


def nodes(trainer):
    """Names of the scene's nodes that clients are shown, in order."""
    shown = []
    buffer = trainer.viewer_state.viser_server._websock_server._broadcast_buffer
    for _, message in sorted(buffer.message_from_id.items()):
        if type(message).__name__ == "CameraFrustumMessage":
            shown.append(message.name)
        if type(message).__name__ == "RemoveSceneNodeMessage" and message.name in shown:
            shown.remove(message.name)
    return [name for name in shown if name.startswith(NODES)]


def shown(markdown):
    """Render and refined image, which stand side by side."""
    data = base64.b64decode(markdown.split("base64,")[1].split(")")[0])
    pair = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)
    width = (pair.shape[1] - GAP_PX) // 2
    return np.array([pair[:, :width], pair[:, -width:]])


def eventually(holds):
    """Callbacks run in threads."""
    end = time.monotonic() + 10
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    assert holds()


def test_the_viewer_shows_an_episode_until_the_next(tmp_path, trainer):
    folder = refined_episode(tmp_path / "idu")
    panel = show_episode(trainer, folder, ON_MODEL)
    assert panel is not None and (folder.path / "overview.png").exists()
    assert nodes(trainer) == [f"{NODES}/{name}" for name in folder.names]
    frustum = panel.frusta[2]
    np.testing.assert_allclose(frustum.position, pose_in_viewer(folder.camera("002"), ON_MODEL)[1])
    assert np.abs(shown(panel.pair.content) - pictures(folder, "000")).mean() < 6  # JPEG
    (chosen,) = frustum._impl.click_cb
    chosen(None)
    assert panel.view.value == 2
    eventually(lambda: "View 002, 60° high" in panel.pair.content)
    assert np.abs(shown(panel.pair.content) - pictures(folder, "002")).mean() < 6
    folder.file("refined", "003").unlink()
    panel.view.value = 3
    eventually(lambda: "003.png is missing" in panel.pair.content)

    assert all(frustum.visible for frustum in panel.frusta.values())
    panel.cameras.value = False
    eventually(lambda: not any(frustum.visible for frustum in panel.frusta.values()))
    after = show_episode(trainer, refined_episode(tmp_path / "idu", 2, azimuths=2), ON_MODEL, panel)
    assert nodes(trainer) == [f"{NODES}/000", f"{NODES}/001"]
    assert not any(frustum.visible for frustum in after.frusta.values())
    after.remove()
    assert nodes(trainer) == []
    root = trainer.viewer_state.viser_server.gui._container_handle_from_id["root"]
    assert not any(type(handle).__name__ == "GuiFolderHandle" for handle in root._children.values())


def test_one_view_is_enough_and_many_are_thinned(tmp_path, trainer):
    assert len(show_episode(trainer, refined_episode(tmp_path / "a", azimuths=1), ON_MODEL).frusta) == 1
    trainer.viewer_state.config.max_num_display_images = 2
    assert list(show_episode(trainer, refined_episode(tmp_path / "b"), ON_MODEL).frusta) == [0, 3]


def test_what_is_being_done_is_told(tmp_path, trainer):
    """The host shows neither the step nor anything else before a step is over, and this one may take hours."""
    episode, gui = refined_episode(tmp_path).episode, trainer.viewer_state.viser_server.gui
    note = EpisodeNote(trainer, 700)
    assert trainer.viewer_state.stats_markdown.content.startswith("Step: 700")
    note.tell(episode, "rendered")
    children = gui._container_handle_from_id["root"]._children
    told_now = [h.content for h in children.values() if "**Episode 1** is being rendered" in getattr(h, "content", "")]
    assert len(told_now) == 1
    note.remove()
    assert not any("being" in getattr(handle, "content", "") for handle in children.values())
    silent = EpisodeNote(SimpleNamespace(viewer_state=None), 700)
    silent.tell(episode, "rendered"), silent.remove()


def test_without_a_viewer_there_is_the_sheet(tmp_path):
    folder = refined_episode(tmp_path)
    assert show_episode(SimpleNamespace(viewer_state=None), folder, ON_MODEL) is None
    assert (folder.path / "overview.png").exists()
