"""Small real searches that learn from another one: how many trials the second one saves.

    OMP_NUM_THREADS=1 python -m benchmarks.learned DATA --out benchmarks/learned.jsonl [--seeds 0:8]
    python -m benchmarks.learned --table benchmarks/learned.jsonl

DATA is a small `.npz` with a test split. For each seed, its training images are cut into two halves that share no
image, and a search on each half is done in the space of `real_search.toml`, without a portfolio:

first     `TRIALS` trials on one half
learnt    a third of them on the other half, with `--learn-from` the first
control   `TRIALS` trials on the other half, without; stopped after a third of them as well

Two things count. What a search ends with: its best trial by the score of its short run is trained in full, and tested
on the test images, which are the same for all. And the best score of a short run so far, after each trial, on the
validation images of the half; these are the same for `learnt` and `control`. Run it again to continue.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import optuna

from benchmarks import json_lines
from benchmarks.portfolio import FLIPPED
from benchmarks.real_search import STUDY, interval
from search import api, full_runs
from search.full_runs import PromoteFlags
from search.identity import open_study
from search.promotions import winner
from search.run_folder import RunFolder, RunRef
from search.session import Placement
from search.trials import finished_trials

TRIALS = 15
FEWER = TRIALS // 3


def main() -> None:
    """Parse the command line, and do the searches of each seed that is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", default="0:8")
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    if options.table:
        print(table(json_lines.read(options.table)))
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    done = {(line["data"], line["seed"]) for line in json_lines.read(options.out)}
    for seed in range(*map(int, options.seeds.split(":"))):
        if (options.data.stem, seed) not in done:
            json_lines.add(options.out, {"data": options.data.stem, "seed": seed, **searched(options.data, seed)})


def searched(data: Path, seed: int) -> dict[str, Any]:
    """For each of the three searches, the best score so far after each trial, and the test accuracies; shares of 1."""
    with tempfile.TemporaryDirectory() as root:
        one, other = halves(data, Path(root), seed)
        learnt = {"learn_from": ("first",)}
        tests = {
            "first": tested(one, "first", Path(root), seed, TRIALS),
            "learnt": tested(other, "learnt", Path(root), seed, FEWER, **learnt),
            "control, fewer": tested(other, "control", Path(root), seed, FEWER),
            "control": tested(other, "control", Path(root), seed, TRIALS),
        }
        scores = {name: best_so_far(Path(root, name)) for name in ("first", "learnt", "control")}
    return {**scores, "test": tests}


def halves(data: Path, folder: Path, seed: int) -> tuple[Path, Path]:
    """Two files with a half of the training images each, and with all test images."""
    arrays = dict(np.load(data))
    order = np.random.default_rng(seed).permutation(len(arrays["x_train"]))
    paths = []
    for number, part in enumerate(np.array_split(order, 2)):
        paths.append(folder / f"{data.stem}-{number}.npz")
        np.savez(paths[-1], **{**arrays, "x_train": arrays["x_train"][part], "y_train": arrays["y_train"][part]})
    return paths[0], paths[1]


def tested(data: Path, name: str, folder: Path, seed: int, trials: int, **flags: Any) -> float:
    """The test accuracy of a full run of a search's best trial, a share of 1; a search that exists is continued."""
    study = folder / "study.toml"
    flip = any(each in data.stem for each in FLIPPED)
    study.write_text(f"{STUDY.read_text()}flip = {str(flip).lower()}\n")
    given = {"data": str(data), "seed": seed, "trials": trials, "portfolio": False, **flags}
    ref, placement = RunRef(name, folder), Placement(device="cpu")
    api.run(str(study), given, ref, placement)
    best = winner(full_runs.promote(ref, placement, PromoteFlags(top=1)))
    if not best or best[0].test_accuracy is None:
        raise SystemExit("the full run diverged")
    return best[0].test_accuracy


def best_so_far(root: Path) -> list[float]:
    """The best score so far after each trial of a search, a share of 1."""
    best, found = 0.0, []
    for trial in finished_trials(open_study(RunFolder(root))):
        best = max(best, trial.score or 0.0)
        found.append(best)
    return found


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Two tables, of test accuracies and of scores of short runs: means, in percent, and differences with intervals."""
    heads = ["first, 15 trials", "learnt, 5", "control, 5", "control, 15", "learnt less first"]
    heads += ["learnt less control, 5", "learnt less control, 15"]
    rows = [f"| data | n | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    for data in dict.fromkeys(line["data"] for line in lines):
        ends = [line["test"] for line in lines if line["data"] == data]
        cells = [f"{100 * fmean(end[which] for end in ends):.1f}" for which in ENDS]
        cells += [_difference([(end["learnt"], end[which]) for end in ends]) for which in ENDS if which != "learnt"]
        rows.append(f"| {data} | {len(ends)} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n\n" + _table_of_scores(lines)


ENDS = ("first", "learnt", "control, fewer", "control")


def _table_of_scores(lines: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        "| data | n | first, after 15 trials | learnt, after 1 | after 5 | control, after 5 | after 15 | "
        "learnt less first | learnt less control |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for data in dict.fromkeys(line["data"] for line in lines):
        of = [line for line in lines if line["data"] == data]
        shown = (("first", TRIALS), ("learnt", 1), ("learnt", 5), ("control", 5), ("control", TRIALS))
        cells = [f"{100 * fmean(_after(line[which], trials) for line in of):.1f}" for which, trials in shown]
        cells += [_difference([(line["learnt"][-1], line[which][-1]) for line in of]) for which in ("first", "control")]
        rows.append(f"| {data} | {len(of)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _after(scores: Sequence[float], trials: int) -> float:
    """The best score after so many trials, or after all where fewer have ended."""
    return scores[min(trials, len(scores)) - 1]


def _difference(pairs: Sequence[tuple[float, float]]) -> str:
    """The mean of the first less the second, in points, with a bootstrap interval."""
    differences = [100 * (one - other) for one, other in pairs]
    low, high = interval(differences)
    return f"{fmean(differences):+.1f} ({low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    main()
