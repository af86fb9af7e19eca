"""Small real searches that learn from another one: how many trials the second one saves.

    OMP_NUM_THREADS=1 python -m benchmarks.learned DATA --out benchmarks/learned.jsonl [--seeds 0:8]
    python -m benchmarks.learned --table benchmarks/learned.jsonl

DATA is a small `.npz` with a test split. For each seed, its training images are cut into two halves that share no
image, and a search on each half is done in the space of `real_search.toml`, without a portfolio:

first     `TRIALS` trials on one half
learnt    a third of them on the other half, with `--learn-from` the first
control   `TRIALS` trials on the other half, without

What counts is the best score of a short run so far, after each trial, on the validation images of the half: these are
the same for `learnt` and `control`. Run again, it goes on.
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
from search import api
from search.identity import open_study
from search.run_folder import RunRef
from search.session import Placement
from search.trials import finished_trials

TRIALS = 15


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


def searched(data: Path, seed: int) -> dict[str, list[float]]:
    """For each of the three searches, the best validation accuracy so far after each trial, a share of 1."""
    with tempfile.TemporaryDirectory() as root:
        one, other = halves(data, Path(root), seed)
        first = scores(one, "first", Path(root), seed, TRIALS)
        learnt = scores(other, "learnt", Path(root), seed, TRIALS // 3, learn_from=("first",))
        control = scores(other, "control", Path(root), seed, TRIALS)
    return {"first": first, "learnt": learnt, "control": control}


def halves(data: Path, folder: Path, seed: int) -> tuple[Path, Path]:
    """Two files with a half of the training images each, and with all test images."""
    arrays = dict(np.load(data))
    order = np.random.default_rng(seed).permutation(len(arrays["x_train"]))
    paths = []
    for number, part in enumerate(np.array_split(order, 2)):
        paths.append(folder / f"{data.stem}-{number}.npz")
        np.savez(paths[-1], **{**arrays, "x_train": arrays["x_train"][part], "y_train": arrays["y_train"][part]})
    return paths[0], paths[1]


def scores(data: Path, name: str, folder: Path, seed: int, trials: int, **flags: Any) -> list[float]:
    """The best score so far after each trial of a search."""
    study = folder / "study.toml"
    flip = any(each in data.stem for each in FLIPPED)
    study.write_text(f"{STUDY.read_text()}flip = {str(flip).lower()}\n")
    given = {"data": str(data), "seed": seed, "trials": trials, "portfolio": False, **flags}
    run = api.run(str(study), given, RunRef(name, folder), Placement(device="cpu"))
    best, found = 0.0, []
    for trial in finished_trials(open_study(run)):
        best = max(best, trial.score or 0.0)
        found.append(best)
    return found


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Mean scores, in percent, and how far `learnt` is from the ends of `first` and `control`, with intervals."""
    rows = [
        "| data | n | first, after 15 trials | learnt, after 1 | after 5 | control, after 5 | after 15 | "
        "learnt less first | learnt less control |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for data in dict.fromkeys(line["data"] for line in lines):
        of = [line for line in lines if line["data"] == data]
        shown = (("first", TRIALS), ("learnt", 1), ("learnt", 5), ("control", 5), ("control", TRIALS))
        cells = [f"{100 * fmean(_after(line[which], trials) for line in of):.1f}" for which, trials in shown]
        cells += [_difference(of, which) for which in ("first", "control")]
        rows.append(f"| {data} | {len(of)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _after(scores: Sequence[float], trials: int) -> float:
    """The best score after so many trials, or after all where fewer have ended."""
    return scores[min(trials, len(scores)) - 1]


def _difference(lines: Sequence[Mapping[str, Any]], other: str) -> str:
    """The end of `learnt` less that of the other search, in points, with a bootstrap interval of the mean."""
    differences = [100 * (line["learnt"][-1] - line[other][-1]) for line in lines]
    low, high = interval(differences)
    return f"{fmean(differences):+.1f} ({low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    main()
