"""A surrogate of short and long runs: what a configuration of `short_runs.toml` scores, without training it.

    python -m benchmarks.surrogate [RUNS.jsonl]

One regression from a configuration to all that was measured of it: the curve of its 6 epochs, the end of its 12, that
of as many steps on a part of the images, both curves of its 40, and the accuracy of the 40 on the test images. It is
fitted to the lines that `short_runs.py` wrote. Of several models the one is taken that says best what it has not seen
(each configuration left out in turn), and how well that is is printed: no comparison on this surrogate is worth more
than that.

A regression is smoother than training, and one that only adds up the effects of the parameters would make it easy to
change one at a time. So each seed of a comparison has a world of its own (`Surrogate.world`): the regression, and a
smooth random function of the configuration, as large as the error that was measured for the regression. The noise of a
seed has the size that it has between two short runs, everywhere.
"""

import argparse
import json
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import space
from search.spec import StudySpec, load_study
from train_core.specs import ResNetSpec, num_params

RUNS = Path(__file__).with_name("short_runs.jsonl")
STUDY: StudySpec = load_study(str(Path(__file__).with_name("short_runs.toml")), {"data": "cifar10"})
SHORT, DOUBLE, FULL = 6, 12, 40  # epochs of the measured runs
CHANCE = 0.1  # of ten classes
MIN_PAIRS = 8  # configurations to fit to
DRAWS = 300  # to say what the surrogate is like
WAVES = 200  # that a random function is made of
REACH = 3.0  # how far a random function reaches, in the units of `encode`: with one choice changed it correlates by 0.8
SHAPES = 5  # of what the regression misses; the others are small
MODELS = ("extra trees", "ridge", "gaussian process")
FOLDS = 40  # at most, of leaving configurations out: above that, more than one at a time

Params = Mapping[str, Any]
"""A value for every drawn dimension of `short_runs.toml`, by the name of its Optuna parameter."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """What a configuration scores without the noise of a seed: accuracies on validation (or `test`) images."""

    short: Array  # each of 6 epochs, annealed inside them
    double: float  # after 12 epochs, annealed inside them
    part: float  # after the steps of 6 epochs on a part of the images, annealed inside them
    full: Array  # each of 40 epochs, annealed inside them, by the last weights
    full_averaged: Array  # the same by the averaged weights
    test: float  # after the 40, by the averaged weights, on the test images

    @classmethod
    def measured(cls, runs: Mapping[str, Any]) -> "Curves":
        """From a line of `short_runs.py`. What came after a divergence is chance."""
        tested = runs["full"]["test"]
        return cls(
            short=_curve(runs["short"], "last_val_accuracy", SHORT),
            double=float(_curve(runs["double"], "last_val_accuracy", DOUBLE)[-1]),
            part=float(_curve(runs["part"], "last_val_accuracy", FULL)[-1]),
            full=_curve(runs["full"], "last_val_accuracy", FULL),
            full_averaged=_curve(runs["full"], "val_accuracy", FULL),
            test=tested[1] if tested else CHANCE,
        )

    @classmethod
    def from_row(cls, row: Array) -> "Curves":
        """From a row of the regression's targets."""
        short, double, part, full, averaged, test = np.split(
            np.clip(row, CHANCE, 1), np.cumsum([SHORT, 1, 1, FULL, FULL]).tolist()
        )
        return cls(short, float(double[0]), float(part[0]), full, averaged, float(test[0]))

    def as_row(self) -> Array:
        """As a row of the regression's targets."""
        return np.concatenate([self.short, [self.double, self.part], self.full, self.full_averaged, [self.test]])


ENDS = {
    "6 epochs": SHORT - 1,
    "12 epochs": SHORT,
    "on a part": SHORT + 1,
    "40 epochs": SHORT + FULL + 1,
    "test": SHORT + 2 * FULL + 2,
}
"""Where the ends of the runs are in a row of targets: what a model is judged by."""


@dataclass(frozen=True)
class Quality:
    """How well a model says the ends of runs of configurations that it was not fitted to."""

    model: str
    r2: dict[str, float]  # share of the variance
    spearman: dict[str, float]  # of the ranks

    @property
    def score(self) -> float:
        """What models are compared by."""
        return float(np.mean(list(self.r2.values())))

    def __str__(self) -> str:
        """One line."""
        ends = ", ".join(f"{end} {self.r2[end]:.2f} / {self.spearman[end]:.2f}" for end in ENDS)
        return f"{self.model:17s} R2 / Spearman of configurations left out: {ends}"


