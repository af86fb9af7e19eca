"""What a search costs besides training.

    python -m benchmarks.overhead storage      time to ask for a trial, to tell its verdict and to write its note, at
                                               100, 1,000 and 10,000 finished trials, on SQLite and PostgreSQL, with the
                                               sampler of the search
    python -m benchmarks.overhead share        share of wall time not spent training, of 200 trials of the digits (or
                                               of another --study and --data), one worker, SQLite
    python -m benchmarks.overhead report       time to read 10,000 finished trials from SQLite and to write their
                                               report, the page's size, and how long Chromium takes to open it
    python -m benchmarks.overhead page --page report.html
                                               how long Chromium takes to open a page that exists

Prints a line of JSON for each measurement.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import optuna
import sqlalchemy
import tomli_w
import torch

from benchmarks.many_workers import storage_of
from search import study as studies
from search.between import Watcher
from search.console import StudyProgress, logged_to
from search.data_shape import NAMED_SHAPES
from search.drawing import Setting
from search.heartbeat import Worker
from search.identity import join, open_study
from search.notes import NotedEvents
from search.report import write_report
from search.results import read_results
from search.run_folder import RunFolder, write_text
from search.session import open_session
from search.spec import StudySpec, load_study
from search.terminal import console
from search.trainer import Trainer
from search.trials import finished_trials, records
from tests.support.browser import Browser, browser
from tests.support.runs import distributions_of, finished_trial
from tests.support.trainers import FakeTrainer, Silent
from train_core.results import EpochResult
from train_core.specs import ResNetSpec, TrainSpec

SIZES = (100, 1000, 10_000)  # finished trials
ASKED = 20  # trials at each size
MADE = 1000  # trials; more are copies
EPOCHS = 30
OPENED = 5  # times that a page is opened


class Clock(FakeTrainer):
    """Trains in no time, better than most, and records when each run began and ended, in `perf_counter` seconds."""

    def __init__(self) -> None:
        super().__init__(score=lambda network, recipe: 0.95)
        self.began: list[float] = []
        self.ended: list[float] = []

    def __call__(self, network: ResNetSpec, recipe: TrainSpec, first_attempt: int) -> Generator[EpochResult]:
        """The curve, one epoch per step."""
        self.began.append(time.perf_counter())
        yield from super().__call__(network, recipe, first_attempt)
        self.ended.append(time.perf_counter())


def storage(kind: str) -> None:
    """Measure asks and tells at each size."""
    spec = load_study("cifar10", {"epochs": EPOCHS})
    generator = random.Random(0)
    with storage_of(kind) as address, tempfile.TemporaryDirectory() as runs:
        folder = RunFolder(Path(runs) / "study", address)
        folder.create()
        study = open_study(folder, create=True)
        with Worker(folder, study) as worker:
            warm = Clock()  # also provides the distributions
            run_to(study, spec.model_copy(update={"trials": 3}), warm, worker)
            distributions = dict(study.trials[0].distributions)
            for size in SIZES:
                there = len(study.get_trials(deepcopy=False))
                for _ in range(min(size, MADE) - there):
                    study.add_trial(finished_trial(generator, distributions, spec, NAMED_SHAPES["cifar10"]))
                if size > MADE:
                    copy_trials(folder.address.url, size - max(there, MADE))
                opened = time.perf_counter()
                study = open_study(folder)
                study.get_trials(deepcopy=False)
                opening = time.perf_counter() - opened
                clock = Clock()
                started = time.perf_counter()
                run_to(study, spec.model_copy(update={"trials": size + ASKED}), clock, worker)
                ends = [started, *clock.ended]
                asks = [began - before for began, before in zip(clock.began, ends, strict=False)]
                reports = [after - began for began, after in zip(clock.began, clock.ended, strict=True)]
                noted, notes = NotedEvents(study, spec.budget, Silent()), []
                for trial in records(study)[there : there + ASKED]:  # trials without a note
                    started = time.perf_counter()
                    noted.trial_ended(trial, [])
                    notes.append(time.perf_counter() - started)
                line = {
                    "storage": kind,
                    "finished trials": size,
                    "n": ASKED,
                    "note, s": summary(notes),
                    "tell and ask, s": summary(asks[1:]),
                    f"{EPOCHS} reports, s": summary(reports),
                    "open, s": round(opening, 2),
                }
                print(json.dumps(line), flush=True)


def report() -> None:
    """Measure the report of the largest size."""
    spec = load_study("cifar10", {"epochs": EPOCHS, "trials": SIZES[-1]})
    generator = random.Random(0)
    with tempfile.TemporaryDirectory() as runs:
        folder = RunFolder(Path(runs) / "study")
        folder.create()
        write_text(folder.study_file, tomli_w.dumps(spec.model_dump(mode="json", exclude_none=True)))
        study = open_study(folder, create=True)
        distributions = distributions_of(study, spec)
        for _ in range(MADE):
            study.add_trial(finished_trial(generator, distributions, spec, NAMED_SHAPES["cifar10"]))
        copy_trials(folder.address.url, SIZES[-1] - MADE)
        started = time.perf_counter()
        results = read_results(folder)
        read = time.perf_counter()
        page = write_report(folder, results)
        line = {
            "finished trials": len(results.trials),
            "read, s": round(read - started, 1),
            "write, s": round(time.perf_counter() - read, 1),
            "page, MB": round(page.stat().st_size / 1e6, 2),
        }
        print(json.dumps(line))
        opened(page)


def opened(page: Path) -> None:
    """Measure how long Chromium takes to open a report, `OPENED` times; a warm-up is not counted."""
    with tempfile.TemporaryDirectory() as profile, browser(Path(profile)) as chromium:
        rows = [_opened(chromium, page) for _ in range(1 + OPENED)][1:]
    line: dict[str, object] = {"page, MB": round(page.stat().st_size / 1e6, 2), "n": OPENED}
    line |= {name: summary([row[name] for row in rows]) for name in rows[0]}
    print(json.dumps(line | {"load average": round(os.getloadavg()[0], 1), "processors": os.cpu_count()}))


def _opened(chromium: Browser, path: Path) -> dict[str, float]:
    """Seconds since the page was requested, and the processor seconds of the process that draws it."""
    page = chromium.load(path, seconds=300)
    drawn = page.evaluate("ready.then(() => performance.now())")
    entry = "performance.getEntriesByType('navigation')[0]"
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN")
    processes = chromium.tell("SystemInfo.getProcessInfo")["processInfo"]
    return {
        "first paint, s": paint / 1000,
        "DOM content loaded, s": page.evaluate(f"{entry}.domContentLoadedEventEnd") / 1000,
        "all charts drawn, s": drawn / 1000,
        "processor time of the renderer, s": max(
            each["cpuTime"] for each in processes if each["type"].lower() == "renderer"
        ),
    }


def copy_trials(url: str, count: int) -> None:
    """Make the database copy its first trials up to the wanted number: making them one by one takes minutes."""
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        last = connection.execute(sqlalchemy.text("SELECT MAX(trial_id) FROM trials")).scalar_one()
        number = connection.execute(sqlalchemy.text("SELECT MAX(number) + 1 FROM trials")).scalar_one()
        for done in range(0, count, MADE):
            most = min(MADE, count - done)
            shift = {"ids": last + done, "numbers": number + done, "most": most}
            for table, columns in COPIED.items():
                moved = columns.replace("trial_id", "trial_id + :ids").replace("number", "number + :numbers")
                columns_of = f"INSERT INTO {table} ({columns}) SELECT {moved} FROM {table}"
                values = shift if table == "trials" else {key: shift[key] for key in ("ids", "most")}
                connection.execute(sqlalchemy.text(f"{columns_of} WHERE trial_id <= :most"), values)
        if engine.dialect.name == "postgresql":
            connection.execute(
                sqlalchemy.text("SELECT setval('trials_trial_id_seq', (SELECT MAX(trial_id) FROM trials))")
            )
    if engine.dialect.name == "postgresql":  # a database that grew by itself has its statistics
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sqlalchemy.text("VACUUM ANALYZE"))
    engine.dispose()


COPIED = {
    "trials": "trial_id, number, study_id, state, datetime_start, datetime_complete",
    "trial_params": "trial_id, param_name, param_value, distribution_json",
    "trial_values": "trial_id, objective, value, value_type",
    "trial_intermediate_values": "trial_id, step, intermediate_value, intermediate_value_type",
    "trial_user_attributes": "trial_id, key, value_json",
}
"""The columns of Optuna's tables, without the keys that the database numbers."""


