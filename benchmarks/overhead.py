"""What a search costs besides training.

    python -m benchmarks.overhead storage      time to ask for a trial and to tell its verdict, at 1,000 and 10,000
                                               finished trials, on SQLite and PostgreSQL, with the sampler of the search
    python -m benchmarks.overhead share        share of wall time not spent training: 200 trials of small networks on
                                               the digits, one worker, SQLite

Prints a line of JSON for each measurement.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Generator
from datetime import datetime
from pathlib import Path

import optuna
import torch
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

import space
from benchmarks.many_workers import Silent, storage_of
from search import api
from search import study as studies
from search.plan import _RandomTrial
from search.run_folder import RunFolder
from search.spec import StudySpec, load_study
from search.study import NAMED_TASKS
from search.worker import Worker
from train_core.results import EpochResult
from train_core.specs import ResNetSpec, TrainSpec

SIZES = (100, 1000, 10_000)  # finished trials
ASKED = 20  # trials at each size
EPOCHS = 30


class Immediate:
    """Trains in no time, and notes when it began and ended."""

    def __init__(self) -> None:
        self.began: list[float] = []
        self.ended: list[float] = []

    def __call__(self, network: ResNetSpec, recipe: TrainSpec, root: int) -> Generator[EpochResult]:
        """A curve, an epoch a step."""
        self.began.append(time.perf_counter())
        for epoch in range(1, recipe.epochs + 1):
            yield EpochResult(
                epoch=epoch,
                train_loss=1.0,
                train_accuracy=0.5,
                val_loss=1.0,
                val_accuracy=0.5 + epoch / 100,
                lr=0.1,
                seconds=1e-6,
                images=1,
            )
        self.ended.append(time.perf_counter())

    def forget(self, root: int) -> None:
        """Nothing was kept."""


def finished_trial(generator: random.Random, distributions: dict[str, BaseDistribution]) -> FrozenTrial:
    """A complete trial of the space, with all that the search writes of one."""
    spec, task = load_study("cifar10", {}), NAMED_TASKS["cifar10"]
    draw = space.suggest(_RandomTrial(generator), spec.space)
    network = space.network(draw, spec.space, spec.budget, in_channels=task.in_channels, num_classes=task.num_classes)
    recipe = space.recipe(draw, epochs=EPOCHS, seed=0, precision="fp32", part=1.0)
    score, now = generator.uniform(0.6, 0.9), datetime.now()
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=TrialState.COMPLETE,
        value=score,
        params={name: draw[name] for name in distributions},
        distributions=distributions,
        user_attrs={**studies._attributes(network, recipe, task), "worker": "host-1234-abcdef", "seconds": 12.345},
        system_attrs={},
        intermediate_values={epoch: score * epoch / EPOCHS for epoch in range(1, EPOCHS + 1)},
        datetime_start=now,
        datetime_complete=now,
    )


def storage(kind: str) -> None:
    """Measure asks and tells at each size."""
    spec = load_study("cifar10", {"epochs": EPOCHS})
    generator = random.Random(0)
    with storage_of(kind) as address, tempfile.TemporaryDirectory() as runs:
        folder = RunFolder(Path(runs) / "study", address)
        folder.create()
        study = studies.open_study(folder, create=True)
        with Worker(folder, study) as worker:
            warm = Immediate()  # gives the distributions, too
            run_to(study, spec.model_copy(update={"trials": 3}), warm, worker)
            distributions = dict(study.trials[0].distributions)
            for size in SIZES:
                there = len(study.get_trials(deepcopy=False))
                for _ in range(size - there):
                    study.add_trial(finished_trial(generator, distributions))
                opened = time.perf_counter()
                study = studies.open_study(folder)
                study.get_trials(deepcopy=False)
                opening = time.perf_counter() - opened
                clock = Immediate()
                started = time.perf_counter()
                run_to(study, spec.model_copy(update={"trials": size + ASKED}), clock, worker)
                ends = [started, *clock.ended]
                asks = [began - before for began, before in zip(clock.began, ends, strict=False)]
                reports = [after - began for began, after in zip(clock.began, clock.ended, strict=True)]
                line = {
                    "storage": kind,
                    "finished trials": size,
                    "n": ASKED,
                    "tell and ask, s": summary(asks[1:]),
                    f"{EPOCHS} reports, s": summary(reports),
                    "open, s": round(opening, 2),
                }
                print(json.dumps(line), flush=True)


def run_to(study: optuna.Study, spec: StudySpec, trainer: Immediate, worker: Worker) -> None:
    """Run trials that take no time."""
    studies.run(study, spec, NAMED_TASKS["cifar10"], trainer, Silent(), worker=worker, precision="fp32")


def summary(seconds: list[float]) -> dict[str, float]:
    """Median and largest."""
    return {"median": round(statistics.median(seconds), 3), "max": round(max(seconds), 3)}


class Counting(Silent):
    """Adds up the time that epochs took."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def epoch_ended(self, number: int, result: EpochResult) -> None:
        """Add it."""
        self.seconds += result.seconds


def share(trials: int, epochs: int) -> None:
    """Measure the share of wall time not spent training."""
    spec = load_study("digits", {"trials": trials, "epochs": epochs})
    with tempfile.TemporaryDirectory() as runs:
        folder = RunFolder(Path(runs) / "study")
        folder.create()
        where, precision, data = api._prepare(spec, "cpu")
        study, _ = api._opened(folder, spec, studies.task_of(data))
        counting = Counting()
        with Worker(folder, study) as worker:
            started = time.perf_counter()
            studies.run(
                study,
                spec,
                studies.task_of(data),
                api._Trainer(folder, data, where, lambda: False),
                counting,
                worker=worker,
                precision=precision,
            )
            wall = time.perf_counter() - started
        line = {
            "trials": len(study.trials),
            "epochs": epochs,
            "threads": torch.get_num_threads(),
            "wall, s": round(wall, 1),
            "training, s": round(counting.seconds, 1),
            "other, %": round(100 * (1 - counting.seconds / wall), 2),
        }
        print(json.dumps(line))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["storage", "share"])
    parser.add_argument("--kind", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()
    if given.what == "share":
        share(given.trials, given.epochs)
        return
    for kind in given.kind:
        storage(kind)


if __name__ == "__main__":
    main()
