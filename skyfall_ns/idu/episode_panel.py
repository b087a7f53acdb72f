"""The current episode in the viewer: status, cameras, and the render of a view beside its refined image."""

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
from skyfall_ns.idu.episode_overview import (
    place_side_by_side,
    read_image_pair,
    select_evenly,
    shrink_image,
    write_overview,
)
from skyfall_ns.idu.episode_store import EpisodeStore
from skyfall_ns.scene.model_space import NormalizedScene

SCENE_NODE = "/episode"
PANEL_TITLE = "Stage 2"
THUMBNAIL_PX, IMAGE_PX = 100, 384  # of an image on a frustum (as Nerfstudio's), and of one in the panel
FRUSTUM_SCALE = 0.025  # size of a frustum relative to the distance from the camera to its look-at point
JPEG_OPTIONS = [
    cv2.IMWRITE_JPEG_QUALITY,
    95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]
ORANGE = (255, 140, 0)  # Nerfstudio's cameras are black


def show_episode(
    trainer: Trainer, store: EpisodeStore, normalized: NormalizedScene, previous: "EpisodePanel | None" = None
) -> "EpisodePanel | None":
    """Write overview.png, and replace the previous episode in the trainer's viewer; None if there is no viewer."""
    write_overview(store)
    if not isinstance(trainer.viewer_state, Viewer):
        return None
    cameras_visible = True
    if previous is not None:
        cameras_visible = previous.show_cameras.value
        previous.remove_from_viewer()
    return EpisodePanel(trainer.viewer_state, store, normalized, cameras_visible)


class EpisodeStatus:
    """The phase of an episode while the view is not updated, above the control panel until `remove_from_viewer`."""

    def __init__(self, trainer: Trainer, step: int) -> None:
        self._text = None
        if isinstance(trainer.viewer_state, Viewer):
            viewer = trainer.viewer_state
            viewer.update_step(step)  # Nerfstudio updates it after the step only
            self._text = viewer.viser_server.gui.add_markdown("", order=viewer.stats_markdown.order + 0.25)

    def show_phase(self, episode: Episode, phase: str) -> None:
        """Show that an episode is being rendered, refined or compared (`phase`)."""
        if self._text is not None:
            self._text.content = (
                f"**Episode {episode.number}** is being {phase}. The view is not updated in the meantime."
            )

    def remove_from_viewer(self) -> None:
        """Remove the text."""
        if self._text is not None:
            self._text.remove()


class EpisodePanel:
    """Frustums under /episode and the panel "Stage 2", until `remove_from_viewer`."""

    def __init__(
        self, viewer: Viewer, store: EpisodeStore, normalized: NormalizedScene, cameras_visible: bool = True
    ) -> None:
        """Raises TrainingError if an image is missing or damaged."""
        self._store, self._normalized = store, normalized
        self._server = viewer.viser_server
        self._controls = self._server.gui.add_folder(PANEL_TITLE, order=viewer.stats_markdown.order + 0.5)
        last = len(store.view_names) - 1
        with self._controls:
            self._server.gui.add_markdown(episode_summary(store))
            self.show_cameras = self._server.gui.add_checkbox("Show cameras", cameras_visible)
            self.view_slider = self._server.gui.add_slider("View", 0, last, 1, 0, hint="Or click a frustum")
            self.image_pair = self._server.gui.add_markdown(self._describe_view(0), image_root=store.path)
        self.view_slider.on_update(lambda _: self._update_images())
        self.show_cameras.on_update(lambda _: self._update_cameras())
        indices, max_count = list(range(last + 1)), viewer.config.max_num_display_images
        shown = indices if max_count < 0 else select_evenly(indices, max_count)
        self.frustums = {index: self._add_frustum(index) for index in shown}

    def remove_from_viewer(self) -> None:
        """Remove frustums and panel."""
        for frustum in self.frustums.values():
            frustum.remove()
        self._controls.remove()

    def _add_frustum(self, index: int) -> Any:
        name = self._store.view_names[index]
        camera = self._store.view_camera(name)
        wxyz, position = viewer_pose(camera, self._normalized)
        episode = self._store.episode
        frustum = self._server.scene.add_camera_frustum(
            f"{SCENE_NODE}/{name}",
            fov=float(np.radians(episode.fov_deg)),
            aspect=camera.size[0] / camera.size[1],
            scale=FRUSTUM_SCALE * episode.radius_m * self._normalized.scale * VISER_NERFSTUDIO_SCALE_RATIO,
            color=ORANGE,
            image=shrink_image(read_image_pair(self._store, name)[1], THUMBNAIL_PX),
            wxyz=wxyz,
            position=position,
            visible=self.show_cameras.value,
        )

        @frustum.on_click
        def select_view(_: Any) -> None:
            self.view_slider.value = index

        return frustum

    def _update_images(self) -> None:
        self.image_pair.content = self._describe_view(int(self.view_slider.value))

    def _update_cameras(self) -> None:
        with self._server.atomic():
            for frustum in self.frustums.values():
                frustum.visible = self.show_cameras.value

    def _describe_view(self, index: int) -> str:
        """Markdown with the direction of a view, and its render beside its refined image."""
        pose = self._store.spec.poses[index]
        try:
            images = image_data_url(place_side_by_side(*read_image_pair(self._store, pose.name), IMAGE_PX))
        except TrainingError as error:  # files can be deleted during training
            return str(error)
        direction = f"elevation {pose.elevation_deg:.0f}°, azimuth {pose.azimuth_deg:.0f}°"
        return f"View {pose.name}, {direction}. Left: render. Right: refined image.\n\n![render and refined]({images})"


def episode_summary(store: EpisodeStore) -> str:
    """Markdown that describes an episode: cameras, refiner and consistency."""
    episode, manifest = store.episode, store.manifest
    refiner = "not refined" if manifest.refiner is None else f"refined by {manifest.refiner['name']}"
    warning = ", generative: may show content that no image shows" if manifest.generative else ""
    lines = [
        f"**Episode {episode.number}**: elevation {episode.elevation_deg:g}°, distance {episode.radius_m:.0f} m, "
        f"{len(store.view_names)} views, {refiner}{warning}."
    ]
    raw, refined = (manifest.consistency.get(key, {}).get("psnr") for key in ("raw", "refined"))
    if raw is not None and refined is not None:
        lines.append(f"Consistency of neighboring views: {raw:.1f} dB (renders), {refined:.1f} dB (refined images).")
    return "\n\n".join(lines)


def viewer_pose(
    camera: PinholeCamera, normalized: NormalizedScene
) -> tuple[Float64[ndarray, "4"], Float64[ndarray, "3"]]:
    """(wxyz, position) of a local pinhole camera in the viewer: OpenCV axes; lengths are those of model space times
    `VISER_NERFSTUDIO_SCALE_RATIO`."""
    local_from_camera = np.linalg.inv(camera.camera_from_local)
    position = (local_from_camera[:3, 3] - np.asarray(normalized.center_m)) * normalized.scale
    return vtf.SO3.from_matrix(local_from_camera[:3, :3]).wxyz, position * VISER_NERFSTUDIO_SCALE_RATIO


def image_data_url(image: UInt8[ndarray, "h w 3"]) -> str:
    """Data URL of an image, as JPEG."""
    encoded, data = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), JPEG_OPTIONS)
    assert encoded
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
