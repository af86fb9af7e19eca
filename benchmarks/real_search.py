"""Small real searches, without simulation: ours against itself without the portfolio, and against random draws.

    OMP_NUM_THREADS=1 python -m benchmarks.real_search DATA --out benchmarks/real_searches.jsonl [--seeds 0:8]
    python -m benchmarks.real_search --table benchmarks/real_searches.jsonl

DATA is `digits`, or a small `.npz` with a test split. With each seed, in the space of `real_search.toml`:

ours          the search as it ships; its portfolio is chosen without DATA's own data set, and all of its kind
no portfolio  the same with `portfolio = false`: the search as it was before there was a portfolio
random        random draws, without a portfolio

Each is stopped after each number of trials in `STAGES`. Then its best trial by the score of its short run is trained in
full, and the accuracy of that network on the test images is the result. So is the first trial of ours: it is all that a
search has after one. At its end, `TOP` trials of ours are trained in full as well, as `search promote` does it. Run it
again to continue.
"""

import argparse
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, quantiles, stdev
from typing import Any
from unittest.mock import patch

import optuna

from benchmarks import json_lines
from benchmarks.portfolio import FLIPPED
from benchmarks.portfolio_judged import group_of
from search import api, full_runs
from search.full_runs import PromoteFlags
from search.identity import open_study
from search.promotions import Promotion, winner
from search.run_folder import RunRef
from search.session import Placement
from search.starts import Measured
from search.trials import TrialRecord, finished_trials

STUDY = Path(__file__).with_name("real_search.toml")
STAGES = (3, 15)
TOP = 3  # full runs that `search promote` trains
METHODS: dict[str, dict[str, Any]] = {
    "ours": {},
    "no portfolio": {"portfolio": False},
    "random": {"portfolio": False, "sampler": "random"},
}


def main() -> None:
    """Parse the command line, and search with each method and seed that is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", default="0:8")
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    if options.table:
        print(table(json_lines.read(options.table)))
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    done = {(line["data"], line["method"], line["seed"]) for line in json_lines.read(options.out)}
    first, last = map(int, options.seeds.split(":"))
    for seed in range(first, last):
        for method in METHODS:
            if (Path(options.data).stem, method, seed) not in done:
                line = {"data": Path(options.data).stem, "method": method, "seed": seed}
                line["stages"] = searched(options.data, method, seed)
                json_lines.add(options.out, line)


def searched(data: str, method: str, seed: int) -> list[dict[str, Any]]:
    """The method's recommendation at each stage: the accuracies of its full run, shares of 1, and the epochs taken."""
    stages: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, patch.object(Measured, "shipped", lambda: without(data)):
        study = Path(folder, "study.toml")
        flip = any(name in data for name in FLIPPED)
        study.write_text(f"{STUDY.read_text()}flip = {str(flip).lower()}\n")
        ref, placement = RunRef("bench", Path(folder)), Placement(device="cpu")
        for trials in STAGES:
            flags = {"data": data, "seed": seed, "trials": trials, **METHODS[method]}
            run = api.run(str(study), flags, ref, placement)
            best = winner(full_runs.promote(ref, placement, PromoteFlags(top=1)))
            if not best:
                raise SystemExit("the full run diverged")
            tried = finished_trials(open_study(run))
            if method == "ours" and not stages:
                full = full_runs.promote(ref, placement, PromoteFlags(top=trials))
                stages += [_stage(run, 1, tried[:1]) for run in full if run.trial == tried[0].number]
            stages.append(_stage(best[0], trials, tried))
        if method == "ours":
            leaders = full_runs.promote(ref, placement, PromoteFlags(top=TOP))
            stages[-1]["full"] = [_full(run) for run in leaders if run.val_accuracy is not None]
    return stages


def _full(run: Promotion) -> dict[str, Any]:
    return {
        "trial": run.trial,
        "optimizer": run.recipe.optimizer,
        "short": run.short_score,
        "validation": run.val_accuracy,
        "test": run.test_accuracy,
    }


def _stage(full_run: Promotion, trials: int, tried: Sequence[TrialRecord]) -> dict[str, Any]:
    return {
        "trials": trials,
        "epochs": sum(len(trial.curve) for trial in tried),
        "validation": full_run.val_accuracy,
        "test": full_run.test_accuracy,
        "network": str(full_run.network),
        "recipe": str(full_run.recipe),
    }


_SHIPPED = Measured.shipped()


def without(data: str) -> Measured:
    """The shipped portfolio as it would be without the measurements on the data set of `data` and its relatives."""
    kind = group_of(Path(data).stem)[:5]  # cifar10 is a relative of CIFAR-100
    others = {task: each for task, each in _SHIPPED.accuracies.items() if group_of(task)[:5] != kind}
    return Measured(names=_SHIPPED.names, draws=_SHIPPED.draws, accuracies=others, size=_SHIPPED.size)


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Mean test accuracies for each data set, method and stage, and the differences to random's end, seed by seed."""
    found = {
        (line["data"], line["method"], stage["trials"], line["seed"]): stage
        for line in lines
        for stage in line["stages"]
    }
    rows = [
        "| data | method | trials | epochs of short runs | test accuracy | less random's end |",
        "|---|---|---|---|---|---|",
    ]
    for data in dict.fromkeys(line["data"] for line in lines):
        seeds = sorted({line["seed"] for line in lines if line["data"] == data})
        seeds = [seed for seed in seeds if all((data, method, STAGES[-1], seed) in found for method in METHODS)]
        for method in METHODS:
            for trials in (1, *STAGES):
                if any((data, method, trials, seed) not in found for seed in seeds):
                    continue  # an older line, without this stage
                stages = [found[data, method, trials, seed] for seed in seeds]
                ends = [found[data, "random", STAGES[-1], seed]["test"] for seed in seeds]
                row = f"| {data} (n = {len(seeds)}) | {method} | {trials}"
                epochs = f"{fmean(stage['epochs'] for stage in stages):.0f}"
                rows.append(f"{row} | {epochs} | {_compared([stage['test'] for stage in stages], ends)} |")
                if all("full" in stage for stage in stages):
                    best = [max(stage["full"], key=lambda run: run["validation"])["test"] for stage in stages]
                    rows.append(f"{row}, {TOP} full runs | {epochs} | {_compared(best, ends)} |")
    return "\n".join(rows)


def _compared(tests: Sequence[float], ends: Sequence[float]) -> str:
    """Mean and spread of test accuracies, and their difference to others, in points, with its interval: two cells."""
    low, high = interval([100 * (test - end) for test, end in zip(tests, ends, strict=True)])
    spread = 100 * stdev(tests) if len(tests) > 1 else 0.0
    difference = 100 * (fmean(tests) - fmean(ends))
    return f"{100 * fmean(tests):.1f} ± {spread:.1f} | {difference:+.1f} ({low:+.1f} to {high:+.1f})"


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean."""
    generator = random.Random(0)
    means = [fmean(generator.choices(differences, k=len(differences))) for _ in range(2000)]
    cuts = quantiles(means, n=40)
    return cuts[0], cuts[-1]


if __name__ == "__main__":
    main()
