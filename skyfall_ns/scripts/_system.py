"""Description of the machine for `skyfall-info --system`: device, compilers, extras, and what is missing for what."""

import importlib.metadata
import importlib.util
import platform
import subprocess
from pathlib import Path
from typing import Any

EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
    "cuda": (("ninja",), "the compiler of gsplat's CUDA code, on a machine with an NVIDIA GPU"),
    "depth": (("transformers", "moge"), "learned depth priors: Depth Anything, MoGe"),
    "diffusion": (("diffusers", "transformers", "accelerate"), "the refiners flowedit, img2img and instruct"),
    "video": (("imageio_ffmpeg",), "ffmpeg for ns-render, where the system has none"),
}
"""Per extra: packages that it installs, and what it is for."""


def describe_system() -> dict[str, Any]:
    """Describe versions, devices, compilers and extras of this machine, and what to install."""
    import torch

    from skyfall_ns.models.rasterizers import cuda_toolkit

    compiler = cuda_toolkit.find_compiler()
    missing = cuda_toolkit.missing_compilers()
    devices = [_describe_device(index) for index in range(torch.cuda.device_count())] if _has_cuda() else []
    packages = ("skyfall-ns", "nerfstudio", "gsplat", "torch")
    answer: dict[str, Any] = {
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "torch_cuda": torch.version.cuda,
        "driver": _driver_version(),
        "devices": devices,
        "nvcc": None if compiler is None else {"path": str(compiler), "version": _nvcc_version(compiler)},
        "missing_compilers": missing,
        "gsplat_compiled": cuda_toolkit.is_compiled(),
        "extras": {name: _missing_packages(name) for name in EXTRAS},
    }
    return answer | {"advice": _list_advice(answer)}


def system_text(answer: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows (name, value) of `describe_system` for people."""
    versions = ", ".join(f"{name} {version}" for name, version in answer["versions"].items())
    rows = [
        ("python", answer["python"]),
        ("packages", versions),
        ("CUDA of torch", answer["torch_cuda"] or "none: this torch computes on the CPU only"),
        ("driver", answer["driver"] or "none"),
    ]
    rows += [("device", _device_text(device)) for device in answer["devices"]] or [("device", "CPU")]
    nvcc = answer["nvcc"]
    rows += [
        ("nvcc", "none" if nvcc is None else f"{nvcc['version'] or 'unknown version'}, {nvcc['path']}"),
        ("missing compilers", ", ".join(answer["missing_compilers"]) or "none"),
        ("gsplat's CUDA code", "compiled" if answer["gsplat_compiled"] else "not compiled yet"),
    ]
    for name, missing in answer["extras"].items():
        state = f"missing {', '.join(missing)}" if missing else "installed"
        rows.append((f"extra {name}", f"{state} ({EXTRAS[name][1]})"))
    return rows + [("to do", line) for line in answer["advice"]]


def _list_advice(answer: dict[str, Any]) -> list[str]:
    """What to install, and what it gives."""
    from skyfall_ns.models.rasterizers.cuda_toolkit import remedy_text

    advice = []
    if answer["driver"] and not answer["devices"]:
        advice.append("This torch finds no GPU: install a torch with CUDA for the driver to train on it.")
    if answer["devices"] and answer["missing_compilers"] and not answer["gsplat_compiled"]:
        advice.append(f"{remedy_text(answer['missing_compilers'])}, so that gsplat can render on the GPU.")
    elif answer["devices"] and not answer["gsplat_compiled"]:
        advice.append("The first training compiles gsplat: some 25 CPU-minutes, once.")
    for name, missing in answer["extras"].items():
        if missing and name != "cuda":
            advice.append(f"pip install 'skyfall-ns[{name}]' for {EXTRAS[name][1]}.")
    return advice


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _describe_device(index: int) -> dict[str, Any]:
    """Name, compute capability and memory of a GPU."""
    import torch

    free, total = torch.cuda.mem_get_info(index)
    major, minor = torch.cuda.get_device_capability(index)
    return {
        "name": torch.cuda.get_device_name(index),
        "capability": f"{major}.{minor}",
        "free_bytes": free,
        "total_bytes": total,
    }


def _device_text(device: dict[str, Any]) -> str:
    free, total = (device[key] / 2**30 for key in ("free_bytes", "total_bytes"))
    return f"{device['name']}, compute capability {device['capability']}, {free:.1f} of {total:.1f} GiB free"


def _driver_version() -> str | None:
    """Version of the NVIDIA driver; None without one."""
    return _first_line(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])


def _nvcc_version(compiler: Path) -> str | None:
    """Release of an nvcc, such as "13.2"; None if it does not run."""
    try:
        done = subprocess.run([str(compiler), "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    _, found, rest = done.stdout.partition("release ")
    return rest.split(",")[0] if found else None


def _first_line(command: list[str]) -> str | None:
    """First line that a command prints; None if it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else None


def _missing_packages(extra: str) -> list[str]:
    """Packages of an extra that are not installed."""
    from skyfall_ns.models.rasterizers.cuda_toolkit import find_packaged_toolkit

    missing = [name for name in EXTRAS[extra][0] if importlib.util.find_spec(name) is None]
    return missing + ["nvidia-cuda-nvcc"] * (extra == "cuda" and find_packaged_toolkit() is None)
