"""Trains a scene once per variant of stage 1, scores every run, and writes a table to stage1.md.

    python benchmarks/stage1.py SCENE                             # a synthetic city brings its own truth
    python benchmarks/stage1.py SCENE --reference DSM.tif         # real images
    python benchmarks/stage1.py SCENE --only default "no shadows" --steps 300

A variant is a name and flags of ns-train, after another method's name if need be: add a line to VARIANTS. Runs and
scores are kept in the work folder; what is there already is not done again, so a run that was stopped goes on, and one
more variant costs one more run.
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
from rasterizer import machine

VARIANTS: dict[str, list[str]] = {
    "default": [],
    "default, another seed": ["--machine.seed", "1"],
    "no depth supervision": ["--pipeline.depth.prior", "none"],
    "depth supervision, weight 0.5 (Skyfall-GS)": ["--pipeline.depth.weight", "0.5"],
    "no surface term": ["--pipeline.model.surface-weight", "0"],
    "no shading": ["--pipeline.model.shading", "False"],
    "no shadows": ["--pipeline.model.shadows", "False"],
    "shadows of splats only": ["--pipeline.model.pixel-shadows", "False"],
    "shadows drawn every 200 steps": ["--pipeline.model.shadows-every", "200"],
    "no growth": ["--pipeline.model.growth", "none"],
    "growth by relocation": ["--pipeline.model.growth", "relocate", "--pipeline.model.cull-alpha-thresh", "0.1"],
    "no embeddings": ["--pipeline.model.appearance", "light"],
    "embeddings read by a perceptron (WildGaussians)": [
        "--pipeline.model.appearance",
        "perceptron",
        "--optimizers.embeddings.optimizer.lr",
        "0.005",
    ],
    "opacity entropy, weight 0.01": ["--pipeline.model.entropy-weight", "0.01"],
    "opacity entropy, weight 10 (Skyfall-GS)": ["--pipeline.model.entropy-weight", "10"],
    "sparsity 0.1 (EOGS)": ["--pipeline.model.sparsity-weight", "0.1"],
    "sheared views (EOGS)": ["--pipeline.model.shear-weight", "1"],
    "3D filter": ["--pipeline.model.filter-3d", "True"],
    "pose shift": ["--pipeline.model.pose-shift", "True"],
    "fast": ["skyfall-fast"],
}

ELEVATIONS = ("60", "45", "20")
COLUMNS = ("median, m", "within 1 m", "MAE, m", "at edges, m", "complete", "PSNR, dB", "SSIM",
           *(f"{e}°, dB" for e in ELEVATIONS), "splats", "s")  # fmt: skip
TITLE = (
    "# Stage 1, part by part\n\nEach row is one run of `ns-train skyfall` with one thing changed; written by "
    "`python benchmarks/stage1.py`. Heights after one 3-D shift: median of the differences, share within 1 m, mean "
    "(everywhere; up to 1.5 m from height steps), share of the reference's cells that have a height. PSNR and SSIM: "
    "held-out images (without any: the training images). Degrees: PSNR of true pictures from that elevation, where "
    "there are any. Seconds: the whole command.\n"
)


def call(*command: object) -> None:
    """Run one of the package's or the host's commands; RuntimeError with its last words if it fails."""
    program, *words = map(str, command)
    done = subprocess.run([Path(sys.executable).parent / program, *words], capture_output=True, text=True)
    if done.returncode:
        lines = [line.strip("│ ") for line in (done.stdout + done.stderr).splitlines() if re.search(r"\w", line)]
        raise RuntimeError(f"{program}: {lines[-1] if lines else 'no message'}")


def trained(scene: Path, folder: Path, words: list[str]) -> tuple[Path, float]:
    """Train with the words of ns-train, method first: the run's config.yml, and seconds of the whole command."""
    shutil.rmtree(folder, ignore_errors=True)
    start = time.perf_counter()
    call("ns-train", *words, "--data", scene, "--output-dir", folder, "--experiment-name", "run", "--timestamp", "run",
         "--vis", "tensorboard")  # fmt: skip
    return folder / "run" / words[0] / "run" / "config.yml", time.perf_counter() - start


def with_method(flags: list[str], method: str) -> list[str]:
    """Flags after the method that they name, or else after this one."""
    return flags if flags and not flags[0].startswith("-") else [method, *flags]


def scored(config: Path, folder: Path, reference: Path | None, truth: Path | None) -> dict[str, Any]:
    """Scores of a run: {"splats", "held_out", "dsm", "views"}; the last two None without truth."""
    report = folder / "report.json"
    folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"dsm": None, "views": None}
    result["splats"] = splats(next((config.parent / "nerfstudio_models").glob("*.ckpt")))
    call("ns-eval", "--load-config", config, "--output-path", report)
    result["held_out"] = json.loads(report.read_text())["results"]
    if reference:
        call("skyfall-export", "dsm", "--load-config", config, "--output", folder / "dsm.tif")
        call("skyfall-eval", "dsm", folder / "dsm.tif", reference, "--json", report)
        result["dsm"] = json.loads(report.read_text())
    if truth:
        call("skyfall-eval", "views", "--load-config", config, "--truth", truth, "--json", report)
        result["views"] = json.loads(report.read_text())["elevations"]
    return result


