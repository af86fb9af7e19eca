"""Uncertainty of accuracies and their differences: from the choice of images, and from the chance of training.

No torch; scipy is imported when it is needed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist, fmean, stdev, variance

from search.formatting import Interval

CONFIDENCE = 0.95
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)  # standard errors on each side, if the error is known


def accuracy_interval(shares: Sequence[float], images: int) -> Interval:
    """The mean of accuracies (shares of 1), one for each seed, on `images` images, and its 95 % interval.

    Two variances are added: that of the images, from Wilson's interval for the mean, and that of the seeds, the square
    of the standard error of their mean. Few seeds estimate their own variance badly, so the interval has the width of
    Student's t, with the degrees of freedom of the sum (Welch and Satterthwaite). With one seed, it is Wilson's
    interval and covers only the images. It errs on the safe side: seeds also differ by chance on these images, which is
    thus counted twice.
    """
    value = fmean(shares)
    low, high = _wilson(value, images)
    if len(shares) < 2 or not (of_seeds := variance(shares) / len(shares)):
        return Interval(value, low, high)
    below, above = (_width(bound - value, of_seeds, len(shares) - 1) for bound in (low, high))
    return Interval(value, max(value - below, 0.0), min(value + above, 1.0))


def difference_in_noise(accuracy: float, images: int) -> float:
    """Two standard errors of the difference of two networks of about this accuracy on the same images; shares of 1.

    See `fidelity.standard_error`. Two images are added on each side, so that it is not 0 if all are right.
    """
    share = (accuracy * images + 2) / (images + 4)
    return 2 * math.sqrt(share * (1 - share) / images)


def _wilson(share: float, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval, also for a mean share that is not a whole number of images."""
    middle = (share + Z**2 / (2 * images)) / (1 + Z**2 / images)
    half = Z / (1 + Z**2 / images) * math.sqrt(share * (1 - share) / images + Z**2 / (4 * images**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _width(distance: float, of_seeds: float, freedom: int) -> float:
    """The distance of a bound from the mean: `distance` for the images, combined with the variance of the seeds."""
    total = (distance / Z) ** 2 + of_seeds
    return half_width(math.sqrt(total), freedom * (total / of_seeds) ** 2)


# Differences of means, by Student's t --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A mean difference, its 95 % interval, and the p of Student's t (two-sided). None: too few values."""

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


def paired(one: Sequence[float], other: Sequence[float]) -> Difference:
    """The mean of the differences, second minus first, of paired values, with a paired t test."""
    differences = [b - a for a, b in zip(one, other, strict=True)]
    if len(differences) < 2:
        return Difference(value=fmean(differences))
    return _with_t(fmean(differences), stdev(differences) / math.sqrt(len(differences)), len(differences) - 1)


def welch(one: Sequence[float], other: Sequence[float]) -> Difference:
    """The difference of the means, second minus first, with Welch's t: the variances may be different."""
    value = fmean(other) - fmean(one)
    if min(len(one), len(other)) < 2:
        return Difference(value=value)
    return _with_t(value, *error_of_means((stdev(one), len(one)), (stdev(other), len(other))))


def error_of_means(*groups: tuple[float, int]) -> tuple[float, float]:
    """The standard error of a difference of means, and Welch's degrees of freedom, from deviations and counts."""
    variances = [deviation**2 / number for deviation, number in groups]
    if not sum(variances):
        return 0.0, math.inf
    freedom = sum(variances) ** 2 / sum(
        variance**2 / (number - 1) for variance, (_, number) in zip(variances, groups, strict=True)
    )
    return math.sqrt(sum(variances)), freedom


def half_width(error: float, freedom: float) -> float:
    """The half width of the 95 % interval of a mean with this standard error."""
    return error * _quantile(freedom) if error else 0.0


def _with_t(value: float, error: float, freedom: float) -> Difference:
    from scipy.stats import t

    half = half_width(error, freedom)
    p = float(2 * t.sf(abs(value) / error, freedom)) if error else float(value == 0)
    return Difference(value=value, low=value - half, high=value + half, p=p)


@cache
def _quantile(freedom: float) -> float:
    from scipy.special import stdtrit  # imported here, because it takes a moment

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) if math.isfinite(freedom) else Z
