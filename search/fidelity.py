"""How well the short runs rank a run's trials, compared with full runs of the same trials."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

import numpy as np
from numpy.typing import NDArray

from search.formatting import Interval, count
from search.ladder import family_of
from search.promotions import Promotion
from search.run_folder import RunFolder, read_facts
from search.trials import TrialRecord, ranked, score_of
from train_core.results import Score

MIN_PAIRS = 4  # trials needed for a correlation and its interval
TOPS = (1, 3, 5)  # the regret is given for the best k by a short score
TRUSTED = 0.6  # Spearman: reached by 30 annealed epochs on 100 published CIFAR networks

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A trial's validation scores (shares of 1), after a shorter run and after the full run."""

    trial: int
    family: str
    short: float
    long: float


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well the scores of a shorter run rank trials, compared with the full run."""

    epochs: int  # of the shorter run
    pairs: tuple[Pair, ...]
    spearman: Interval
    kendall: float  # nan if not known
    regret: dict[int, float]  # by k: the score lost by promoting only the best k, a share of 1


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """The measured fidelity of a run's short scores."""

    epochs: int  # of the full runs
    lengths: tuple[Agreement, ...]  # the short run first, then shorter rungs, by length
    families: dict[str, Agreement]  # of the short run, within each family with enough trials
    best_only: bool  # the trials are the better half by score: correlations are then lower than over all scores
    complete: int  # trials of the study that were eligible
    tolerance: float | None  # standard error of one validation score, a share of 1; None: not known

    @property
    def short(self) -> Agreement:
        """The short run's agreement with the full one."""
        return self.lengths[0]


