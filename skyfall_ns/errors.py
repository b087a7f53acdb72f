"""Errors that a person can mend: each message says what is wrong with which file or flag, then what to do."""

import errno


class SkyfallError(Exception):
    """Base of every error this package raises on bad input; commands print it without a traceback and exit with 1."""


class SceneError(SkyfallError):
    """A scene folder is missing, damaged, of another version, or already there."""


class RasterError(SkyfallError):
    """An image or elevation file cannot be used."""


class CrsError(SkyfallError):
    """A coordinate reference system is unknown or unfit."""


class MissingExtraError(SkyfallError):
    """An optional package or tool is not installed."""


class TrainingError(SkyfallError):
    """Training cannot start or cannot go on."""


_DISK = {
    errno.ENOSPC: ("The disk is full", "Free some space, or choose another output folder."),
    errno.EDQUOT: ("The disk quota is used up", "Free some space, or choose another output folder."),
    errno.EFBIG: ("The file grows larger than this disk takes", "Choose another output folder."),
    errno.EIO: ("The disk reports an error", "Check the disk, or choose another output folder."),
    errno.EROFS: ("The disk is read-only", "Choose an output folder on a writable disk."),
    errno.EACCES: ("Permission denied", "Choose a place that you may write to, or change its permissions."),
    errno.EPERM: ("Operation not permitted", "Choose a place that you may write to, or change its permissions."),
}


def disk_message(error: OSError) -> str | None:
    """Two sentences for a full, read-only or forbidden disk; None for any other operating system error."""
    if error.errno not in _DISK:
        return None
    what, mend = _DISK[error.errno]
    return f"{what}: {error.filename or 'while writing'}. {mend}"
