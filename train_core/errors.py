"""The root of all errors that a user can cause, and the errors of training itself.

`search/errors.py` adds those of a study. Each message is one line: what happened, and what to do.
"""


class UserError(Exception):
    """An error that the user can fix. The message is one line and says how."""

    exit_code = 2


class DataError(UserError):
    """A data set that is missing, broken, or not in a form that the tool can read."""


class DownloadError(DataError):
    """A data set that cannot be downloaded at the moment: the same command may work later."""

    exit_code = 1


class RecipeError(UserError):
    """A recipe that does not suit the images."""


class CheckpointError(UserError):
    """A checkpoint that cannot be read."""


class CaptureError(UserError):
    """A training step that cannot be captured in a CUDA graph, if training cannot continue after the attempt."""

    exit_code = 1


class ModelError(UserError):
    """A model file that cannot be written or read."""


class DivergedError(Exception):
    """A loss that is not finite: the recipe does not suit the network.

    Not a `UserError`: in a search it is a result (the trial is worth nothing), not a mistake.
    """
