"""Simulated worlds: the scores of a configuration of `worlds.toml` in short and in full runs, in microseconds.

No world is a regression of measured runs. A regression of the 29 draws of `short_runs.jsonl` was used before: 73 % of
its variance was due to the learning rate, and its worlds were nearly the same (they correlated by 0.82), so it could
not distinguish methods. Here each part of a world is drawn at random, and its size is given (`SHARES`).

The true accuracy is a sum of five parts: the rate (a parabola with its own optimum for each optimizer and world, which
moves with the batch size), the optimizer and its schedule, the architecture, the regularisers, and products of two
parameters. What two worlds have in common (`COMMON`) represents what is known about all tasks.

Any other run sees another sum (`VIEWS`): the regularisers have a smaller effect or the wrong sign, and a simulated bias
is added until its ranks agree with those of the full run as much as was measured on real runs.

    python -m benchmarks.world     # what the worlds are like, in numbers
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import space
from search.spec import StudySpec, load_study

STUDY: StudySpec = load_study(str(Path(__file__).with_name("worlds.toml")), {})
SHORT, FULL = STUDY.epochs, STUDY.promote.epochs
DIMENSIONS = {name: space.all_dimensions(STUDY.space)[name] for name in space.parameters(STUDY.space)}
CHANCE = 0.1  # with ten classes
REFERENCE = 2000  # random configurations that scale all parts

Params = Mapping[str, Any]
"""A value for every parameter of `worlds.toml`, by its name."""

Array = NDArray[np.float64]

# The parameters as numbers -------------------------------------------------------------------------------------------

BLOCKS = tuple(f"blocks_{stage}" for stage in (1, 2, 3, 4))
GROWTH = tuple(f"growth_{stage}" for stage in (2, 3, 4))
ARCHITECTURE = ("stages", *BLOCKS, *GROWTH, "block", "k1", "k2", "shortcut", "se_reduction", "zero_init")
OPTIMIZER = ("sgd", "adamw", "muon", "schedule", "batch_size")
REGULARISERS = ("weight_decay", "label_smoothing", "cutout", "mix", "crop_padding", "block_dropout")
COLUMNS = (*ARCHITECTURE, *OPTIMIZER, *REGULARISERS)
CURVED = (*BLOCKS, *GROWTH, "batch_size", "weight_decay")  # these have more than two values: the best may be inside
PAIRS = 30  # products of two parameters
RATE = len(COLUMNS)  # the column of the rate's place in its range


def encoded(params: Params) -> Array:
    """A configuration as numbers from -1 to 1; parameters that the network does not use are 0.

    The last number is the position of the rate in the range of its optimizer.
    """
    optimizer, four = params["optimizer"], params["stages"] == 4
    numbers = [2.0 * four - 1]
    numbers += [2 * math.log(params[name]) / math.log(5) - 1 if four or name != "blocks_4" else 0.0 for name in BLOCKS]
    numbers += [2 * (params[name] - 2) if four or name != "growth_4" else 0.0 for name in GROWTH]
    numbers += [_side(params, name) for name in ARCHITECTURE[len(numbers) :]]
    numbers += [float(optimizer == name) - 1 / 3 for name in OPTIMIZER[:3]]
    numbers += [_side(params, "schedule"), math.log2(params["batch_size"] / 64)]
    decays = getattr(STUDY.space, f"{optimizer}_weight_decay")
    numbers += [decays.index(params[f"{optimizer}_weight_decay"]) - 1.0 if isinstance(decays, tuple) else 0.0]
    numbers += [_side(params, name) for name in REGULARISERS[1:]]
    rates = getattr(STUDY.space, f"{optimizer}_lr")
    return np.array(
        [*numbers, 2 * math.log(params[f"{optimizer}_lr"] / rates.low) / math.log(rates.high / rates.low) - 1]
    )


def _side(params: Params, name: str) -> float:
    """-1 for the first of two choices, 1 for the second."""
    return 1.0 if params[name] == getattr(STUDY.space, name)[1] else -1.0


@cache
def _pairs() -> tuple[list[int], list[int]]:
    """The columns that are multiplied: drawn once, the same in all worlds."""
    generator = np.random.default_rng(1)
    drawn: dict[tuple[int, int], None] = {}
    while len(drawn) < PAIRS:
        one, other = sorted(generator.choice(RATE, 2, replace=False).tolist())
        if {COLUMNS[one], COLUMNS[other]} - set(OPTIMIZER[:3]):  # no two optimizers at once
            drawn[one, other] = None
    return [one for one, _ in drawn], [other for _, other in drawn]


@cache
def _curved() -> list[int]:
    return [COLUMNS.index(name) for name in CURVED]


def _terms(configurations: Array) -> Array:
    """The terms of a world's sum: each column, the squares of the curved ones, and the products."""
    one, other = _pairs()
    curved = _curved()
    columns = configurations[:, :RATE]
    return np.concatenate([columns, columns[:, curved] ** 2, columns[:, one] * columns[:, other]], axis=1)


