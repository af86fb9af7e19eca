"""Every error that a user can cause, in one tree; each prints as one line: what happened and what to do.

Exit codes: 2 if the command has to be changed, 1 if the work itself failed, 130 when interrupted.
"""

from train_core.errors import CheckpointError, DataError, ModelError, UserError

__all__ = [
    "BusyError",
    "CheckpointError",
    "DataError",
    "ModelError",
    "OutOfTimeError",
    "OutputError",
    "RunError",
    "SpecError",
    "StorageError",
    "StudyFailedError",
    "UserError",
]


class SpecError(UserError):
    """A study file or a flag with an impossible value."""


class RunError(UserError):
    """A run folder that is missing, taken, made for something else, or not writable."""


class BusyError(RunError):
    """Another process is working in the run at the moment: the same command may work later."""

    exit_code = 1


class OutOfTimeError(RunError):
    """A night that ended without a model: the same command, with more time, may make one."""

    exit_code = 1


class StorageError(UserError):
    """A study's storage that cannot be opened at the moment: the same command may work later."""

    exit_code = 1


class StudyFailedError(UserError):
    """A study in which nothing works."""

    exit_code = 1


class OutputError(UserError):
    """A standard output that cannot be written."""

    exit_code = 1
