"""The compiler of gsplat's CUDA code: that of the package index (the extra `cuda`), or one of the system.

gsplat compiles its code when it draws for the first time; torch caches the result for later runs.
"""

import importlib
import importlib.util
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from tqdm import tqdm

from skyfall_ns.errors import MissingExtraError, TrainingError

INSTALL = "pip install 'skyfall-ns[cuda]'"
EXTENSION = "gsplat_cuda"  # gsplat's name for its build
POLL_S = 2.0  # between two looks at the progress of the compilation


@cache
def load_gsplat() -> None:
    """Load gsplat's CUDA code; if this is the first time, compile it with a progress line.

    Raises MissingExtraError if a compiler is missing, TrainingError if the compilation fails."""
    use_packaged_toolkit()
    if is_compiled():
        _import_extension()
        return
    missing = missing_compilers()
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise MissingExtraError(
            f"gsplat, which renders on the GPU, compiles itself once, and {' and '.join(missing)} {verb} missing. "
            f"{remedy_text(missing)}, or pass --machine.device-type cpu."
        )
    print(
        f"gsplat compiles its CUDA code: some 25 CPU-minutes, once. It is kept in {build_directory()}.", file=sys.stderr
    )
    with _compilation_progress():
        _import_extension()


def remedy_text(missing: list[str]) -> str:
    """How to install missing compilers."""
    parts = [f"Run `{INSTALL}`"] * any(name != "g++" for name in missing)
    parts += ["install g++ (`apt install g++` on Debian and Ubuntu)"] * ("g++" in missing)
    text = " and ".join(parts)
    return text[0].upper() + text[1:]


def use_packaged_toolkit() -> Path | None:
    """Point the build at the compiler of the package index, if it is installed; returns its directory."""
    home = find_packaged_toolkit()
    if home is None:
        return None
    _prepend_path("PATH", home / "bin")
    _prepend_path("PATH", Path(sys.executable).parent)  # ninja of the same environment
    _prepend_path("LIBRARY_PATH", _runtime_link(home).parent)
    os.environ["CUDA_HOME"] = str(home)
    extension = importlib.import_module("torch.utils.cpp_extension")
    vars(extension)["CUDA_HOME"] = str(home)  # it was read from the environment at the import
    return home


def find_packaged_toolkit() -> Path | None:
    """Directory nvidia/cuNN of the installed packages, if it has a compiler for the CUDA version of torch."""
    version, spec = torch.version.cuda, importlib.util.find_spec("nvidia")
    if version is None or spec is None:
        return None
    directories = (Path(path) / f"cu{version.split('.')[0]}" for path in spec.submodule_search_locations or ())
    return next((path for path in directories if (path / "bin/nvcc").is_file()), None)


def find_compiler() -> Path | None:
    """The nvcc that a build uses: the packaged one, or one on the PATH."""
    home = find_packaged_toolkit()
    if home is not None:
        return home / "bin/nvcc"
    found = shutil.which("nvcc")
    return None if found is None else Path(found)


def missing_compilers() -> list[str]:
    """Which of nvcc, g++ and ninja are not on this machine."""
    ninja = shutil.which("ninja") or shutil.which("ninja", path=str(Path(sys.executable).parent))
    found = {"nvcc": find_compiler(), "g++": shutil.which(os.environ.get("CXX", "g++")), "ninja": ninja}
    return [name for name, path in found.items() if path is None]


def build_directory() -> Path:
    """Directory in which torch keeps gsplat's compiled code; it is not created."""
    chosen = os.environ.get("TORCH_EXTENSIONS_DIR")
    if chosen:
        return Path(chosen) / EXTENSION
    appdirs = importlib.import_module("torch._appdirs")  # as torch.utils.cpp_extension, whose import prints a warning
    cuda = "cpu" if torch.version.cuda is None else f"cu{torch.version.cuda.replace('.', '')}"
    python = f"py{sys.version_info.major}{sys.version_info.minor}{getattr(sys, 'abiflags', '')}"
    return Path(appdirs.user_cache_dir(appname="torch_extensions")) / f"{python}_{cuda}" / EXTENSION


def is_compiled() -> bool:
    """Whether gsplat's CUDA code is ready: part of its package, or compiled before."""
    if importlib.util.find_spec("gsplat.csrc") is not None:
        return True
    return any((build_directory() / f"{EXTENSION}{suffix}").is_file() for suffix in (".so", ".lib"))


def _import_extension() -> None:
    """Import gsplat's CUDA code, which compiles it if necessary."""
    try:
        backend = importlib.import_module("gsplat.cuda._backend")
    except (RuntimeError, ImportError) as error:
        lines = [line.strip() for line in str(error).splitlines() if "error" in line.lower()]
        raise TrainingError(
            f"gsplat's CUDA code does not compile or load ({(lines or [str(error)])[0][:200]}). "
            f"Delete {build_directory()} and run `{INSTALL}`, or pass --machine.device-type cpu."
        ) from error
    if backend._C is None:
        raise MissingExtraError(
            f"gsplat finds no CUDA compiler on this machine. Run `{INSTALL}`, or pass --machine.device-type cpu."
        )


@contextmanager
def _compilation_progress() -> Iterator[None]:
    """A progress line that counts compiled files while the context lasts."""
    spec = importlib.util.find_spec("gsplat")
    assert spec is not None and spec.submodule_search_locations
    sources = Path(spec.submodule_search_locations[0]) / "cuda/csrc"
    total = sum(1 for pattern in ("*.cu", "*.cpp") for _ in sources.glob(pattern))
    ended = threading.Event()

    def show_progress(bar: tqdm) -> None:
        while not ended.wait(POLL_S):
            bar.n = sum(1 for _ in build_directory().glob("*.o"))
            bar.refresh()

    with tqdm(total=total, desc="Compiling gsplat", unit="file", file=sys.stderr) as bar:
        thread = threading.Thread(target=show_progress, args=(bar,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _runtime_link(home: Path) -> Path:
    """libcudart.so in a directory of its own: the packages have it under its version's name only, and g++ does not find
    it there."""
    (library,) = sorted((home / "lib").glob("libcudart.so.*"))[:1]
    cache_root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    link = cache_root / "skyfall-ns" / home.name / "libcudart.so"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists() or link.resolve() != library.resolve():
        link.unlink(missing_ok=True)
        link.symlink_to(library)
    return link


def _prepend_path(variable: str, directory: Path) -> None:
    """Put a directory before those of a search path."""
    present = [part for part in os.environ.get(variable, "").split(os.pathsep) if part and part != str(directory)]
    os.environ[variable] = os.pathsep.join([str(directory), *present])
