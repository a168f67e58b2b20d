"""User faults: one exception family, one line each.

The message says what was given, where, and what to do. Programs print it as `error: <line>` and exit with code 2
(see `core.app`); a traceback appears only with `--debug`. Bugs stay ordinary exceptions.
"""


class UserError(ValueError):
    """A fault in what the user gave: a file, a setting, a request or a resource."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))  # one line, whatever a wrapped library's message contained


class BadImage(UserError):
    """An image that cannot be read, or holds nothing to work on."""


class BadViewSet(UserError):
    """A view set on disk that breaks its format."""


class BadCamera(UserError):
    """A pose or intrinsics that no camera has."""


class BadCheckpoint(UserError):
    """Weights that are broken, unsafe, or belong to another model."""


class MissingWeights(UserError):
    """Weights that are not where they should be."""


class BadConfig(UserError):
    """A setting that does not exist, has a wrong value, or that this program does not read."""


class BadMesh(UserError):
    """A surface that is empty, broken or cannot be extracted."""


class BadData(UserError):
    """A training set that is missing, broken or does not fit the model."""


class BadRequest(UserError):
    """A request that this model cannot serve."""


class BadOutput(UserError):
    """A result that cannot be written: read-only, full, or already there."""
