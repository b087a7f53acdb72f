"""`skyfall-refine`: refine the renders of episodes outside of training, for example on another machine.

The directory of an episode has all that is needed. After it is copied back, training resumes as if it had refined the
images itself.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from skyfall_ns.errors import TrainingError
from skyfall_ns.io.files import write_json
from skyfall_ns.refiners.registry import RefinerOptions
from skyfall_ns.scripts._cli import run_command

if TYPE_CHECKING:
    import torch

    from skyfall_ns.idu.episode_store import EpisodeStore
    from skyfall_ns.refiners.base import RefinerConfig

CONFIG = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)


@dataclass(frozen=True)
class Refine:
    """Refine the renders of one episode, or of all episodes of a run; images that are already refined are kept."""

    directory: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIRECTORY")]
    """RUN/idu/episode_NN, or RUN/idu."""
    refiner: RefinerOptions = field(default_factory=RefinerOptions)
    """By default the options in the episode's manifest; each option given here replaces that one."""
    device: Literal["cpu", "cuda"] | None = None
    """Device to compute on; by default the GPU if there is one."""
    json: Path | None = None
    """Write a report to this file."""

    def main(self, arguments: Sequence[str]) -> None:
        """Refine the episodes one after another, assess their consistency and print a summary of each.

        `arguments` are those of the command line, which override the options of each episode. Errors name the options
        as this command calls them."""
        try:
            self._refine_episodes(arguments)
        except TrainingError as error:
            raise TrainingError(str(error).replace("--pipeline.refiner.", "--refiner.")) from error

    def _refine_episodes(self, arguments: Sequence[str]) -> None:
        from skyfall_ns.idu.episode_store import EpisodeStore, find_episodes

        device = _pick_device(self.device)
        episodes = [EpisodeStore.open(path) for path in find_episodes(self.directory)]
        configs = [_override_options(self, requested_options(episode), arguments).build() for episode in episodes]
        for config in configs:
            config.check()
        report: dict[str, Any] = {}
        for episode, config in zip(episodes, configs, strict=True):
            name = episode.path.resolve().name
            _begin_refinement(episode, name, config)
            report[name] = refine_and_assess(episode, config, device)
            print(f"{name}: {_summary_line(report[name])}")
        if self.json:
            write_json(self.json, {"episodes": report})


def requested_options(episode: "EpisodeStore") -> RefinerOptions:
    """Refiner options of the episode's manifest, or the defaults. Raises TrainingError if this version has no such
    options."""
    options = episode.manifest.refiner_options
    try:
        return RefinerOptions() if options is None else RefinerOptions.from_dict(options)
    except ValueError as error:
        raise TrainingError(
            f"{episode.path / 'manifest.json'} has refiner options that this version does not support: {error}. "
            "Update skyfall-ns."
        ) from error


def refine_and_assess(episode: "EpisodeStore", config: Any, device: "torch.device") -> dict[str, Any]:
    """Refine an episode and write its overview; return a report with the refiner, the counts and the consistency of the
    views before and after."""
    from skyfall_ns.idu.consistency import assess_episode
    from skyfall_ns.idu.episode_overview import write_overview
    from skyfall_ns.idu.refinement import refine_episode

    result = refine_episode(episode, config, device)
    settings = {"refiner": episode.manifest.refiner, "generative": config.generative, "views": len(episode.view_names)}
    counts = {"refined": result.refined_count, "kept": result.kept_count}
    cost = {"seconds": result.seconds, "peak_memory_bytes": result.peak_memory_bytes}
    report = settings | counts | cost | {"consistency": assess_episode(episode)}
    write_overview(episode)
    return report


def _override_options(command: Refine, options: RefinerOptions, arguments: Sequence[str]) -> RefinerOptions:
    return tyro.cli(Refine, args=list(arguments), default=replace(command, refiner=options), config=CONFIG).refiner


def _pick_device(name: str | None) -> "torch.device":
    import torch

    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise TrainingError("PyTorch finds no CUDA device on this machine. Pass --device cpu, or fix the driver.")
    return torch.device(name or ("cuda" if available else "cpu"))


def _begin_refinement(episode: "EpisodeStore", name: str, config: "RefinerConfig") -> None:
    from skyfall_ns.idu.episode_store import OUTDATED_IMAGES

    discarded = episode.set_refiner(config.identity(episode.path), config.generative)
    if discarded:
        print(f"{name}: {discarded} {OUTDATED_IMAGES} are refined again", file=sys.stderr)


def _summary_line(report: dict[str, Any]) -> str:
    count, name = report["refined"], report["refiner"]["name"]
    summary = f"{count} of {report['views']} views refined by {name} in {report['seconds']:.1f} s"
    parts = [summary if count else f"all {report['views']} views were already refined by {name}"]
    if report["kept"]:
        parts.append(f"{report['kept']} kept as rendered, because the refined image had NaN or infinity")
    before, after = (report["consistency"][key]["psnr"] for key in ("raw", "refined"))
    if before is not None and after is not None:
        parts.append(f"consistency of the views {after:.2f} dB (renders: {before:.2f})")
    if report["generative"]:
        parts.append("generative: they can show content that no image shows")
    return "; ".join(parts)


def main() -> None:
    """Entry point."""
    arguments = sys.argv[1:]
    command = tyro.cli(Refine, prog="skyfall-refine", description=__doc__, config=CONFIG)
    run_command(lambda: command.main(arguments))
