"""How exactly an accuracy is known: intervals that hold the choice of the images and the chance of the training."""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, variance

from search.formatting import Interval

Z = NormalDist().inv_cdf(0.975)


def accuracy_interval(shares: Sequence[float], images: int) -> Interval:
    """The mean of accuracies (shares of 1), one for each seed, on `images` images, and its 95 % interval.

    Two variances are added: that of the images, from Wilson's interval for the mean, and that of the seeds, the square
    of the standard error of their mean. Few seeds know their own variance badly, so the interval has the width of
    Student's t, with the degrees of freedom of the sum (Welch and Satterthwaite). With one seed, it is Wilson's
    interval and holds the images alone. On the safe side: seeds also differ by what chance does on these images, which
    is thus counted twice.
    """
    value = fmean(shares)
    low, high = _wilson(value, images)
    if len(shares) < 2 or not (of_seeds := variance(shares) / len(shares)):
        return Interval(value, low, high)
    below, above = (_width(bound - value, of_seeds, len(shares) - 1) for bound in (low, high))
    return Interval(value, max(value - below, 0.0), min(value + above, 1.0))


def difference_in_noise(accuracy: float, images: int) -> float:
    """Two standard errors of the difference of two networks of about this accuracy on the same images; shares of 1.

    See `fidelity.standard_error`. Two images are added on each side, so that it is not 0 where all are right.
    """
    share = (accuracy * images + 2) / (images + 4)
    return 2 * math.sqrt(share * (1 - share) / images)


def _wilson(share: float, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval, also for a mean share, which is no whole number of images."""
    middle = (share + Z**2 / (2 * images)) / (1 + Z**2 / images)
    half = Z / (1 + Z**2 / images) * math.sqrt(share * (1 - share) / images + Z**2 / (4 * images**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _width(distance: float, of_seeds: float, freedom: int) -> float:
    """How far a bound is from the mean: `distance` for the images alone, and with the variance of the seeds."""
    from scipy.special import stdtrit  # here, since it takes a moment

    of_images = (distance / Z) ** 2
    total = of_images + of_seeds
    return float(stdtrit(freedom * (total / of_seeds) ** 2, 0.975)) * math.sqrt(total)
