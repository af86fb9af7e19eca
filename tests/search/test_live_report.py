"""The report is there from the first trial on, is not written too often, and ends no search."""

import logging
import time
from pathlib import Path
from typing import Any

import pytest

from search import live_report
from search.identity import open_study
from search.live_report import LiveReport, ReportedEvents
from search.run_folder import RunFolder
from tests.support.runs import NEVER, make_run, promoted, run_study, study_spec
from tests.support.trainers import FakeTrainer, Recorder

pytestmark = pytest.mark.usefixtures("in_lines")


class Writes:
    """Stands for the writing of a report; counts, and takes so many seconds, or fails."""

    def __init__(self, seconds: float = 0, error: Exception | None = None) -> None:
        self.seconds = seconds
        self.error = error
        self.number = 0

    def __call__(self, *_: object, **__: object) -> None:
        self.number += 1
        time.sleep(self.seconds)
        if self.error:
            raise self.error


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path / "run", [0.5], trials=3)


def written_by(writes: Writes, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> LiveReport:
    monkeypatch.setattr(live_report, "write_report", writes)
    return LiveReport(run, open_study(run))


def test_the_page_is_there_from_the_first_trial_on_and_says_that_it_is_not_finished(tmp_path: Path) -> None:
    spec = study_spec(trials=4, pruner=NEVER, portfolio=False)
    folder = make_run(tmp_path / "run", spec=spec)
    study = open_study(folder)
    seen: list[bool] = []

    class Looks(Recorder):
        def trial_started(self, number: int, *_: Any) -> None:
            report._wait()
            seen.append(folder.report.exists())

    with LiveReport(folder, study) as report:
        run_study(folder, spec, FakeTrainer(), events=ReportedEvents(report, Looks()))
    assert seen == [False, True, True, True]
    page = folder.report.read_text()
    assert "<span class=badge>not finished: 1 of 4 trials</span>" in page
    assert "REFRESH_S = 60" in page
    report.write_last()
    page = folder.report.read_text()
    assert "not finished" not in page
    assert "REFRESH_S = 0" in page


def test_it_is_written_at_most_once_a_minute_and_less_often_where_it_takes_long(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = Writes()
    with written_by(writes, run, monkeypatch) as report:
        for _ in range(3):
            report.something_ended()
            report._wait()
    assert writes.number == 1
    assert report._due == pytest.approx(time.monotonic() + 60, abs=5)
    monkeypatch.setattr(live_report, "INTERVAL_S", 0.0)
    slow = Writes(seconds=0.2)
    with written_by(slow, run, monkeypatch) as report:
        report.something_ended()
        report.something_ended()  # it is being written
        report._wait()
        assert report._due > time.monotonic() + 15  # a hundred times as long as it took
        report._due = 0
        report.something_ended()
    assert slow.number == 2


def test_training_goes_on_while_it_is_written(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with written_by(Writes(seconds=1), run, monkeypatch) as report:
        started = time.monotonic()
        report.something_ended()
        assert time.monotonic() - started < 0.5
        assert report._is_writing
    assert not report._is_writing


def test_what_another_process_has_just_written_is_not_written_again(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = Writes()
    run.report.write_text("by another one")
    with written_by(writes, run, monkeypatch) as report:
        report.something_ended()
    assert writes.number == 0


def test_a_report_that_cannot_be_written_ends_nothing_and_is_logged_once(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), written_by(Writes(error=OSError("disk full")), run, monkeypatch) as report:
        for _ in range(2):
            report._due = 0
            report.something_ended()
            report._wait()
    (line,) = caplog.messages
    assert line == "the report could not be written (disk full): all else goes on"


def test_a_page_of_full_runs_that_go_on_says_so(run: RunFolder) -> None:
    promoted(run, 0)
    study = open_study(run)
    LiveReport(run, study, live_report.FULL_RUNS).write_last()
    assert "<span class=badge>not finished: full runs are trained</span>" in run.report.read_text()