def _of(names: Sequence[str]) -> Array:
    """1 for the terms of these columns alone; 0 for the others and for products."""
    single = [float(name in names) for name in (*COLUMNS, *CURVED)]
    return np.array(single + [0.0] * PAIRS)


def drawn_evenly(generator: np.random.Generator) -> dict[str, Any]:
    """A random configuration: each parameter independently, uniform or, if its range says so, log-uniform."""
    return {name: _drawn(dimension, generator) for name, dimension in DIMENSIONS.items()}


def _drawn(dimension: Any, generator: np.random.Generator) -> Any:
    if isinstance(dimension, tuple):
        return dimension[generator.integers(len(dimension))]
    low, high = dimension.low, dimension.high
    if isinstance(low, int):  # in the logarithm, as Optuna draws it
        return round(math.exp(generator.uniform(math.log(low - 0.5), math.log(high + 0.5))))
    if dimension.log:
        return min(max(math.exp(generator.uniform(math.log(low), math.log(high))), low), high)
    return low + dimension.step * int(generator.integers(round((high - low) / dimension.step) + 1))


@cache
def reference() -> Array:
    """Random configurations, as numbers: the same for all worlds."""
    generator = np.random.default_rng(0)
    return np.array([encoded(drawn_evenly(generator)) for _ in range(REFERENCE)])


# What is simulated ---------------------------------------------------------------------------------------------------

PARTS: dict[str, Array] = {
    "optimizer": _of(OPTIMIZER),
    "architecture": _of(ARCHITECTURE),
    "regularisers": _of(REGULARISERS),
    "pairs": np.concatenate([np.zeros(len(COLUMNS) + len(CURVED)), np.ones(PAIRS)]),
}
"""The terms of each part except the rate."""

SHARES = {"rate": 0.25, "optimizer": 0.15, "architecture": 0.24, "regularisers": 0.19, "pairs": 0.17}
"""Shares of the variance, averaged over all worlds."""
MOST_OF_RATE = 1 / 3  # its share in any world
CONCENTRATION = 30  # of the shares in a world around these: standard deviations of 0.07

COMMON = 0.7  # the share of each effect's variance that all worlds have in common
SPREAD = 0.7  # of the logarithm of the effects' sizes: a few parameters matter most

OPTIMUM_COMMON, OPTIMUM_OWN = 0.25, 0.25
"""Standard deviations of the position of the best rate in its range (-1 to 1): all optimizers together, each alone."""
SCALING = {"sgd": (0.5, 1.0), "adamw": (0.2, 0.8), "muon": (0.2, 0.8)}
"""The power of the batch size with which the best rate grows: minimum and maximum."""
DIVERGES = 1.0, 0.4  # how far above the best rate training diverges: minimum, and mean of the rest

MEAN, DEVIATION = 0.6, 0.05  # of the true accuracies of random draws; on the portfolio's CIFAR tasks 0.04 to 0.05
SKEW = 0.25  # the best draws are closer to each other than the worst


class View(NamedTuple):
    """What a run shows, relative to a full run, as measured by `short_runs.py`, unless it is called a guess."""

    mean: float  # accuracy, of random draws
    regularisers: float  # factor on the regularisers' effect: one at a time, n = 1 (docs/benchmarks.md)
    deviation: float  # of accuracies between draws, as a share of that of full runs
    rank: float  # Spearman correlation with the true accuracy, noise included
    noise: float  # standard deviation between seeds