def pick(trials: Sequence[TrialRecord], count: int, family: str | None) -> list[TrialRecord]:
    """`count` of the complete trials, spread evenly over their scores and then over the families."""
    by_score = ranked(trials)[::-1]
    count = min(count, len(by_score))
    used: Counter[str] = Counter()
    picked = []
    for i in range(count):
        stratum = by_score[i * len(by_score) // count : (i + 1) * len(by_score) // count]
        best = min(stratum, key=lambda trial: used[_family(trial, family)])
        used[_family(best, family)] += 1
        picked.append(best)
    return picked


def measure(
    trials: Sequence[TrialRecord],
    promotions: Sequence[Promotion],
    *,
    epochs: int,
    family: str | None,
    validation_images: int | None,
) -> Fidelity | None:
    """Measure how well the scores of short runs of `epochs` predict those of full runs.

    The longest runs that at least `MIN_PAIRS` trials have are compared; for several seeds, the mean counts. None if
    there are none. `validation_images` is the result of `measured_on`.
    """
    scores: dict[int, dict[int, float]] = defaultdict(dict)  # by epochs, by trial
    seeds: dict[tuple[int, int], list[float]] = defaultdict(list)
    for run in promotions:
        if run.val_score is not None:
            seeds[run.recipe.epochs, run.trial].append(run.val_score)
    for (length, number), values in seeds.items():
        scores[length][number] = fmean(values)
    by_number = {trial.number: trial for trial in trials if trial.is_complete}
    lengths = sorted(length for length in scores if length > epochs and len(scores[length]) >= MIN_PAIRS)
    if not lengths:
        return None
    long = scores[lengths[-1]]
    shorter = {epochs: {number: score_of(trial) for number, trial in by_number.items()}}
    shorter |= {length: scores[length] for length in lengths[:-1]}
    agreements = []
    for length, short in shorter.items():
        pairs = [
            Pair(trial=number, family=_family(by_number[number], family), short=short[number], long=long[number])
            for number in sorted(long)
            if number in short and number in by_number
        ]
        if len(pairs) >= MIN_PAIRS:
            agreements.append(agreement(length, pairs))
    if not agreements or agreements[0].epochs != epochs:
        return None
    first = agreements[0].pairs
    by_family: dict[str, list[Pair]] = defaultdict(list)
    for pair in first:
        by_family[pair.family].append(pair)
    median = float(np.median([score_of(trial) for trial in by_number.values()]))
    level = fmean(pair.long for pair in first)
    return Fidelity(
        epochs=lengths[-1],
        lengths=tuple(agreements),
        families={
            name: agreement(epochs, pairs)
            for name, pairs in sorted(by_family.items())
            if MIN_PAIRS <= len(pairs) < len(first)
        },
        best_only=len(by_number) > len(first) and min(pair.short for pair in first) >= median,
        complete=len(by_number),
        tolerance=standard_error(level, validation_images) if validation_images else None,
    )


def agreement(epochs: int, pairs: Sequence[Pair]) -> Agreement:
    """Rank correlations and regrets over the pairs; Spearman's correlation with its 95 % interval.

    The others have no interval. None that is known contains Kendall's correlation often enough if there are few trials
    (in simulations, nominal 95 % intervals by its standard error did in 85 to 100 % of cases), and a regret depends on
    the maximum of few values, for which a percentile bootstrap does not work (24 to 96 % of cases).
    """
    from scipy.stats import kendalltau, spearmanr  # imported here: it would make every command a second slower

    short, long = np.array([pair.short for pair in pairs]), np.array([pair.long for pair in pairs])
    have_order = np.ptp(short) > 0 and np.ptp(long) > 0
    return Agreement(
        epochs=epochs,
        pairs=tuple(pairs),
        spearman=spearman_interval(float(spearmanr(short, long).statistic) if have_order else math.nan, len(pairs)),
        kendall=float(kendalltau(short, long).statistic) if have_order else math.nan,
        regret={top: _regret(short, long, top) for top in TOPS if top < len(pairs)},
    )


def spearman_interval(value: float, number: int) -> Interval:
    """Spearman's correlation of `number` pairs with its 95 % interval, by Fisher's method; nan if not known.

    The standard error is that of Bonett and Wright (2000). A perfect correlation counts as that of two orders in which
    two neighbours changed places: a few trials in the same order do not show that all are. A percentile bootstrap over
    the trials, which was used before, contained the true correlation in a quarter to half of the cases if there were
    four trials and short runs rank well.
    """
    if math.isnan(value):
        return Interval(value, value, value)
    if number <= 3:
        return Interval(value, -1.0, 1.0)
    most = 1 - 12 / (number * (number**2 - 1))
    middle = math.atanh(min(max(value, -most), most))
    error = NormalDist().inv_cdf(0.975) * math.sqrt((1 + value**2 / 2) / (number - 3))
    low, high = math.tanh(middle - error), math.tanh(middle + error)
    return Interval(value, -1.0 if value <= -most else low, 1.0 if value >= most else high)


def advice(fidelity: Fidelity) -> str:
    """One sentence of advice: how long the short runs should be, and how many trials to promote.

    It claims no more than the 95 % interval of Spearman's correlation permits. An interval that contains 0 shows
    nothing, however high the value is; an interval below `TRUSTED` shows that short runs rank too badly.
    """
    short, known = fidelity.short, fidelity.short.spearman
    promote = _how_many_to_promote(fidelity)
    text = f"Short runs of {count(short.epochs, 'epoch')} "
    permits = f"the rank correlation can be {bounds_of(known)}"
    if known.low >= TRUSTED:
        text += f"rank this space well enough: {promote}"
    elif known.low > 0 and known.value >= TRUSTED:
        text += f"rank this space, but how well is uncertain ({permits}): {promote}"
    elif known.low > 0 or known.high < TRUSTED:
        trusted = next((each.epochs for each in fidelity.lengths if _is_trusted(each)), None)
        longer = trusted or min(2 * fidelity.lengths[-1].epochs, fidelity.epochs)
        text += f"{'rank this space in part only' if known.low > 0 else 'do not rank this space'} ({permits})"
        text += f", {trusted} do" if trusted else ""
        text += f": give --epochs {longer} (and another --name), or {promote}"
    else:
        pairs = len(short.pairs)
        more = f"measure more (--trials {2 * pairs})" if fidelity.complete > pairs else "search more trials and measure"
        text += f"may rank this space or not: {count(pairs, 'trial')} cannot show it ({permits}); {more}, or {promote}"
    if fidelity.best_only:
        text += "; these were the best by score alone, among which any short run ranks worse than over the whole range"
    return text + "."


def shows_nothing(fidelity: Fidelity) -> bool:
    """Whether the interval of Spearman's correlation contains 0 or is not known: nothing then shows that they rank."""
    known = fidelity.short.spearman
    return not (known.low > 0 or known.high < 0)


def bounds_of(correlation: Interval) -> str:
    """For example `-0.09 to 1.00`; `anything` if not known, for example for equal scores."""
    if math.isnan(correlation.low):
        return "anything"
    return f"{correlation.low:.2f} to {correlation.high:.2f}"


def _is_trusted(agreement: Agreement) -> bool:
    return agreement.spearman.value >= TRUSTED and agreement.spearman.low > 0


def standard_error(accuracy: float, images: int) -> float:
    """The standard error of an accuracy measured on `images` images; both are shares of 1.

    It is also about the standard error of the difference of two networks of this accuracy on the same images. The
    variance of that difference comes from the images that only one of the two gets right. Two networks disagree on
    about as many images as one of them gets wrong (Jiang et al., "Assessing Generalization of SGD via Disagreement",
    2022), and on some of these both are wrong. So the images are a share of about accuracy * (1 - accuracy). The errors
    of two networks then have a correlation of 1/2.
    """
    return math.sqrt(accuracy * (1 - accuracy) / images)


def effective_images(images_of_classes: Sequence[int]) -> int:
    """The number of images on which an accuracy is as uncertain as a balanced accuracy on these images, rounded.

    A balanced accuracy is the mean of the recalls r_k of K classes with n_k images each. Its standard error is
    √(Σ r_k(1 - r_k)/n_k)/K. If all classes have the recall r, this is √(r(1 - r)/n) with n = K²/Σ(1/n_k), which is
    returned: the number of images if all classes are equal, and at most K² times the images of the smallest class.
    The measured recalls are not used in the sum: a class of one image has a recall of 0 or 1, and would then seem to be
    measured without an error.
    """
    counts = [count for count in images_of_classes if count]
    return max(1, round(len(counts) ** 2 / sum(1 / count for count in counts)))


def measured_on(folder: RunFolder, score: Score) -> int | None:
    """The number of validation images that the standard errors of a run's scores follow from; None: not known.

    For balanced accuracy, these are the `effective_images`.
    """
    facts = read_facts(folder)
    if facts is None or score == "accuracy":
        return facts.data.validation_images if facts is not None else None
    counts = facts.data.validation_images_of_classes
    return effective_images(counts) if any(counts) else None


def optimism(accuracy: float, images: int, number: int) -> float:
    """How much too high the accuracy of the best of `number` equally good networks is on average; a share of 1.

    They are compared on the same `images` images, and one is chosen by the measured accuracies. The result is the
    expected maximum of `number` independent normal errors, by Blom's formula (1958), which is exact to 5 %. Only the
    errors that a network does not share with the others can decide the choice. Their standard deviation is that of a
    difference of two networks (see `standard_error`), divided by √2. If some networks are better than others, or are
    means of several seeds, chance decides less, and the result is an upper limit.
    """
    largest = NormalDist().inv_cdf((number - 0.375) / (number + 0.25))
    return largest * standard_error(accuracy, images) / math.sqrt(2)


def _how_many_to_promote(fidelity: Fidelity) -> str:
    """The number whose regret is no larger than the uncertainty of validation accuracies."""
    short, tolerance = fidelity.short, fidelity.tolerance
    if tolerance is None:
        return "promote several (how many is not known, because the number of validation images is not known)"
    enough = next((k for k, regret in short.regret.items() if regret <= tolerance), None)
    best = enough or max(short.regret) + 1
    # The best of a few trials spread over all scores represent the same share of all trials.
    of_all = best if fidelity.best_only else math.ceil(best * fidelity.complete / len(short.pairs))
    return f"promote the best {of_all}" if enough else f"promote more than the best {of_all - 1}"


def _family(trial: TrialRecord, family: str | None) -> str:
    return family_of(trial, family) if family else "all"


def _regret(short: Floats, long: Floats, top: int) -> float:
    """The best of all long scores minus the best among the `top` trials by short score; scores are [N] and [N]."""
    chosen = np.argsort(-short, kind="stable")[:top]
    return float(long.max() - long[chosen].max())
