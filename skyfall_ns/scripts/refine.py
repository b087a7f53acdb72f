"""`skyfall-refine`: the renders of an episode refined by themselves, on another machine than the training's if need be.

The folder holds all that is needed. Copied back whole, the training takes it as if it had been refined there.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from skyfall_ns.errors import TrainingError
from skyfall_ns.refiners.registry import RefinerOptions
from skyfall_ns.scripts._cli import run, write_json

if TYPE_CHECKING:
    import torch

    from skyfall_ns.idu.episode_store import EpisodeFolder
    from skyfall_ns.refiners.base import RefinerConfig

CONFIG = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)


@dataclass(frozen=True)
class Refine:
    """Refine the renders of one episode, or of every episode of a run; what is refined already stays."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """RUN/idu/episode_NN, or RUN/idu."""
    refiner: RefinerOptions = field(default_factory=RefinerOptions)
    """By default what the folder's manifest asks for; each option given here replaces that one."""
    device: Literal["cpu", "cuda"] | None = None
    """Where to compute; by default on the GPU if there is one."""
    json: Path | None = None
    """Write a report to this file."""

    def main(self, arguments: Sequence[str]) -> None:
        """Refine episode by episode, compare views, tell; `arguments` are the command's, to be laid over what each
        episode asks for."""
        from skyfall_ns.idu.episode_store import EpisodeFolder, find_episodes

        device = _device(self.device)
        episodes = [EpisodeFolder.open(path) for path in find_episodes(self.folder)]
        configs = [_laid_over(self, asked(episode), arguments).choose() for episode in episodes]
        for config in configs:
            config.check()
        report: dict[str, Any] = {}
        for episode, config in zip(episodes, configs, strict=True):
            name = episode.path.resolve().name
            _begin(episode, name, config)
            report[name] = refined(episode, config, device)
            print(f"{name}: {_line(report[name])}")
        if self.json:
            write_json(self.json, {"episodes": report})


def asked(episode: "EpisodeFolder") -> RefinerOptions:
    """The options that the episode's manifest asks for, or the defaults."""
    options = episode.manifest.refiner_options
    try:
        return RefinerOptions() if options is None else RefinerOptions.from_dict(options)
    except ValueError as error:
        raise TrainingError(
            f"{episode.path / 'manifest.json'} asks for a refiner that this version does not know: {error}. "
            "Update skyfall-ns."
        ) from error


def refined(episode: "EpisodeFolder", config: Any, device: "torch.device") -> dict[str, Any]:
    """One episode's report: what was made, by whom, and how well views agree before and after. Writes its overview."""
    from skyfall_ns.idu.consistency import assess_episode
    from skyfall_ns.idu.episode_overview import write_overview
    from skyfall_ns.idu.refinement import refine_episode

    done = refine_episode(episode, config, device, flag="--refiner.")
    told = {"refiner": episode.manifest.refiner, "generative": config.generative, "views": len(episode.names)}
    report = told | asdict(done) | {"consistency": assess_episode(episode)}
    write_overview(episode)
    return report


def _laid_over(command: Refine, options: RefinerOptions, arguments: Sequence[str]) -> RefinerOptions:
    return tyro.cli(Refine, args=list(arguments), default=replace(command, refiner=options), config=CONFIG).refiner


def _device(name: str | None) -> "torch.device":
    import torch

    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise TrainingError("PyTorch finds no CUDA device on this machine. Pass --device cpu, or mend the driver.")
    return torch.device(name or ("cuda" if available else "cpu"))


def _begin(episode: "EpisodeFolder", name: str, config: "RefinerConfig") -> None:
    from skyfall_ns.idu.episode_store import OF_ANOTHER

    forgotten = episode.begin_refining(config.identity(episode.path), config.generative)
    if forgotten:
        print(f"{name}: {forgotten} images {OF_ANOTHER} are made again", file=sys.stderr)


def _line(report: dict[str, Any]) -> str:
    made, name = report["refined"], report["refiner"]["name"]
    did = f"{made} of {report['views']} views refined by {name} in {report['seconds']:.1f} s"
    parts = [did if made else f"all {report['views']} views had been refined by {name}"]
    if report["kept"]:
        parts.append(f"{report['kept']} kept as rendered, because the answer was no picture")
    before, after = (report["consistency"][key]["psnr"] for key in ("raw", "refined"))
    if before is not None and after is not None:
        parts.append(f"views agree to {after:.2f} dB (renders: {before:.2f})")
    if report["generative"]:
        parts.append("generative: they can show what no image shows")
    return "; ".join(parts)


def main() -> None:
    """Entry point."""
    arguments = sys.argv[1:]
    command = tyro.cli(Refine, prog="skyfall-refine", description=__doc__, config=CONFIG)
    run(lambda: command.main(arguments))
