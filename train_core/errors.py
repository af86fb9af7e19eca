"""The root of every error a user can cause, and those that training itself can raise.

`search/errors.py` adds those of a study. The message of each is one line: what happened, and what to do.
"""


class UserError(Exception):
    """Something the user can put right. The message is one line and says how."""

    exit_code = 2


class DataError(UserError):
    """A data set that is missing, broken, or not what the tool can read."""


class DownloadError(DataError):
    """A data set that cannot be fetched, now: the same command may work later."""

    exit_code = 1


class RecipeError(UserError):
    """A recipe that does not suit the images."""


class CheckpointError(UserError):
    """A checkpoint that cannot be read back."""


class CaptureError(UserError):
    """A training step that cannot be captured in a CUDA graph, where training cannot go on after the attempt."""

    exit_code = 1


class ModelError(UserError):
    """A model file that cannot be written or read."""


class DivergedError(Exception):
    """A loss that is not a number: the recipe does not suit the network.

    No `UserError`: in a search it is a result (the trial is worth nothing), not a mistake.
    """
