"""Errors that a user can fix: each message says what is wrong with which file or flag, then what to do."""

import errno


class SkyfallError(Exception):
    """Base of every error this package raises on bad input; commands print it without a traceback and exit with 1."""


class SceneError(SkyfallError):
    """A scene directory is missing, damaged, of another version, or exists already."""


class RasterError(SkyfallError):
    """An image or elevation file cannot be used."""


class CrsError(SkyfallError):
    """A coordinate reference system is unknown or unsuitable."""


class MissingExtraError(SkyfallError):
    """An optional package or tool is not installed."""


class TrainingError(SkyfallError):
    """Training cannot start or cannot continue."""


_DISK_ERRORS = {
    errno.ENOSPC: ("The disk is full", "Free some space, or choose another output directory."),
    errno.EDQUOT: ("The disk quota is used up", "Free some space, or choose another output directory."),
    errno.EFBIG: ("The file is larger than this disk allows", "Choose another output directory."),
    errno.EIO: ("The disk reports an error", "Check the disk, or choose another output directory."),
    errno.EROFS: ("The disk is read-only", "Choose an output directory on a writable disk."),
    errno.EACCES: ("Permission denied", "Choose a directory with write permission, or change its permissions."),
    errno.EPERM: ("Operation not permitted", "Choose a directory with write permission, or change its permissions."),
}


def disk_message(error: OSError) -> str | None:
    """Two sentences for a full, read-only or forbidden disk; None for any other operating system error."""
    if error.errno not in _DISK_ERRORS:
        return None
    problem, remedy = _DISK_ERRORS[error.errno]
    return f"{problem}: {error.filename or 'while writing'}. {remedy}"
