"""Our search compared with others, in at least 200 simulated worlds: paired differences of true accuracy.

    python -m benchmarks.worlds --out worlds.jsonl --worlds 200 [--methods ours,ours+starts,random]
    python -m benchmarks.worlds --table worlds.jsonl [more.jsonl ...]

The worlds are from `world.py`, the methods from `methods.py` and `variants.py`. Each line of `--out` is one method in
one world: the true accuracy of its recommendation after 120, 240, 480 and 1,200 epochs. Run it again to continue where
it stopped. `--worlds 100:200` does only some of them, and `--epochs 480` ends each search there, which takes a quarter
of the time.

The portfolio of a world is made as the shipped one is: 44 random configurations, measured with the noise of a seed in
five other worlds of the same kind, of which `search.starts` takes five.
"""

import argparse
import contextlib
import json
import logging
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import optuna

from benchmarks.methods import METHODS, NEEDS, Account, Method, SpentError
from benchmarks.world import DIMENSIONS, STUDY, Params, World, drawn_evenly, encoded
from search.starts import Measured

EPOCHS = (120, 240, 480, 1200)  # after which the methods are compared
CONFIGURATIONS, OTHER_WORLDS, SIZE = 44, 5, 5  # of a portfolio: as for the shipped one
OTHERS = 1_000_000  # the first number of the worlds that portfolios are measured in
SAMPLES = 4000  # of the bootstrap
REFERENCE = "ours+starts"
POSSIBLE = "best possible"
STARTS = 8  # starting points of the search for the best configuration of a world


def all_methods() -> dict[str, Method]:
    """All methods, and the variants of ours."""
    variants, nights = (import_module(f"benchmarks.{name}") for name in ("variants", "nights"))
    return {**METHODS, **variants.VARIANTS, **nights.NIGHTS}


@cache
def portfolio(number: int) -> tuple[Params, ...]:
    """The configurations that a search in the world of this number begins with."""
    generator = np.random.default_rng((number, 2))
    draws = [drawn_evenly(generator) for _ in range(CONFIGURATIONS)]
    others = [World(OTHERS + OTHER_WORLDS * number + i) for i in range(OTHER_WORLDS)]
    accuracies = {
        str(world.seed): [None if world.diverges(draw) else world.cut(draw)[-1] for draw in draws] for world in others
    }
    measured = Measured([str(i) for i in range(CONFIGURATIONS)], draws, accuracies, SIZE)
    return tuple(each.draw for each in measured.portfolio(STUDY.space))


def line(name: str, number: int, budget: int = EPOCHS[-1]) -> dict[str, Any]:
    """What one method finds in the world of this number, with a budget of epochs.

    `name`: a method, with `+starts` if it has the portfolio.
    """
    started = time.monotonic()
    world = World(number)
    if name == POSSIBLE:
        return {"world": number, "method": name, "accuracy": [best_possible(world)] * len(EPOCHS)}
    method, _, starts = name.partition("+")
    account = Account(world, budget)
    with contextlib.suppress(SpentError):
        all_methods()[method](account, portfolio(number) if starts else (), number)
    return {
        "world": number,
        "method": name,
        "accuracy": [round(account.at(epochs), 5) for epochs in EPOCHS if epochs <= budget],
        "trials": account.trials,
        "spent": account.spent,
        "seconds": round(time.monotonic() - started, 1),
    }


def best_possible(world: World) -> float:
    """The best true accuracy that a search one parameter at a time finds without noise, from the best random draws."""
    generator = np.random.default_rng(world.seed)
    draws = [drawn_evenly(generator) for _ in range(1000)]
    accuracies = world.accuracies(np.array([encoded(draw) for draw in draws]))
    found = 0.0
    for i in np.argsort(accuracies)[-STARTS:]:
        params, accuracy = dict(draws[i]), float(accuracies[i])
        while True:
            changed = [{**params, name: value} for name in DIMENSIONS for value in _values(name)]
            reached = world.accuracies(np.array([encoded(each) for each in changed]))
            if reached.max() <= accuracy + 1e-6:
                break
            params, accuracy = changed[int(reached.argmax())], float(reached.max())
        found = max(found, accuracy)
    return round(found, 5)


def _values(name: str) -> Sequence[Any]:
    """The values of a parameter; for a range without steps, 30 values."""
    dimension = DIMENSIONS[name]
    if isinstance(dimension, tuple):
        return dimension
    if isinstance(dimension.low, int):
        return range(dimension.low, dimension.high + 1)
    if dimension.log:
        return [float(each) for each in np.geomspace(dimension.low, dimension.high, 30)]
    steps = round((dimension.high - dimension.low) / dimension.step)
    return [dimension.low + dimension.step * i for i in range(steps + 1)]


# The table -----------------------------------------------------------------------------------------------------------


