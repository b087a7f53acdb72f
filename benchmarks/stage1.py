"""Train a scene once per variant of stage 1, score every run, and write a table to stage1.md.

    python benchmarks/stage1.py SCENE                             # a synthetic city has its own truth
    python benchmarks/stage1.py SCENE --reference DSM.tif         # real images
    python benchmarks/stage1.py SCENE --only default "no shadows" --steps 300

A variant is a name and flags of ns-train, optionally after the name of another method: add a line to VARIANTS. Runs and
scores are kept in the work directory and reused, so an interrupted benchmark resumes, and one more variant costs one
run.
"""

import argparse
import datetime
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from rasterizer import describe_machine

VARIANTS: dict[str, list[str]] = {
    "default": [],
    "default, another seed": ["--machine.seed", "1"],
    "no depth supervision": ["--pipeline.depth.prior", "none"],
    "depth supervision, weight 0.5 (Skyfall-GS)": ["--pipeline.depth.weight", "0.5"],
    "no surface term": ["--pipeline.model.surface-weight", "0"],
    "no shading": ["--pipeline.model.shading", "False"],
    "no shadows": ["--pipeline.model.shadows", "False"],
    "shadows per Gaussian only": ["--pipeline.model.pixel-shadows", "False"],
    "shadow maps every 200 steps": ["--pipeline.model.shadows-every", "200"],
    "no densification": ["--pipeline.model.densification", "none"],
    "MCMC densification": ["--pipeline.model.densification", "mcmc", "--pipeline.model.cull-alpha-thresh", "0.1"],
    "no embeddings": ["--pipeline.model.appearance", "light"],
    "appearance perceptron (WildGaussians)": [
        "--pipeline.model.appearance",
        "perceptron",
        "--optimizers.embeddings.optimizer.lr",
        "0.005",
    ],
    "opacity entropy, weight 0.01": ["--pipeline.model.entropy-weight", "0.01"],
    "opacity entropy, weight 10 (Skyfall-GS)": ["--pipeline.model.entropy-weight", "10"],
    "sparsity 0.1 (EOGS)": ["--pipeline.model.sparsity-weight", "0.1"],
    "view consistency (EOGS)": ["--pipeline.model.view-consistency-weight", "1"],
    "3D filter": ["--pipeline.model.filter-3d", "True"],
    "image offsets": ["--pipeline.model.image-offsets", "True"],
    "fast": ["skyfall-fast"],
}

ELEVATIONS = ("60", "45", "20")
COLUMNS = ("median, m", "within 1 m", "MAE, m", "at edges, m", "complete", "PSNR, dB", "SSIM",
           *(f"{e}°, dB" for e in ELEVATIONS), "Gaussians", "s")  # fmt: skip
TITLE = (
    "# Stage 1, part by part\n\nEach row is one run of `ns-train skyfall` with one change; written by "
    "`python benchmarks/stage1.py`. Heights after one 3-D shift: median of the differences, share within 1 m, mean "
    "(everywhere; up to 1.5 m from height steps), share of the reference's cells that have a height. PSNR and SSIM: "
    "held-out images (without any: the training images). Degrees: PSNR of ground-truth images from that elevation, "
    "where there are any. Seconds: the whole command.\n"
)


def call_command(*command: object) -> None:
    """Run a command of this package or of Nerfstudio. Raises RuntimeError with its last line if it fails."""
    program, *arguments = map(str, command)
    result = subprocess.run([Path(sys.executable).parent / program, *arguments], capture_output=True, text=True)
    if result.returncode:
        lines = [line.strip("│ ") for line in (result.stdout + result.stderr).splitlines() if re.search(r"\w", line)]
        raise RuntimeError(f"{program}: {lines[-1] if lines else 'no message'}")


def train_run(scene: Path, directory: Path, arguments: list[str]) -> tuple[Path, float]:
    """Train with arguments of ns-train, method first; return the run's config.yml and the seconds of the command."""
    shutil.rmtree(directory, ignore_errors=True)
    start = time.perf_counter()
    call_command("ns-train", *arguments, "--data", scene, "--output-dir", directory, "--experiment-name", "run",
                 "--timestamp", "run", "--vis", "tensorboard")  # fmt: skip
    return directory / "run" / arguments[0] / "run" / "config.yml", time.perf_counter() - start


def add_method(flags: list[str], method: str) -> list[str]:
    """Put a method before flags that do not start with one."""
    return flags if flags and not flags[0].startswith("-") else [method, *flags]


def score_run(config: Path, directory: Path, reference: Path | None, truth: Path | None) -> dict[str, Any]:
    """Score a run: {"gaussians", "held_out", "dsm", "views"}; the last two are None without ground truth."""
    report = directory / "report.json"
    directory.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"dsm": None, "views": None}
    result["gaussians"] = count_gaussians(next((config.parent / "nerfstudio_models").glob("*.ckpt")))
    call_command("ns-eval", "--load-config", config, "--output-path", report)
    result["held_out"] = json.loads(report.read_text())["results"]
    if reference:
        call_command("skyfall-export", "dsm", "--load-config", config, "--output", directory / "dsm.tif")
        call_command("skyfall-eval", "dsm", directory / "dsm.tif", reference, "--json", report)
        result["dsm"] = json.loads(report.read_text())
    if truth:
        call_command("skyfall-eval", "views", "--load-config", config, "--truth", truth, "--json", report)
        result["views"] = json.loads(report.read_text())["elevations"]
    return result


