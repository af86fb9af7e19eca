"""The configurations that a study begins with, after its baselines: those that did best on other images.

They come from two places: the portfolio, measured on several data sets by `benchmarks/portfolio.py`, and the user's
own runs. A configuration contains no widths: these follow from the budget.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean, median
from typing import Any

import optuna

import space as search_space
from search.data_shape import DataShape
from search.front import SIZE
from search.spec import StudySpec
from search.trials import START, has_begun, records
from train_core.specs import ResNetSpec, TrainSpec

PORTFOLIO = Path(__file__).with_name("portfolio.json")
SIZES = 3  # number of sizes at which a configuration is tried along a front
SHARE = 1 / 3  # at most this share of a study's trials, if that is more than the portfolio; the rest is for the search

Accuracies = Mapping[str, Sequence[float | None]]
"""For each task, the test accuracy of each configuration, a share of 1; None if training diverged."""


@dataclass(frozen=True)
class Configuration:
    """A value for each of many parameters of a space, and its source, in words."""

    source: str
    draw: search_space.Draw


@dataclass(frozen=True)
class Measured:
    """The configurations that were measured for the portfolio, and how many of them a study begins with."""

    names: Sequence[str]
    draws: Sequence[search_space.Draw]
    accuracies: Accuracies
    size: int

    @classmethod
    @cache
    def shipped(cls) -> "Measured":
        """The measurements in this version."""
        values = json.loads(PORTFOLIO.read_text(encoding="utf-8"))
        made = values["configurations"]
        return cls(
            names=[each["name"] for each in made],
            draws=[each["draw"] for each in made],
            accuracies=values["accuracies"],
            size=values["size"],
        )

    def portfolio(self, space: search_space.Space) -> list[Configuration]:
        """The configurations of the space that together do best on all tasks, the most useful first."""
        different: dict[str, int] = {}  # in this space; if several are the same in it, the best
        losses = [_losses(task) for task in self.accuracies.values()]
        for i in sorted(range(len(self.draws)), key=lambda i: fmean(task[i] for task in losses)):
            if (parameters := fitted(self.draws[i], space)) is not None:
                different.setdefault(json.dumps(parameters, sort_keys=True), i)
        kinds = [draw["optimizer"] for draw in self.draws]
        chosen = shortlist(self.accuracies, self.size, among=sorted(different.values()), kinds=kinds)
        return [Configuration(f"portfolio: {self.names[i]}", self.draws[i]) for i in chosen]


def source_of(start: str) -> str:
    """The source of a configuration: `portfolio`, or the run's name."""
    return start.partition(":")[0] if start.startswith("portfolio:") else start.rpartition(" of ")[2]


def sources_of(starts: Sequence[str]) -> str:
    """How many configurations come from each source: `4 from the portfolio, 2 from cats`."""
    numbers = Counter(map(source_of, starts))
    return ", ".join(f"{number} from {'the ' * (name == 'portfolio')}{name}" for name, number in numbers.items())


def shortlist(
    accuracies: Accuracies, size: int, among: Sequence[int] | None = None, kinds: Sequence[str] | None = None
) -> list[int]:
    """Choose `size` configurations one by one, so that the best of them is near the best of all on each task.

    They are chosen from `among`; None: from all. The loss on a task is the distance of the best chosen configuration
    from the best of all, in units of the median's distance. If several reduce the loss equally, or not at all, one of
    the kind that is rarest in the list comes first (`kinds`: the optimizer of each; other images may need another one),
    and of these the best on average.
    """
    losses = [_losses(task) for task in accuracies.values()]
    if not losses:
        return []

    def loss(chosen: Sequence[int]) -> float:
        return fmean(min(task[i] for i in chosen) for task in losses)

    chosen: list[int] = []
    left = list(range(len(losses[0])) if among is None else among)
    for _ in range(min(size, len(left))):
        have = Counter(kinds[i] for i in chosen) if kinds else Counter()
        chosen.append(
            min(left, key=lambda i: (loss([*chosen, i]), have[kinds[i]] if kinds else 0, loss([i]), i)),
        )
        left.remove(chosen[-1])
    return chosen