PART = View(0.395, 0.3, 0.63, 0.84, 0.008)
"""The steps of 6 epochs on 15 % of the images. The measured rank was 0.90; 0.76 with the rate's effect removed."""
ANNEALED = {
    1: View(0.28, -0.6, 0.70, 0.40, 0.020),
    6: View(0.464, -0.3, 0.96, 0.58, 0.014),
    12: View(0.530, 0.0, 1.0, 0.72, 0.011),
    40: View(0.600, 1.0, 1.0, 1.0, 0.007),
}
"""Runs annealed within these epochs. The one for one epoch is a guess."""
CUT = {
    1: View(0.258, -0.6, 0.74, 0.40, 0.020),
    6: View(0.439, -0.6, 0.73, 0.40, 0.020),
    9: View(0.471, -0.6, 0.67, 0.42, 0.020),
    13: View(0.525, -0.3, 0.69, 0.70, 0.018),
    20: View(0.559, 0.2, 0.79, 0.86, 0.014),
    27: View(0.588, 0.6, 0.90, 0.96, 0.010),
    40: View(0.600, 1.0, 1.0, 1.0, 0.007),
}
"""Runs annealed within 40 epochs, after these. The regularisers between 6 and 40 epochs are a guess."""
INSIDE = {
    "mean": (0.291, 0.356, 0.401, 0.433, 0.457, 0.464),
    "deviation": (0.60, 0.63, 0.76, 0.81, 0.95, 1.0),
    "rank": (0.67, 0.88, 0.88, 0.90, 0.98, 1.0),
}
"""Each sixth of a short run: the mean; the deviation and the rank are relative to its end."""
EPOCH_NOISE = 0.5  # the share of the noise's variance that is new in each epoch