@dataclass(frozen=True)
class Noise:
    """What another seed changes: standard deviations of validation accuracy."""

    run: float  # moves a whole run
    epochs: Array  # moves each epoch by itself; at shares 1/6, 2/6, ... 1 of a run

    @classmethod
    def measured(cls, lines: Sequence[Mapping[str, Any]]) -> "Noise":
        """From short runs with two seeds: their differences have twice the variance of one."""
        pairs = [[line["runs"][name] for name in ("short", "again")] for line in lines]
        whole = [pair for pair in pairs if not any(each["diverged"] for each in pair)]
        curves = np.array([[_curve(each, "last_val_accuracy", SHORT) for each in pair] for pair in whole])
        differences = curves[:, 0] - curves[:, 1]
        # Neighbouring epochs share what moves the whole run. At the end, where weights hardly move, that is clearest.
        run = max(0.0, float(np.mean(differences[:, -1] * differences[:, -2])) / 2)
        each = np.maximum(0.0, np.mean(differences**2, axis=0) / 2 - run)
        return cls(run=run**0.5, epochs=np.sqrt(each))

    def drawn(self, generator: np.random.Generator, epochs: int) -> Array:
        """For each epoch of a run, what is to be added to its accuracy."""
        shares = np.arange(1, epochs + 1) / epochs
        sizes = np.interp(shares, np.arange(1, SHORT + 1) / SHORT, self.epochs)
        return generator.normal() * self.run + generator.normal(size=epochs) * sizes


@dataclass(frozen=True)
class Missed:
    """What the regression misses, made up: smooth random functions of the configuration, as large as measured."""

    shapes: Array  # of each function: what a unit of it adds to a row of targets
    waves: Array  # functions x waves x inputs
    phases: Array  # functions x waves

    @classmethod
    def drawn(cls, shapes: Array, inputs: int, seed: int) -> "Missed":
        """One function for each of the shapes, of unit variance, by random Fourier features."""
        generator = np.random.default_rng(seed)
        size = len(shapes), WAVES
        return cls(shapes, generator.normal(size=(*size, inputs)) / REACH, generator.uniform(0, 2 * np.pi, size))

    def at(self, encoded: Array) -> Array:
        """What is to be added to the row of targets of a configuration."""
        values = np.cos(self.waves @ encoded + self.phases).sum(axis=1) * (2 / WAVES) ** 0.5
        return np.asarray(values @ self.shapes)


