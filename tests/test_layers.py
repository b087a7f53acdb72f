"""The layer order of the package: imports go down, never up, and never in a circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import skyfall_ns

ROOT = Path(skyfall_ns.__file__).parent
LAYERS = (
    ("errors", "__init__"),
    ("run_config",),
    ("nerfstudio_patches", "option_checks", "machine_options", "io"),
    ("geo",),
    ("scene",),
    ("view", "preflight"),
    ("priors", "refiners", "processing", "synthetic_city", "dataparsers", "viewer"),
    ("models",),
    ("idu",),
    ("pipelines",),
    ("method_configs", "export"),
    ("evaluation",),
    ("scripts",),
)
LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}


def module_name(path: Path, root: Path) -> str:
    """Dotted name of a file of the package."""
    return ".".join(["skyfall_ns", *path.relative_to(root).with_suffix("").parts]).removesuffix(".__init__")


def import_graph(root: Path) -> dict[str, set[str]]:
    """Modules of the package, and the modules of the package that each imports, anywhere in its file."""
    files = {module_name(path, root): path for path in root.rglob("*.py")}
    return {name: imported_modules(path.read_text(), set(files)) for name, path in files.items()}


def imported_modules(source: str, modules: set[str]) -> set[str]:
    """The modules of the package that a source imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & modules
        elif isinstance(node, ast.ImportFrom) and node.module:
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (named & modules) or ({node.module} & modules)
    return found


def package_of(module: str) -> str:
    """The part of a module's name that has a level."""
    return (module.split(".") + ["__init__"])[1]


def arrows_up(graph: dict[str, set[str]]) -> list[str]:
    """Imports that leave a package for one that is not below it."""
    return [
        f"{module} imports {target}"
        for module, targets in graph.items()
        for target in sorted(targets)
        if package_of(module) != package_of(target) and LEVEL[package_of(target)] >= LEVEL[package_of(module)]
    ]


def test_every_package_has_a_level():
    assert {package_of(module) for module in import_graph(ROOT)} == set(LEVEL)


def test_imports_go_down():
    assert not arrows_up(import_graph(ROOT))


def test_no_import_is_circular():
    try:
        TopologicalSorter(import_graph(ROOT)).prepare()
    except CycleError as error:
        pytest.fail(f"imports in a circle: {error.args[1]}")


def test_an_import_that_goes_up_is_found():
    modules = {"skyfall_ns.geo.rpc", "skyfall_ns.models.losses"}
    source = "def f():\n    from skyfall_ns.models import losses"
    graph = {"skyfall_ns.geo.rpc": imported_modules(source, modules)}
    assert arrows_up(graph) == ["skyfall_ns.geo.rpc imports skyfall_ns.models.losses"]