class World:
    """One simulated task. Accuracies are shares of 1 and never below chance."""

    def __init__(self, seed: int, *, common_optimum: float = OPTIMUM_COMMON) -> None:
        """`common_optimum`: how far the best rates of all optimizers move together."""
        self.seed = seed
        own, common = np.random.default_rng((seed, 1)), np.random.default_rng(0)
        self.shares = _shares(own)
        terms = _terms(reference())
        sizes = np.exp(common.normal(size=terms.shape[1]) * SPREAD)

        def effects(which: Array) -> Array:
            """The contribution of each term to a part of unit variance."""
            both = COMMON**0.5 * common.normal(size=len(which)) + (1 - COMMON) ** 0.5 * own.normal(size=len(which))
            drawn = both * sizes * which
            return np.asarray(drawn / np.std(terms @ drawn))

        parts = {name: self.shares[name] ** 0.5 * effects(which) for name, which in PARTS.items()}
        self._effects = np.sum(list(parts.values()), axis=0)
        self._regularisers = parts["regularisers"]
        everything = np.ones(terms.shape[1]) - PARTS["regularisers"]
        self._biases = np.array([effects(everything) for _ in range(3)])  # on all images, on a part, inside a run
        together = own.normal() * common_optimum
        best = [common.normal() * 0.15 + together + own.normal() * OPTIMUM_OWN for _ in SCALING]
        self._best = np.clip(best, -0.6, 0.6)
        self._scaling = np.array([own.uniform(*ends) for ends in SCALING.values()])
        least, more = DIVERGES
        self._edge = self._best + least + own.exponential(more, size=3)
        self._rate_scale, self._rate_mean = 1.0, 0.0
        rates = self._rate(reference())
        self._rate_scale, self._rate_mean = self.shares["rate"] ** 0.5 / float(rates.std()), float(rates.mean())
        stands = ~self._is_lost(reference())
        latent = self._latent(reference())[stands]
        self._mean, self._deviation = float(latent.mean()), float(latent.std())
        self._level = MEAN - DEVIATION * float(_skewed((latent - self._mean) / self._deviation).mean())
        self._reference = reference()[stands]

    # The true accuracy

    def _places(self, configurations: Array) -> tuple[Array, NDArray[np.intp]]:
        """The rate's position, corrected for the batch size, and the optimizer's number."""
        first = COLUMNS.index("sgd")
        which = np.argmax(configurations[:, first : first + 3], axis=1)
        doublings = configurations[:, COLUMNS.index("batch_size")]
        one = 2 * math.log(2) / math.log(20)  # each optimizer's range of rates spans a factor of 20
        return configurations[:, RATE] - one * self._scaling[which] * doublings, which

    def _rate(self, configurations: Array) -> Array:
        places, which = self._places(configurations)
        raw = -((places - self._best[which]) ** 2)
        return np.asarray((raw - self._rate_mean) * self._rate_scale)

    def _is_lost(self, configurations: Array) -> NDArray[np.bool_]:
        places, which = self._places(configurations)
        return np.asarray(places > self._edge[which])

    def _latent(self, configurations: Array) -> Array:
        return np.asarray(_terms(configurations) @ self._effects + self._rate(configurations))

    def standard(self, configurations: Array) -> Array:
        """The true quality in units of the standard deviation of random draws, as if nothing diverged."""
        return np.asarray((self._latent(configurations) - self._mean) / self._deviation)

    def accuracies(self, configurations: Array) -> Array:
        """The true accuracies: those of full runs without noise; chance if they diverge."""
        accuracies = self._level + DEVIATION * _skewed(self.standard(configurations))
        return np.where(self._is_lost(configurations), CHANCE, np.maximum(accuracies, CHANCE))

    def accuracy(self, params: Params) -> float:
        """The true accuracy of a configuration."""
        return float(self.accuracies(encoded(params)[None])[0])

    def diverges(self, params: Params) -> bool:
        """Whether training fails: its rate is far too high."""
        return bool(self._is_lost(encoded(params)[None])[0])

    # What runs show

    @cached_property
    def _views(self) -> dict[View, tuple[Array, float, float]]:
        """For each view, its standardised sum: the effects of the terms, the effect of the rate, and a constant."""
        terms, rate, true = _terms(self._reference), self._rate(self._reference), self.standard(self._reference)
        views = {}
        for view, bias in [*((view, 0) for view in (*ANNEALED.values(), *CUT.values())), (PART, 1)]:
            # The noise accounts for a part of the measured difference, and the bias for the rest.
            wanted = _pearson(view.rank) * math.hypot(1, view.noise / (DEVIATION * view.deviation))
            effects = self._effects + (view.regularisers - 1) * self._regularisers
            seen, wrong = terms @ effects + rate, terms @ self._biases[bias]
            amount = 0.0
            while amount < 5 and np.corrcoef(seen + amount * wrong, true)[0, 1] > wanted:
                amount += 0.05
            mixed = seen + amount * wrong
            mean, deviation = float(mixed.mean()), float(mixed.std())
            views[view] = (effects + amount * self._biases[bias]) / deviation, 1 / deviation, -mean / deviation
        return views

    @cached_property
    def _levels(self) -> dict[View, float]:
        """For each view, the mean of its skewed sums."""
        terms, rate = _terms(self._reference), self._rate(self._reference)
        return {
            view: float(_skewed(terms @ effects + own * rate + added).mean())
            for view, (effects, own, added) in self._views.items()
        }

    def _seen(self, row: Array, views: Sequence[View]) -> Array:
        """The accuracies of a run in these views, without noise."""
        effects, rates, added = zip(*(self._views[view] for view in views), strict=True)
        standard = np.array(effects) @ _terms(row)[0] + np.array(rates) * self._rate(row)[0] + np.array(added)
        skewed = _skewed(standard) - np.array([self._levels[view] for view in views])
        means, deviations = (np.array([getattr(view, name) for view in views]) for name in ("mean", "deviation"))
        return np.asarray(means + DEVIATION * deviations * skewed)

    def _noise(self, row: Array, kind: int, epochs: int) -> Array:
        """The noise of each epoch of a run, of unit variance: the same for a configuration, whichever method asks."""
        generator = np.random.default_rng((self.seed, kind, zlib.crc32(row.tobytes())))
        run, each = (1 - EPOCH_NOISE) ** 0.5 * generator.normal(), EPOCH_NOISE**0.5 * generator.normal(size=FULL)
        return np.asarray(run + each[:epochs])

    def cut(self, params: Params, epochs: int = FULL) -> list[float]:
        """Validation accuracy after each of the first `epochs` of a full run."""
        row = encoded(params)[None]
        at = range(1, epochs + 1)
        seen = np.interp(at, list(CUT), self._seen(row, list(CUT.values())))
        noise = np.interp(at, list(CUT), [view.noise for view in CUT.values()])
        return _clipped(seen + self._noise(row, 0, epochs) * noise)

    def annealed(self, params: Params, epochs: int) -> float:
        """Validation accuracy at the end of a run annealed inside `epochs`."""
        if epochs == FULL:
            return self.cut(params)[-1]
        row, lengths = encoded(params)[None], np.log(list(ANNEALED))
        seen = float(np.interp(math.log(epochs), lengths, self._seen(row, list(ANNEALED.values()))))
        noise = float(np.interp(math.log(epochs), lengths, [view.noise for view in ANNEALED.values()]))
        return _clipped(seen + self._noise(row, epochs, 1) * noise)[0]

    def short(self, params: Params, *, part: bool) -> list[float]:
        """Validation accuracy after each epoch of a short run, on all images or in as many steps on a part of them."""
        row, view = encoded(params)[None], PART if part else ANNEALED[SHORT]
        end = float(self._seen(row, [view])[0]) - view.mean
        inside = float((_terms(row) @ self._biases[2])[0]) * DEVIATION * view.deviation
        means, deviations, ranks = map(np.array, INSIDE.values())
        curve = view.mean * means / means[-1] + deviations * (ranks * end + (1 - ranks**2) ** 0.5 * inside)
        return _clipped(curve + self._noise(row, 100 + part, SHORT) * view.noise)


