"""How far two means may differ by chance: 95 % intervals by Student's t. No torch; scipy is imported when needed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev

CONFIDENCE = 0.95
NORMAL = 1.959964  # standard errors on each side of a 95 % interval, where the error is known


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A mean difference, its 95 % interval, and the p of Student's t (two-sided). None: too few values for them."""

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


def paired(one: Sequence[float], other: Sequence[float]) -> Difference:
    """The mean of the differences, the second less the first, of values that belong together, with a paired t."""
    differences = [b - a for a, b in zip(one, other, strict=True)]
    if len(differences) < 2:
        return Difference(value=fmean(differences))
    return _with_t(fmean(differences), stdev(differences) / math.sqrt(len(differences)), len(differences) - 1)


def welch(one: Sequence[float], other: Sequence[float]) -> Difference:
    """The difference of the means, the second less the first, with Welch's t: the variances may be different."""
    value = fmean(other) - fmean(one)
    if min(len(one), len(other)) < 2:
        return Difference(value=value)
    return _with_t(value, *error_of_means((stdev(one), len(one)), (stdev(other), len(other))))


def error_of_means(*groups: tuple[float, int]) -> tuple[float, float]:
    """The standard error of a difference of means, and Welch's degrees of freedom, from deviations and numbers."""
    variances = [deviation**2 / number for deviation, number in groups]
    if not sum(variances):
        return 0.0, math.inf
    freedom = sum(variances) ** 2 / sum(
        variance**2 / (number - 1) for variance, (_, number) in zip(variances, groups, strict=True)
    )
    return math.sqrt(sum(variances)), freedom


def half_width(error: float, freedom: float) -> float:
    """How far the 95 % interval goes on each side of a mean with this standard error."""
    return error * _quantile(freedom) if error else 0.0


def _with_t(value: float, error: float, freedom: float) -> Difference:
    from scipy.stats import t

    half = half_width(error, freedom)
    p = float(2 * t.sf(abs(value) / error, freedom)) if error else float(value == 0)
    return Difference(value=value, low=value - half, high=value + half, p=p)


@cache
def _quantile(freedom: float) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, freedom))
