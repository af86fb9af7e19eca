"""Variants of our search, each with one change, to measure the value of the change (`worlds.py`).

sources          behind the portfolio, every draw is from one of three sources, evenly: around a configuration of the
                 portfolio, around one of the best three so far, or uniform (as PriorBand, Mallik et al. 2023)
sources-half     every second draw is, and the others are TPE's
one-rate         TPE has one rate for all optimizers: the place in the range of each, corrected for the batch size
promote-2        two promotions after each 12 short runs
promote-end      as a user does it: short runs, and then full runs of the best three, the best of each optimizer first;
                 at 120 epochs one full run. A search of its own for each number of epochs
other-networks   a network is promoted once, even if several of its recipes are among the best
pruner-survivors the median is that of the trials that were not stopped
no-pruner        nothing is stopped
all-images       short runs on all images
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from benchmarks.methods import Account, Method, SpentError, Starts, best_of_other_networks, ours
from benchmarks.world import DIMENSIONS, Params, drawn_evenly
from search.ladder import choose
from search.pruner import MedianOfLike
from search.sampling import SAMPLERS, Tpe
from search.sampling import sampler_for as usual
from search.spec import StudySpec
from search.trials import Attempts, ranked

CHANGED = 0.25  # of a configuration's parameters are drawn again around it
MOVED = 0.25  # standard deviation of the change of a number, as a share of its range
BEST = 3  # number of the best configurations to draw around
EPOCHS = (120, 240, 480, 1200)
TOP, FULL = 3, 40

Sampler = Callable[..., optuna.samplers.BaseSampler]


def _with(sampler_for: Sampler) -> Any:
    return patch("search.drawing.sampler_for", sampler_for)


# Three sources -------------------------------------------------------------------------------------------------------


class _Given(optuna.samplers.RandomSampler):
    """Draws one given configuration."""

    def __init__(self, params: Params) -> None:
        super().__init__(0)
        self.params = params

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Its value."""
        return self.params[param_name]


def around(params: Params, generator: np.random.Generator) -> Params:
    """A configuration near another: some choices drawn again, some numbers moved; at least one."""
    fresh = drawn_evenly(generator)
    names = [name for name in DIMENSIONS if generator.random() < CHANGED] or [str(generator.choice(list(DIMENSIONS)))]
    return {**params, **{name: _moved(name, params[name], fresh[name], generator) for name in names}}


def _moved(name: str, value: Any, fresh: Any, generator: np.random.Generator) -> Any:
    dimension = DIMENSIONS[name]
    if isinstance(dimension, tuple):
        return fresh
    low, high = dimension.low, dimension.high
    if dimension.log:
        moved = value * math.exp(generator.normal() * MOVED * math.log(high / low))
    else:
        moved = value + generator.normal() * MOVED * (high - low)
    if isinstance(low, int):
        moved = round(moved)
    elif dimension.step:
        moved = low + dimension.step * round((moved - low) / dimension.step)
    return min(max(moved, low), high)


def three_sources(starts: Starts, share: float) -> Sampler:
    """The tool's sampler, with this share of the draws from the three sources."""

    def sampler_for(spec: StudySpec, before: Sequence[Attempts], **options: Any) -> optuna.samplers.BaseSampler:
        generator = np.random.default_rng((spec.seed, len(before), 3))
        if generator.random() >= share:
            return usual(spec, before, **options)
        counted = [attempts.last for attempts in before if attempts.is_counted]
        best = [trial.draw for trial in ranked(counted)[:BEST]]
        source = generator.integers(3)
        if source == 0 and starts:
            return _Given(around(starts[int(generator.integers(len(starts)))], generator))
        if source == 1 and best:
            return _Given(around(best[int(generator.integers(len(best)))], generator))
        return _Given(drawn_evenly(generator))

    return sampler_for


def sources(account: Account, starts: Starts, seed: int) -> None:
    """All draws."""
    with _with(three_sources(starts, 1.0)):
        ours(account, starts, seed)


def sources_half(account: Account, starts: Starts, seed: int) -> None:
    """Half of the draws."""
    with _with(three_sources(starts, 0.5)):
        ours(account, starts, seed)


# One rate ------------------------------------------------------------------------------------------------------------

RATES = {"sgd": 1.0, "adamw": 0.5, "muon": 0.5}
"""The power of the batch size that each optimizer's rate is in proportion to."""
PLACES = FloatDistribution(-0.25, 1.25)  # position of a rate in its range, for batches of 64


class _Seen:
    """A study whose trials have one rate."""

    def __init__(self, study: optuna.Study) -> None:
        self._seen_study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._seen_study, name)

    def get_trials(self, *args: Any, **options: Any) -> list[FrozenTrial]:
        """The trials with the position of the rate that each uses."""
        return [_with_place(trial) for trial in self._seen_study.get_trials(*args, **options)]

    def _get_trials(self, *args: Any, **options: Any) -> list[FrozenTrial]:
        return [_with_place(trial) for trial in self._seen_study._get_trials(*args, **options)]


