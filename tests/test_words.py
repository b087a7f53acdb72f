"""Words that the project replaced by the terms of the field (docs/reference/glossary.md) do not come back.

Names are checked where they are defined, so that the names of other libraries are not reported. Prose is comments,
docstrings, messages and documents. `python tests/test_words.py` lists what is found.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path for part in ("skyfall_ns", "tests", "benchmarks", "docs") for path in (ROOT / part).rglob("*.py")
    if path != Path(__file__)
)  # fmt: skip
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CITATION.cff", "mkdocs.yml", "pyproject.toml")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
]

# Left column of the glossary, as words of names: any name that contains one, split at underscores and capitals.
PARTS = {
    "agreement": "consistency", "canonical": "reference", "cure": "patch", "cures": "patches", "damped": "scaled",
    "emptiness": "coverage_loss", "folder": "directory", "folders": "directories", "growth": "densification",
    "guest": "on-demand model", "guests": "on-demand models", "haze": "path_radiance", "host": "nerfstudio",
    "lend": "load", "lent": "loaded", "look": "appearance", "looks": "appearances", "mend": "fix", "mends": "fixes",
    "parked": "offloaded", "parking": "offload", "picture": "image", "pictures": "images", "price": "penalty",
    "prices": "penalties", "sight": "reproject, view_directions",
    "splat": "gaussian", "splats": "gaussians", "sunlight": "relative_irradiance", "ties": "tie_points",
    "told": "reported", "tells": "reports", "towards": "lerp", "undisturbed": "uninterrupted", "void": "empty",
    "voids": "empty pixels",
    "centre": "center", "colour": "color", "colours": "colors", "grey": "gray", "metre": "meter", "metres": "meters",
    "neighbour": "neighbor", "neighbours": "neighbors",
}  # fmt: skip

# Left column, as whole names.
NAMES = {
    "SceneOnModel": "NormalizedScene", "on_model": "normalized", "speak_plainly": "install_excepthook",
    "save_whole_checkpoints": "save_checkpoints_atomically", "count_all_steps": "count_total_steps",
    "stop_drawing": "stop_render_threads", "Appearance": "AppearanceEmbedding", "Reader": "AppearanceDecoder",
    "ToneShift": "apply_coefficients", "MOVES": "FALLBACK_OFFSETS",
    "SunMap": "ShadowMap", "sun_map": "shadow_map", "sky_light": "ambient",
    "seen_light": "shade", "sharpened": "apply_pixel_shadows",
    "directional": "eval_sh1", "look_up": "sample_bilinear", "bend": "apply_quadratic_term",
    "points_of": "unproject_depth",
    "closed_weight": "coverage_weight", "smooth_weight": "height_tv_weight",
    "draw_heights": "render_height_map", "FEW_PULL": "SPARSE_VIEW_SCALE",
    "MANY_VIEWS": "dense_view_threshold", "HALF_LEFT": "MEDIAN_T", "DEEP_LEFT": "DEEP_T",
    "sharp_depth": "surface_depth", "grow_from": "restart_densification", "Relocation": "MCMCRelocation",
    "shear_weight": "view_consistency_weight", "pose_shift": "image_offsets", "ImageShift": "ImageOffset",
    "HomeView": "InitialCamera", "sheared": "view_consistency_loss", "look_alike": "cluster_images",
    "coarser": "downsample", "write_whole": "atomic_write", "new_folder": "atomic_directory",
    "prepare": "process_scene", "Prepared": "ProcessingResult", "announce": "on_stage",
    "Rounds": "EpisodeSchedule", "Round": "EpisodeWindow", "synthetic_turn": "synthetic_index",
    "episode_turn": "source_episode", "keep_earlier": "replay_decay", "episode_rates": "episode_lr_scale",
    "restart_rates": "reset_learning_rates", "grow_share": "densify_fraction", "grow_thresh": "densify_grad_thresh",
    "reset_share": "opacity_reset_fraction", "refine_elsewhere": "external_refinement",
    "_quiet_dice": "preserve_rng_state", "thinned_pair": "noise2noise_pair", "Shots": "EpisodeSpec",
    "shots": "spec", "OtherVersion": "UnsupportedVersionError", "EpisodeNote": "EpisodeStatus",
    "stands_free": "is_unobstructed", "admits": "is_valid_pose", "SIGHT": "FOOTPRINT_RATIO", "forget": "clear_cache",
    "_began": "_start_step", "_origin": "_source_hash", "_stopped": "_resume_state", "_take_over": "import_episodes",
    "Resolved": "ResolvedOptions", "Placement": "RunTransform", "azimuth_turn": "azimuth_step",
    "perturbation_deg": "sample_jitter_deg",
}  # fmt: skip

# Left column, as names of functions and methods only: as names of values they are ordinary English.
FUNCTIONS = {
    "adjust": "bundle_adjust", "choose": "build", "drawn": "render", "finished": "composite", "given": "overrides",
    "home": "initial_camera", "image_of": "training_index", "kind": "cluster", "layers": "transmittance_depths",
    "lit": "sun_visibility", "moves": "geometry_gradient_scale", "place": "georegister", "pull": "weight_scale",
    "rims": "edge_mask", "seen": "apply_sensor_model, or an action", "sun_of": "sun_direction", "told": "summary",
    "view_of": "view_from_camera",
}  # fmt: skip

# Left column, as regular expressions over prose.
PROSE = {
    r"\bagreements?\b": "consistency",
    r"\bbase colou?rs?\b": "albedo",
    r"\bcanonical\b": "reference",
    r"\b(?:come|comes|came) (?:and|or) (?:go|goes|went|gone)\b": "densify and prune",
    r"\bcure[sd]?\b": "patch",
    r"\bdegrees high\b": "degrees of elevation",
    r"\bfolders?\b": "directory",
    r"\b(?:go|goes|going|gone|went) on\b": "resume",
    r"\bgrowth\b": "densification",
    r"\bguests?\b": "on-demand model",
    r"\bhaze\b": "path radiance",
    r"\bhost(?:'s)?\b": "Nerfstudio",
    r"\bhow-many-th\b": "index",
    r"\b(?:lend|lends|lent|lending)\b": "load",
    r"\b(?:a|the|its|their|one|own|mean|same|whose|image's|images'|each|every|which)\s+looks?\b(?![- ](?:at|up|like))":
        "appearance",
    r"\blooks? (?:of|panel)\b|\bpanel \W?look\b|\blook-alikes?\b|\blooks? alike\b": "appearance",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\bnumbers? that (?:are|is) none\b": "NaN or infinity",
    r"\bof then\b": "previous",
    r"\b(?:own|its|their) kind\b|\bkind by kind\b": "cluster",
    r"\bpark(?:ed|s)\b": "offload",
    r"\bpictures?\b": "image, visualization",
    r"\bpose shifts?\b": "image offset, RPC bias",
    r"\bprices?\b": "penalty",
    r"\bsheared views?\b": "view consistency",
    r"\bsky light\b": "ambient light",
    r"\bso many\b": "count",
    r"\bsplats?\b": "Gaussians",
    r"\bsun's map\b": "shadow map",
    r"\b(?:tell|tells|told|telling)\b": "specify, report",
    r"\bties\b": "tie points",
    r"\btowards\b": "toward",
    r"\bundisturbed\b": "uninterrupted",
    r"\bvoids?\b": "empty, invalid pixels",
    r"--pipeline\.(?:moves|look|keep-earlier|agreement|episode-rates|grow-share|grow-thresh|reset-share|preset)\b":
        "the new flag",
    r"--pipeline\.(?:refine-elsewhere|curriculum\.azimuth-turn|curriculum\.perturbation-deg)\b": "the new flag",
    r"--pipeline\.model\.(?:closed-weight|smooth-weight|canonical|growth|shear-weight|pose-shift)\b": "the new flag",
    r"refiner\.name (?:none|smooth|scene)\b": "identity, bilateral, denoiser",
    r"\b(?:centi|deci|milli|kilo)?met(?:re|res)\b|\bcolour|\bgrey\b|\bcentre|\bneighbour|\bcatalogue":
        "American spelling",
}  # fmt: skip
# Not checked alone, because they are ordinary English or terms of the field in most places: house and room (the
# synthetic city has them), start_*, grow, place, kind and layers as values, p1 and p2, high, moves, lit,
# seen, decode and encode (text, images), shift (a DSM has a 3-D shift).

EXCEPTIONS = {
    # name or phrase: why it stays
    "look_at": "the usual name of a view matrix that looks at a point",
    "lookup": "a term of computing",
    "websocket_host": "option of Nerfstudio",
    "--viewer.websocket-host": "option of Nerfstudio",
    "pictures": "flag of skyfall-eval views, which keeps its name",
    "--pictures": "flag of skyfall-eval views, which keeps its name",
    "add_folder": "method of viser",
    "gaussian-splat": "subcommand of ns-export",
    "splat.ply": "file of ns-export",
    "hosts": "more than one computer",
    ".splat": "file format",
    "`splat`": "subcommand of skyfall-export, named after the format",
    "skyfall-export splat": "subcommand of skyfall-export, named after the format",
    "SplatExport": "export of that format",
    "encode_splat": "encoder of that format",
    "splat-transform": "program of PlayCanvas",
}
ORDINARY = re.compile(r"looks?_(?:at|up|like)|lines?_of_sight|sight_lines?")  # in names
STRINGS = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}  # the latter since Python 3.12


def split_name(name: str) -> list[str]:
    """Words of a name in lower case: underscores and capitals separate them."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def defined_names(tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """(line, name, whether it is a function) of what a source defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name, True
        elif isinstance(node, ast.ClassDef):
            yield node.lineno, node.name, False
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg, False
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id, False
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr, False
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname, False


