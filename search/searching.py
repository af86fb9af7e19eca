"""Searches in a run that is open: in this process, or in the processes that Ray places.

Work from the first trial to the last belongs here. Tests replace `Trainer` and `estimate` in this module.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import optuna

from search import study as studies
from search.between import Watcher
from search.console import StudyProgress, logged_to
from search.drawing import Setting
from search.forecast import Span
from search.heartbeat import Worker
from search.identity import agreed_precision, open_study
from search.interrupt import stop_requested
from search.live_report import LiveReport, ReportedEvents
from search.loggers import LoggedEvents, logging_to
from search.notes import NotedEvents
from search.opening import Opened
from search.plan import Estimate, Survey, estimate
from search.ray_workers import run_workers
from search.run_folder import RunFolder
from search.session import Placement, Session, open_session
from search.spec import StudySpec
from search.terminal import console, is_live, say
from search.trainer import Trainer
from search.trials import TrialRecord, finished_trials
from train_core.device import gpu_index, release_memory


@dataclass(frozen=True)
class Search:
    """A running search: its study, what its trials depend on, and its end."""

    folder: RunFolder
    setting: Setting
    until: float  # seconds since the epoch
    left: Callable[[], float] | None = None  # seconds left for further trials; None: until the end

    def run(self, session: Session, events: studies.Events, watcher: Watcher, stop: Callable[[], bool]) -> None:
        """Run trials in this process."""
        studies.run(
            self.setting,
            Trainer(self.folder, session.data, session.device, watcher),
            NotedEvents(self.setting.study, self.setting.spec.budget, events),
            left=self.left or (lambda: self.until - time.time()),
            stop=stop,
        )


def expected(spec: StudySpec, found: Survey, session: Session) -> Estimate:
    """How long the short runs of a study take, from a few timed steps."""
    return estimate(spec, found, session.data, session.precision)


@contextmanager
def working(run: Opened, until: float = float("inf")) -> Iterator[Search]:
    """Make this process one of the run's workers; `until`, in seconds since the epoch, ends the search."""
    with Worker(run.folder, run.study) as worker:
        setting = Setting(run.study, run.spec, run.session.shape, run.session.precision, worker)
        yield Search(run.folder, setting, until)


def search_on(
    search: Search,
    session: Session,
    placement: Placement,
    finished: Sequence[TrialRecord],
    planned: Span | None = None,
) -> None:
    """Run trials here, or in the processes that Ray places, until the study is complete or stopped."""
    study, spec = search.setting.study, search.setting.spec
    with (
        stop_requested(is_live) as stop,
        StudyProgress(
            finished, spec.trials, score=spec.scored_by, logs=not placement.uses_ray, stop=stop, planned=planned
        ) as progress,
        LiveReport(search.folder, study) as report,
    ):
        events = ReportedEvents(report, progress)
        if placement.uses_ray:
            end = _End(search.left)
            caught_up = partial(_catch_up, progress, report, study, stop, end)
            _search_on_ray(search, session, placement, caught_up, lambda: stop() or end.has_come)
        else:
            watcher = Watcher(stop=stop, moved=progress.moved, say=say)
            with logging_to(placement.log, search.folder) as loggers:
                search.run(session, LoggedEvents(loggers, events), watcher, stop)
        if stop() and len(finished_trials(study)) < spec.trials:
            report.write_last()
            raise KeyboardInterrupt


@dataclass
class _End:
    """Whether several workers have no time left for further trials; asked after each trial."""

    left: Callable[[], float] | None
    has_come: bool = False

    def trial_ended(self) -> None:
        """Ask again."""
        self.has_come = self.left is not None and self.left() <= 0


def _catch_up(
    progress: StudyProgress, report: LiveReport, study: optuna.Study, stop: Callable[[], bool], end: _End
) -> None:
    """Show the progress of the workers in the terminal and in the report, because they write neither."""
    if stop():
        progress.workers_stop()
    before = progress.count
    progress.catch_up(study)
    if progress.count > before:
        report.something_ended()
        end.trial_ended()


def _search_on_ray(
    search: Search, session: Session, placement: Placement, poll: Callable[[], None], stop: Callable[[], bool]
) -> None:
    """Run trials in several processes, on this machine or a cluster."""
    release_memory(session.device)  # used by the estimate
    device = placement.device_of_workers(session)
    study = search.setting.study
    studies.stop_retrying_when(study, stop)
    run_workers(
        placement.workers,
        partial(_work, search.folder.absolute(), search.setting.spec, device, search.until, placement.log),
        gpus_each=placement.gpus_per_worker if device in {"cuda", "auto"} else 0,
        poll=poll,
        stop=stop,
        gpu=gpu_index(session.device),
        address=placement.ray_address,
    )


def _work(folder: RunFolder, spec: StudySpec, device: str, until: float, log: Sequence[str]) -> None:
    """The work of one of several workers. It writes only to the log: the command that started it prints."""
    console.quiet = True
    session = open_session(spec, device)
    folder.create()
    with logged_to(folder), stop_requested() as stop:
        study = open_study(folder)
        if spec.precision == "auto":
            session = session.with_precision(agreed_precision(study, lambda: session.precision))
        progress = StudyProgress(finished_trials(study), spec.trials, score=spec.scored_by)
        with Worker(folder, study) as worker, logging_to(log, folder) as loggers:
            setting = Setting(study, spec, session.shape, session.precision, worker)
            Search(folder, setting, until).run(
                session, LoggedEvents(loggers, progress), Watcher(stop=stop, moved=progress.moved, say=say), stop
            )
