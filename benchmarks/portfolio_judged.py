"""Evaluates the portfolio by leaving one data set out, and writes the file that the package ships.

    python -m benchmarks.portfolio_judged benchmarks/portfolio.jsonl [--write]

A table: for each number of configurations, how many points the best of that many loses to the best of all that were
measured, on data sets that were not used to choose them. A group of tasks, left out together, is a data set: its name
up to the first digit. `--write` writes `search/portfolio.json`, with the smallest size, of `LEAST` or more, whose loss
is within `TOLERANCE` of the minimum.
"""

import argparse
import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

import space
from benchmarks.portfolio import STUDY
from search.spec import load_study
from search.starts import PORTFOLIO, Accuracies, shortlist

MOST = 12  # configurations that a study could begin with
LEAST = 5  # of them: on other images, and at other budgets, another one may be the best
TOLERANCE = 0.1  # points that a shorter list may lose to a longer one
DRAWS = 500  # random lists to compare with, and resamples of the data sets


def main() -> None:
    """Parse the command line, print the table, and write the file if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    lines = [json.loads(line) for path in options.runs for line in path.read_text().splitlines()]
    accuracies, draws = measured(lines)
    print(f"{len(draws)} configurations, {len(accuracies)} tasks: {', '.join(accuracies)}\n")
    kinds = [draw["optimizer"] for draw in draws.values()]
    losses = judged(accuracies, kinds)
    print("| configurations | points lost to the best of all | of random ones | the worst task |")
    print("|---|---|---|---|")
    for size, by_task in losses.items():
        low, high = interval(by_task)
        print(
            f"| {size} | {mean(by_task):.2f} ({low:.2f} to {high:.2f}) | {mean(by_chance(accuracies, size)):.2f} "
            f"| {max(by_task.values()):.2f} |"
        )
    size = best_size(losses)
    names = list(draws)
    print(f"\nsize {size}: {', '.join(names[i] for i in shortlist(accuracies, size, kinds=kinds))}")
    if options.write:
        write(accuracies, draws, size)


def measured(lines: Sequence[Mapping[str, Any]]) -> tuple[Accuracies, dict[str, space.Draw]]:
    """The tasks for which all configurations were measured, by task and budget; and the draws, by name.

    If there are several seeds, their mean is used.
    """
    dimensions = load_study(str(STUDY), {}).space
    draws = {line["configuration"]: (line["name"], line["draw"]) for line in lines}
    seen: dict[str, dict[int, list[float | None]]] = {}
    for line in lines:
        task = seen.setdefault(f"{line['task']}, {line['budget']:,} parameters", {})
        task.setdefault(line["configuration"], []).append(line["test"])
    whole = {
        task: [_mean(runs[number]) for number in sorted(draws)]
        for task, runs in seen.items()
        if len(runs) == len(draws)
    }
    held = {name: value for name, value in space.held(dimensions).items() if name in KEPT}
    return whole, {draws[number][0]: {**held, **draws[number][1]} for number in sorted(draws)}


KEPT = ("budget_fraction", "final_norm", "shortcut_kernel", "stem_kernel", "momentum", "nesterov")
"""The dimensions that were fixed in the measurement but belong to a configuration wherever it is tried."""


def _mean(accuracies: Sequence[float | None]) -> float | None:
    known = [each for each in accuracies if each is not None]
    return fmean(known) if known else None


def group_of(task: str) -> str:
    """The data set of a task."""
    return re.split(r"[\d,]", task)[0] + ("100" if task.startswith("cifar100") else "")


def judged(accuracies: Accuracies, kinds: Sequence[str]) -> dict[int, dict[str, float]]:
    """For each size, the points lost on each task by a list that was chosen without the task's data set."""
    losses: dict[int, dict[str, float]] = {size: {} for size in range(1, MOST + 1)}
    for left_out in {group_of(task) for task in accuracies}:
        others = {task: values for task, values in accuracies.items() if group_of(task) != left_out}
        chosen = shortlist(others, MOST, kinds=kinds)
        for task in accuracies:
            if group_of(task) == left_out:
                for size in losses:
                    losses[size][task] = lost(accuracies[task], chosen[:size])
    return losses


def by_chance(accuracies: Accuracies, size: int) -> dict[str, float]:
    """The points that random lists lose on average."""
    generator = random.Random(0)
    return {
        task: fmean(lost(values, generator.sample(range(len(values)), size)) for _ in range(DRAWS))
        for task, values in accuracies.items()
    }


def lost(values: Sequence[float | None], chosen: Sequence[int]) -> float:
    """How many points the best chosen configuration is below the best of all."""
    return 100 * (max(each or 0 for each in values) - max(values[i] or 0 for i in chosen))


def mean(by_task: Mapping[str, float]) -> float:
    """The mean over the data sets of the mean over the tasks of each."""
    groups = {group_of(task) for task in by_task}
    return fmean(fmean(loss for task, loss in by_task.items() if group_of(task) == group) for group in groups)


def interval(by_task: Mapping[str, float]) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean, over resamples of the tasks."""
    generator, losses = random.Random(0), list(by_task.values())
    means = [fmean(generator.choices(losses, k=len(losses))) for _ in range(DRAWS)]
    cuts = quantiles(means, n=40)
    return cuts[0], cuts[-1]


def best_size(losses: Mapping[int, Mapping[str, float]]) -> int:
    """The smallest size, `LEAST` or more, whose loss is within the tolerance of the minimum."""
    least = min(map(mean, losses.values()))
    return next(size for size, by_task in losses.items() if size >= LEAST and mean(by_task) <= least + TOLERANCE)


def write(accuracies: Accuracies, draws: Mapping[str, space.Draw], size: int) -> None:
    """Write the file that `search.starts` reads."""
    rounded = {
        task: [None if each is None else round(each, 4) for each in values] for task, values in accuracies.items()
    }
    made = [{"name": name, "draw": _short(draw)} for name, draw in draws.items()]
    parts = [
        '"size": ' + json.dumps(size),
        '"configurations": [\n' + ",\n".join(map(json.dumps, made)) + "\n]",
        '"accuracies": {\n' + ",\n".join(f"{json.dumps(task)}: {json.dumps(each)}" for task, each in rounded.items()),
    ]
    PORTFOLIO.write_text("{\n" + ",\n".join(parts) + "\n}\n}\n", encoding="utf-8")


def _short(draw: space.Draw) -> dict[str, Any]:
    """The draw with three digits of each number."""
    return {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in draw.items()}


if __name__ == "__main__":
    main()
