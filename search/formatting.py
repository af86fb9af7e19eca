"""Formats numbers and times for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, cast

from space import choices_of, drawn_regularisers
from train_core.datasets import DATASETS, DatasetName

if TYPE_CHECKING:
    from search.spec import StudySpec


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval: Wilson's for a share, Fisher's for a correlation."""

    value: float
    low: float
    high: float


def count(number: int, noun: str) -> str:
    """For example "1 epoch" and "2 epochs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def are(number: int) -> str:
    """The verb for this number: "is" or "are"."""
    return "is" if number == 1 else "are"


def percent(share: float) -> str:
    """A share of 1 as a percentage with two decimals."""
    return f"{100 * share:.2f} %"


def duration(seconds: float) -> str:
    """A time in a suitable unit: `40 s`, `12 min`, `3.5 h`, `2.1 days`."""
    for limit, unit, name in ((100, 1, "s"), (100 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.1f} {name}" if name == "h" else f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.1f} days"


def time_unit(seconds: float) -> tuple[int, str]:
    """The unit for an axis of times up to this many seconds: its seconds, and its name."""
    for limit, unit, name in ((100, 1, "seconds"), (100 * 60, 60, "minutes"), (48 * 3600, 3600, "hours")):
        if seconds < limit:
            return unit, name
    return 86400, "days"


def mean_and_deviation(shares: list[float]) -> str:
    """For example `95.10 ± 0.21 %`, with the standard deviation of the values, not of their mean; one: `95.10 %`."""
    return points(fmean(shares), stdev(shares) if len(shares) > 1 else None)


def short_run(spec: StudySpec) -> str:
    """The length of a short run, for example `30 epochs`, and the images that it trains on."""
    epochs = count(spec.epochs, "epoch")
    if spec.data_fraction == 1:
        return epochs
    seen = count(round(spec.epochs / spec.data_fraction), "time")
    return f"{epochs} on {spec.data_fraction:.0%} of the images, each seen {seen}"


def points(share: float, deviation: float | None) -> str:
    """For example `95.10 ± 0.21 %`; without a deviation, `95.10 %`."""
    return percent(share) if deviation is None else f"{100 * share:.2f} ± {100 * deviation:.2f} %"


def rounded(number: int) -> str:
    """A large number with three digits: `19.8 k`, `4.98 M`, `1.2 G`."""
    for unit, suffix in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if number >= unit:
            return f"{number / unit:.3g}{suffix}"
    return str(number)


def shortened(text: str, width: int, end: str = "...") -> str:
    """The text in at most `width` characters; `end` replaces what is cut off."""
    return text if len(text) <= width else text[: max(0, width - len(end))].rstrip() + end


def ago(seconds: float) -> str:
    """How long ago something was: `just now`, `12 min ago`."""
    return "just now" if seconds < 60 else f"{duration(seconds)} ago"


def warnings_of(spec: StudySpec) -> list[str]:
    """The problems of a study, one warning each."""
    return [warning for warning in (_regulariser_warning(spec), _flip_warning(spec)) if warning]


def _regulariser_warning(spec: StudySpec) -> str:
    """A warning for a study whose short runs choose regularisers on all images; empty for any other."""
    drawn = drawn_regularisers(spec.space)
    if not drawn or spec.data_fraction < 1:
        return ""
    return (
        f"short runs choose {', '.join(drawn)} here: on all images they prefer less regularisation than full runs do, "
        'and the choice is wrong for full runs. Train them on a subset (short_run_images = "subset"), or fix these at '
        "a strong setting."
    )


def _flip_warning(spec: StudySpec) -> str:
    """A warning for a study that flips images whose mirror image has another class; empty for any other."""
    data = DATASETS.get(cast(DatasetName, spec.data))
    if data is None or data.mirrored_is_same or True not in choices_of(spec.space.flip):
        return ""
    return (
        f"the space flips images, but a mirror image of {spec.data} can be of another class, or of none. Set "
        "flip = false under [space] in a study file."
    )


def interval(estimate: Interval) -> str:
    """For example `0.62 (0.10 to 0.88)`."""
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def left_out_in_words(left_out: Mapping[str, Sequence[str]]) -> str:
    """How many files were left out, and why: `2 files in .HEIC, 1 file not in an image format`; empty for none."""
    return ", ".join(f"{count(len(names), 'file')} {why}" for why, names in left_out.items() if names)


def share_interval(estimate: Interval | None) -> str:
    """For example `97.2 % (94.1 to 98.7)`; empty for None."""
    return "" if estimate is None else f"{100 * estimate.value:.1f} % ({bounds(estimate)})"


def bounds(estimate: Interval) -> str:
    """The interval alone, in percent: `94.1 to 98.7`."""
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


def p_value(p: float) -> str:
    """For example `p = 0.03`, or `p < 0.001`."""
    return f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"


def images_in_words(train: int, val: int, shape: str) -> str:
    """The number and shape of a search's images: `80 training and 8 validation images, 8x8 RGB, 4 classes`."""
    return f"{train:,} training and {count(val, 'validation image')}, {shape}"


def test_in_words(has_test: bool, held_out: int) -> str:
    """Where the test images come from; `held_out` of them come from the training images of the source."""
    if held_out:
        return f"{count(held_out, 'image')} held out as a test split that only `promote` reads (--no-test: none)"
    return "a test split that only `promote` reads" if has_test else "no test split"