def _shares(generator: np.random.Generator) -> dict[str, float]:
    """A world's shares of the variance, around `SHARES`."""
    while True:
        drawn = generator.dirichlet(np.array(list(SHARES.values())) * CONCENTRATION)
        if drawn[0] <= MOST_OF_RATE - 0.03:  # chance correlations of the parts may add to it
            return dict(zip(SHARES, drawn.tolist(), strict=True))


def _skewed(standard: Array) -> Array:
    return np.asarray((1 - np.exp(-SKEW * standard)) / SKEW)


def _pearson(rank: float) -> float:
    """The correlation of normal variables with this rank correlation."""
    return 2 * math.sin(math.pi * rank / 6)


def _clipped(accuracies: Array) -> list[float]:
    return [float(each) for each in np.clip(accuracies, CHANCE, 1)]


# What the worlds are like --------------------------------------------------------------------------------------------

GROUPS = {
    "rate": (RATE,),
    "optimizer": tuple(map(COLUMNS.index, OPTIMIZER)),
    "architecture": tuple(map(COLUMNS.index, ARCHITECTURE)),
    "regularisers": tuple(map(COLUMNS.index, REGULARISERS)),
}
"""The columns of each group of parameters."""


def total_share(world: World, columns: Sequence[int]) -> float:
    """The share of the variance due to these columns, alone or in products (Jansen's estimate).

    These shares add up to more than 1: what two groups do together counts for both.
    """
    drawn = reference()
    changed = drawn.copy()
    changed[:, columns] = drawn[np.random.default_rng(1).permutation(len(drawn))][:, columns]
    before, after = world.standard(drawn), world.standard(changed)
    return float(np.mean((before - after) ** 2) / 2 / np.var(before))


def correlation(one: Array, other: Array) -> float:
    """Spearman's."""
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def between(worlds: Sequence[World]) -> list[float]:
    """The rank correlations of the true accuracies in each two of the worlds, over random draws."""
    accuracies = [world.accuracies(reference()) for world in worlds]
    return [correlation(one, other) for i, one in enumerate(accuracies) for other in accuracies[:i]]


def agreement(world: World, draws: int = 300) -> dict[str, float]:
    """The rank correlation of the score of each kind of run with the true accuracy, over draws that do not diverge."""
    generator = np.random.default_rng(world.seed)
    made = [params for params in (drawn_evenly(generator) for _ in range(draws)) if not world.diverges(params)]
    true = np.array([world.accuracy(params) for params in made])
    scores = {"6 epochs on a part": [world.short(params, part=True)[-1] for params in made]}
    scores |= {f"{epochs} epochs": [world.annealed(params, epochs) for params in made] for epochs in (6, 12, FULL)}
    cuts = np.array([world.cut(params) for params in made])
    scores |= {f"cut at {epochs}": cuts[:, epochs - 1].tolist() for epochs in (6, 13, 27)}
    return {name: correlation(np.array(values), true) for name, values in scores.items()}


def main() -> None:
    """Print what thirty worlds are like."""
    worlds = [World(number) for number in range(30)]
    for name, columns in GROUPS.items():
        shares = [total_share(world, columns) for world in worlds]
        print(f"{name}: {np.mean(shares):.2f} of the variance ({min(shares):.2f} to {max(shares):.2f})")
    known = between(worlds)
    print(f"two worlds correlate by {np.mean(known):.2f} (5 to 95 %: {np.quantile(known, 0.05):.2f} to ", end="")
    print(f"{np.quantile(known, 0.95):.2f})")
    lost = np.mean([world.accuracies(reference()) == CHANCE for world in worlds])
    print(f"{lost:.1%} of random draws diverge")
    ranks = [agreement(world) for world in worlds]
    for name in ranks[0]:
        print(f"{name}: ranks as the true accuracy by {np.mean([each[name] for each in ranks]):.2f}")


if __name__ == "__main__":
    main()
