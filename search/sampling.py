"""Samplers: how a trial's parameters are drawn, given the earlier trials."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

import space as search_space
from search.front import SIZE, are_alike, carried, drawn_size, standings
from search.spec import SamplerName, StudySpec
from search.trials import Attempts, TrialRecord, ranked
from train_core.tables import table

BEFORE_TPE = 10  # trials with a verdict, besides the baselines, before TPE has a model (Optuna's default)
CHANGES = 2  # a proposal must differ from each earlier trial in at least so many parameters that have an effect
DRAWN_AGAIN = 3  # parameters that are drawn again in a proposal that does not
ATTEMPTS = 20  # tries to find a different proposal: a small space may not contain one
NEAREST = (30, 1 / 3, 300)  # trials that TPE learns from along a front: at least, share of all, at most
CARRIED = 2  # along a front, every second trial repeats a good draw at another size, if there is one
CANDIDATES = 24  # draws from TPE's model of good trials; the most promising one is proposed (Optuna's default)


class Prior(RandomSampler):
    """Draws each parameter independently: as the space says, some values more often than others."""

    def __init__(self, space: search_space.Space, seed: int) -> None:
        super().__init__(seed)
        self.weights, self.mostly = search_space.weights(space), search_space.mostly(space)
        self.generator = np.random.default_rng(seed)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """One value of the distribution."""
        if param_name in self.weights:
            assert isinstance(param_distribution, CategoricalDistribution)
            chances = np.array(self.weights[param_name])
            return param_distribution.choices[self.generator.choice(len(chances), p=chances / chances.sum())]
        if param_name in self.mostly and self.generator.random() < search_space.MOSTLY:
            low, high = self.mostly[param_name]
            if isinstance(param_distribution, IntDistribution):
                param_distribution = IntDistribution(low, high, param_distribution.log, param_distribution.step)
            elif isinstance(param_distribution, FloatDistribution):
                param_distribution = FloatDistribution(low, high, param_distribution.log, param_distribution.step)
        return super().sample_independent(study, trial, param_name, param_distribution)


class Tpe(TPESampler):
    """TPE with proposals that differ from the earlier trials.

    Its model of a few good trials, multiplied over many parameters, is narrow: after some dozens of trials, TPE
    proposes networks that it has already tried, with slightly different rates. If a proposal changes fewer than
    `CHANGES` parameters of an earlier trial, some of its parameters are drawn again.
    """

    def __init__(
        self,
        space: search_space.Space,
        seed: int,
        earlier: Sequence[search_space.Draw],
        fixed: Mapping[str, Any],
        *,
        liar: bool = True,
    ) -> None:
        # Optuna has changed these defaults before, so they are stated here.
        super().__init__(
            seed=seed, n_startup_trials=0, n_ei_candidates=CANDIDATES, multivariate=True, constant_liar=liar
        )
        self.space = space
        self.earlier = earlier
        self.held = search_space.held(space) | dict(fixed)
        self.prior = Prior(space, seed)

    def infer_relative_search_space(self, study: optuna.Study, _trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The distributions of all parameters, in Optuna's order.

        They are taken from one trial instead of comparing all of them, because all trials have the same ones.
        """
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        first = next((each.distributions for each in study.get_trials(deepcopy=False, states=states)), {})
        return {name: first[name] for name in sorted(first) if not first[name].single()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A value for each parameter of the search space."""
        drawn = super().sample_relative(study, trial, search_space)
        for _ in range(ATTEMPTS):
            if not drawn or self._is_apart(drawn):
                break
            for name in self._some_used(drawn):
                drawn[name] = self.prior.sample_independent(study, trial, name, search_space[name])
        return drawn

    def _is_apart(self, drawn: search_space.Draw) -> bool:
        draw = {**self.held, **drawn}
        return search_space.least_changes(draw, self.earlier, self.space, enough=CHANGES) >= CHANGES

    def _some_used(self, drawn: search_space.Draw) -> list[str]:
        names = sorted(search_space.used({**self.held, **drawn}, self.space) & drawn.keys())
        return list(self.prior.generator.permutation(names)[:DRAWN_AGAIN])


class TpeAlongFront(Tpe):
    """TPE for a study of networks of every size: the size is given, and TPE proposes the rest.

    It learns from the trials that are nearest in size. The value of each is the share of the others that it beats for
    its size (`standings`), because by accuracy alone the largest networks would be the good ones. A second objective
    would make pruning impossible: Optuna does not prune trials with several objectives.
    """

    def __init__(
        self,
        space: search_space.Space,
        seed: int,
        earlier: Sequence[search_space.Draw],
        fixed: Mapping[str, Any],
        trials: Sequence[TrialRecord],
    ) -> None:
        like = [draw for draw in earlier if are_alike(draw[SIZE], fixed[SIZE])]
        super().__init__(space, seed, like, fixed, liar=False)
        self.learnt = _of_like_size(trials, fixed[SIZE])

    def sample_relative(
        self, _study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A value for each parameter of the search space."""
        return super().sample_relative(self.learnt, trial, search_space)


def _of_like_size(trials: Sequence[TrialRecord], size: float) -> optuna.Study:
    """A study in memory of the trials that are nearest to a size, ranked among trials of similar size.

    A running or diverged trial is ranked last: another worker already searches there, or nothing is to be found there.
    """
    nearest = sorted(trials, key=lambda trial: abs(np.log(trial.draw[SIZE] / size)))
    least, share, most = NEAREST
    nearest = nearest[: min(max(least, round(share * len(trials))), most)]
    scores = [trial.last_score if trial.has_verdict and not trial.failed_or_diverged else None for trial in nearest]
    sizes = [trial.draw[SIZE] for trial in nearest]
    study = optuna.create_study(direction="maximize")
    for trial, standing in zip(nearest, standings(sizes, scores), strict=True):
        study.add_trial(
            optuna.trial.create_trial(
                value=standing, params=trial.optuna.params, distributions=trial.optuna.distributions
            )
        )
    return study


SAMPLERS: dict[
    SamplerName, Callable[[search_space.Space, int, Sequence[search_space.Draw], Mapping[str, Any]], BaseSampler]
] = table(
    "sampler",
    SamplerName,
    {
        "tpe": Tpe,
        "random": lambda space, seed, _earlier, _fixed: Prior(space, seed),
    },
)
"""Makes each sampler from the space, a seed, the earlier draws, and the parameters that are fixed."""


def sampler_for(
    spec: StudySpec, before: Sequence[Attempts], *, first_phase: int = 0, random: bool = False
) -> BaseSampler:
    """A new sampler for the next trial, seeded with the study's seed and the number of trials `before` it.

    So a continued study draws what an uninterrupted one would have drawn, and no two draws are the same. The name of a
    control is a part of its seed: with the seed of the search alone, both would begin with the same random draws.
    `first_phase` is the number of trials that draw only the architecture; `random` overrides the study's sampler.
    """
    drawn = [attempts for attempts in before if not attempts.drew_nothing]
    seed = _seed(spec, len(drawn))
    # The baselines are very similar: a model made from them alone would explore nothing else.
    verdicts = sum(attempts.last.has_verdict and attempts.last.baseline is None for attempts in drawn)
    name: SamplerName = "random" if random or verdicts < BEFORE_TPE else spec.sampler
    fixed = _fixed(spec, before, first_phase) if spec.phases.architecture else {}
    decided = [attempts.last for attempts in drawn if attempts.last.is_decided]
    earlier = [trial.draw for trial in decided]
    told = [trial for trial in decided if trial.has_verdict or not trial.ended]
    if spec.front:
        fixed[SIZE] = drawn_size(spec, len(drawn), _seed(spec))
        if spec.sampler == "tpe" and not random and not spec.phases.architecture and len(drawn) % CARRIED == 0:
            fixed = {**(carried(told, fixed[SIZE]) or {}), **fixed}
    if spec.front and name == "tpe":
        sampler: BaseSampler = TpeAlongFront(spec.space, seed, earlier, fixed, told)
    else:
        sampler = SAMPLERS[name](spec.space, seed, earlier, fixed)
    if fixed:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = PartialFixedSampler(fixed, sampler)
    return sampler


def _seed(spec: StudySpec, *numbers: int) -> int:
    return int(np.random.SeedSequence((spec.seed, *numbers, *spec.control.encode())).generate_state(1)[0])


def _fixed(spec: StudySpec, before: Sequence[Attempts], first_phase: int) -> dict[str, Any]:
    """The parameters that the next trial of a two-phase study does not draw.

    In the first phase, those of the recipe; later, those of the architecture: the best of the first phase in turn.
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