class Mean(NamedTuple):
    """A mean over worlds, and its 95 % interval by bootstrap."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """The mean of one value for each world."""
        generator = np.random.default_rng(0)
        means = generator.choice(np.array(values), (SAMPLES, len(values))).mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        return cls(float(np.mean(values)), float(low), float(high))

    def __str__(self) -> str:
        """In points, with its sign."""
        return f"{100 * self.value:+.2f} ({100 * self.low:+.2f} to {100 * self.high:+.2f})"


class Row(NamedTuple):
    """One method compared with the reference."""

    method: str
    worlds: list[int]  # number of worlds in which both were run, for each number of epochs
    accuracy: list[float]  # means after each number of epochs
    difference: list[Mean]  # of its accuracy and that of the reference in the same world


Found = Mapping[str, Mapping[int, Sequence[float]]]
"""By method and world: the true accuracies after each number of epochs."""


def found(lines: Iterable[Mapping[str, Any]]) -> Found:
    """The results in all files; if two lines have the same key, the longer one."""
    by_method: dict[str, dict[int, Sequence[float]]] = {}
    for each in sorted(lines, key=lambda each: len(each["accuracy"])):
        by_method.setdefault(each["method"], {})[each["world"]] = each["accuracy"]
    return by_method


def rows(known: Found, reference: str = REFERENCE) -> list[Row]:
    """A row for each method, the best possible first, and then in the order of the differences at 480 epochs."""
    made = []
    for method, by_world in known.items():
        worlds, accuracies, differences = [], [], []
        for i in range(len(EPOCHS)):
            pairs = [
                (own[i], other[i])
                for world, own in sorted(by_world.items())
                if len(own) > i and len(other := known[reference].get(world, ())) > i
            ]
            if pairs:
                worlds.append(len(pairs))
                accuracies.append(fmean(own for own, _ in pairs))
                differences.append(Mean.of([own - other for own, other in pairs]))
        if worlds:
            made.append(Row(method, worlds, accuracies, differences))

    def order(row: Row) -> tuple[bool, float, bool]:
        at = min(EPOCHS.index(480), len(row.worlds) - 1)
        return row.method != POSSIBLE, -round(row.difference[at].value, 6), row.method != reference

    return sorted(made, key=order)


def shown(table: Sequence[Row], reference: str = REFERENCE) -> str:
    """The table as Markdown: the reference's accuracy, and the others' differences from it, in points."""
    heads = ["method", *(f"{epochs:,} epochs" for epochs in EPOCHS), "worlds"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in table:
        is_reference = row.method == reference
        cells = (
            [f"{100 * each:.2f} %" for each in row.accuracy] if is_reference else [str(each) for each in row.difference]
        )
        cells += [""] * (len(EPOCHS) - len(cells))
        numbers = [str(number) for number in dict.fromkeys(row.worlds)]
        lines.append(
            "| " + " | ".join([row.method, *cells, ", at the end ".join([numbers[0], *numbers[1:][-1:]])]) + " |"
        )
    return "\n".join(lines)


# The command ---------------------------------------------------------------------------------------------------------


def main() -> None:
    """Parse the command line; run what is not in the file yet, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, nargs="+")
    parser.add_argument("--reference", default=REFERENCE)
    parser.add_argument("--least", type=int, default=1, help="worlds in which a method of the table was run")
    parser.add_argument("--worlds", type=_range, default=range(200))
    parser.add_argument("--epochs", type=int, choices=EPOCHS, default=EPOCHS[-1])
    default = [POSSIBLE, *(f"{name}{starts}" for name in METHODS for starts in ("", "+starts"))]
    parser.add_argument("--methods", type=lambda text: text.split(","), default=default)
    options = parser.parse_args()
    if (options.out is None) == (options.table is None):
        parser.error("give --out to run the methods, or --table to compare what was run")
    if options.table:
        lines = [json.loads(text) for path in options.table for text in path.read_text().splitlines()]
        table = rows(found(lines), options.reference)
        print(shown([row for row in table if row.worlds[0] >= options.least], options.reference))
        return
    names = [name for name in options.methods if name == POSSIBLE or name.partition("+")[0] in all_methods()]
    if unknown := set(options.methods) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(all_methods())}, each with +starts")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # of the other methods
    run(options.out, list(filter(installed, names)), options.worlds, options.epochs)


def _range(text: str) -> range:
    """`200`, or `100:200`."""
    first, _, last = text.rpartition(":")
    return range(int(first or 0), int(last))


def run(path: Path, names: Sequence[str], worlds: Iterable[int], budget: int = EPOCHS[-1]) -> None:
    """Append the lines that the file does not have yet."""
    known = found(map(json.loads, path.read_text().splitlines())) if path.exists() else {}
    for number in worlds:
        for name in names:
            if EPOCHS.index(budget) >= len(known.get(name, {}).get(number, ())):
                with path.open("a") as file:
                    file.write(json.dumps(line(name, number, budget)) + "\n")


def installed(name: str) -> bool:
    """Whether a method's package is installed; if not, prints how to get it."""
    needed = NEEDS.get(name.partition("+")[0], "optuna")
    try:
        import_module(needed)
    except ImportError as error:
        print(f"{name}: skipped ({error}); pip install '.[peers]'", flush=True)
        return False
    return True


if __name__ == "__main__":
    main()
