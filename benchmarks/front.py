"""One search for networks of every size, against a search at each of three budgets, with the same total of epochs.

    OMP_NUM_THREADS=1 python -m benchmarks.front DATA... --out benchmarks/fronts.jsonl [--seeds 0:3]
    python -m benchmarks.front --table benchmarks/fronts.jsonl

DATA is `digits`, or a small `.npz` with a test split. Real images and real short runs, in the space of `front.toml`:

front     one search of N trials along `params`, from `LEAST` of the budget to the budget
separate  three searches of N/3 trials each, with the budgets of `SHARES`

No trial is stopped early, so both train for the same number of epochs. For each size, a method recommends its network
with the best validation accuracy at that size or less; the accuracy of that network on the test images, which the
search never sees, is compared. The figure is the mean over all sizes, in the logarithm, from the smallest of the three
budgets to four times the largest: the hypervolume of accuracy and the logarithm of the parameters with the reference
point (accuracy 0, four times the budget), as a share of the whole. So each of the three budgets counts a third, which
favours the separate searches: their networks are as large as these budgets. Run it again to continue.
"""

import argparse
import math
import tempfile
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

import optuna
import torch

from benchmarks import json_lines
from benchmarks.real_search import without
from search import study as studies
from search.data_shape import data_shape_of
from search.drawing import Setting
from search.front import with_sizes
from search.heartbeat import Worker
from search.identity import join
from search.run_folder import RunFolder
from search.session import load
from search.spec import StudySpec, load_study
from search.starts import Measured
from search.trials import TrialRecord, finished_trials, score_of
from search.uncertainty import paired
from train_core.data import Split, TrainingData, default_cache, load_test
from train_core.loop import evaluate, train
from train_core.results import EpochResult
from train_core.specs import ResNetSpec, TrainSpec
from train_core.state import TrainState

STUDY = Path(__file__).with_name("front.toml")
TRIALS = 24  # of a front search; a third of them in each separate search
SHARES = (1 / 16, 1 / 4, 1.0)  # of the budget, in the separate searches
LEAST = 0.05  # of the budget: the smallest size of the front, slightly less than that of the separate searches
BEYOND = 4.0  # times the budget: the reference point

Found = tuple[float, float, float]  # parameters, accuracy on validation and on test


class _Trainer:
    """Trains short runs, and reads the test images after each: only for this benchmark."""

    def __init__(self, data: TrainingData, test: Split) -> None:
        self.data, self.test = data, test
        self.tested: dict[int, float] = {}  # by trial

    def __call__(self, network: ResNetSpec, recipe: TrainSpec, first_attempt: int) -> Generator[EpochResult]:
        """See `study.Trainer`; nothing is resumed."""
        state = TrainState.new(network, recipe, torch.device("cpu"))
        for result in train(state, self.data):
            if result.epoch == recipe.epochs:
                data = self.data
                scored = evaluate(state.final_model, self.test, data.mean, data.std, recipe.precision)
                self.tested[first_attempt] = scored.accuracy
            yield result

    def forget(self, first_attempt: int) -> None:
        """Keep nothing."""


class _Silent:
    def trial_started(self, number: int, network: ResNetSpec, recipe: TrainSpec) -> None:
        pass

    def epoch_ended(self, number: int, result: EpochResult) -> None:
        pass

    def trial_ended(self, trial: TrialRecord, finished: list[TrialRecord]) -> None:
        pass


