"""Compares two runs: their settings, their costs and their results."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from search.completion import run_folders
from search.errors import RunError, SpecError
from search.fidelity import measured_on, standard_error
from search.formatting import p_value
from search.identity import identity
from search.inspection import Reader
from search.mistakes import Paired, paired, stored
from search.promotions import finished, winner
from search.records import Compared, Comparison, FullRun, Run
from search.run_folder import named_runs
from search.spec import StudySpec
from search.trials import finished_trials
from search.uncertainty import Z, error_of_means, half_width

SIGNIFICANT = 0.05  # a difference on the same images with a smaller p is not considered chance


def compare(one: Reader, other: Reader) -> Comparison:
    """Two runs side by side. Neither is called better if the difference may be chance.

    If both have stored predictions for the same validation images, they are compared image by image.

    Raises:
        UserError: a result cannot be read.

    """
    sides = compared(one), compared(other)
    differences = {name: (first, second) for name, (first, second) in different_settings((one, other)).items()}
    images = [measured_on(run.folder, run.spec.scored_by) for run in (one, other)]
    by_accuracy = {run.spec.scored_by for run in (one, other)} == {"accuracy"}  # the test compares accuracy
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


def other_needed(runs: Path, one: str) -> SpecError:
    """The error of a comparison without a second side: it names the runs that can be the second side.

    Raises:
        RunError: there is no run of the name `one` in the folder `runs`.

    """
    others = sorted(run_folders(runs).keys() - set(named_runs(runs, [one])))
    if not others:
        return SpecError(f"compare {one!r} with a second run: {runs} has no other, make one with `search run`")
    return SpecError(f"compare {one!r} with a second run: give one of {', '.join(others)}")


def _paired(one: Reader, other: Reader) -> Paired | None:
    """The best networks of both runs on the same validation images; None if not stored, or the images differ.

    Of several seeds, the first of each run is used: the best one would be chosen by the images that judge it.
    """
    predictions = []
    for run in (one, other):
        runs = winner(finished(run.folder))
        if not runs:
            return None
        try:
            predictions.append(stored(run.folder, min(runs, key=lambda each: each.seed), "val"))
        except RunError:
            return None  # from an earlier version: the verdict then uses the accuracies
    return paired(*predictions)


def different_settings(runs: Sequence[Reader]) -> dict[str, tuple[Any, ...]]:
    """The settings and the data that differ between runs: by name, the value of each run (None: not set)."""
    specs = [_flat(run.spec) | _fingerprint(run) for run in runs]
    names = dict.fromkeys(name for spec in specs for name in spec)
    values = {name: tuple(spec.get(name) for spec in specs) for name in names}
    return {name: each for name, each in values.items() if any(value != each[0] for value in each)}


def compared(run: Reader) -> Compared:
    """A run as it is compared: its state and its costs."""
    status, done = run.status(), finished_trials(run.study)
    return Compared(
        **{name: getattr(status, name) for name in Run.__dataclass_fields__},
        epochs_short=sum(len(trial.curve) for trial in done),
        epochs_full=sum(len(result.history) for result in finished(run.folder)),
    )


def _flat(spec: StudySpec) -> dict[str, Any]:
    """The spec with one name and one value for each setting; baselines in words."""
    flat: dict[str, Any] = {}
    for name, value in spec.model_dump(mode="json", exclude={"published"}).items():  # no search reads it
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
    """The outcome of a comparison."""

    words: str
    difference: float | None = None  # validation accuracy of the second minus that of the first
    spread: float | None = None  # how large a difference may be by chance
    better: str | None = None  # the name of the better run


def _verdict(
    sides: tuple[Compared, Compared], differences: dict[str, Any], images: Sequence[int | None], pair: Paired | None
) -> _Verdict:
    """Which run is better, if any.

    `images` are the numbers of validation images that the errors of the runs follow from; if not known, only the seeds
    count, and the verdict says so. `pair` compares a network of each run image by image, which is more precise than two
    accuracies and needs no second seed.
    """
    one, other = (side.best_full for side in sides)
    if "data fingerprint" in differences:
        return _Verdict(words="not to be compared: their data differ")
    if sides[0].score != sides[1].score:
        return _Verdict(words="not to be compared: one chose by accuracy, the other by balanced accuracy")
    if one is None or other is None:
        without = [side.name for side in sides if side.best_full is None]
        which = "neither run has" if len(without) == 2 else f"{without[0]} does not have"
        return _Verdict(words=f"no verdict: {which} a full run yet, and short runs alone decide nothing")
    difference = other.validation - one.validation
    if one.epochs != other.epochs:
        words = f"no verdict: full runs of {one.epochs} and {other.epochs} epochs cannot be compared"
        return _Verdict(words=words, difference=difference)
    points = f"{100 * abs(difference):.2f} points on validation"
    seeds = _spread_of_seeds(one, other)
    better = sides[difference > 0].name
    if pair is not None:
        return _of_pair(pair, sides, difference, seeds)
    if seeds is None:
        words = "no verdict: one seed alone does not show what is chance: promote with --seeds 3"
        return _Verdict(words=words, difference=difference)
    same_images = not any(name in _OF_SPLIT or name.startswith("reading.") for name in differences)
    spread = math.hypot(seeds, _spread_of_images((one, other), images, same=same_images))
    chance = f"{100 * spread:.2f} points can be chance (95 %)"
    chance += "" if None not in images else " between seeds; the number of validation images is not known"
    if abs(difference) <= spread:
        words = f"no verdict: they differ by {points}, and {chance}"
        return _Verdict(words=words, difference=difference, spread=spread)
    words = f"{better} is better, by {points}; {chance}"
    return _Verdict(words=words, difference=difference, spread=spread, better=better)


_OF_SPLIT = ("seed", "val_fraction", "test_fraction")  # settings that decide which images are the validation images


def _spread_of_seeds(one: FullRun, other: FullRun) -> float | None:
    """How far the means of the seeds of two equally good networks can differ (95 %); None if one has a single seed."""
    if one.validation_deviation is None or other.validation_deviation is None:
        return None
    return half_width(*error_of_means((one.validation_deviation, one.seeds), (other.validation_deviation, other.seeds)))


def _spread_of_images(runs: tuple[FullRun, FullRun], images: Sequence[int | None], *, same: bool) -> float:
    """How far two accuracies measured on so few images can differ by chance (95 %); 0: not known.

    Two networks share about half of their errors on the same images (`fidelity.standard_error`), and none on others.
    """
    errors = [standard_error(run.validation, n) for run, n in zip(runs, images, strict=True) if n]
    if len(errors) < 2:
        return Z * sum(errors)
    return Z * (math.sqrt(fmean(error**2 for error in errors)) if same else math.hypot(*errors))


def _of_pair(pair: Paired, sides: tuple[Compared, Compared], difference: float, seeds: float | None) -> _Verdict:
    """The verdict of McNemar's exact test; `seeds` is how far means of seeds differ by chance, None for one seed each.

    With several seeds, the difference of the means must also be larger than that, and in favour of the same run.
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
        words += f"and between seeds {100 * seeds:.2f} points can be chance (95 %)"
        return _Verdict(words=words, difference=difference, spread=seeds)
    words = f"{better} is better, by {100 * abs(difference):.2f} points on validation, where between seeds "
    words += f"{100 * seeds:.2f} points can be chance (95 %); {counts}"
    return _Verdict(words=words, difference=difference, spread=seeds, better=better)