class Surrogate:
    """Accuracies of any configuration of `short_runs.toml`, as shares of 1 and never below chance.

    Fitted is the model, of these, that says best what it has not seen.
    """

    def __init__(self, lines: Sequence[Mapping[str, Any]], models: Sequence[str] = MODELS) -> None:
        if len(lines) < MIN_PAIRS:
            raise ValueError(f"{len(lines)} configurations are too few for a surrogate: {MIN_PAIRS} at least")
        self.configs = len(lines)
        self.rows = np.array([Curves.measured(line["runs"]).as_row() for line in lines])
        self.noise = Noise.measured(lines)
        inputs = np.array([encode(line["params"]) for line in lines])
        said = {name: _said_of_unseen(name, inputs, self.rows) for name in models}
        judged = [_quality(name, each, self.rows) for name, each in said.items()]
        self.qualities = sorted(judged, key=lambda each: each.score, reverse=True)
        self._shapes = _shapes(self.rows - said[self.quality.model], self.noise)
        self._missed: Missed | None = None
        with _searching_quietly():
            self._model = _model(self.quality.model).fit(inputs, self.rows)
        self._known: dict[bytes, Curves] = {}

    @classmethod
    def load(cls, path: Path = RUNS) -> "Surrogate":
        """Fitted to a file that `short_runs.py` wrote."""
        return cls([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])

    @property
    def quality(self) -> Quality:
        """Of the model that is used."""
        return self.qualities[0]

    def world(self, seed: int) -> "Surrogate":
        """The same, with what the regression misses made up by this seed."""
        made = copy(self)
        made._missed = Missed.drawn(self._shapes, len(encode(random_params(0))), seed)
        made._known = {}
        return made

    def curves(self, params: Params) -> Curves:
        """All that is known of a configuration, without noise."""
        encoded = encode(params)
        key = encoded.tobytes()
        if key not in self._known:
            row = np.asarray(self._model.predict(encoded[None])[0])
            self._known[key] = Curves.from_row(row + self._missed.at(encoded) if self._missed else row)
        return self._known[key]

    def run(self, params: Params, epochs: int, seed: int) -> list[float]:
        """Validation accuracy after each epoch of a run annealed inside `epochs` (1 to 40), by the last weights.

        The end lies between the measured ones, in the logarithm of the length. One annealed epoch was not measured:
        the first of the short run stands in for it. Between 6 and 40 epochs the curve goes over from the shape of the
        short run to that of the full one, stretched to the length.
        """
        known = self.curves(params)
        lengths = np.log([1, SHORT, DOUBLE, FULL])
        end = np.interp(np.log(epochs), lengths, [known.short[0], known.short[-1], known.double, known.full[-1]])
        shares = np.arange(1, epochs + 1) / epochs
        full = np.clip(np.log(epochs / SHORT) / np.log(FULL / SHORT), 0, 1)
        shape = (1 - full) * _stretched(known.short, shares) + full * _stretched(known.full, shares)
        return self._clipped(end * shape + self._noise(params, epochs, seed))

    def part(self, params: Params, seed: int) -> list[float]:
        """Validation accuracy after each sixth of a run with the steps of 6 epochs on a part of the images.

        Only its end was measured: it has the shape of the short run, and its noise.
        """
        known = self.curves(params)
        shape = _stretched(known.short, np.arange(1, SHORT + 1) / SHORT)
        return self._clipped(known.part * shape + self._noise(params, SHORT, seed, kind=1))

    def cut(self, params: Params, epochs: int, seed: int) -> list[float]:
        """Validation accuracy after each of the first `epochs` of a 40-epoch run, by the last weights.

        The same seed gives the same run: a longer cut goes on where a shorter one ended.
        """
        known = self.curves(params)
        return self._clipped((known.full + self._noise(params, FULL, seed))[:epochs])

    def full(self, params: Params) -> float:
        """Test accuracy of the 40-epoch run, by the averaged weights and without noise: the quality that counts."""
        return self.curves(params).test

    def full_val(self, params: Params, seed: int) -> float:
        """Validation accuracy at the end of a 40-epoch run, by the averaged weights: what a search sees of it."""
        known = self.curves(params)
        return self._clipped((known.full_averaged + self._noise(params, FULL, seed))[-1:])[0]

    def _noise(self, params: Params, epochs: int, seed: int, kind: int = 0) -> Array:
        """Of one run: the same for the same configuration, length and seed, whichever method asks."""
        which = (seed, epochs, kind, zlib.crc32(encode(params).tobytes()))
        return self.noise.drawn(np.random.default_rng(which), epochs)

    @staticmethod
    def _clipped(accuracies: Array) -> list[float]:
        return [float(each) for each in np.clip(accuracies, CHANCE, 1)]

    def report(self) -> str:
        """How far the surrogate can be trusted, in a few lines."""
        worlds = [self.world(seed) for seed in range(10)]
        draws = {
            "measured": self.rows,
            "regression alone": np.array([self.curves(random_params(seed)).as_row() for seed in range(DRAWS)]),
            "worlds": np.array([worlds[seed % 10].curves(random_params(seed)).as_row() for seed in range(DRAWS)]),
        }
        lines = [
            f"fitted to {self.configs} configurations; used is the first of these models",
            *map(str, self.qualities),
        ]
        for name, rows in draws.items():
            test, short, part = (rows[:, ENDS[end]] for end in ("test", "6 epochs", "on a part"))
            lines.append(
                f"{name}, {len(rows)} random draws: test accuracy {test.mean():.3f} +- {test.std():.3f}, best "
                f"{test.max():.3f}; Spearman against it of 6 epochs {_spearman(short, test):.2f}, on a part "
                f"{_spearman(part, test):.2f}"
            )
        sizes = ", ".join(f"{size:.4f}" for size in self.noise.epochs)
        lines.append(f"a seed moves a run by {self.noise.run:.4f}, and each sixth of its epochs by {sizes}")
        return "\n".join(lines)


def network(params: Params) -> ResNetSpec:
    """The network of a configuration: the widest of its shape within its `budget_fraction` of the budget."""
    draw = {**_fixed(STUDY.space), **params}
    return space.network(draw, STUDY.space, STUDY.budget, space.Task())


def random_params(seed: int) -> dict[str, Any]:
    """A configuration drawn at random."""
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
    space.suggest(trial, STUDY.space)
    return trial.params


