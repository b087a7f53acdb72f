"""`skyfall-demo`: from vendor images to a splat city on the map, each step by the command that a user would type."""

import importlib.util
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from skyfall_ns.errors import MissingExtraError, SkyfallError
from skyfall_ns.scripts._cli import run


@dataclass(frozen=True)
class Demo:
    """Build a synthetic city, process it, train, score, render, export, and show it all on one page."""

    output_dir: Path = Path("demo")
    """Folder for everything the demo makes; it must not exist."""
    size: float = 192.0
    """Side of the city in metres."""
    views: int = 9
    """Number of satellite images."""
    steps: int = 600
    """Training steps."""
    frames: int = 24
    """Frames of the flight around the city."""

    def main(self) -> None:
        """Run the commands one after the other, then write index.html."""
        from skyfall_ns.export.page import Step, write_page

        folder = self.output_dir
        if folder.exists():
            raise SkyfallError(f"{folder} exists already. Choose another --output-dir, or remove it.")
        if not shutil.which("ffmpeg") and not importlib.util.find_spec("imageio_ffmpeg"):
            raise MissingExtraError("ns-render needs ffmpeg, which is missing. Run pip install 'skyfall-ns[video]'.")
        folder.mkdir(parents=True)
        steps = []
        for title, command in self.commands():
            print(f"\n== {title}\n$ {' '.join(command)}", flush=True)
            steps.append(Step(title, " ".join(command), _timed(command, folder / "log.txt")))
            print(f"   {steps[-1].seconds:.0f} s", flush=True)
        page = write_page(folder, steps)
        print(f"\nDone in {sum(s.seconds for s in steps):.0f} s. Open {page}")

    def commands(self) -> list[tuple[str, list[str]]]:
        """(what it does, the command)."""
        d, scene = str(self.output_dir), f"{self.output_dir}/scene"
        config = f"{d}/runs/city/skyfall/demo/config.yml"
        train = ["ns-train", "skyfall", "--data", scene, "--output-dir", f"{d}/runs", "--experiment-name", "city"]
        train += ["--timestamp", "demo", "--vis", "tensorboard", "--max-num-iterations", str(self.steps)]
        path = ["skyfall-path", "orbit", "--load-config", config, "--output", f"{d}/orbit.json"]
        path += ["--elevation", "40", "--frames", str(self.frames), "--width", "512", "--height", "384"]
        render = ["ns-render", "camera-path", "--load-config", config, "--camera-path-filename", f"{d}/orbit.json"]
        render += ["--output-path", f"{d}/flight", "--output-format", "images"]
        city = ["skyfall-process", "city", "--output-dir", scene, "--size", f"{self.size:g}"]
        city += ["--views", str(self.views)]
        scores = ["ns-eval", "--load-config", config, "--output-path", f"{d}/images.json"]
        scores += ["--render-output-path", f"{d}/held_out"]
        export = ["ns-export", "gaussian-splat", "--load-config", config, "--output-dir", f"{d}/export"]
        truth = f"{scene}/truth/dsm.tif"
        return [
            ("A city as a vendor delivers it, processed into a scene", city),
            ("Train splats", train),
            ("Score the held-out image", scores),
            ("A flight around the city", path),
            ("Render the flight", render),
            ("Export the splats", export),
            ("Export a DSM", ["skyfall-export", "dsm", "--load-config", config, "--output", f"{d}/dsm.tif"]),
            ("The stereo surface against the truth",
             ["skyfall-eval", "dsm", f"{scene}/surface.tif", truth, "--json", f"{d}/surface.json"]),
            ("The trained DSM against the truth",
             ["skyfall-eval", "dsm", f"{d}/dsm.tif", truth, "--json", f"{d}/dsm.json", "--map", f"{d}/dsm_error.png"]),
        ]  # fmt: skip


def _timed(command: list[str], log: Path) -> float:
    """Seconds a command takes; its output goes to the log, and its end to the message if it fails."""
    beside = Path(sys.executable).with_name(command[0])
    program = str(beside) if beside.exists() else shutil.which(command[0])
    if program is None:
        raise SkyfallError(f"The command {command[0]} is not installed. Install this package again.")
    start = time.perf_counter()
    result = subprocess.run([program, *command[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with open(log, "a") as file:
        file.write(f"$ {' '.join(command)}\n{result.stdout}\n")
    if result.returncode != 0:
        tail = "\n".join(result.stdout.strip().splitlines()[-12:])
        raise SkyfallError(f"{command[0]} failed. Its last lines, more in {log}:\n{tail}")
    return time.perf_counter() - start


def main() -> None:
    """Entry point."""
    run(lambda: tyro.cli(Demo, prog="skyfall-demo", description=__doc__).main())