def run_to(study: optuna.Study, spec: StudySpec, trainer: Clock, worker: Worker) -> None:
    """Run trials that take no time."""
    studies.run(Setting(study, spec, NAMED_SHAPES["cifar10"], "fp32", worker), trainer, Silent())


def summary(seconds: list[float]) -> dict[str, float]:
    """Median and largest."""
    return {"median": round(statistics.median(seconds), 3), "max": round(max(seconds), 3)}


class Counting(StudyProgress):
    """Prints what the search prints, and sums the time of the epochs."""

    seconds = 0.0

    def epoch_ended(self, number: int, result: EpochResult) -> None:
        """Add its time."""
        super().epoch_ended(number, result)
        self.seconds += result.seconds


def share(study_name: str, data_name: str, trials: int, before: int) -> None:
    """Measure the share of wall time not spent training, in a study that has so many trials `before`."""
    flags = {"trials": before + trials} | ({"data": str(Path(data_name).absolute())} if data_name else {})
    spec = load_study(study_name, flags).model_copy(update={"baselines": {}})
    generator = random.Random(0)
    with tempfile.TemporaryDirectory() as runs:
        folder = RunFolder(Path(runs) / "study")
        folder.create()
        session = open_session(spec, "cpu")
        study, *_ = join(folder, spec, session.shape)
        if before:
            distributions = distributions_of(study, spec)
            for _ in range(before - 1):
                study.add_trial(finished_trial(generator, distributions, spec, session.shape))
        counting = Counting(finished_trials(study), spec.trials)
        console.file = sys.stderr  # so that the result is alone on standard output
        with logged_to(folder), Worker(folder, study) as worker, counting:
            started = time.perf_counter()
            studies.run(
                Setting(study, spec, session.shape, session.precision, worker),
                Trainer(folder, session.data, session.device, Watcher()),
                NotedEvents(study, spec.budget, counting),
            )
            wall = time.perf_counter() - started
        line = {
            "study": study_name,
            "data": Path(data_name or spec.data).name,
            "trials": trials,
            "trials before": before,
            "epochs": spec.epochs,
            "threads": torch.get_num_threads(),
            "wall, s": round(wall, 1),
            "training, s": round(counting.seconds, 1),
            "other, ms a trial": round(1000 * (wall - counting.seconds) / trials),
            "other, %": round(100 * (1 - counting.seconds / wall), 2),
        }
        print(json.dumps(line))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["storage", "share", "report", "page"])
    parser.add_argument("--kind", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--study", default="digits", help="whose share is measured")
    parser.add_argument("--data", default="", help="other data for it")
    parser.add_argument("--page", type=Path, default=Path("report.html"), help="the report that is opened")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--before", type=int, default=0, help="finished trials that the study has before")
    given = parser.parse_args()
    if given.what == "share":
        share(given.study, given.data, given.trials, given.before)
        return
    if given.what in {"report", "page"}:
        report() if given.what == "report" else opened(given.page)
        return
    for kind in given.kind:
        storage(kind)


if __name__ == "__main__":
    main()
