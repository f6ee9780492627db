"""Errors a user can act on. Every message names the input, what was expected and what to do."""


class DataError(ValueError):
    """A file or array of the user's is not what it should be; the message starts with its path or name."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used as asked; the message names the file and the first keys that do not fit."""


class MissingPackageError(ImportError):
    """An optional package is needed for what was asked; the message says which and how to install it."""
