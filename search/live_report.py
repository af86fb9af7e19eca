"""The report of a running run: written again after trials and full runs, at most once a minute.

A separate thread writes it, so training continues meanwhile. The share of the processor is limited as for checkpoints:
the next report waits until writing has taken no more than `SHARE` of the time.
"""

import logging
import threading
import time
from typing import Self

import optuna

from search.report import write_report
from search.results import read_results
from search.run_folder import RunFolder
from search.storage import reason_of
from search.study import Events
from search.trials import TrialRecord
from train_core.results import EpochResult
from train_core.specs import ResNetSpec, TrainSpec

INTERVAL_S = 60.0  # between two reports, at least
SHARE = 0.01  # of the time that reports may take
FULL_RUNS = "full runs are trained"  # the work in progress, besides a search
PATIENCE_S = 2.0  # to finish a report when the work ends in an error

log = logging.getLogger(__name__)


class LiveReport:
    """Writes the report of a run when something has ended and the last report is old enough.

    If several processes search in one run, a report that one has just written is recent for all of them. If a report
    cannot be written, for example on a full disk, the work continues, and the log says so once. As a context, it waits
    at its end for the report in progress.
    """

    def __init__(self, folder: RunFolder, study: optuna.Study, going_on: str = "") -> None:
        self._folder = folder
        self._study = study  # its trials are in memory: reading them all again takes longer than writing the page
        self._going_on = going_on
        self._due = 0.0  # in monotonic seconds: the first report is written at once
        self._thread: threading.Thread | None = None
        self._has_failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._wait(None if kind is None else PATIENCE_S)

    def something_ended(self) -> None:
        """Start writing the report, if it is time."""
        if time.monotonic() < self._due or self._is_writing or self._is_recent:
            return
        # Not waited for when the interpreter ends: a report is written whole or not at all.
        self._thread = threading.Thread(target=self._attempt, name="report", daemon=True)
        self._thread.start()

    def write_last(self) -> None:
        """Write the report now, for example when the work is stopped early."""
        self._wait()
        self._attempt()

    def _wait(self, seconds: float | None = None) -> None:
        """Wait until no report is being written, for at most `seconds`."""
        if self._thread is not None:
            self._thread.join(seconds)

    @property
    def _is_writing(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def _is_recent(self) -> bool:
        """Whether this process, or another one, has written the report within `INTERVAL_S`."""
        try:
            return 0 <= time.time() - self._folder.report.stat().st_mtime < INTERVAL_S
        except OSError:
            return False  # there is no report

    def _attempt(self) -> None:
        started = time.monotonic()
        try:
            write_report(self._folder, read_results(self._folder, self._study), going_on=self._going_on)
        except Exception as error:
            if not self._has_failed:
                log.warning("the report could not be written (%s): all else goes on", reason_of(error), exc_info=True)
            self._has_failed = True
        took = time.monotonic() - started
        self._due = time.monotonic() + max(INTERVAL_S, took / SHARE)


class ReportedEvents:
    """Passes events on to others, and has the report written when a trial has ended."""

    def __init__(self, report: LiveReport, events: Events) -> None:
        self.report = report
        self.events = events

    def trial_started(self, number: int, network: ResNetSpec, recipe: TrainSpec) -> None:
        """Pass it on."""
        self.events.trial_started(number, network, recipe)

    def epoch_ended(self, number: int, result: EpochResult) -> None:
        """Pass it on."""
        self.events.epoch_ended(number, result)

    def trial_ended(self, trial: TrialRecord, finished: list[TrialRecord]) -> None:
        """Pass it on, and write the report."""
        self.events.trial_ended(trial, finished)
        self.report.something_ended()
