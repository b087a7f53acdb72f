"""The compiler of gsplat's CUDA code: where it is found, and what is said when it is missing or fails."""

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from skyfall_ns.errors import MissingExtraError, TrainingError
from skyfall_ns.models.rasterizers import cuda_toolkit, prepare_rasterizer


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A machine on which gsplat is not compiled yet, with a cache of its own."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for variable in ("PATH", "LIBRARY_PATH", "CUDA_HOME"):
        monkeypatch.setenv(variable, os.environ.get(variable, ""))
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    cuda_toolkit.load_gsplat.cache_clear()
    yield tmp_path
    cuda_toolkit.load_gsplat.cache_clear()


def install_packages(monkeypatch, directory: Path, *files: str) -> Path:
    """Packages nvidia-* with these files in their directory; returns it."""
    home = directory / "nvidia/cu13"
    for name in files:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch()
    find_spec = cuda_toolkit.importlib.util.find_spec
    found = SimpleNamespace(submodule_search_locations=[str(directory / "nvidia")])
    monkeypatch.setattr(
        cuda_toolkit.importlib.util, "find_spec", lambda name: found if name == "nvidia" else find_spec(name)
    )
    return home


def test_the_compiler_of_the_packages_is_used_and_its_library_found_by_the_linker(fresh, monkeypatch):
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", None)
    home = install_packages(monkeypatch, fresh, "bin/nvcc", "lib/libcudart.so.13")
    assert cuda_toolkit.use_packaged_toolkit() == home == cuda_toolkit.use_packaged_toolkit()
    assert os.environ["CUDA_HOME"] == str(home) == torch.utils.cpp_extension.CUDA_HOME
    assert str(home / "bin") in os.environ["PATH"].split(os.pathsep)[:2]
    assert os.environ["PATH"].split(os.pathsep).count(str(home / "bin")) == 1
    link = Path(os.environ["LIBRARY_PATH"].split(os.pathsep)[0]) / "libcudart.so"
    assert link.resolve() == (home / "lib/libcudart.so.13").resolve()
    assert cuda_toolkit.find_compiler() == home / "bin/nvcc"


def test_packages_without_a_compiler_or_of_another_version_are_not_used(fresh, monkeypatch):
    home = install_packages(monkeypatch, fresh, "lib/libcudart.so.13")
    assert cuda_toolkit.use_packaged_toolkit() is None
    (home / "bin").mkdir()
    (home / "bin/nvcc").touch()
    assert cuda_toolkit.find_packaged_toolkit() == home
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert cuda_toolkit.find_packaged_toolkit() is None


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ((), r"nvcc and g\+\+ and ninja are missing\. Run `pip install 'skyfall-ns\[cuda\]'` and install g\+\+ "),
        (
            ("g++", "ninja"),
            r"nvcc is missing\. Run `pip install 'skyfall-ns\[cuda\]'`, or pass --machine\.device-type cpu",
        ),
        (("nvcc", "ninja"), r"g\+\+ is missing\. Install g\+\+ \(`apt install g\+\+`"),
    ],
)
def test_missing_compilers_are_named_with_what_to_install(fresh, monkeypatch, present, message):
    monkeypatch.setattr(cuda_toolkit, "find_packaged_toolkit", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda name, path=None: f"/bin/{name}" if name in present else None)
    with pytest.raises(MissingExtraError, match=message):
        prepare_rasterizer("cuda")


def test_a_failed_compilation_names_the_error_and_the_directory(fresh, monkeypatch, capsys):
    def fail(name):
        raise RuntimeError("Building failed\nptxas fatal error: Unsupported .version 9.5\nmore")

    monkeypatch.setattr(cuda_toolkit, "use_packaged_toolkit", lambda: None)
    monkeypatch.setattr(cuda_toolkit, "missing_compilers", lambda: [])
    monkeypatch.setattr(cuda_toolkit, "POLL_S", 0.01)
    monkeypatch.setattr(
        cuda_toolkit, "importlib", SimpleNamespace(util=cuda_toolkit.importlib.util, import_module=fail)
    )
    directory = fresh / "extensions" / f"py{sys.version_info.major}{sys.version_info.minor}_cu132/gsplat_cuda"
    monkeypatch.setattr(cuda_toolkit, "build_directory", lambda: directory)
    with pytest.raises(TrainingError) as error:
        cuda_toolkit.load_gsplat()
    assert str(error.value) == (
        "gsplat's CUDA code does not compile or load (ptxas fatal error: Unsupported .version 9.5). "
        f"Delete {directory} and run `pip install 'skyfall-ns[cuda]'`, or pass --machine.device-type cpu."
    )
    printed = capsys.readouterr().err
    assert f"some 25 CPU-minutes, once. It is kept in {directory}." in printed and "Compiling gsplat" in printed


def test_the_build_directory_is_that_of_torch(fresh, monkeypatch):
    extension = cuda_toolkit.importlib.import_module("torch.utils.cpp_extension")
    assert str(cuda_toolkit.build_directory()) == extension._get_build_directory("gsplat_cuda", verbose=False)
    assert not cuda_toolkit.is_compiled()
    (cuda_toolkit.build_directory() / "gsplat_cuda.so").touch()
    assert cuda_toolkit.is_compiled()
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
    default = Path(extension.get_default_build_root()) / f"py{sys.version_info.major}{sys.version_info.minor}_cu132"
    assert cuda_toolkit.build_directory() == default / "gsplat_cuda"


def test_the_cpu_needs_no_preparation(monkeypatch):
    monkeypatch.setattr(cuda_toolkit, "load_gsplat", lambda: pytest.fail("not needed"))
    prepare_rasterizer("cpu")
