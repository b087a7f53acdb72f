"""Errors that a person can mend: each message says what is wrong with which file or flag, then what to do."""


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
