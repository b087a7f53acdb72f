"""Subcommand `images` of `skyfall-eval`."""

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from skyfall_ns.errors import MissingExtraError, SkyfallError
from skyfall_ns.io.files import atomic_write, write_json
from skyfall_ns.io.outputs import check_output_files

if TYPE_CHECKING:
    from skyfall_ns.evaluation.image_comparison import ImageNetworks

LABELS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "lpips": "LPIPS", "clip_fid": "CLIP-FID", "cmmd": "CMMD"}


@dataclass(frozen=True)
class Images:
    """Compare images or videos with true ones: PSNR, SSIM, LPIPS, CLIP-FID and CMMD, per frame and on the whole.

    Networks are read from the caches on this machine; a metric whose network is missing is left out with a line."""

    gt: Path
    """Directory of true images, or a video."""
    pred: Path | None = None
    """Directory of images, or a video, of one method."""
    methods: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=PATH ...")] = ()
    """Several methods, each with its directory or video."""
    protocol: Literal["reference", "fast"] = "reference"
    """Patches of CLIP-FID and CMMD. reference: overlapping, as published with Skyfall-GS; fast: side by side."""
    patch: int = 512
    """Side of the patches in pixels."""
    frames: int | None = None
    """Number of frames to compare, at equal distances; by default all (Skyfall-GS: 30, or 24)."""
    size: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="WIDTH HEIGHT")] = None
    """Size in pixels to which all images are brought; by default that of the true images (Skyfall-GS: 1024 1024)."""
    clip_fid_model: str = "openai/clip-vit-base-patch32"
    """Network of CLIP-FID: a name of the hub that is in the cache, or a directory."""
    cmmd_model: str = "openai/clip-vit-large-patch14-336"
    """Network of CMMD: a name of the hub that is in the cache, or a directory."""
    json: Path | None = None
    """Write the report to this file."""
    csv: Path | None = None
    """Write the scores of all frames to this file."""
    markdown: Path | None = None
    """Write the table to this file."""
    html: Path | None = None
    """Write the table and the images side by side to this file, with the images in NAME_images beside it."""

    def main(self) -> None:
        """Compare, print the table, write the reports."""
        from skyfall_ns.evaluation.image_comparison import PatchProtocol, compare_images
        from skyfall_ns.evaluation.image_sets import read_image_set

        paths = self._method_paths()
        check_output_files({"--json": self.json, "--csv": self.csv, "--markdown": self.markdown, "--html": self.html})
        if self.patch < 16 or (self.frames is not None and self.frames < 1):
            raise SkyfallError("--patch must be at least 16, and --frames above 0. Leave them out for defaults.")
        truth = read_image_set(self.gt, self.frames)
        images = {name: read_image_set(path, self.frames) for name, path in paths.items()}
        protocol = PatchProtocol(self.patch, self.protocol == "reference", self.size)
        report = compare_images(images, truth, self._networks(), protocol) | {"protocol": self.protocol}
        table = _table(report)
        print(table)
        if self.json:
            write_json(self.json, report)
        if self.csv:
            atomic_write(self.csv, _frames_csv(report).encode())
        if self.markdown:
            atomic_write(self.markdown, table.encode())
        if self.html:
            _write_page(self.html, report, images, truth)

    def _method_paths(self) -> dict[str, Path]:
        if (self.pred is None) == (not self.methods):
            raise SkyfallError("One method or several are compared, not both or none. Give --pred or --methods.")
        if self.pred is not None:
            return {self.pred.stem: self.pred}
        pairs = [method.partition("=") for method in self.methods]
        for name, separator, path in pairs:
            if not (name and separator and path):
                raise SkyfallError(f"--methods {name}{separator}{path} is not NAME=PATH. Give each method a name.")
        if len({name for name, _, _ in pairs}) < len(pairs):
            raise SkyfallError("Two --methods have the same name. Give each a name of its own.")
        return {name: Path(path) for name, _, path in pairs}

    def _networks(self) -> "ImageNetworks":
        """The networks that are on this machine; prints a line for each that is not."""
        from skyfall_ns.evaluation.image_comparison import ImageNetworks
        from skyfall_ns.evaluation.image_networks import load_clip, load_lpips

        found: list[Any] = []
        for load in (
            load_lpips,
            lambda: load_clip(self.clip_fid_model, "CLIP-FID"),
            lambda: load_clip(self.cmmd_model, "CMMD"),
        ):
            try:
                found.append(load())
            except MissingExtraError as error:
                print(f"Left out: {error}")
                found.append(None)
        return ImageNetworks(*found)


def _table(report: dict[str, Any]) -> str:
    keys = next(iter(report["methods"].values()))["mean"].keys()
    lines = [f"| method | {' | '.join(LABELS[key] for key in keys)} |", f"|---|{'---|' * len(keys)}"]
    for name, scores in report["methods"].items():
        lines.append(f"| {name} | {' | '.join(format(scores['mean'][key], '.4f') for key in keys)} |")
    return "\n".join(lines) + "\n"


def _frames_csv(report: dict[str, Any]) -> str:
    import csv
    import io

    buffer = io.StringIO()
    rows = [
        {"method": name, "frame": index, **frame}
        for name, scores in report["methods"].items()
        for index, frame in enumerate(scores["frames"])
    ]
    writer = csv.DictWriter(buffer, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _write_page(path: Path, report: dict[str, Any], images: dict[str, list], truth: list) -> None:
    """Write the page, with one row of images per frame: the truth, then each method."""
    from skyfall_ns.io.images import write_png

    directory = path.with_name(f"{path.stem}_images")
    columns = {"truth": truth, **images}
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    rows = []
    for index in range(len(truth)):
        cells = []
        for number, (name, frames) in enumerate(columns.items()):
            file = directory / f"{number:02d}_{index:05d}.png"
            write_png(file, frames[index][..., ::-1])
            scores = {} if name == "truth" else report["methods"][name]["frames"][index]
            words = ", ".join(f"{LABELS[key]} {value:.3f}" for key, value in scores.items())
            cells.append(f"<td><img src='{directory.name}/{file.name}' width='320' alt=''><br>{words}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    page = (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Images</title>"
        "<style>body{font:14px system-ui,sans-serif}td{padding:4px}</style>"
        f"<pre>{html.escape(_table(report))}</pre>"
        f"<table><tr>{head}</tr>{''.join(rows)}</table></html>"
    )
    atomic_write(path, page.encode())
