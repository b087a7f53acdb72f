"""Trains stage 2 on top of one stage 1 run, once per variant, scores before and after, and writes tables to stage2.md.

    python benchmarks/stage2.py SCENE RUN/config.yml              # a synthetic city brings its own truth
    python benchmarks/stage2.py SCENE RUN/config.yml --only none scene --pipeline.curriculum.steps 100

RUN is a stage 1 run of the same scene. A variant is a name and flags of ns-train, after another method's name if need
be: add a line to VARIANTS. Flags that this script does not know go to ns-train in all variants. Runs and scores are
kept in the work folder, and what is there already is not done again; a variant whose refiner lacks weights is told and
left out.
"""

import argparse
import datetime
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from rasterizer import machine
from stage1 import ELEVATIONS, measured_or_kept, scored, slug, trained, truths, with_method, with_section

VARIANTS: dict[str, list[str]] = {
    "satellite images only": ["--pipeline.refiner.name", "none", "--pipeline.synthetic-share", "0"],
    "none": ["--pipeline.refiner.name", "none"],
    "smooth (default)": [],
    "scene": ["--pipeline.refiner.name", "scene"],
    "half of the steps on satellite images": ["--pipeline.synthetic-share", "0.5"],
    "refined images move splats freely": ["--pipeline.moves", "1"],
    "refined images only colour": ["--pipeline.moves", "0"],
    "depth supervision, weight 0.2": ["--pipeline.episode-depth", "0.2"],
    "earlier episodes forgotten": ["--pipeline.keep-earlier", "0"],
    "all pixels alike": ["--pipeline.agreement", "False"],
    "growth": ["--pipeline.grow-share", "0.9"],
    "rates of stage 1": ["--pipeline.episode-rates", "1"],
    "FlowEdit, FLUX.2-klein-base-4B": ["--pipeline.refiner.name", "flowedit"],
}

BEFORE = "before (stage 1)"
PHASES = ("render", "refine", "weights", "train")
SCORES = (*(f"{e}°, {unit}" for e in ELEVATIONS for unit in ("dB", "SSIM")), "held-out, dB", "training, dB", "MAE, m",
          "splats")  # fmt: skip
COSTS = ("views", "refined per s", "render, s", "refine, s", "weigh, s", "train, s", "whole, s",
         "peak, GB", "agree as rendered, dB", "as refined, dB", "generative")  # fmt: skip
TITLE = (
    "# Stage 2, refiner by refiner\n\nEach row is one run of `ns-train skyfall-idu` on top of the same stage 1 run; "
    "written by `python benchmarks/stage2.py`. First table, what came out. Degrees: PSNR and SSIM of true pictures "
    "from that elevation, where there are any. PSNR of held-out images (without any: of the training images) and of "
    "training images. MAE: heights after one 3-D shift. Second table, what it cost. Seconds of all episodes together, "
    "and of the whole command. Peak: the most memory in a phase, of the accelerator, or of the process on "
    "a CPU. Agreement of neighbouring views (docs/stage2.md): mean over the episodes, before and after refining.\n"
)


def training_psnr(config: Path) -> float:
    """Mean over the training images of a run, each in its own look."""
    import torch
    from nerfstudio.utils.eval_utils import eval_setup

    from skyfall_ns import nerfstudio_patches

    nerfstudio_patches.cure()
    _, pipeline, _, _ = eval_setup(config, test_mode="inference")
    data: Any = pipeline.datamanager
    values = []
    with torch.no_grad():
        for index, batch in enumerate(data.cached_train):
            outputs = pipeline.model(data.train_cameras[index : index + 1].to(pipeline.device))
            values.append(pipeline.model.get_image_metrics_and_images(outputs, batch)[0]["psnr"])
    return sum(values) / len(values)


def all_scores(config: Path, folder: Path, reference: Path | None, truth: Path | None) -> dict[str, Any]:
    """As `stage1.scored`, and {"training_psnr"}."""
    return scored(config, folder, reference, truth) | {"training_psnr": training_psnr(config)}