def encode(params: Params) -> Array:
    """A configuration as numbers, most of them from -1 to 1.

    Of the three optimizers' rates and decays, those of the one that trains: rates as places in their ranges and
    decays as places in their lists, so that what is learned of one optimizer says something of the others.
    """
    used = params["optimizer"]
    rates, decays = getattr(STUDY.space, f"{used}_lr"), getattr(STUDY.space, f"{used}_weight_decay")
    low, high = np.log(rates.low), np.log(rates.high)
    rate = 2 * (np.log(params[f"{used}_lr"]) - low) / (high - low) - 1
    one_hot = [float(used == each) for each in ("sgd", "adam", "adamw")]
    depth = sum(params[f"blocks_{stage}"] for stage in (1, 2, 3))
    numbers = [
        rate,
        rate**2,
        decays.index(params[f"{used}_weight_decay"]) - 1,
        2 * (params["block"] == "preact") - 1,
        np.log(num_params(network(params)) / STUDY.budget) + 0.5,
        (depth - 4.5) / 1.5,
        np.log(params["growth_2"] * params["growth_3"] / 4) * 2,
        2 * (params["batch_size"] == 128) - 1,
        params["crop_padding"] / 2 - 1,
        params["cutout"] / 4 - 1,
        params["label_smoothing"] * 20 - 1,
        params["block_dropout"] * 10 - 1,
    ]
    return np.array([*one_hot, *numbers])


def _fixed(dimensions: space.Space) -> dict[str, Any]:
    """The values that the space holds."""
    return {name: value for name, value in dimensions if not isinstance(value, tuple | space.Range)}


def _curve(run: Mapping[str, Any], key: str, epochs: int) -> Array:
    """A run's accuracies, an entry for each of its epochs; from a divergence on, chance."""
    values = [entry.get(key, CHANCE) for entry in run["curve"]]
    if run["diverged"]:
        values += [CHANCE] * (epochs - len(values))
    return np.array(values)


def _stretched(curve: Array, shares: Array) -> Array:
    """The curve, as shares of its end, at these shares of its length; at its begin it is at chance."""
    places = np.arange(len(curve) + 1) / len(curve)
    return np.asarray(np.interp(shares, places, np.concatenate([[CHANCE], curve]) / curve[-1]))


def _model(name: str) -> Any:
    """A regression of all targets at once, not yet fitted."""
    if name == "extra trees":
        return ExtraTreesRegressor(100, min_samples_leaf=2, random_state=0)
    if name == "ridge":
        return make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 3, 9)))
    linear = ConstantKernel(1.0, (1e-3, 1e3)) * DotProduct(1.0, (1e-2, 1e2))
    smooth = ConstantKernel(1.0, (1e-3, 1e3)) * Matern(5.0, (0.5, 50), nu=2.5)
    kernel = linear + smooth + WhiteKernel(0.1, (1e-3, 10))
    return GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)


def _said_of_unseen(name: str, inputs: Array, rows: Array) -> Array:
    """What a model says of each configuration when it is fitted to the others."""
    folds = KFold(min(len(rows), FOLDS), shuffle=True, random_state=0)
    with _searching_quietly():
        return np.asarray(np.clip(cross_val_predict(_model(name), inputs, rows, cv=folds), CHANCE, 1))


def _quality(name: str, said: Array, rows: Array) -> Quality:
    """How near that is to what was measured."""
    r2, spearman = {}, {}
    for end, column in ENDS.items():
        true, guessed = rows[:, column], said[:, column]
        r2[end] = float(1 - np.sum((true - guessed) ** 2) / np.sum((true - true.mean()) ** 2))
        spearman[end] = _spearman(true, guessed)
    return Quality(name, r2, spearman)


def _shapes(missed: Array, noise: Noise) -> Array:
    """The main ways in which the model was off, each as large as it was on average; less what is a seed's noise."""
    ends = float(np.mean(missed[:, list(ENDS.values())] ** 2))
    seeds = noise.run**2 + float(noise.epochs[-1]) ** 2
    scale = max(0.0, 1 - seeds / ends) ** 0.5 / len(missed) ** 0.5
    _, sizes, ways = np.linalg.svd(missed, full_matrices=False)
    return np.asarray(scale * sizes[:SHAPES, None] * ways[:SHAPES])


@contextmanager
def _searching_quietly() -> Iterator[None]:
    """Without the Gaussian process's warnings: a length scale at its bound is an answer, too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _spearman(left: Array, right: Array) -> float:
    ranks = [np.argsort(np.argsort(values)) for values in (left, right)]
    return float(np.asarray(np.corrcoef(ranks))[0, 1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="?", default=RUNS)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(Surrogate.load(parser.parse_args().runs).report())