def train_and_score(
    scene: Path, directory: Path, flags: list[str], reference: Path | None, truth: Path | None
) -> dict[str, Any]:
    """Train once and score: {"seconds", "gaussians", "held_out", "dsm", "views"}."""
    config, seconds = train_run(scene, directory, add_method(flags, "skyfall"))
    return {"seconds": seconds} | score_run(config, directory, reference, truth)


def load_or_measure(
    name: str, directory: Path, inputs: list[str], measure: Callable[[], dict[str, Any]], is_selected: bool
) -> dict[str, Any] | None:
    """Load the scores of a directory if they have the same inputs, else measure them. None if the variant is not
    selected, or if it failed."""
    cache = directory / "result.json"
    cached = json.loads(cache.read_text()) if cache.is_file() else {}
    if cached.get("inputs") == inputs:
        return cached
    if not is_selected:
        return None
    try:
        result = measure()
    except RuntimeError as error:
        print(f"{name} failed. {error}", file=sys.stderr, flush=True)
        return None
    cache.write_text(json.dumps(result | {"inputs": inputs}, indent=1))
    return result


def count_gaussians(checkpoint: Path) -> int:
    import torch

    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return int(state["pipeline"]["_model.gauss_params.means"].shape[0])


def table_row(name: str, result: dict[str, Any]) -> str:
    """Table row of one variant."""
    cells: list[str] = []
    dsm, views = result["dsm"], result["views"] or {}
    if dsm is None:
        cells += ["-"] * 5
    else:
        scores = dsm["registered"]
        edges = scores["edges"]["mae_m"]
        cells += [f"{scores['median_m']:.3f}", f"{scores['within_1m']:.1%}", f"{scores['mae_m']:.3f}",
                  "-" if edges is None else f"{edges:.2f}", f"{dsm['completeness']:.1%}"]  # fmt: skip
    cells += [f"{result['held_out']['psnr']:.2f}", f"{result['held_out']['ssim']:.3f}"]
    cells += [f"{views[e]['psnr']:.2f}" if e in views else "-" for e in ELEVATIONS]
    cells += [f"{result['gaussians']:,}", f"{result['seconds']:.0f}"]
    return f"| {name} | {' | '.join(cells)} |"


def make_section(heading: str, results: dict[str, dict[str, Any]], description: str) -> str:
    """Make the section of a scene: heading, description, table and the flags of each variant."""
    lines = [f"## {heading}", "", description, ""]
    lines += [f"| variant | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [table_row(name, result) for name, result in results.items()]
    flags = [f"- {name}: `{' '.join(VARIANTS[name])}`" for name in results if VARIANTS.get(name)]
    return "\n".join([*lines, "", *flags, *([""] if flags else [])])


def replace_section(text: str, section: str) -> str:
    """Replace the section of a document that has the same heading, or append the section."""
    heading = section.partition("\n")[0]
    sections = re.split(r"^(?=## )", text or TITLE + "\n", flags=re.M)
    matches = [i for i, part in enumerate(sections) if part.partition("\n")[0] == heading]
    if matches:
        sections[matches[0]] = section + ("\n" if matches[0] + 1 < len(sections) else "")
    else:
        sections = [*(part.rstrip("\n") + "\n\n" for part in sections), section]
    return "".join(sections).rstrip("\n") + "\n"


def directory_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path, help="scene directory of skyfall-process")
    parser.add_argument("--reference", type=Path, help="true DSM; by default the scene's truth/dsm.tif")
    parser.add_argument("--truth", type=Path, help="ground-truth images; by default the scene's truth/oblique")
    parser.add_argument("--steps", type=int, help="training steps; by default those of the method")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, metavar="NAME", help=f"of: {', '.join(VARIANTS)}")
    parser.add_argument("--heading", help="heading of the section; by default the directory's name")
    parser.add_argument("--work", type=Path, default=Path("outputs/stage1"), help="directory of runs and scores")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"))
    arguments = parser.parse_args()
    scene = arguments.scene.resolve()
    reference, truth = find_truth(scene, arguments)
    heading = arguments.heading or scene.name
    steps = [] if arguments.steps is None else ["--max-num-iterations", str(arguments.steps)]
    command = f"python benchmarks/stage1.py {arguments.scene.name}{changed_options(arguments)}"
    description = f"{datetime.date.today()}, {describe_machine()}: `{command}`"
    results: dict[str, dict[str, Any]] = {}
    for name, flags in VARIANTS.items():
        directory = arguments.work.resolve() / directory_name(heading) / directory_name(name)
        is_selected = not arguments.only or name in arguments.only
        flags, inputs = [*flags, *steps], [str(scene), *flags, *steps, str(reference), str(truth)]
        measure = partial(train_and_score, scene, directory, flags, reference, truth)
        result = load_or_measure(name, directory, inputs, measure, is_selected)
        if result is None:
            continue
        results[name] = result
        print(table_row(name, result), flush=True)
        previous = arguments.output.read_text() if arguments.output.is_file() else ""
        arguments.output.write_text(replace_section(previous, make_section(heading, results, description)))


def find_truth(scene: Path, arguments: argparse.Namespace) -> tuple[Path | None, Path | None]:
    """Find the true DSM and the ground-truth images: those of the flags, or else those of a synthetic city."""
    dsm, oblique = (path if path.exists() else None for path in (scene / "truth/dsm.tif", scene / "truth/oblique"))
    return arguments.reference or dsm, arguments.truth or oblique


def changed_options(arguments: argparse.Namespace) -> str:
    """Command-line options that change the measurement."""
    options = (("reference", arguments.reference and arguments.reference.name), ("steps", arguments.steps))
    return "".join(f" --{name} {value}" for name, value in options if value is not None)


if __name__ == "__main__":
    main()