def episodes_cost(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    """What the episodes of a run cost: {"views", "per_s", "render", "refine", "weights", "train", "peak_gb",
    "raw_psnr", "refined_psnr", "generative"}; None where it is not known."""
    phases = [manifest["phases"] for manifest in manifests]
    seconds = {name: sum(p[name]["seconds"] for p in phases if name in p) for name in PHASES}
    peaks = [p["peak_memory_bytes"] for phase in phases for p in phase.values() if p["peak_memory_bytes"] is not None]
    agreement = {
        key: mean([manifest["consistency"].get(key, {}).get("psnr") for manifest in manifests])
        for key in ("raw", "refined")
    }
    refined = sum(view["refined_sha256"] is not None for manifest in manifests for view in manifest["views"].values())
    return seconds | {
        "views": sum(len(manifest["views"]) for manifest in manifests),
        "per_s": refined / seconds["refine"] if seconds["refine"] else None,
        "peak_gb": max(peaks) / 1e9 if peaks else None,
        "raw_psnr": agreement["raw"],
        "refined_psnr": agreement["refined"],
        "generative": any(manifest["generative"] for manifest in manifests),
    }


def mean(values: list[float | None]) -> float | None:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def measured(
    scene: Path, stage1: Path, folder: Path, flags: list[str], reference: Path | None, truth: Path | None
) -> dict[str, Any]:
    """Train stage 2 once and score: as `all_scores`, and {"seconds", "cost"}."""
    words = with_method(flags, "skyfall-idu")
    config, seconds = trained(scene, folder, [*words, "--pipeline.stage1", str(stage1)])
    manifests = [json.loads(path.read_text()) for path in sorted((config.parent / "idu").glob("*/manifest.json"))]
    scores = all_scores(config, folder, reference, truth)
    return {"seconds": seconds, "cost": episodes_cost(manifests)} | scores


def shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def score_row(name: str, result: dict[str, Any]) -> str:
    """One line of the first table."""
    views, dsm = result["views"] or {}, result["dsm"]
    cells = [
        shown(views.get(e, {}).get(key), form) for e in ELEVATIONS for key, form in (("psnr", ".2f"), ("ssim", ".3f"))
    ]
    cells += [f"{result['held_out']['psnr']:.2f}", f"{result['training_psnr']:.2f}"]
    cells += [shown(None if dsm is None else dsm["registered"]["mae_m"], ".3f"), f"{result['splats']:,}"]
    return f"| {name} | {' | '.join(cells)} |"


def cost_row(name: str, result: dict[str, Any]) -> str:
    """One line of the second table."""
    cost = result["cost"]
    seconds = (f"{value:.0f}" for value in (*(cost[phase] for phase in PHASES), result["seconds"]))
    known = (shown(cost[key], ".2f") for key in ("peak_gb", "raw_psnr", "refined_psnr"))
    kind = "yes" if cost["generative"] else "no"
    cells = [f"{cost['views']}", shown(cost["per_s"], ".2f"), *seconds, *known, kind]
    return f"| {name} | {' | '.join(cells)} |"


def section(heading: str, results: dict[str, dict[str, Any]], said: str) -> str:
    """A scene's heading, what was measured on, both tables, and what each variant is."""
    lines = [f"## {heading}", "", said, "", *head(SCORES)]
    lines += [score_row(name, result) for name, result in results.items()]
    runs = {name: result for name, result in results.items() if "cost" in result}
    if runs:
        lines += ["", *head(COSTS), *(cost_row(name, result) for name, result in runs.items())]
    flags = [f"- {name}: `{' '.join(VARIANTS[name])}`" for name in runs if VARIANTS[name]]
    return "\n".join([*lines, "", *flags, *([""] if flags else [])])


def head(columns: tuple[str, ...]) -> list[str]:
    return [f"| variant | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("scene", type=Path, help="a scene made by skyfall-process")
    made.add_argument("config", type=Path, help="config.yml of a stage 1 run of this scene")
    made.add_argument("--reference", type=Path, help="true DSM; by default the scene's truth/dsm.tif")
    made.add_argument("--truth", type=Path, help="true pictures; by default the scene's truth/oblique")
    made.add_argument("--only", nargs="+", choices=VARIANTS, metavar="NAME", help=f"of: {', '.join(VARIANTS)}")
    made.add_argument("--heading", help="of the scene's section; by default the folder's name")
    made.add_argument("--work", type=Path, default=Path("outputs/stage2"), help="folder of runs and scores")
    made.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"))
    return made


def command(arguments: argparse.Namespace, further: list[str]) -> str:
    """What was typed, as far as it changes what is measured."""
    reference = [] if arguments.reference is None else ["--reference", arguments.reference.name]
    return " ".join(["python benchmarks/stage2.py", arguments.scene.name, "RUN/config.yml", *reference, *further])


def main() -> None:
    arguments, further = parser().parse_known_args()
    scene, stage1 = arguments.scene.resolve(), arguments.config.resolve()
    reference, truth = truths(scene, arguments)
    heading = arguments.heading or scene.name
    said = f"{datetime.date.today()}, {machine()}: `{command(arguments, further)}`"
    work = arguments.work.resolve() / slug(heading)
    asked = [str(scene), str(stage1), str(stage1.stat().st_mtime_ns), str(reference), str(truth)]
    before = measured_or_kept(
        BEFORE, work / "before", asked, partial(all_scores, stage1, work / "before", reference, truth), True
    )
    if before is None:
        sys.exit(1)
    results = {BEFORE: before}
    print(score_row(BEFORE, before), flush=True)
    for name, flags in VARIANTS.items():
        folder, words = work / slug(name), [*flags, *further]
        wanted = not arguments.only or name in arguments.only
        measure = partial(measured, scene, stage1, folder, words, reference, truth)
        result = measured_or_kept(name, folder, [*asked, *words], measure, wanted)
        if result is None:
            continue
        results[name] = result
        print(score_row(name, result), flush=True)
        text = arguments.output.read_text() if arguments.output.is_file() else ""
        arguments.output.write_text(with_section(text or TITLE + "\n", section(heading, results, said)))


if __name__ == "__main__":
    main()