def _with_place(trial: FrozenTrial) -> FrozenTrial:
    if "batch_size" not in trial.params or "optimizer" not in trial.params:
        return trial
    optimizer = trial.params["optimizer"]
    dimension = DIMENSIONS[f"{optimizer}_lr"]
    rate = trial.params[f"{optimizer}_lr"] / (trial.params["batch_size"] / 64) ** RATES[optimizer]
    place = math.log(rate / dimension.low) / math.log(dimension.high / dimension.low)
    return FrozenTrial(
        trial.number,
        trial.state,
        trial.value if trial.state == TrialState.COMPLETE else None,
        trial.datetime_start,
        trial.datetime_complete,
        {**_others(trial.params), "rate": min(max(place, PLACES.low), PLACES.high)},
        {**_others(trial.distributions), "rate": PLACES},
        trial.user_attrs,
        trial.system_attrs,
        trial.intermediate_values,
        trial._trial_id,
    )


def _others(by_name: Any) -> dict[str, Any]:
    return {name: value for name, value in by_name.items() if not name.endswith("_lr")}


class OneRate(Tpe):
    """TPE whose model has one rate."""

    def _sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        seen: Any = _Seen(study)
        drawn = super()._sample_relative(seen, trial, {**_others(search_space), "rate": PLACES})
        place = drawn.pop("rate")
        for optimizer, power in RATES.items():
            dimension = DIMENSIONS[f"{optimizer}_lr"]
            rate = dimension.low * (dimension.high / dimension.low) ** place * (drawn["batch_size"] / 64) ** power
            drawn[f"{optimizer}_lr"] = min(max(rate, dimension.low), dimension.high)
        return drawn


def one_rate(account: Account, starts: Starts, seed: int) -> None:
    """In place of TPE."""
    with patch.dict(SAMPLERS, {"tpe": OneRate}):
        ours(account, starts, seed)


# Promotions ----------------------------------------------------------------------------------------------------------


def promote_two(account: Account, starts: Starts, seed: int) -> None:
    """Two after each round."""
    ours(account, starts, seed, promotions=2)


def other_networks(account: Account, starts: Starts, seed: int) -> None:
    """Finalists that are different networks."""
    ours(account, starts, seed, choose=best_of_other_networks)


def promote_end(account: Account, starts: Starts, seed: int) -> None:
    """Short runs with the epochs that the full runs leave, and then these."""
    for epochs in EPOCHS:
        if epochs > account.budget:
            return
        top = TOP if epochs > TOP * FULL else 1
        alone = Account(account.world, epochs - top * FULL)
        trials: list[Any] = []

        def remember(fresh: Sequence[Any], _promoted: Sequence[Any], trials: list[Any] = trials) -> None:
            trials[:] = fresh

        with contextlib.suppress(SpentError):
            ours(alone, starts, seed, short_runs=1, choose=remember)
        chosen = choose([(trial, trial.score) for trial in trials], min(top, len(trials)), "optimizer")
        alone.budget = epochs
        for trial in chosen:
            for _ in alone.full_run(trial.optuna.params):
                pass
        account.spent, account.trials = epochs, alone.trials
        account.points.append((epochs, alone.points[-1][1]))


# The pruner ----------------------------------------------------------------------------------------------------------


def pruner_survivors(account: Account, starts: Starts, seed: int) -> None:
    """The rule as it was before: each trial above the median raises it."""
    ended = MedianOfLike._ended

    def survivors(self: MedianOfLike, study: optuna.Study, kind: list[Any]) -> list[FrozenTrial] | None:
        peers = ended(self, study, kind)
        return peers and [peer for peer in peers if peer.state == TrialState.COMPLETE]

    with patch.object(MedianOfLike, "_ended", survivors):
        ours(account, starts, seed)


def no_pruner(account: Account, starts: Starts, seed: int) -> None:
    """Nothing is stopped."""
    with patch.object(MedianOfLike, "prune", lambda self, study, trial: False):
        ours(account, starts, seed)


def all_images(account: Account, starts: Starts, seed: int) -> None:
    """Short runs on all images."""
    ours(account, starts, seed, short_run_images="all")


VARIANTS: dict[str, Method] = {
    "sources": sources,
    "sources-half": sources_half,
    "one-rate": one_rate,
    "promote-2": promote_two,
    "promote-end": promote_end,
    "other-networks": other_networks,
    "pruner-survivors": pruner_survivors,
    "no-pruner": no_pruner,
    "all-images": all_images,
}