def _losses(task: Sequence[float | None]) -> list[float]:
    """The distance of each configuration from the best, in units of the median's distance; at most 2."""
    known = [each or 0.0 for each in task]
    unit = max(max(known) - median(known), 1e-9)
    return [min((max(known) - each) / unit, 2.0) for each in known]


ESSENTIAL = ("optimizer", "block")
"""If a study lacks a configuration's value of one of these, it lacks the configuration."""


def fitted(draw: search_space.Draw, space: search_space.Space) -> dict[str, Any] | None:
    """The parameters that turn a draw of this space into the configuration, as closely as possible; None if impossible.

    Rates are scaled with the batch size: in proportion for SGD (Goyal et al. 2017, arXiv:1706.02677), by the square
    root for the others, whose steps do not depend on the size of the gradient.
    """
    dimensions = search_space.all_dimensions(space)
    if any(name in draw and not search_space.holds(dimensions[name], draw[name]) for name in ESSENTIAL):
        return None
    values = {name: draw[name] for name in search_space.parameters(space) if name in draw}
    if "batch_size" in draw and (rate := f"{draw['optimizer']}_lr") in values:
        batch = search_space.nearest(dimensions["batch_size"], draw["batch_size"])
        scale = batch / draw["batch_size"]
        values[rate] *= scale if draw["optimizer"] == "sgd" else math.sqrt(scale)
    for name, value in values.items():
        if not search_space.holds(dimensions[name], value):
            if isinstance(value, str | bool):
                return None
            values[name] = search_space.nearest(dimensions[name], value)
    return values


def enqueue_starts(
    study: optuna.Study, spec: StudySpec, shape: DataShape, learned: Callable[[], Sequence[Configuration]]
) -> list[str]:
    """Enqueue what was `learned` from the user's runs, and the portfolio, if the space contains them.

    Returns the source of each. Done once for each study. Duplicates of other trials are left out. There is always room
    for a whole portfolio: if a study has fewer trials, the rest waits until it gets more, so that two phases have the
    same trials as one.
    """
    before = records(study)
    known = [trial.start for trial in before if trial.start is not None]
    if has_begun(study):
        return known
    configurations = list(learned())
    configurations += Measured.shipped().portfolio(spec.space) if spec.portfolio else []
    made = {_made(trial.retry_draw, spec, shape) for trial in before if trial.start is None}
    starts: list[str] = []
    room = max(Measured.shipped().size, math.floor(SHARE * spec.trials))
    for each in configurations:
        parameters = fitted(_sized(each.draw, spec), spec.space)
        if parameters is None or (what := _made(parameters, spec, shape)) in made:
            continue
        if len(starts) == room:
            break
        made.add(what)
        for source in _at_sizes(each.source, spec)[: room - len(starts)]:
            starts.append(source)
            if source not in known:  # a process that was killed here may have enqueued some
                study.enqueue_trial(parameters, user_attrs={START: source})
    return starts


def _at_sizes(source: str, spec: StudySpec) -> list[str]:
    """The names under which a configuration is tried: one name, or along a front one for each of `SIZES` sizes.

    A configuration that is good at one size is good at others too: searches at several budgets would all try it.
    """
    if not spec.front:
        return [source]
    place, name = (
        ("portfolio: ", source.removeprefix("portfolio: ")) if source.startswith("portfolio:") else ("", source)
    )
    return [source, *(f"{place}size {number}, {name}" for number in range(2, SIZES + 1))]


def _sized(draw: search_space.Draw, spec: StudySpec) -> search_space.Draw:
    """The draw of a configuration; along a front without its size, which the search draws."""
    return {name: value for name, value in draw.items() if name != SIZE or not spec.front}


def _made(parameters: Mapping[str, Any], spec: StudySpec, shape: DataShape) -> tuple[ResNetSpec, TrainSpec]:
    """The network and the recipe of a draw; a missing value is its dimension's minimum, for sizes the maximum.

    If networks are small enough, different shapes give the same network.
    """
    largest = {SIZE: search_space.bounds_of(spec.space.budget_fraction)[1]} if spec.front else {}
    draw = search_space.lowest(spec.space) | largest | dict(parameters)
    network = search_space.network(draw, spec.space, spec.limits, shape.task)
    return network, search_space.recipe(draw, epochs=spec.epochs, seed=spec.seed, precision="fp32")
