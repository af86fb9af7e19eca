"""The best of every size: networks that no other network beats in score at no more cost.

One search draws the size of each network along its costs; this module decides what follows from the sizes. The size of
a network is the share of its limit that it takes; with two limits, the larger share.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

import space as search_space
from search.data_shape import DataShape
from search.errors import RunError, SpecError
from search.spec import StudySpec
from search.trials import TrialRecord, ranked, score_of
from space import Range
from train_core.limits import LIMITS, Bound, Limit
from train_core.specs import ResNetSpec

LEAST = 1 / 64  # share of a limit: the smallest size that is drawn
ROOM = 0.5  # share of a limit that the smallest network may take at most
SIZE = "budget_fraction"  # the parameter that holds the drawn size of a trial
LIKE = 2.0  # trials up to this factor apart are of similar size
GOLDEN = (math.sqrt(5) - 1) / 2
AT_LIMIT = 1 / 8  # trials with the whole limit, as a share of the other trials
LATEST = 1000  # trials among which a good draw is looked for: each is compared with each
GOOD = 0.6  # a draw whose trials beat this share of the others for their size is tried at other sizes

T = TypeVar("T")


# What a search along a front draws ------------------------------------------------------------------------------------


def with_sizes(spec: StudySpec, shape: DataShape) -> StudySpec:
    """The study with the range of sizes that its front has for these images; a study without a front is unchanged.

    Sizes go from the smallest network's, but at least `LEAST`, to the limit. A study file that gives a range in the
    logarithm for `space.budget_fraction` keeps its lower end. Applied twice, it changes nothing more.

    Raises:
        SpecError: the limit leaves no room for several sizes.

    """
    if not spec.front:
        return spec
    smallest = search_space.smallest(spec.space, shape.task)
    bounds = along(spec, shape.size)
    taken = max(bounds, key=lambda each: each.cost(smallest) / each.most)
    share = taken.cost(smallest) / taken.most
    if ROOM < share <= 1:  # if it takes more than the limit, the survey of the space refuses it
        raise SpecError(
            f"--front: the smallest network of this space takes {share:.0%} of {taken.limit.words(taken.most)}, which "
            f"leaves no room for several sizes: give a larger {taken.limit.flag}"
        )
    given = spec.space.budget_fraction
    low, high = (given.low, given.high) if isinstance(given, Range) and given.log else (LEAST, 1.0)
    sizes = Range(low=min(max(low, share * (1 + 1e-9)), ROOM * high), high=high, log=True)
    return spec.model_copy(update={"space": spec.space.model_copy(update={SIZE: sizes})})


def drawn_size(spec: StudySpec, number: int, seed: int) -> float:
    """The size of a trial with `number` trials before it, by a seed of the study.

    One trial in nine has the whole limit, where the most accurate networks are. The others are evenly spread in the
    logarithm, however many trials there are: each step advances by the golden section.
    """
    low, high = search_space.bounds_of(spec.space.budget_fraction)
    place = (np.random.default_rng(seed).random() + number * GOLDEN) % 1
    return float(min(max(low * (high / low) ** (place * (1 + AT_LIMIT)), low), high))


def are_alike(one: float, other: float) -> bool:
    """Whether two sizes differ at most by the factor `LIKE`."""
    return max(one, other) <= LIKE * min(one, other)


def standings(sizes: Sequence[float], scores: Sequence[float | None]) -> list[float]:
    """For each trial, the share of the other trials that it beats for its size; -1 without a score.

    Larger networks have better scores. So each score is compared with the value of a straight line through all scores
    at its size, in the logarithm. Trials of similar size count more: one that is four times as large or as small counts
    half. A single trial gets
    0.5.
    """
    size = np.log(np.array(sizes, dtype=float))
    score = np.array([-np.inf if each is None else each for each in scores])
    known = np.isfinite(score)
    if len(set(size[known])) > 1:
        # Rounded, so that what lies on the line is equal.
        score = np.round(score - np.polyval(np.polyfit(size[known], score[known], deg=1), size), 9)
    nearness = np.exp(-np.abs(size[:, None] - size[None, :]) / 2)
    np.fill_diagonal(nearness, val=0.0)
    beaten = np.where(score[:, None] > score[None, :], 1.0, np.where(score[:, None] == score[None, :], 0.5, 0.0))
    total = nearness.sum(axis=1)
    share = np.where(total, (beaten * nearness).sum(axis=1) / np.maximum(total, 1e-9), 0.5)
    return [float(each) for each in np.where(known, share, -1.0)]


def carried(trials: Sequence[TrialRecord], size: float) -> search_space.Draw | None:
    """The best draw that was not tried at about this size, without its size; None: there is no good one.

    A draw that is good at one size is often good at others. Its quality is the mean standing of its trials and of one
    more in the middle, so that one lucky trial counts less than several good ones.
    """
    tried = {_without_size(trial) for trial in trials if are_alike(trial.draw[SIZE], size)}
    trials = trials[-LATEST:]
    sizes = [trial.draw[SIZE] for trial in trials]
    scores = [trial.last_score if trial.has_verdict and not trial.failed_or_diverged else None for trial in trials]
    standing = defaultdict(list)
    for trial, its_standing in zip(trials, standings(sizes, scores), strict=True):
        if trial.ended:
            standing[_without_size(trial)].append(max(its_standing, 0.0))
    means = {draw: (sum(each) + 0.5) / (len(each) + 1) for draw, each in standing.items() if draw not in tried}
    best = max(means, key=lambda draw: means[draw], default=None)
    return dict(best) if best is not None and means[best] > GOOD else None


def _without_size(trial: TrialRecord) -> tuple[tuple[str, Any], ...]:
    """The draw of a trial, without its size."""
    return tuple(sorted((name, value) for name, value in trial.draw.items() if name != SIZE))


# What it has found ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point(Generic[T]):
    """A network with its costs, one for each cost of the front, its score (a share of 1), and what it represents."""

    costs: tuple[float, ...]
    size: float  # the largest of the costs, as a share of its limit
    score: float
    of: T

    def beats(self, other: "Point[T]") -> bool:
        """Whether it is at least as good at no more cost, and not equal."""
        no_worse = self.score >= other.score and all(a <= b for a, b in zip(self.costs, other.costs, strict=True))
        return no_worse and (self.score, self.costs) != (other.score, other.costs)


def along(spec: StudySpec, size: tuple[int, int]) -> list[Bound]:
    """The limits of a front's costs, for images of this height and width."""
    named = [LIMITS[name] for name in spec.front]
    return [each for each in spec.limits.bounds(size) if each.limit in named]


