"""Compares two runs: their settings, their costs and their results."""

import math
from collections.abc import Sequence
from typing import Any

from search.fidelity import measured_on, standard_error
from search.identity import identity
from search.inspection import Reader
from search.promotions import finished
from search.records import Compared, Comparison, Run
from search.spec import StudySpec
from search.trials import finished_trials


def compare(one: Reader, other: Reader) -> Comparison:
    """Two runs side by side. Neither is called better for a difference that may be chance.

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
    difference, spread, verdict = _verdict(sides, differences, images)
    is_clear = difference is not None and spread is not None and abs(difference) > spread
    return Comparison(
        runs=sides,
        differences=differences,
        difference=difference,
        spread=spread,
        better=sides[difference > 0].name if difference is not None and is_clear else None,
        verdict=verdict,
    )


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


def _verdict(
    sides: tuple[Compared, Compared], differences: dict[str, Any], images: Sequence[int | None]
) -> tuple[float | None, float | None, str]:
    """The second's score on validation less the first's, how much of it may be chance, and the verdict in words.

    `images` are how many validation images the errors of each run follow from; where that is not known, the spread of
    the seeds alone counts, and the verdict says so.
    """
    one, other = (side.best_full for side in sides)
    if "data fingerprint" in differences:
        return None, None, "not to be compared: their data differ"
    if sides[0].score != sides[1].score:
        return None, None, "not to be compared: one chose by accuracy, the other by balanced accuracy"
    if one is None or other is None:
        without = " and ".join(side.name for side in sides if side.best_full is None)
        return None, None, f"no verdict: no full run of {without} yet, and short runs alone decide nothing"
    difference = other.validation - one.validation
    if one.epochs != other.epochs:
        return difference, None, f"no verdict: full runs of {one.epochs} and {other.epochs} epochs cannot be compared"
    if one.validation_deviation is None or other.validation_deviation is None:
        return (
            difference,
            None,
            "no verdict: one seed alone does not show what is chance: promote with --seeds 3",
        )
    seeds = math.hypot(one.validation_deviation, other.validation_deviation)
    # Of an accuracy that is measured on so few images.
    measured = [(full.validation, n) for full, n in zip((one, other), images, strict=True) if n]
    errors = [standard_error(share, n) for share, n in measured]
    spread = max(seeds, math.hypot(*errors))
    points = f"{100 * abs(difference):.2f} points on validation"
    note = "" if None not in images else " between seeds (the number of validation images is not known)"
    if abs(difference) <= spread:
        return difference, spread, f"no verdict: they differ by {points}, within the spread of {100 * spread:.2f}{note}"
    better = sides[difference > 0].name
    return difference, spread, f"{better} is better, by {points}, more than the spread of {100 * spread:.2f}{note}"
