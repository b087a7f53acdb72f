"""Atomic creation of a directory: it is built beside its target and renamed when complete."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from skyfall_ns.errors import SceneError
from skyfall_ns.io.files import atomic_write

if os.name == "posix":
    import fcntl  # without locks (Windows), leftovers of killed processes cannot be recognized, and stay

_LOCK = ".being-built"
FILE_LIST = "files.txt"  # names the files of a scene that its command made
OWN_NAMES = ("scene.json", "points.ply", "images", "masks", "previews", "report", "report.json", "report.html")
OWN_NAMES += ("raw", "truth", "surface.tif", "surface_confidence.tif", "surface_source.tif", "surface_sigma.tif")


@contextmanager
def atomic_directory(target: Path, force: bool, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """Yield a temporary directory beside `target`; it replaces `target` on success and is removed on failure.

    FILE_LIST in it names what was made. Of an existing target only those files are replaced; others, such as runs and
    camera paths that a user put there, are kept. Raises SceneError if `target` exists and `force` is not given, if the
    existing one is not a scene or contains one of the `inputs` among the files to be replaced, or if no directory can
    be created there.
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
            _write_file_list(partial)
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
    others = {target / path for path in _other_files(target)}
    for path in inputs:
        if Path(path).resolve().is_relative_to(target) and Path(path).resolve() not in others:
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
    _keep_other_files(old, target)
    shutil.rmtree(old)


def _write_file_list(directory: Path) -> None:
    """Write the relative paths of all files of a directory to its FILE_LIST."""
    files = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir())
    atomic_write(directory / FILE_LIST, "".join(f"{name}\n" for name in [*files, FILE_LIST]).encode())


def _other_files(directory: Path) -> list[Path]:
    """Relative paths of the files of a scene that FILE_LIST does not name: those that someone else put there.

    Without a list, everything but OWN_NAMES at the top level is someone else's."""
    found = [path.relative_to(directory) for path in directory.rglob("*") if path.is_symlink() or not path.is_dir()]
    file_list = directory / FILE_LIST
    if file_list.is_file():
        made = set(file_list.read_text(encoding="utf-8").splitlines())
        return [path for path in found if path.as_posix() not in made]
    return [path for path in found if path.parts[0] not in OWN_NAMES]


def _keep_other_files(old: Path, target: Path) -> None:
    """Move the files that someone else put into a replaced scene to the new one, under another name if it is taken."""
    for path in _other_files(old):
        kept = target / path
        while kept.exists():
            kept = kept.with_name(f"{kept.name}.kept")
        kept.parent.mkdir(parents=True, exist_ok=True)
        (old / path).rename(kept)


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
                _keep_other_files(leftover, target)
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
