"""An episode in the viewer: what is being done, its cameras, and the render of a view beside its refined image."""

import base64
from typing import Any

import cv2
import numpy as np
import viser.transforms as vtf
from jaxtyping import Float64, UInt8
from nerfstudio.engine.trainer import Trainer
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from numpy import ndarray

from skyfall_ns.errors import TrainingError
from skyfall_ns.geo.cameras import PinholeCamera
from skyfall_ns.idu.curriculum import Episode
from skyfall_ns.idu.episode_overview import evenly, pictures, side_by_side, sized, write_overview
from skyfall_ns.idu.episode_store import EpisodeFolder
from skyfall_ns.scene.model_space import SceneOnModel

NODES = "/episode"
FOLDER = "Stage 2"
THUMBNAIL_PX, PICTURE_PX = 100, 384  # of a picture on a frustum (as the host's), and of one in the panel
FRUSTUM = 0.025  # size of a frustum over the camera's distance to what it looks at
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
ORANGE = (255, 140, 0)  # the host's cameras are black


def show_episode(
    trainer: Trainer, folder: EpisodeFolder, on_model: SceneOnModel, before: "EpisodePanel | None" = None
) -> "EpisodePanel | None":
    """Write overview.png, and put the episode into the trainer's viewer in the place of the one before; None where
    there is no viewer."""
    write_overview(folder)
    if not isinstance(trainer.viewer_state, Viewer):
        return None
    shown = True
    if before is not None:
        shown = before.cameras.value
        before.remove()
    return EpisodePanel(trainer.viewer_state, folder, on_model, shown)


class EpisodeNote:
    """What is being done for an episode while the picture stands still, told above the control panel until `remove`."""

    def __init__(self, trainer: Trainer, step: int) -> None:
        self._text = None
        if isinstance(trainer.viewer_state, Viewer):
            viewer = trainer.viewer_state
            viewer.update_step(step)  # the host does not before the step is done
            self._text = viewer.viser_server.gui.add_markdown("", order=viewer.stats_markdown.order + 0.25)

    def tell(self, episode: Episode, doing: str) -> None:
        """Say what comes next."""
        if self._text is not None:
            self._text.content = f"**Episode {episode.number}** is being {doing}. The picture stands still meanwhile."

    def remove(self) -> None:
        """Take it out of the viewer."""
        if self._text is not None:
            self._text.remove()


class EpisodePanel:
    """Frusta under /episode and the folder "Stage 2" of the control panel, until `remove`."""

    def __init__(self, viewer: Viewer, folder: EpisodeFolder, on_model: SceneOnModel, shown: bool = True) -> None:
        """`shown`: whether cameras are, to begin with. TrainingError if a picture is missing or damaged."""
        self._folder, self._on_model = folder, on_model
        self._server = viewer.viser_server
        self._controls = self._server.gui.add_folder(FOLDER, order=viewer.stats_markdown.order + 0.5)
        with self._controls:
            self._server.gui.add_markdown(told(folder))
            self.cameras = self._server.gui.add_checkbox("Show cameras", shown)
            self.view = self._server.gui.add_slider("View", 0, len(folder.names) - 1, 1, 0, hint="Or click a frustum")
            self.pair = self._server.gui.add_markdown(self._shown(0), image_root=folder.path)
        self.view.on_update(lambda _: self._show())
        self.cameras.on_update(lambda _: self._show_cameras())
        numbers, most = list(range(len(folder.names))), viewer.config.max_num_display_images
        self.frusta = {n: self._frustum(n) for n in (numbers if most < 0 else evenly(numbers, most))}

    def remove(self) -> None:
        """Take it all out of the viewer."""
        for frustum in self.frusta.values():
            frustum.remove()
        self._controls.remove()

    def _frustum(self, number: int) -> Any:
        name = self._folder.names[number]
        camera = self._folder.camera(name)
        wxyz, position = pose_in_viewer(camera, self._on_model)
        episode = self._folder.episode
        frustum = self._server.scene.add_camera_frustum(
            f"{NODES}/{name}",
            fov=float(np.radians(episode.fov_deg)),
            aspect=camera.size[0] / camera.size[1],
            scale=FRUSTUM * episode.radius_m * self._on_model.scale * VISER_NERFSTUDIO_SCALE_RATIO,
            color=ORANGE,
            image=sized(pictures(self._folder, name)[1], THUMBNAIL_PX),
            wxyz=wxyz,
            position=position,
            visible=self.cameras.value,
        )

        @frustum.on_click
        def choose(_: Any) -> None:
            self.view.value = number

        return frustum

    def _show(self) -> None:
        self.pair.content = self._shown(int(self.view.value))

    def _show_cameras(self) -> None:
        with self._server.atomic():
            for frustum in self.frusta.values():
                frustum.visible = self.cameras.value

    def _shown(self, number: int) -> str:
        pose = self._folder.shots.poses[number]
        try:
            pair = data_url(side_by_side(*pictures(self._folder, pose.name), PICTURE_PX))
        except TrainingError as error:  # files can go while training stays
            return str(error)
        seen = f"{pose.elevation_deg:.0f}° high, from azimuth {pose.azimuth_deg:.0f}°"
        return f"View {pose.name}, {seen}. Left as rendered, right as refined:\n\n![render and refined]({pair})"


def told(folder: EpisodeFolder) -> str:
    """What the episode is, in words."""
    episode, manifest = folder.episode, folder.manifest
    name = "nobody" if manifest.refiner is None else manifest.refiner["name"]
    kind = ", generative: can show what no image shows" if manifest.generative else ""
    lines = [
        f"**Episode {episode.number}**: {episode.elevation_deg:g}° high, {episode.radius_m:.0f} m away, "
        f"{len(folder.names)} views, refined by {name}{kind}."
    ]
    raw, refined = (manifest.consistency.get(key, {}).get("psnr") for key in ("raw", "refined"))
    if raw is not None and refined is not None:
        lines.append(f"Neighbouring views agree to {raw:.1f} dB as rendered, {refined:.1f} dB as refined.")
    return "\n\n".join(lines)


def pose_in_viewer(
    camera: PinholeCamera, on_model: SceneOnModel
) -> tuple[Float64[ndarray, "4"], Float64[ndarray, "3"]]:
    """(wxyz, position) of a local pinhole: the viewer's cameras have OpenCV's axes as ours, its lengths are
    `VISER_NERFSTUDIO_SCALE_RATIO` times those of model space."""
    local_from_camera = np.linalg.inv(camera.camera_from_local)
    model = (local_from_camera[:3, 3] - np.asarray(on_model.centre_m)) * on_model.scale
    return vtf.SO3.from_matrix(local_from_camera[:3, :3]).wxyz, model * VISER_NERFSTUDIO_SCALE_RATIO


def data_url(picture: UInt8[ndarray, "h w 3"]) -> str:
    """A picture that a page holds in itself, as JPEG."""
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), JPEG)
    assert done
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