def costs_of_front(spec: StudySpec) -> list[Limit]:
    """The costs of its points, in their order."""
    return [limit for name, limit in LIMITS.items() if name in spec.front]


def point(
    spec: StudySpec, image: tuple[int, int], network: Callable[[T], ResNetSpec], score: Callable[[T], float], of: T
) -> Point[T]:
    """The point of an object whose network is known, for images of this height and width."""
    bounds, found = along(spec, image), network(of)
    costs = tuple(each.cost(found) for each in bounds)
    size = max(cost / each.most for cost, each in zip(costs, bounds, strict=True))
    return Point(costs, size, score(of), of)


def points_of_trials(
    spec: StudySpec, image: tuple[int, int], trials: Iterable[TrialRecord]
) -> list[Point[TrialRecord]]:
    """The points of the complete trials, for images of this height and width."""
    return [point(spec, image, _network, score_of, trial) for trial in ranked(trials)]


def _network(trial: TrialRecord) -> ResNetSpec:
    return trial.network


def front_of(points: Iterable[Point[T]]) -> list[Point[T]]:
    """The points that no other point beats, the smallest first. If several are equal, the first is taken."""
    front: list[Point[T]] = []
    # A point that beats another comes before it, or equals it.
    for each in sorted(points, key=lambda each: (each.costs, -each.score)):
        if not any(other.beats(each) or (other.costs, other.score) == (each.costs, each.score) for other in front):
            front.append(each)
    return sorted(front, key=lambda each: (each.size, each.score))


def spread(front: Sequence[Point[T]], number: int) -> list[Point[T]]:
    """`number` points of a front whose sizes are evenly spread in the logarithm, the smallest first.

    The range of sizes is cut into `number` equal parts, and the best point of each part is taken. If a part is empty,
    another point replaces it: each time the one whose size is farthest from those already taken.

    Raises:
        RunError: the front has fewer points.

    """
    if len(front) < number:
        raise RunError(
            f"{number} networks along the front are wanted, but it has {len(front)}: continue the search with "
            f"`search run`, or ask for at most --front {len(front)}"
        )
    low, high = math.log(front[0].size), math.log(front[-1].size)
    parts: dict[int, Point[T]] = {}
    for each in front:
        part = min(int(number * (math.log(each.size) - low) / ((high - low) or 1)), number - 1)
        if part not in parts or each.score >= parts[part].score:
            parts[part] = each
    chosen = list(parts.values())
    while len(chosen) < number:
        left = [each for each in front if each not in chosen]
        chosen.append(max(left, key=lambda each: min(abs(math.log(each.size / other.size)) for other in chosen)))
    return sorted(chosen, key=lambda each: each.size)


def knee(front: Sequence[Point[T]]) -> Point[T] | None:
    """The point of a front behind which more size buys little accuracy; None if there are fewer than three.

    It is the one that is highest above the straight line from the smallest to the largest, in the logarithm of size
    (Satopää et al. 2011, "Finding a Kneedle in a haystack"). None if all lie on the line or below it.
    """
    if len(front) < 3:
        return None
    first, last = front[0], front[-1]
    wide, high = math.log(last.size / first.size), last.score - first.score
    if not wide or high <= 0:
        return None
    heights = {
        i: (each.score - first.score) / high - math.log(each.size / first.size) / wide for i, each in enumerate(front)
    }
    highest = max(heights, key=lambda i: heights[i])
    return front[highest] if heights[highest] > 1e-9 else None


def hypervolume(points: Iterable[tuple[float, float]], least: float, most: float) -> float:
    """The mean, over all sizes from `least` to `most` in the logarithm, of the best score at that size or less.

    `points` are sizes and scores. This is the area that they dominate, from a score of 0 and the size `most` as the
    reference point, as a share of the whole; below the smallest of them it is 0.
    """
    area, best, before = 0.0, 0.0, math.log(least)
    for size, score in sorted(points):
        place = min(max(math.log(size), math.log(least)), math.log(most))
        area += best * (place - before)
        best, before = max(best, score), place
    return (area + best * (math.log(most) - before)) / math.log(most / least)