def measured(scene: Path, folder: Path, flags: list[str], reference: Path | None, truth: Path | None) -> dict[str, Any]:
    """Train once and score: {"seconds", "splats", "held_out", "dsm", "views"}."""
    config, seconds = trained(scene, folder, with_method(flags, "skyfall"))
    return {"seconds": seconds} | scored(config, folder, reference, truth)


def measured_or_kept(
    name: str, folder: Path, question: list[str], measure: Callable[[], dict[str, Any]], wanted: bool
) -> dict[str, Any] | None:
    """The scores kept in a folder if they answer the same question, else new ones; None if not wanted or failed."""
    kept = folder / "result.json"
    known = json.loads(kept.read_text()) if kept.is_file() else {}
    if known.get("question") == question:
        return known
    if not wanted:
        return None
    try:
        result = measure()
    except RuntimeError as error:
        print(f"{name} failed. {error}", file=sys.stderr, flush=True)
        return None
    kept.write_text(json.dumps(result | {"question": question}, indent=1))
    return result


def splats(checkpoint: Path) -> int:
    import torch

    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return int(state["pipeline"]["_model.gauss_params.means"].shape[0])


def row(name: str, result: dict[str, Any]) -> str:
    """One line of the table."""
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
    cells += [f"{result['splats']:,}", f"{result['seconds']:.0f}"]
    return f"| {name} | {' | '.join(cells)} |"


def section(heading: str, results: dict[str, dict[str, Any]], said: str) -> str:
    """A scene's heading, what was measured on, the table, and what each variant is."""
    lines = [f"## {heading}", "", said, "", f"| variant | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [row(name, result) for name, result in results.items()]
    flags = [f"- {name}: `{' '.join(VARIANTS[name])}`" for name in results if VARIANTS.get(name)]
    return "\n".join([*lines, "", *flags, *([""] if flags else [])])


def with_section(text: str, new: str) -> str:
    """A document with a section put in the place of the one with the same heading, or at the end."""
    heading = new.partition("\n")[0]
    parts = re.split(r"^(?=## )", text or TITLE + "\n", flags=re.M)
    places = [i for i, part in enumerate(parts) if part.partition("\n")[0] == heading]
    if places:
        parts[places[0]] = new + ("\n" if places[0] + 1 < len(parts) else "")
    else:
        parts = [*(part.rstrip("\n") + "\n\n" for part in parts), new]
    return "".join(parts).rstrip("\n") + "\n"


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path, help="a scene made by skyfall-process")
    parser.add_argument("--reference", type=Path, help="true DSM; by default the scene's truth/dsm.tif")
    parser.add_argument("--truth", type=Path, help="true pictures; by default the scene's truth/oblique")
    parser.add_argument("--steps", type=int, help="by default as many as the method takes")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, metavar="NAME", help=f"of: {', '.join(VARIANTS)}")
    parser.add_argument("--heading", help="of the scene's section; by default the folder's name")
    parser.add_argument("--work", type=Path, default=Path("outputs/stage1"), help="folder of runs and scores")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"))
    arguments = parser.parse_args()
    scene = arguments.scene.resolve()
    reference, truth = truths(scene, arguments)
    heading = arguments.heading or scene.name
    steps = [] if arguments.steps is None else ["--max-num-iterations", str(arguments.steps)]
    said = (
        f"{datetime.date.today()}, {machine()}: `python benchmarks/stage1.py {arguments.scene.name}{told(arguments)}`"
    )
    results: dict[str, dict[str, Any]] = {}
    for name, flags in VARIANTS.items():
        folder = arguments.work.resolve() / slug(heading) / slug(name)
        wanted = not arguments.only or name in arguments.only
        flags, question = [*flags, *steps], [str(scene), *flags, *steps, str(reference), str(truth)]
        measure = partial(measured, scene, folder, flags, reference, truth)
        result = measured_or_kept(name, folder, question, measure, wanted)
        if result is None:
            continue
        results[name] = result
        print(row(name, result), flush=True)
        before = arguments.output.read_text() if arguments.output.is_file() else ""
        arguments.output.write_text(with_section(before, section(heading, results, said)))


def truths(scene: Path, arguments: argparse.Namespace) -> tuple[Path | None, Path | None]:
    """The true DSM and the true pictures: those that are named, or else those that a synthetic city brings."""
    known = {name: path if path.exists() else None for name, path in
             (("reference", scene / "truth/dsm.tif"), ("truth", scene / "truth/oblique"))}  # fmt: skip
    return arguments.reference or known["reference"], arguments.truth or known["truth"]


def told(arguments: argparse.Namespace) -> str:
    """The options that change what is measured."""
    options = (("reference", arguments.reference and arguments.reference.name), ("steps", arguments.steps))
    return "".join(f" --{name} {value}" for name, value in options if value is not None)


if __name__ == "__main__":
    main()
