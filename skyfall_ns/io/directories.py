"""A folder that appears whole or not at all: built beside its place, renamed at the end, swept up after a crash."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from skyfall_ns.errors import SceneError

if os.name == "posix":
    import fcntl  # elsewhere what killed runs left is not told from what living ones build, and stays

_LOCK = ".being-built"


@contextmanager
def new_folder(target: Path, force: bool, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """A folder beside `target` that takes its place when all went well, and vanishes when not.

    Raises SceneError if `target` exists and `force` is not given, if it is no scene, if it holds one of the `inputs`,
    which replacing it would destroy, or if no folder can be there.
    """
    target = Path(target).resolve()
    _sweep(target)
    _check(target, force, inputs)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise SceneError(f"No folder can be made at {target.parent}. Choose another --output-dir.") from error
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=_prefix(target)))
    try:
        with _locked(partial):
            partial.chmod(0o755)
            yield partial
            (partial / _LOCK).unlink()
            _swap(partial, target)
    except OSError as error:
        error.filename = error.filename or str(target)  # a full disk does not say where
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check(target: Path, force: bool, inputs: Iterable[Path]) -> None:
    if not target.exists():
        return
    if not force:
        raise SceneError(f"{target} exists already. Choose another --output-dir, or pass --force to replace it.")
    if not target.is_dir() or (any(target.iterdir()) and not (target / "scene.json").exists()):
        raise SceneError(f"{target} is not a scene, so --force does not replace it. Choose another --output-dir.")
    for path in inputs:
        if Path(path).resolve().is_relative_to(target):
            raise SceneError(f"{path} lies in {target}, which --force would delete. Choose another --output-dir.")


def _prefix(target: Path) -> str:
    return f".{target.name}.partial-"


def _swap(partial: Path, target: Path) -> None:
    """Put the finished folder in place; what was there goes only after that."""
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
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, however it ends: the sign that somebody still works on the folder."""
    with open(folder / _LOCK, "w") as file:
        if os.name == "posix":
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _sweep(target: Path) -> None:
    """Remove what killed runs left beside `target`; a scene that was being replaced at that moment comes back."""
    for left in sorted(target.parent.glob(_prefix(target).replace("[", "[[]") + "*")):
        if left.name.endswith(".old"):
            if target.exists():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.rename(target)
        elif _abandoned(left):
            shutil.rmtree(left, ignore_errors=True)


def _abandoned(folder: Path) -> bool:
    if os.name != "posix":
        return False
    try:
        file = os.open(folder / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False  # just being made, or just being put in place
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True
