"""Compares two runs: their settings, their costs and their results."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from search.errors import RunError
from search.fidelity import measured_on, standard_error
from search.formatting import p_value
from search.identity import identity
from search.inspection import Reader
from search.mistakes import Paired, paired, stored
from search.promotions import finished, winner
from search.records import Compared, Comparison, Run
from search.spec import StudySpec
from search.trials import finished_trials

SIGNIFICANT = 0.05  # p, below which a difference on the same images is not taken for chance


def compare(one: Reader, other: Reader) -> Comparison:
    """Two runs side by side. Neither is called better for a difference that may be chance.

    If both have stored what they say of the same validation images, they are compared image by image.

    Raises:
        UserError: a result cannot be read.

    """
    specs = [_flat(run.spec) | _fingerprint(run) for run in (one, other)]
    names = [*specs[0], *(name for name in specs[1] if name not in specs[0])]
    sides = _compared(one), _compared(other)
    differences = {
        name: (specs[0].get(name), specs[1].get(name)) for name in names if specs[0].get(name) != specs[1].get(name)
    }
    images = [measured_on(run.folder, run.spec.scored_by) for run in (one, other)]
    by_accuracy = {run.spec.scored_by for run in (one, other)} == {"accuracy"}  # which is what the test compares
    pair = _paired(one, other) if by_accuracy and "data fingerprint" not in differences else None
    verdict = _verdict(sides, differences, images, pair)
    return Comparison(
        runs=sides,
        differences=differences,
        difference=verdict.difference,
        spread=verdict.spread,
        paired=pair,
        better=verdict.better,
        verdict=verdict.words,
    )


def _paired(one: Reader, other: Reader) -> Paired | None:
    """The best networks of both runs on the same validation images; none if they are not stored, or not the same.

    Of several seeds, it is the first of each run: the best one would be chosen by the images that it is judged by.
    """
    predictions = []
    for run in (one, other):
        runs = winner(finished(run.folder))
        if not runs:
            return None
        try:
            predictions.append(stored(run.folder, min(runs, key=lambda each: each.seed), "val"))
        except RunError:
            return None  # of an earlier version: the verdict is then that of the accuracies
    return paired(*predictions)


def _compared(run: Reader) -> Compared:
    status, done = run.status(), finished_trials(run.study)
    return Compared(
        **{name: getattr(status, name) for name in Run.__dataclass_fields__},
        epochs_short=sum(len(trial.curve) for trial in done),
        epochs_full=sum(len(result.history) for result in finished(run.folder)),
    )


def _flat(spec: StudySpec) -> dict[str, Any]:
    """The spec, one name and one value for each thing that can be set; baselines in words."""
    flat: dict[str, Any] = {}
    for name, value in spec.model_dump(mode="json", exclude={"published"}).items():  # which no search reads
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat | {f"baselines.{name}": str(network) for name, network in spec.baselines.items()}


def _fingerprint(run: Reader) -> dict[str, Any]:
    name = "data fingerprint"
    return {name: identity(run.study).get(name)}


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    """What a comparison says."""

    words: str
    difference: float | None = None  # the second's validation accuracy less the first's
    spread: float | None = None  # how much of it may be chance
    better: str | None = None  # the run that is


def _verdict(
    sides: tuple[Compared, Compared], differences: dict[str, Any], images: Sequence[int | None], pair: Paired | None
) -> _Verdict:
    """Which run is better, if any.

    `images` are how many validation images the errors of each run follow from; where that is not known, the spread of
    the seeds alone counts, and the verdict says so. `pair` compares a network of each image by image, which is more
    precise than two accuracies and needs no second seed.
    """
    one, other = (side.best_full for side in sides)
    if "data fingerprint" in differences:
        return _Verdict(words="not to be compared: their data differ")
    if sides[0].score != sides[1].score:
        return _Verdict(words="not to be compared: one chose by accuracy, the other by balanced accuracy")
    if one is None or other is None:
        without = " and ".join(side.name for side in sides if side.best_full is None)
        return _Verdict(words=f"no verdict: no full run of {without} yet, and short runs alone decide nothing")
    difference = other.validation - one.validation
    if one.epochs != other.epochs:
        words = f"no verdict: full runs of {one.epochs} and {other.epochs} epochs cannot be compared"
        return _Verdict(words=words, difference=difference)
    points = f"{100 * abs(difference):.2f} points on validation"
    deviations = one.validation_deviation, other.validation_deviation
    seeds = math.hypot(*(each for each in deviations if each is not None)) if None not in deviations else None
    better = sides[difference > 0].name
    if pair is not None:
        return _of_pair(pair, sides, difference, seeds)
    if seeds is None:
        words = "no verdict: one seed alone does not show what is chance: promote with --seeds 3"
        return _Verdict(words=words, difference=difference)
    # Of an accuracy that is measured on so few images.
    measured = [(full.validation, n) for full, n in zip((one, other), images, strict=True) if n]
    errors = [standard_error(share, n) for share, n in measured]
    spread = max(seeds, math.hypot(*errors))
    note = "" if None not in images else " between seeds (the number of validation images is not known)"
    if abs(difference) <= spread:
        words = f"no verdict: they differ by {points}, within the spread of {100 * spread:.2f}{note}"
        return _Verdict(words=words, difference=difference, spread=spread)
    words = f"{better} is better, by {points}, more than the spread of {100 * spread:.2f}{note}"
    return _Verdict(words=words, difference=difference, spread=spread, better=better)


def _of_pair(pair: Paired, sides: tuple[Compared, Compared], difference: float, seeds: float | None) -> _Verdict:
    """The verdict of McNemar's exact test; `seeds` is the spread between seeds, none with one seed each.

    With several seeds, the difference of the means must also be larger than that spread, and in favour of the same run.
    """
    first, second = (side.name for side in sides)
    counts = (
        f"of the same {pair.images:,} validation images, only {first} gets {pair.only_first:,} right, only {second} "
        f"{pair.only_second:,} (McNemar's exact test, {p_value(pair.p)})"
    )
    better = sides[pair.only_second > pair.only_first].name
    if pair.p >= SIGNIFICANT:
        return _Verdict(words=f"no verdict: {counts}", difference=difference, spread=seeds)
    if seeds is None:
        words = f"{better} is better, as trained: {counts}; another seed may change this: promote with --seeds 3"
        return _Verdict(words=words, difference=difference, better=better)
    mean = sides[difference > 0].name
    if abs(difference) <= seeds or mean != better:
        words = f"no verdict: {counts}, but the means of the seeds differ by {100 * difference:+.2f} points, "
        words += f"and the spread between seeds is {100 * seeds:.2f}"
        return _Verdict(words=words, difference=difference, spread=seeds)
    words = f"{better} is better, by {100 * abs(difference):.2f} points on validation, more than the spread "
    words += f"of {100 * seeds:.2f} between seeds; {counts}"
    return _Verdict(words=words, difference=difference, spread=seeds, better=better)
