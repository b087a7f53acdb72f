"""The render phase of an episode: its views, and training pairs of the refiner `denoiser`."""

import sys

import numpy as np
import torch
from tqdm import tqdm

from skyfall_ns.dataparsers.camera_metadata import training_index, view_from_camera
from skyfall_ns.dataparsers.skyfall_datamanager import SkyfallDatamanager
from skyfall_ns.geo.cameras import PinholeCamera
from skyfall_ns.idu.camera_placement import Obstacle
from skyfall_ns.idu.curriculum import Episode, Point, Pose, pose_camera
from skyfall_ns.idu.episode_store import EpisodeStore
from skyfall_ns.idu.noise2noise_pairs import noise2noise_pair
from skyfall_ns.models.renderer import Renderer, opaque_color
from skyfall_ns.priors.pseudo_ground import PseudoGround
from skyfall_ns.refiners.denoiser_pairs import SATELLITE_PREFIX, ImagePair, write_pair
from skyfall_ns.view import View, view_from_pinhole

OBSTRUCTION_TEST_PX = 48  # size of the depth image that is tested for obstructions
NEAR_DISTANCE_FRACTION = 0.35  # pixels nearer than this part of the distance to the look-at point are obstructions
MAX_NEAR_FRACTION = 0.2  # fraction of such pixels from which a view is obstructed
COLOR_SHARE_RANGE = (0.4, 0.6)  # fraction of the Gaussians whose colors make the first image of a training pair


def local_view(renderer: Renderer, camera: PinholeCamera) -> View:
    """View of a local pinhole camera in model space."""
    return view_from_pinhole(camera, np.array(renderer.normalized.center_m), renderer.normalized.scale)


@torch.no_grad()
def find_obstacle(
    renderer: Renderer, ground: PseudoGround, episode: Episode, eye: Point, target: Point
) -> Obstacle | None:
    """Why a camera cannot stand at `eye`: it is too close to the surface, or something close to it hides the view."""
    if not ground.is_free_position(eye):
        return "close to or below the surface"
    pose = Pose("", eye, target, episode.elevation_deg, 0.0, 0, 0, 0, 0)
    rendering = renderer.render_depth(local_view(renderer, pose_camera(pose, episode.fov_deg, OBSTRUCTION_TEST_PX)))
    near = NEAR_DISTANCE_FRACTION * float(np.linalg.norm(np.subtract(eye, target))) * renderer.normalized.scale
    is_near = (rendering.alpha > 0.5) & (rendering.depth < near)
    return "obstructed" if float(is_near.float().mean()) >= MAX_NEAR_FRACTION else None


@torch.no_grad()
def render_views(renderer: Renderer, store: EpisodeStore, image: int) -> None:
    """Render the views that are missing, with the appearance of training image `image`."""
    missing = store.missing_renders()
    for name in tqdm(missing, desc="Rendering", unit="view", leave=False, file=sys.stderr, disable=None):
        rendering = renderer.render(local_view(renderer, store.view_camera(name)), image)
        depth_m = rendering.depth / renderer.normalized.scale
        store.write_render(name, opaque_color(rendering), rendering.alpha, depth_m)


def render_training_pairs(
    renderer: Renderer, datamanager: SkyfallDatamanager, store: EpisodeStore, image: int, view_count: int
) -> None:
    """Render training pairs of `view_count` views of the episode, at even intervals, and of every satellite image;
    existing pairs are kept."""
    directory, names = store.path / "pairs", store.view_names
    count = min(view_count, len(names))
    chosen = [names[index * len(names) // count] for index in range(count)]
    satellites = list(range(len(datamanager.cached_train)))
    bar = tqdm(total=len(chosen) + len(satellites), desc="Rendering pairs", unit="pair", leave=False, file=sys.stderr,
               disable=None)  # fmt: skip
    for name in chosen:
        if not (directory / f"view_{name}_first.png").exists():
            write_pair(directory, f"view_{name}", _view_pair(renderer, store, name, image))
        bar.update()
    for index in satellites:
        name = f"{SATELLITE_PREFIX}{index:03d}"
        if not (directory / f"{name}_first.png").exists():
            write_pair(directory, name, _satellite_pair(renderer, datamanager, index, store.episode.number))
        bar.update()
    bar.close()


def _view_pair(renderer: Renderer, store: EpisodeStore, name: str, image: int) -> ImagePair:
    """Training pair of a view; its random numbers come from the view's seed, whichever other views are chosen."""
    generator = torch.Generator().manual_seed(store.manifest.views[name].seed)
    low, high = COLOR_SHARE_RANGE
    share = low + (high - low) * float(torch.rand((), generator=generator))
    return noise2noise_pair(renderer, local_view(renderer, store.view_camera(name)), image, share, generator)


def _satellite_pair(renderer: Renderer, datamanager: SkyfallDatamanager, index: int, seed: int) -> ImagePair:
    """Training pair whose second image is a satellite image."""
    camera, batch = datamanager.train_cameras[index : index + 1], datamanager.cached_train[index]
    image = training_index(camera)
    assert image is not None
    generator = torch.Generator().manual_seed(1000 * seed + index)
    pair = noise2noise_pair(renderer, view_from_camera(camera), image, COLOR_SHARE_RANGE[1], generator)
    return ImagePair(pair.first, batch["image"].cpu(), pair.weight * batch["mask"][..., 0].cpu(), True)
