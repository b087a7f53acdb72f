"""`skyfall-demo`: from vendor images to a georeferenced 3D city, each step with the command that a user would type."""

import importlib.util
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from skyfall_ns.errors import MissingExtraError, SkyfallError
from skyfall_ns.scripts._cli import run_command
from skyfall_ns.scripts._programs import find_program


@dataclass(frozen=True)
class Demo:
    """Build a synthetic city, process it, train, score, render, export, and show the results on one page."""

    output_dir: Path = Path("demo")
    """Directory for all results; it must not exist."""
    size: float = 192.0
    """Side of the city in meters."""
    views: int = 9
    """Number of satellite images."""
    steps: int = 600
    """Training steps."""
    frames: int = 24
    """Frames of the flight around the city."""

    def main(self) -> None:
        """Run the commands one after another, then write index.html."""
        from skyfall_ns.export.demo_page import DemoStep, write_demo_page

        directory = self.output_dir
        if directory.exists():
            raise SkyfallError(f"{directory} exists already. Choose another --output-dir, or remove it.")
        if not shutil.which("ffmpeg") and not importlib.util.find_spec("imageio_ffmpeg"):
            raise MissingExtraError("ns-render needs ffmpeg, which is missing. Run pip install 'skyfall-ns[video]'.")
        directory.mkdir(parents=True)
        steps = []
        for title, command in self.list_commands():
            print(f"\n== {title}\n$ {' '.join(command)}", flush=True)
            steps.append(DemoStep(title, " ".join(command), _run_timed(command, directory / "log.txt")))
            print(f"   {steps[-1].seconds:.0f} s", flush=True)
        page = write_demo_page(directory, steps)
        print(f"\nDone in {sum(s.seconds for s in steps):.0f} s. Open {page}")

    def list_commands(self) -> list[tuple[str, list[str]]]:
        """List the steps: (title, command)."""
        out, scene = str(self.output_dir), f"{self.output_dir}/scene"
        config = f"{out}/runs/city/skyfall/demo/config.yml"
        train = ["ns-train", "skyfall", "--data", scene, "--output-dir", f"{out}/runs", "--experiment-name", "city"]
        train += ["--timestamp", "demo", "--vis", "tensorboard", "--max-num-iterations", str(self.steps)]
        path = ["skyfall-path", "orbit", "--load-config", config, "--output", f"{out}/orbit.json"]
        path += ["--elevation", "40", "--frames", str(self.frames), "--width", "512", "--height", "384"]
        render = ["ns-render", "camera-path", "--load-config", config, "--camera-path-filename", f"{out}/orbit.json"]
        render += ["--output-path", f"{out}/flight", "--output-format", "images"]
        city = ["skyfall-process", "city", "--output-dir", scene, "--size", f"{self.size:g}"]
        city += ["--views", str(self.views)]
        scores = ["ns-eval", "--load-config", config, "--output-path", f"{out}/images.json"]
        scores += ["--render-output-path", f"{out}/held_out"]
        export = ["ns-export", "gaussian-splat", "--load-config", config, "--output-dir", f"{out}/export"]
        truth = f"{scene}/truth/dsm.tif"
        return [
            ("Create a city as a vendor delivers it, and process it into a scene", city),
            ("Train Gaussians", train),
            ("Score the held-out image", scores),
            ("Create a camera path around the city", path),
            ("Render the flight", render),
            ("Export the Gaussians", export),
            ("Export a DSM", ["skyfall-export", "dsm", "--load-config", config, "--output", f"{out}/dsm.tif"]),
            ("Compare the stereo surface with the truth",
             ["skyfall-eval", "dsm", f"{scene}/surface.tif", truth, "--json", f"{out}/surface.json"]),
            ("Compare the trained DSM with the truth",
             ["skyfall-eval", "dsm", f"{out}/dsm.tif", truth, "--json", f"{out}/dsm.json",
              "--map", f"{out}/dsm_error.png"]),
        ]  # fmt: skip


def _run_timed(command: list[str], log: Path) -> float:
    """Run a command and return its seconds. Its output goes to the log, and its last lines to the error if it fails."""
    start = time.perf_counter()
    result = subprocess.run(
        [find_program(command[0]), *command[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with open(log, "a") as file:
        file.write(f"$ {' '.join(command)}\n{result.stdout}\n")
    if result.returncode != 0:
        tail = "\n".join(result.stdout.strip().splitlines()[-12:])
        raise SkyfallError(f"{command[0]} failed. Its last lines, more in {log}:\n{tail}")
    return time.perf_counter() - start


def main() -> None:
    """Entry point."""
    run_command(lambda: tyro.cli(Demo, prog="skyfall-demo", description=__doc__).main())
