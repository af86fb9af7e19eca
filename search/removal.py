"""Deletes runs: the folder, and the study if a storage elsewhere contains it. Imports no torch."""

import os
import shutil
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna

from search.completion import run_folders
from search.errors import BusyError, RunError, StorageError, UserError
from search.formatting import count
from search.heartbeat import is_alive_elsewhere
from search.identity import open_study, spec_of
from search.optuna_access import storage_of
from search.run_folder import RunFolder, as_kept, control_name
from search.spec import CONTROLS
from search.storage import Address
from search.trials import finished_trials


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What is deleted with a run, and which runs are related to it."""

    folder: RunFolder
    study: optuna.Study | None  # if it exists in a storage elsewhere
    trials: int | None  # that have ended; None: the study cannot be read
    full_runs: int  # finished
    bytes: int  # on the disk
    learned: tuple[str, ...]  # runs that learned from it
    controls: tuple[str, ...]  # its controls
    control_of: str | None  # the run whose control it is

    def __str__(self) -> str:
        """What is deleted, in one line, and a line for each kind of related runs."""
        trials = "its study cannot be read" if self.trials is None else count(self.trials, "trial")
        parts = [trials, count(self.full_runs, "full run"), size_in_words(self.bytes)]
        where = f", and its study in {self.folder.address}" if self.study is not None else ""
        lines = [f"{self.folder.name}: {', '.join(parts)} in {self.folder.root}{where}"]
        if self.learned:
            names = ", ".join(self.learned)
            lines.append(f"  {names} learned from it, and can then be continued only without --learn-from")
        if self.controls:
            several = len(self.controls) > 1
            words = ("controls", "stay") if several else ("control", "stays")
            lines.append(f"  its {words[0]} {', '.join(self.controls)} {words[1]}")
        if self.control_of:
            lines.append(f"  it is a control of {self.control_of}: a new report of {self.control_of} will not show it")
        return "\n".join(lines)

    def check_idle(self) -> None:
        """Check that no process works in it. With a storage elsewhere, this may take a minute.

        Raises:
            BusyError: a process works in it.

        """
        folder = self.folder
        workers = sorted(folder.workers())
        if workers or folder.is_promoting:
            who = f"{workers[0]} searches" if workers else "a process trains full runs"
            raise BusyError(f"run {folder.name!r} is in use: {who} in it: end it, and delete the run then")
        if self.study is not None and (worker := is_alive_elsewhere(self.study, folder)):
            raise BusyError(f"run {folder.name!r} is in use: {worker} searches in it: end it, and delete the run then")

    def do(self) -> None:
        """Delete it. After an interruption it can be repeated: the study file, which makes it a run, is deleted last.

        Links are deleted, but not their targets.
        """
        if self.study is not None:
            optuna.delete_study(study_name=self.study.study_name, storage=storage_of(self.study))
        root, last = self.folder.root, self.folder.study_file
        for path in [*(path for path in root.iterdir() if path != last), last]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        root.rmdir()


def removals(runs: Path, names: Sequence[str], storage: Address | None) -> list[Removal]:
    """What would be deleted with these runs of the folder `runs`.

    Raises:
        RunError: a run is a link, or its study is in a storage that is not given.
        StorageError: the storage cannot be opened.

    """
    others = {name: _learned_from(root) for name, root in run_folders(runs).items() if name not in names}
    return [_removal(runs / name, storage, others) for name in names]


def _removal(root: Path, storage: Address | None, others: dict[str, tuple[str, ...]]) -> Removal:
    if root.is_symlink():
        raise RunError(f"{root} is a link to {root.readlink()}: delete the link, or the run where it is")
    folder = as_kept(root, storage)
    study = _study_of(folder)
    mains = {control_name(name, control): name for name in others for control in CONTROLS}
    return Removal(
        folder=folder,
        study=study if folder.address.is_shared else None,
        trials=len(finished_trials(study)) if study is not None else None,
        full_runs=sum(each.result.exists() for each in folder.promotions()),
        bytes=sum(_sizes(root)),
        learned=tuple(name for name, learned in others.items() if root.name in learned),
        controls=tuple(name for control in CONTROLS if (name := control_name(root.name, control)) in others),
        control_of=mains.get(root.name),
    )


def _study_of(folder: RunFolder) -> optuna.Study | None:
    """The run's study; None if it is already gone, or a file is not a study: the rest can still be deleted."""
    try:
        return open_study(folder)
    except StorageError:
        if folder.address.is_shared:  # it may exist, and would be left behind
            raise
        return None
    except RunError:
        return None


def _learned_from(root: Path) -> tuple[str, ...]:
    try:
        return spec_of(RunFolder(root)).learn_from
    except UserError:
        return ()


def _sizes(root: Path) -> Iterable[int]:
    """The sizes of the files in a folder, in bytes; links are not followed."""
    for folder, _, names in os.walk(root):
        for name in names:
            found = (Path(folder) / name).lstat()
            yield found.st_size if stat.S_ISREG(found.st_mode) else 0


def size_in_words(number: int) -> str:
    """For example `340 kB`, `12.3 MB`."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number} bytes"
