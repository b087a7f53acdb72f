"""The render phase of an episode: its views, and the pairs that the refiner `scene` learns from."""

import sys

import numpy as np
import torch
from tqdm import tqdm

from skyfall_ns.dataparsers.camera_metadata import image_of
from skyfall_ns.dataparsers.skyfall_datamanager import SkyfallDatamanager
from skyfall_ns.geo.cameras import PinholeCamera
from skyfall_ns.idu.curriculum import Episode, Point, Pose, camera_of
from skyfall_ns.idu.episode_store import EpisodeFolder
from skyfall_ns.idu.noise2noise_pairs import thinned_pair
from skyfall_ns.models.appearance.lighting import THINNEST
from skyfall_ns.models.geometry.view import View, model_view, view_of
from skyfall_ns.models.skyfall import SkyfallModel
from skyfall_ns.priors.pseudo_cameras import PseudoPose
from skyfall_ns.priors.pseudo_ground import PseudoGround
from skyfall_ns.refiners.denoiser_pairs import SATELLITE, Pair, write_pair

SIGHT_PX = 48  # size of the picture in which it is seen what stands before a camera
NEAR_SHARE, NEAR_PART = 0.35, 0.2  # a fifth of a picture nearer than a third of the way to the target hides it
SHARES = (0.4, 0.6)  # of the splats' colours in the first picture of a pair: what is left draws the other as well


def local_view(model: SkyfallModel, camera: PinholeCamera) -> View:
    """A local pinhole in model space."""
    return model_view(camera, np.array(model.on_model.centre_m), model.on_model.scale)


@torch.no_grad()
def stands_free(model: SkyfallModel, ground: PseudoGround, episode: Episode, eye: Point, target: Point) -> bool:
    """Whether a camera stands above the surface and sees past what is near it."""
    if not ground.admits(PseudoPose(eye, target, 0)):
        return False
    pose = Pose("", eye, target, episode.elevation_deg, 0.0, 0, 0, 0, 0)
    drawn = model.render_depth(local_view(model, camera_of(pose, episode.fov_deg, SIGHT_PX)))
    near = NEAR_SHARE * float(np.linalg.norm(np.subtract(eye, target))) * model.on_model.scale
    return float(((drawn.alpha > 0.5) & (drawn.depth < near)).float().mean()) < NEAR_PART


@torch.no_grad()
def render_views(model: SkyfallModel, folder: EpisodeFolder, image: int) -> None:
    """Render what is missing, in the look of a training image."""
    missing = folder.missing_renders()
    for name in tqdm(missing, desc="Rendering", unit="view", leave=False, file=sys.stderr, disable=None):
        drawn = model.render(local_view(model, folder.camera(name)), image)
        color = (drawn.color / drawn.alpha[..., None].clamp_min(THINNEST)).clamp(0, 1)
        folder.write_render(name, color, drawn.alpha, drawn.depth / model.on_model.scale)


def draw_pairs(model: SkyfallModel, data: SkyfallDatamanager, folder: EpisodeFolder, image: int, views: int) -> None:
    """Pairs of `views` of the episode's views, evenly chosen, and of every satellite image; those that are there
    stay."""
    into = folder.path / "pairs"
    count = min(views, len(folder.names))
    chosen = [folder.names[number * len(folder.names) // count] for number in range(count)]
    satellites = list(range(len(data.cached_train)))
    bar = tqdm(total=len(chosen) + len(satellites), desc="Drawing pairs", unit="pair", leave=False, file=sys.stderr,
               disable=None)  # fmt: skip
    for name in chosen:
        if not (into / f"view_{name}_first.png").exists():
            write_pair(into, f"view_{name}", _view_pair(model, folder, name, image))
        bar.update()
    for index in satellites:
        name = f"{SATELLITE}{index:03d}"
        if not (into / f"{name}_first.png").exists():
            write_pair(into, name, _satellite_pair(model, data, index, folder.episode.number))
        bar.update()
    bar.close()


def _view_pair(model: SkyfallModel, folder: EpisodeFolder, name: str, image: int) -> Pair:
    """Drawn by the view's own seed: the same whichever other views are chosen."""
    generator = torch.Generator().manual_seed(folder.manifest.views[name].seed)
    share = SHARES[0] + (SHARES[1] - SHARES[0]) * float(torch.rand((), generator=generator))
    return thinned_pair(model, local_view(model, folder.camera(name)), image, share, generator)


def _satellite_pair(model: SkyfallModel, data: SkyfallDatamanager, index: int, seed: int) -> Pair:
    camera, batch = data.train_cameras[index : index + 1], data.cached_train[index]
    image = image_of(camera)
    assert image is not None
    generator = torch.Generator().manual_seed(1000 * seed + index)
    pair = thinned_pair(model, view_of(camera), image, SHARES[1], generator)
    return Pair(pair.first, batch["image"].cpu(), pair.weight * batch["mask"][..., 0].cpu(), True)
