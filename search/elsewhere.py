"""Runs in a shared storage that have no folder on this machine: the facts in their studies. Changes nothing."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import optuna

from search.completion import run_folders
from search.drawing import is_used_up
from search.errors import RunError, StorageError
from search.identity import identity
from search.inspection import OUTCOMES, Reader, best_short, read_run, running_trials, waiting_trials
from search.records import FINISHED, SEARCHING, Run, Status, limits_of
from search.storage import STORAGE_ERRORS, Address, address_of, connect, reason_of
from search.trials import different_networks, finished_trials, records


class Elsewhere:
    """Reads such a run, repeatedly. Facts that are only in its folder are None: data, total of trials, full runs."""

    def __init__(self, study: optuna.Study, address: Address) -> None:
        self._study = study
        self._address = address

    def status(self) -> Status:
        """The current state of the run."""
        study, values = self._study, identity(self._study)
        trials, done = records(study), finished_trials(study)
        running = running_trials(trials)
        used_up = is_used_up(study)
        moments = [moment for trial in trials for moment in (trial.started, trial.ended) if moment is not None]
        counted = Counter(trial.outcome for trial in done)
        return Status(
            name=study.study_name,
            folder="",
            touched=max(moments, default=datetime.now()).astimezone().isoformat(timespec="seconds"),
            storage=self._address.kind,
            state=FINISHED if used_up else SEARCHING if running else None,
            workers=len({trial.worker for trial in running}),
            score=values.get("score"),
            **limits_of(values),
            trials=len(done),
            best_short=best_short(done),
            epochs=values.get("epochs", 0),
            always_largest=None,
            outcomes={outcome: counted[outcome] for outcome in OUTCOMES},
            networks=different_networks(done),
            used_up=used_up,
            running=running,
            waiting=waiting_trials(trials),
            images_per_second=None,
            seconds_left=None,
            full_runs=0,
            full_runs_pending=(),
            ready_by=None,
        )

    def in_short(self) -> Run:
        """The current state in a few words."""
        status = self.status()
        return Run(**{name: getattr(status, name) for name in Run.__dataclass_fields__})


def to_watch(runs: Path, name: str | None, storage: str | None) -> Reader | Elsewhere:
    """The run called `name` in the folder `runs`, or the last one used; else the one in the storage.

    Raises:
        UserError: there is none, or it cannot be read.

    """
    address = address_of(storage)
    if address is None or name is None or name in run_folders(runs):
        return read_run(runs, name, storage)
    there = _studies(address, leave_out={})
    if name not in there:
        known = f": there are {', '.join(sorted(there))}" if there else ": start one with `search run`"
        raise RunError(f"no run {name!r} in {runs}, nor in {address}{known}")
    return there[name]


def runs_elsewhere(runs: Path, storage: str | None) -> list[Run]:
    """The runs in the storage that have no folder in `runs`, by name; none if it cannot be reached."""
    address = address_of(storage)
    if address is None:
        return []
    try:
        return [each.in_short() for _, each in sorted(_studies(address, run_folders(runs)).items())]
    except StorageError:
        return []  # the runs here that need it report the error


def _studies(address: Address, leave_out: Mapping[str, Path]) -> dict[str, Elsewhere]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = connect(address)
    try:
        names = [name for name in optuna.get_all_study_names(storage) if name not in leave_out]
        return {name: Elsewhere(optuna.load_study(storage=storage, study_name=name), address) for name in names}
    except STORAGE_ERRORS as error:
        raise StorageError(
            f"{address} cannot be read ({reason_of(error)}): check the address and the server"
        ) from error
