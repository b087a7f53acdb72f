"""Train stage 2 on top of a stage 1 run, once per variant, score before and after, and write tables to stage2.md.

    python benchmarks/stage2.py SCENE RUN/config.yml              # a synthetic city has its own truth
    python benchmarks/stage2.py SCENE RUN/config.yml --only identity denoiser --pipeline.curriculum.steps 100

RUN is a stage 1 run of the same scene. A variant is a name and flags of ns-train, optionally after the name of another
method: add a line to VARIANTS. Other flags are passed to ns-train in all variants. Runs and scores are kept in the work
directory and reused; a variant whose refiner has no weights on this machine is reported and left out.
"""

import argparse
import datetime
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from rasterizer import describe_machine
from stage1 import (
    ELEVATIONS,
    add_method,
    directory_name,
    find_truth,
    load_or_measure,
    replace_section,
    score_run,
    train_run,
)

VARIANTS: dict[str, list[str]] = {
    "satellite images only": ["--pipeline.refiner.name", "identity", "--pipeline.synthetic-share", "0"],
    "identity": ["--pipeline.refiner.name", "identity"],
    "bilateral (default)": [],
    "denoiser": ["--pipeline.refiner.name", "denoiser"],
    "half of the steps on satellite images": ["--pipeline.synthetic-share", "0.5"],
    "full geometry gradients from refined images": ["--pipeline.geometry-gradient-scale", "1"],
    "no geometry gradients from refined images": ["--pipeline.geometry-gradient-scale", "0"],
    "depth supervision, weight 0.2": ["--pipeline.episode-depth", "0.2"],
    "no replay of earlier episodes": ["--pipeline.replay-decay", "0"],
    "no consistency weighting": ["--pipeline.consistency-weighting", "False"],
    "densification": ["--pipeline.densify-fraction", "0.9"],
    "learning rates of stage 1": ["--pipeline.episode-lr-scale", "1"],
    "FlowEdit, FLUX.2-klein-base-4B": ["--pipeline.refiner.name", "flowedit"],
}

BEFORE = "before (stage 1)"
PHASES = ("render", "refine", "weights", "train")
SCORES = (*(f"{e}°, {unit}" for e in ELEVATIONS for unit in ("dB", "SSIM")), "held-out, dB", "training, dB", "MAE, m",
          "Gaussians")  # fmt: skip
COSTS = ("views", "refined per s", "render, s", "refine, s", "weigh, s", "train, s", "whole, s",
         "peak, GB", "consistency rendered, dB", "refined, dB", "generative")  # fmt: skip
TITLE = (
    "# Stage 2, refiner by refiner\n\nEach row is one run of `ns-train skyfall-idu` on top of the same stage 1 run; "
    "written by `python benchmarks/stage2.py`. First table, scores. Degrees: PSNR and SSIM of ground-truth images "
    "from that elevation, where there are any. PSNR of held-out images (without any: of the training images) and of "
    "training images. MAE: heights after one 3-D shift. Second table, cost. Seconds of all episodes together, "
    "and of the whole command. Peak: the largest memory of a phase, of the accelerator, or of the process on "
    "a CPU. Consistency of neighboring views (docs/guides/refiners.md): mean over the episodes, before and after "
    "refining.\n"
)


def training_psnr(config: Path) -> float:
    """Mean PSNR of the training images of a run, each with its own appearance."""
    import torch
    from nerfstudio.utils.eval_utils import eval_setup

    from skyfall_ns import nerfstudio_patches

    nerfstudio_patches.apply_patches()
    _, pipeline, _, _ = eval_setup(config, test_mode="inference")
    data: Any = pipeline.datamanager
    values = []
    with torch.no_grad():
        for index, batch in enumerate(data.cached_train):
            outputs = pipeline.model(data.train_cameras[index : index + 1].to(pipeline.device))
            values.append(pipeline.model.get_image_metrics_and_images(outputs, batch)[0]["psnr"])
    return sum(values) / len(values)


def score_run_and_training(config: Path, directory: Path, reference: Path | None, truth: Path | None) -> dict[str, Any]:
    """Scores of `stage1.score_run`, and {"training_psnr"}."""
    return score_run(config, directory, reference, truth) | {"training_psnr": training_psnr(config)}