def main() -> None:
    """Parse the command line, and do the searches that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", default="0:3")
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    if options.table:
        print(table(json_lines.read(options.table)))
        return
    first, last = map(int, options.seeds.split(":"))
    for seed in range(first, last):
        for data in options.data:
            for share in (None, *SHARES):
                key = {"data": Path(data).stem, "seed": seed, "share": share}
                if not any(key.items() <= line.items() for line in json_lines.read(options.out)):
                    json_lines.add(options.out, {**key, **searched(data, seed, share)})


def searched(data: str, seed: int, share: float | None) -> dict[str, Any]:
    """The complete trials of a search at a share of the budget, or (None) along a front, and its number of epochs."""
    spec = load_study(str(STUDY), {"data": data, "seed": seed})
    if share is None:
        sizes = {"low": LEAST, "high": 1.0, "log": True}
        space = spec.space.model_dump(exclude_unset=True) | {"budget_fraction": sizes}
        changes: dict[str, Any] = {"front": ("params",), "trials": TRIALS, "space": space}
    else:
        changes = {"budget": round(share * spec.budget), "trials": TRIALS // len(SHARES)}
    spec = StudySpec.model_validate({**spec.model_dump(exclude_unset=True), **changes})
    images = load(spec)
    shape = data_shape_of(images)
    test = load_test(spec.data, fingerprint=images.fingerprint, cache=default_cache(), test_fraction=spec.test_fraction)
    assert test is not None, f"{data} has no test split"
    spec = with_sizes(spec.for_size(shape.size), shape)
    trainer = _Trainer(images, test)
    with tempfile.TemporaryDirectory() as root, patch.object(Measured, "shipped", lambda: without(data)):
        folder = RunFolder(Path(root, "bench"))
        folder.create()
        study = join(folder, spec, shape).study
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with Worker(folder, study) as worker:
            studies.run(Setting(study, spec, shape, "fp32", worker), trainer, _Silent())
        trials = finished_trials(study)
    complete = [trial for trial in trials if trial.is_complete]
    found = [(trial.parameters, score_of(trial), trainer.tested[trial.first_attempt]) for trial in complete]
    return {"epochs": sum(len(trial.curve) for trial in trials), "trials": found}


def recommended(found: Sequence[Found], by: int, least: float, most: float) -> float:
    """The mean over sizes of the figure (1: validation, 2: test) of the best network on validation up to that size."""
    area, best, before = 0.0, (0.0, 0.0, 0.0), math.log(least)
    for each in sorted(found):
        place = min(max(math.log(each[0]), math.log(least)), math.log(most))
        area += best[by] * (place - before)
        best, before = max(best, each, key=lambda one: one[1]), place
    return (area + best[by] * (math.log(most) - before)) / math.log(most / least)


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """For each data set and in all: hypervolumes by test and by validation accuracy, and their paired differences."""
    budget = load_study(str(STUDY), {}).budget
    least, most = SHARES[0] * budget, BEYOND * budget
    pairs: dict[str, list[tuple[list[float], list[float]]]] = {}
    for data, seed in dict.fromkeys((line["data"], line["seed"]) for line in lines):
        found = {line["share"]: line["trials"] for line in lines if (line["data"], line["seed"]) == (data, seed)}
        if len(found) == 1 + len(SHARES):
            separate = [trial for share in SHARES for trial in found[share]]
            both = [[recommended(trials, by, least, most) for by in (2, 1)] for trials in (found[None], separate)]
            pairs.setdefault(data, []).append((both[0], both[1]))
    rows = [
        "| data | pairs | front, test | separate, test | difference (95 % interval) | by validation |",
        "|---|---|---|---|---|---|",
    ]
    groups = [*pairs.items(), ("all", [pair for each in pairs.values() for pair in each])]
    for name, group in groups:
        means = [100 * fmean(pair[i][0] for pair in group) for i in (0, 1)]
        test, validation = (_difference(group, by) for by in (0, 1))
        rows.append(f"| {name} | {len(group)} | {means[0]:.1f} | {means[1]:.1f} | {test} | {validation} |")
    return "\n".join(rows)


def _difference(group: Sequence[tuple[list[float], list[float]]], by: int) -> str:
    """The front's minus the separate searches', in points, with Student's t over the pairs."""
    found = paired([100 * separate[by] for _, separate in group], [100 * front[by] for front, _ in group])
    interval = f" ({found.low:+.1f} to {found.high:+.1f})" if found.low is not None else ""
    return f"{found.value:+.1f}{interval}"


if __name__ == "__main__":
    main()