def replaced_name(name: str, is_function: bool) -> str | None:
    """What a name should become, as "word -> term"; None if it is right."""
    if name in EXCEPTIONS:
        return None
    if name in NAMES:
        return f"{name} -> {NAMES[name]}"
    bare = name.strip("_")
    if is_function and bare in FUNCTIONS:
        return f"{bare}() -> {FUNCTIONS[bare]}"
    words = split_name(ORDINARY.sub("", name))
    return next((f"{word} -> {PARTS[word]}" for word in words if word in PARTS), None)


def replaced_phrases(text: str) -> Iterator[tuple[int, str]]:
    """(line from 0, "phrase -> term") of prose."""
    for exception in EXCEPTIONS:
        if not exception.isidentifier():
            text = text.replace(exception, "")
    flat = re.sub(r"\s", " ", text)  # phrases may continue on the next line
    for pattern, term in PROSE.items():
        for found in re.finditer(pattern, flat, re.I):
            yield text.count("\n", 0, found.start()), f"{found[0]} -> {term}"


def prose_of(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of comments and of strings that are no single word, such as a key or a path."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
        elif token.type in STRINGS and " " in token.string.strip():
            text, fields = token.string, 1
            while fields:  # what stands in braces is code
                text, fields = re.subn(r"\{[^{}]*\}", "", text)
            yield token.start[0], text


def problems_of_source(source: str) -> list[tuple[int, str]]:
    """(line, problem) of a Python source."""
    found = [(line, problem) for line, name, function in defined_names(ast.parse(source))
             if (problem := replaced_name(name, function))]  # fmt: skip
    for line, text in prose_of(source):
        found += [(line + offset, problem) for offset, problem in replaced_phrases(text)]
    return sorted(set(found))


def report(path: Path) -> list[str]:
    """Problems of a file, one line each."""
    text, name = path.read_text(), path.relative_to(ROOT)
    if path.suffix == ".py":
        found = problems_of_source(text)
        found += [(1, f"file name: {p}") for p in [replaced_name(path.stem, False)] if p]
    else:
        found = [(line + 1, problem) for line, problem in replaced_phrases(text)]
    return [f"{name}:{line}: {problem}" for line, problem in found]


@pytest.mark.parametrize("path", [*SOURCES, *DOCUMENTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_replaced_word(path):
    assert not report(path)


def test_replaced_names_are_found():
    source = (
        "def fit_look(splats, view):\n    host, offsets = view.look_at(splats.picture), 0\n    self.void_px = offsets\n"
        "class HomeView: ...\ndef given(): ...\ngiven = 1\n"
    )
    assert [problem for _, problem in problems_of_source(source)] == [
        "look -> appearance", "splats -> gaussians", "host -> nerfstudio", "void -> empty", "HomeView -> InitialCamera",
        "given() -> overrides",
    ]  # fmt: skip


def test_replaced_phrases_are_found_and_ordinary_english_is_not():
    found = "The look of\nan image. It goes\non in the folder. `ns-export gaussian-splat` --pipeline.look x"
    assert sorted(problem.partition(" -> ")[0] for _, problem in replaced_phrases(found)) == [
        "--pipeline.look", "The look", "folder", "goes on", "look of",
    ]  # fmt: skip
    assert not list(replaced_phrases("Look at the image; a lookup in splat.ply; the hostname; tie points; metrics."))


if __name__ == "__main__":
    lines = [line for path in [*SOURCES, *DOCUMENTS] for line in report(path)]
    print("\n".join([*lines, f"{len(lines)} problems"]))
