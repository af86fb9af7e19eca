"""Samplers: how a trial's parameters are drawn, from the trials before it."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

import space as search_space
from search.spec import SamplerName, StudySpec
from search.trials import Attempts, ranked
from train_core.tables import table

RANDOM_TRIALS = 10  # drawn at random before TPE has a model, besides the baselines (Optuna's default)


class Tpe(TPESampler):
    """TPE that takes the space from one trial, since all trials have the same, instead of comparing all of them."""

    def infer_relative_search_space(self, study: optuna.Study, _trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The distributions of all parameters, in the order in which Optuna has them."""
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        first = next((each.distributions for each in study.get_trials(deepcopy=False, states=states)), {})
        return {name: first[name] for name in sorted(first) if not first[name].single()}


SAMPLERS: dict[SamplerName, Callable[[int, int], BaseSampler]] = table(
    "sampler",
    SamplerName,
    {
        "tpe": lambda seed, random_trials: Tpe(seed=seed, n_startup_trials=random_trials),
        "random": lambda seed, _: RandomSampler(seed=seed),
    },
)
"""Makes each sampler, from a seed and the number of trials to draw at random first."""


def sampler_for(
    spec: StudySpec, before: Sequence[Attempts], *, first_phase: int = 0, random: bool = False
) -> BaseSampler:
    """A new sampler for the next trial, seeded by the study's seed and the number of trials `before` it.

    So a study that was stopped and continued draws what it would have drawn, and no two draws are the same.
    `first_phase` is the number of trials that draw the architecture alone; `random` overrides the study's sampler.
    """
    drawn = [attempts for attempts in before if not attempts.drew_nothing]
    seed = int(np.random.SeedSequence((spec.seed, len(drawn))).generate_state(1)[0])
    # The baselines are much alike: a model made from them alone would look no further.
    baselines = sum(attempts.last.baseline is not None for attempts in drawn)
    sampler = SAMPLERS["random" if random else spec.sampler](seed, RANDOM_TRIALS + baselines)
    if spec.phases.architecture and (fixed := _fixed(spec, before, first_phase)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = PartialFixedSampler(fixed, sampler)
    return sampler


def _fixed(spec: StudySpec, before: Sequence[Attempts], first_phase: int) -> dict[str, Any]:
    """The parameters that the next trial of a study of two phases does not draw.

    In the first phase those of the recipe; then those of the architecture, which are the first phase's best in turn.
    """
    counted = [attempts.last for attempts in before if attempts.is_counted]
    if len(counted) < first_phase:
        drawn = set(search_space.parameters(spec.space))
        return {name: value for name, value in spec.baseline_recipe.items() if name in drawn}
    best = ranked(counted[:first_phase])[: spec.phases.keep]
    if not best:
        return {}
    chosen = best[(len(counted) - first_phase) % len(best)]
    return {name: value for name, value in chosen.draw.items() if search_space.is_architecture(name)}
