"""Atomic creation of a directory: it is built beside its target and renamed when complete."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from skyfall_ns.errors import SceneError

if os.name == "posix":
    import fcntl  # without locks (Windows), leftovers of killed processes cannot be recognized, and stay

_LOCK = ".being-built"


@contextmanager
def atomic_directory(target: Path, force: bool, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """Yield a temporary directory beside `target`; it replaces `target` on success and is removed on failure.

    Raises SceneError if `target` exists and `force` is not given, if the existing one is not a scene or contains one of
    the `inputs`, which replacing it would delete, or if no directory can be created there.
    """
    target = Path(target).resolve()
    _remove_leftovers(target)
    _check_target(target, force, inputs)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise SceneError(f"{target.parent} cannot be created. Choose another --output-dir.") from error
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=_partial_prefix(target)))
    try:
        with _hold_lock(partial):
            partial.chmod(0o755)
            yield partial
            (partial / _LOCK).unlink()
            _replace_target(partial, target)
    except OSError as error:
        error.filename = error.filename or str(target)  # errors of a full disk have no file name
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_target(target: Path, force: bool, inputs: Iterable[Path]) -> None:
    if not target.exists():
        return
    if not force:
        raise SceneError(f"{target} exists already. Choose another --output-dir, or pass --force to replace it.")
    if not target.is_dir() or (any(target.iterdir()) and not (target / "scene.json").exists()):
        raise SceneError(f"{target} is not a scene, so --force does not replace it. Choose another --output-dir.")
    for path in inputs:
        if Path(path).resolve().is_relative_to(target):
            raise SceneError(f"{path} lies in {target}, which --force would delete. Choose another --output-dir.")


def _partial_prefix(target: Path) -> str:
    return f".{target.name}.partial-"


def _replace_target(partial: Path, target: Path) -> None:
    """Rename the finished directory to its target; a previous one is deleted only after that."""
    if not target.exists():
        partial.rename(target)
        return
    old = partial.with_name(partial.name + ".old")
    target.rename(old)
    try:
        partial.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)


@contextmanager
def _hold_lock(directory: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, however it ends: it marks the directory as in use."""
    with open(directory / _LOCK, "w") as file:
        if os.name == "posix":
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _remove_leftovers(target: Path) -> None:
    """Remove what killed processes left beside `target`; restore a scene whose replacement was interrupted."""
    for leftover in sorted(target.parent.glob(_partial_prefix(target).replace("[", "[[]") + "*")):
        if leftover.name.endswith(".old"):
            if target.exists():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.rename(target)
        elif _is_abandoned(leftover):
            shutil.rmtree(leftover, ignore_errors=True)


def _is_abandoned(directory: Path) -> bool:
    """Whether no process holds the lock of a partial directory any more."""
    if os.name != "posix":
        return False
    try:
        file = os.open(directory / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False  # another process is just creating it, or just renaming it
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True