def episodes_cost(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    """Cost of the episodes of a run: {"views", "per_s", "render", "refine", "weights", "train", "peak_gb", "raw_psnr",
    "refined_psnr", "generative"}; None where unknown."""
    phases = [manifest["phases"] for manifest in manifests]
    seconds = {name: sum(p[name]["seconds"] for p in phases if name in p) for name in PHASES}
    peaks = [p["peak_memory_bytes"] for phase in phases for p in phase.values() if p["peak_memory_bytes"] is not None]
    consistency = {
        key: known_mean([manifest["consistency"].get(key, {}).get("psnr") for manifest in manifests])
        for key in ("raw", "refined")
    }
    refined = sum(view["refined_sha256"] is not None for manifest in manifests for view in manifest["views"].values())
    return seconds | {
        "views": sum(len(manifest["views"]) for manifest in manifests),
        "per_s": refined / seconds["refine"] if seconds["refine"] else None,
        "peak_gb": max(peaks) / 1e9 if peaks else None,
        "raw_psnr": consistency["raw"],
        "refined_psnr": consistency["refined"],
        "generative": any(manifest["generative"] for manifest in manifests),
    }


def known_mean(values: list[float | None]) -> float | None:
    """Mean of the values that are not None; None without any."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def train_and_score(
    scene: Path, stage1: Path, directory: Path, flags: list[str], reference: Path | None, truth: Path | None
) -> dict[str, Any]:
    """Train stage 2 once and score it: `score_run_and_training`, and {"seconds", "cost"}."""
    run_flags = add_method(flags, "skyfall-idu")
    config, seconds = train_run(scene, directory, [*run_flags, "--pipeline.stage1", str(stage1)])
    manifests = [json.loads(path.read_text()) for path in sorted((config.parent / "idu").glob("*/manifest.json"))]
    scores = score_run_and_training(config, directory, reference, truth)
    return {"seconds": seconds, "cost": episodes_cost(manifests)} | scores


def format_value(value: float | None, format_spec: str) -> str:
    return "-" if value is None else format(value, format_spec)


def score_row(name: str, result: dict[str, Any]) -> str:
    """Row of the table of scores."""
    views, dsm = result["views"] or {}, result["dsm"]
    formats = (("psnr", ".2f"), ("ssim", ".3f"))
    cells = [format_value(views.get(e, {}).get(key), spec) for e in ELEVATIONS for key, spec in formats]
    cells += [f"{result['held_out']['psnr']:.2f}", f"{result['training_psnr']:.2f}"]
    cells += [format_value(None if dsm is None else dsm["registered"]["mae_m"], ".3f"), f"{result['gaussians']:,}"]
    return f"| {name} | {' | '.join(cells)} |"


def cost_row(name: str, result: dict[str, Any]) -> str:
    """Row of the table of costs."""
    cost = result["cost"]
    seconds = (f"{value:.0f}" for value in (*(cost[phase] for phase in PHASES), result["seconds"]))
    measured = (format_value(cost[key], ".2f") for key in ("peak_gb", "raw_psnr", "refined_psnr"))
    generative = "yes" if cost["generative"] else "no"
    cells = [f"{cost['views']}", format_value(cost["per_s"], ".2f"), *seconds, *measured, generative]
    return f"| {name} | {' | '.join(cells)} |"


def make_section(heading: str, results: dict[str, dict[str, Any]], description: str) -> str:
    """Make the section of a scene: heading, description, both tables and the flags of each variant."""
    lines = [f"## {heading}", "", description, "", *table_header(SCORES)]
    lines += [score_row(name, result) for name, result in results.items()]
    runs = {name: result for name, result in results.items() if "cost" in result}
    if runs:
        lines += ["", *table_header(COSTS), *(cost_row(name, result) for name, result in runs.items())]
    flags = [f"- {name}: `{' '.join(VARIANTS[name])}`" for name in runs if VARIANTS[name]]
    return "\n".join([*lines, "", *flags, *([""] if flags else [])])


def table_header(columns: tuple[str, ...]) -> list[str]:
    return [f"| variant | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("scene", type=Path, help="scene directory of skyfall-process")
    parser.add_argument("config", type=Path, help="config.yml of a stage 1 run of this scene")
    parser.add_argument("--reference", type=Path, help="true DSM; by default the scene's truth/dsm.tif")
    parser.add_argument("--truth", type=Path, help="ground-truth images; by default the scene's truth/oblique")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, metavar="NAME", help=f"of: {', '.join(VARIANTS)}")
    parser.add_argument("--heading", help="heading of the section; by default the directory's name")
    parser.add_argument("--work", type=Path, default=Path("outputs/stage2"), help="directory of runs and scores")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"))
    return parser


def typed_command(arguments: argparse.Namespace, training_flags: list[str]) -> str:
    """The typed command, with the options that change the measurement."""
    reference = [] if arguments.reference is None else ["--reference", arguments.reference.name]
    return " ".join(
        ["python benchmarks/stage2.py", arguments.scene.name, "RUN/config.yml", *reference, *training_flags]
    )


def main() -> None:
    arguments, training_flags = make_parser().parse_known_args()
    scene, stage1 = arguments.scene.resolve(), arguments.config.resolve()
    reference, truth = find_truth(scene, arguments)
    heading = arguments.heading or scene.name
    description = f"{datetime.date.today()}, {describe_machine()}: `{typed_command(arguments, training_flags)}`"
    work = arguments.work.resolve() / directory_name(heading)
    inputs = [str(scene), str(stage1), str(stage1.stat().st_mtime_ns), str(reference), str(truth)]
    measure_baseline = partial(score_run_and_training, stage1, work / "before", reference, truth)
    baseline = load_or_measure(BEFORE, work / "before", inputs, measure_baseline, True)
    if baseline is None:
        sys.exit(1)
    results = {BEFORE: baseline}
    print(score_row(BEFORE, baseline), flush=True)
    for name, flags in VARIANTS.items():
        directory, run_flags = work / directory_name(name), [*flags, *training_flags]
        is_selected = not arguments.only or name in arguments.only
        measure = partial(train_and_score, scene, stage1, directory, run_flags, reference, truth)
        result = load_or_measure(name, directory, [*inputs, *run_flags], measure, is_selected)
        if result is None:
            continue
        results[name] = result
        print(score_row(name, result), flush=True)
        text = arguments.output.read_text() if arguments.output.is_file() else ""
        arguments.output.write_text(replace_section(text or TITLE + "\n", make_section(heading, results, description)))


if __name__ == "__main__":
    main()
