"""The search of this project and others, each with the same epochs in a simulated world (`world.py`).

Every method pays for every epoch that it trains, works alone (one trial at a time), and draws from the same space.
After any number of epochs it recommends the configuration that it has trained for most epochs; of several, that with
the best score on validation images. A run that diverges costs one epoch. So that all can be compared with their own
defaults, each has the fidelity that it would have in practice:

ours             rounds of `search run` with 12 more trials, each in the steps of 6 epochs on a part of the images, and
                 of `search promote` with the best trial that has no run of 40 epochs yet; the tool's own code
random-short     the same with random draws: what the sampler adds
random           random draws, 40 epochs each
tpe              Optuna's TPE as it is shipped, 40 epochs each
tpe-median       the same, stopped by Optuna's MedianPruner as it is shipped
tpe-hyperband    the same, stopped by Optuna's HyperbandPruner with at most 40 epochs
asha             random draws, stopped by Optuna's SuccessiveHalvingPruner as it is shipped
syne-asha        Syne Tune's ASHA with its defaults
syne-bohb        Syne Tune's BOHB with its defaults: ASHA, and TPE's draws
smac             SMAC3's MultiFidelityFacade with its defaults (Hyperband and a random forest), from 4 to 40 epochs; it
                 trains again at each length, annealed in it
priorband        NePS's PriorBand with its defaults, from 3 to 40 epochs, in the same way

All but the last two stop runs of 40 epochs. `+starts` behind a name: the first trials are those of ours, the portfolio.
PriorBand has a prior instead of first trials: the first configuration of the portfolio, with NePS's confidence "low",
its default, and sampled first.
"""

import contextlib
import random
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

import space
from benchmarks.world import CHANCE, DIMENSIONS, FULL, SHORT, STUDY, Params, World, drawn_evenly
from search import study as studies
from search.data_shape import NAMED_SHAPES
from search.drawing import Setting
from search.heartbeat import Worker
from search.starts import Configuration, enqueue_starts
from search.trials import TrialRecord, records
from tests.support.trainers import Silent
from train_core.errors import DivergedError
from train_core.results import EpochResult
from train_core.specs import ResNetSpec, TrainSpec

ROUND = 12  # short runs before a promotion
TRIALS = 200  # of a study, of which the portfolio takes a third at most
LEAST = 3  # epochs of Hyperband's shortest runs


class SpentError(Exception):
    """There are too few epochs left for the next run."""


@dataclass
class Account:
    """A method's epochs in one world: what they were spent on, and the method's recommendation."""

    world: World
    budget: int  # epochs
    spent: int = 0
    trials: int = 0
    points: list[tuple[int, float]] = field(default_factory=list)  # epochs spent, true accuracy of the recommendation
    best: tuple[int, float] = (0, 0.0)  # epochs and validation accuracy of the recommendation

    def pay(self, epochs: int) -> None:
        """Spend the epochs.

        Raises:
            SpentError: there are not enough left.

        """
        if self.spent + epochs > self.budget:
            raise SpentError
        self.spent += epochs

    def saw(self, params: Params, epochs: int, score: float) -> None:
        """Record the score of a run of a configuration after `epochs`."""
        if (epochs, score) > self.best:
            self.best = epochs, score
            self.points.append((self.spent, self.world.accuracy(params)))

    def full_run(self, params: Params) -> Generator[tuple[int, float]]:
        """Train for 40 epochs: yields each epoch's number and score; a run that diverges ends with the first."""
        self.trials += 1
        diverges = self.world.diverges(params)
        for epoch, score in enumerate([CHANCE] if diverges else self.world.cut(params), 1):
            self.pay(1)
            self.saw(params, epoch, score)
            yield epoch, score

    def annealed(self, params: Params, epochs: int) -> float:
        """Train for `epochs`, annealed within them. Returns the score."""
        self.trials += 1
        diverges = self.world.diverges(params)
        self.pay(1 if diverges else epochs)
        score = CHANCE if diverges else self.world.annealed(params, epochs)
        self.saw(params, 1 if diverges else epochs, score)
        return score

    def at(self, epochs: int) -> float:
        """The true accuracy of the recommendation after `epochs`."""
        return next((accuracy for spent, accuracy in reversed(self.points) if spent <= epochs), CHANCE)


Starts = Sequence[Params]
"""Configurations to try first: those of the portfolio, or none."""

Method = Callable[[Account, Starts, int], None]
"""Spends the account until it raises `SpentError`, beginning with the starts; with a seed."""


# Ours ----------------------------------------------------------------------------------------------------------------


class _ShortRuns(Silent):
    """Trains the trials of a study in the world; listens to the study, and does nothing."""

    def __init__(self, account: Account, study: optuna.Study, params_of: Callable[[FrozenTrial], Params]) -> None:
        self.account, self.study, self.params_of = account, study, params_of

    def __call__(self, network: ResNetSpec, recipe: TrainSpec, first_attempt: int) -> Generator[EpochResult]:
        """Train one trial, one epoch per step."""
        params = self.params_of(self.study.get_trials(deepcopy=False)[first_attempt])
        account = self.account
        account.trials += 1
        for epoch, score in enumerate(account.world.short(params, part=recipe.data_fraction < 1), 1):
            account.pay(1)
            if account.world.diverges(params):
                raise DivergedError("the rate is too high")
            account.saw(params, epoch, score)
            yield EpochResult(
                epoch=epoch,
                train_loss=0.0,
                train_accuracy=score,
                val_loss=0.0,
                val_accuracy=score,
                lr=recipe.lr,
                seconds=0.0,
                images=0,
            )

    def is_spent(self) -> bool:
        """Whether no further short run can be paid for."""
        return self.account.budget - self.account.spent < SHORT

    def forget(self, first_attempt: int) -> None:
        """Do nothing: no state is kept."""


class _OneWorker(Worker):
    """The only worker of a study in memory: nothing to lock."""

    def __init__(self) -> None:
        self.id = "the only one"

    def alone(self) -> contextlib.AbstractContextManager[object]:
        """A context without a lock."""
        return contextlib.nullcontext()

    def has(self, trial_id: int | None) -> None:
        """Do nothing: no other worker asks."""

    def is_dead(self, trial: TrialRecord) -> bool:
        """Always False: there is no other worker."""
        return False


Choose = Callable[[Sequence[TrialRecord], Sequence[TrialRecord]], TrialRecord | None]
"""Chooses the next trial to promote, given the trials that are not promoted, the best first, and those that are."""


def best_of(fresh: Sequence[TrialRecord], _promoted: Sequence[TrialRecord]) -> TrialRecord | None:
    """The best by score."""
    return next(iter(fresh), None)


def best_of_other_networks(fresh: Sequence[TrialRecord], promoted: Sequence[TrialRecord]) -> TrialRecord | None:
    """The best by score among trials whose network is not promoted yet."""
    known = [trial.network for trial in promoted]
    return next((trial for trial in fresh if trial.network not in known), None)


def ours(
    account: Account,
    starts: Starts,
    seed: int,
    *,
    short_runs: int = ROUND,
    promotions: int = 1,
    choose: Choose = best_of,
    params_of: Callable[[FrozenTrial], Params] = lambda trial: trial.params,
    **changes: Any,
) -> None:
    """Rounds of short runs and promotions, as `search run` and `search promote` do them. `changes`: of the study."""
    spec = STUDY.model_copy(update={"seed": seed, "trials": TRIALS, **changes})
    study = optuna.create_study(direction="maximize")
    shape = NAMED_SHAPES["cifar10"]
    known = [Configuration(f"portfolio: {number}", params) for number, params in enumerate(starts)]
    enqueue_starts(study, spec.model_copy(update={"portfolio": False}), shape, lambda: known)
    trainer = _ShortRuns(account, study, params_of)
    promoted: list[TrialRecord] = []
    for trials in count(short_runs, short_runs):
        setting = Setting(study, spec.model_copy(update={"trials": trials}), shape, "fp32", _OneWorker())
        studies.run(setting, trainer, trainer, stop=trainer.is_spent)
        for _ in range(promotions):
            done = {trial.number for trial in promoted}
            fresh = [trial for trial in records(study) if trial.score is not None and trial.number not in done]
            trial = choose(sorted(fresh, key=lambda each: each.score or 0, reverse=True), promoted)
            if trial is not None:
                promoted.append(trial)
                for _ in account.full_run(params_of(trial.optuna)):
                    pass
        if trainer.is_spent():
            raise SpentError


def random_short(account: Account, starts: Starts, seed: int) -> None:
    """Random draws."""
    ours(account, starts, seed, sampler="random")


# Optuna --------------------------------------------------------------------------------------------------------------


def optunas(account: Account, starts: Starts, sampler: BaseSampler, pruner: BasePruner) -> None:
    """An Optuna study: runs of 40 epochs, each epoch reported, stopped if the pruner says so."""
    study = optuna.create_study(study_name="one", direction="maximize", sampler=sampler, pruner=pruner)
    for params in starts:
        study.enqueue_trial(dict(params))
    while True:
        trial = study.ask()
        space.suggest(trial, STUDY.space)
        state = TrialState.PRUNED
        score = CHANCE
        for epoch, score in account.full_run(trial.params):
            trial.report(score, epoch)
            if epoch == FULL:
                state = TrialState.COMPLETE
            elif trial.should_prune():
                break
        study.tell(trial, score if state == TrialState.COMPLETE else None, state)


def tpe(account: Account, starts: Starts, seed: int) -> None:
    """Nothing is stopped."""
    optunas(account, starts, TPESampler(seed=seed), NopPruner())


def tpe_median(account: Account, starts: Starts, seed: int) -> None:
    """Optuna's default pruner."""
    optunas(account, starts, TPESampler(seed=seed), MedianPruner())


def tpe_hyperband(account: Account, starts: Starts, seed: int) -> None:
    """Optuna recommends this pruner for TPE."""
    optunas(account, starts, TPESampler(seed=seed), HyperbandPruner(max_resource=FULL))


def asha(account: Account, starts: Starts, seed: int) -> None:
    """Optuna's asynchronous successive halving."""
    optunas(account, starts, RandomSampler(seed=seed), SuccessiveHalvingPruner())


def random_full(account: Account, starts: Starts, seed: int) -> None:
    """Each draw at full length."""
    for params in _with_draws(starts, seed):
        for _ in account.full_run(params):
            pass


def _with_draws(starts: Starts, seed: int) -> Iterator[Params]:
    generator = np.random.default_rng(seed)
    yield from starts
    while True:
        yield drawn_evenly(generator)


# Syne Tune -----------------------------------------------------------------------------------------------------------


def syne(account: Account, starts: Starts, seed: int, scheduler: str) -> None:
    """One of Syne Tune's schedulers, driven by the epochs of one trial after the other."""
    np.random.seed(seed)  # noqa: NPY002  # Syne Tune draws from it
    random.seed(seed)
    made = getattr(import_module("syne_tune.optimizer.baselines"), scheduler)(
        config_space={name: _for_syne(dimension) for name, dimension in DIMENSIONS.items()},
        metric="accuracy",
        time_attr="epoch",
        max_t=FULL,
        do_minimize=False,
        random_seed=seed,
        points_to_evaluate=[
            {name: str(value) if isinstance(value, bool) else value for name, value in each.items()} for each in starts
        ]
        or None,
    )
    for number in count():
        config = dict(made.suggest().config)
        trial = SimpleNamespace(trial_id=number, config=config)
        made.on_trial_add(trial)
        for epoch, score in account.full_run(_from_names(config)):
            if made.on_trial_result(trial, {"epoch": epoch, "accuracy": score}) != "CONTINUE":
                break


def _for_syne(dimension: Any) -> Any:
    spaces = import_module("syne_tune.config_space")
    if isinstance(dimension, tuple):
        return spaces.choice([str(value) if isinstance(value, bool) else value for value in dimension])
    if isinstance(dimension.low, int):
        return spaces.lograndint(dimension.low, dimension.high)
    if dimension.log:
        return spaces.loguniform(dimension.low, dimension.high)
    return spaces.finrange(dimension.low, dimension.high, round((dimension.high - dimension.low) / dimension.step) + 1)


def _from_names(config: Mapping[str, Any]) -> Params:
    """With the values of the space: some methods rename booleans, or return floats near a step."""
    params = {}
    for name, value in config.items():
        dimension = DIMENSIONS[name]
        if isinstance(dimension, tuple):
            params[name] = next(each for each in dimension if str(each) == str(value))
        elif isinstance(dimension.low, int):
            params[name] = int(value)
        elif dimension.step:
            params[name] = dimension.low + dimension.step * round((float(value) - dimension.low) / dimension.step)
        else:
            params[name] = min(max(float(value), dimension.low), dimension.high)
    return params


def syne_asha(account: Account, starts: Starts, seed: int) -> None:
    """Random draws."""
    syne(account, starts, seed, "ASHA")


def syne_bohb(account: Account, starts: Starts, seed: int) -> None:
    """A kernel density estimate."""
    syne(account, starts, seed, "BOHB")


# SMAC ----------------------------------------------------------------------------------------------------------------


def smac(account: Account, starts: Starts, seed: int) -> None:
    """SMAC3's multi-fidelity facade, through its ask-and-tell interface."""
    api, dataclasses = import_module("smac"), import_module("smac.runhistory.dataclasses")
    configs = import_module("ConfigSpace")
    searched = _for_smac(seed)
    first = [configs.Configuration(searched, values=_as_smac(params)) for params in starts]
    designs = import_module("smac.initial_design.random_design")

    class StartsFirst(designs.RandomInitialDesign):  # type: ignore[misc, name-defined]  # read at run time
        """SMAC appends them to its random draws."""

        def select_configurations(self) -> list[Any]:
            """Those first."""
            return first + [each for each in super().select_configurations() if each not in first]

    with tempfile.TemporaryDirectory() as folder:
        scenario = api.Scenario(
            searched,
            deterministic=True,
            n_trials=max(20, account.budget // 12),  # about the number that the epochs allow; a quarter are random
            min_budget=LEAST,
            max_budget=FULL,
            seed=seed,
            output_directory=Path(folder),
        )
        facade = api.MultiFidelityFacade(
            scenario,
            lambda config, seed, budget: 0.0,
            initial_design=StartsFirst(scenario, n_configs_per_hyperparameter=10, max_ratio=0.25),
            overwrite=True,
            logging_level=40,
        )
        known: dict[Any, float] = {}
        while True:
            asked = facade.ask()
            key = asked.config, asked.budget
            if key not in known:
                known[key] = account.annealed(_from_smac(asked.config), round(asked.budget))
            facade.tell(asked, dataclasses.TrialValue(cost=1 - known[key]))


def _for_smac(seed: int) -> Any:
    """The space in SMAC's form; choices and steps by their indices."""
    configs = import_module("ConfigSpace")
    made = configs.ConfigurationSpace(seed=seed)
    for name, dimension in DIMENSIONS.items():
        if isinstance(dimension, tuple):
            made.add(configs.CategoricalHyperparameter(name, list(range(len(dimension)))))
        elif isinstance(dimension.low, int):
            made.add(configs.UniformIntegerHyperparameter(name, dimension.low, dimension.high, log=dimension.log))
        elif dimension.step:
            steps = round((dimension.high - dimension.low) / dimension.step)
            made.add(configs.UniformIntegerHyperparameter(name, 0, steps))
        else:
            made.add(configs.UniformFloatHyperparameter(name, dimension.low, dimension.high, log=dimension.log))
    return made


def _as_smac(params: Params) -> dict[str, Any]:
    values = {}
    for name, value in params.items():
        dimension = DIMENSIONS[name]
        if isinstance(dimension, tuple):
            values[name] = dimension.index(value)
        else:
            values[name] = round((value - dimension.low) / dimension.step) if dimension.step else value
    return values


def _from_smac(config: Mapping[str, Any]) -> Params:
    params = {}
    for name, value in dict(config).items():
        dimension = DIMENSIONS[name]
        if isinstance(dimension, tuple):
            params[name] = dimension[int(value)]
        elif isinstance(dimension.low, int):
            params[name] = int(value)
        else:
            params[name] = dimension.low + int(value) * dimension.step if dimension.step else float(value)
    return params


# NePS ----------------------------------------------------------------------------------------------------------------


def priorband(account: Account, starts: Starts, seed: int) -> None:
    """NePS's PriorBand, through its ask-and-tell interface."""
    neps, torch = import_module("neps"), import_module("torch")
    np.random.seed(seed)  # noqa: NPY002  # NePS draws from these
    random.seed(seed)
    torch.manual_seed(seed)
    prior = starts[0] if starts else {}
    searched = import_module("neps.space").SearchSpace(
        {name: _for_neps(dimension, prior.get(name)) for name, dimension in DIMENSIONS.items()}
        | {"epochs": import_module("neps.space.parameters").HPOInteger(LEAST, FULL, is_fidelity=True)}
    )
    method = neps.AskAndTell(neps.algorithms.priorband(searched, sample_prior_first=bool(starts)))
    while True:
        trial = method.ask()
        params = _from_names({name: value for name, value in trial.config.items() if name != "epochs"})
        method.tell(trial, 1 - account.annealed(params, int(trial.config["epochs"])))


def _for_neps(dimension: Any, prior: Any) -> Any:
    parameters = import_module("neps.space.parameters")
    if isinstance(dimension, tuple):
        return parameters.HPOCategorical(
            [str(value) for value in dimension], prior=None if prior is None else str(prior)
        )
    if isinstance(dimension.low, int):
        return parameters.HPOInteger(dimension.low, dimension.high, log=dimension.log, prior=prior)
    return parameters.HPOFloat(dimension.low, dimension.high, log=dimension.log, prior=prior)


METHODS: dict[str, Method] = {
    "ours": ours,
    "random-short": random_short,
    "random": random_full,
    "tpe": tpe,
    "tpe-median": tpe_median,
    "tpe-hyperband": tpe_hyperband,
    "asha": asha,
    "syne-asha": syne_asha,
    "syne-bohb": syne_bohb,
    "smac": smac,
    "priorband": priorband,
}
NEEDS = {"syne-asha": "syne_tune", "syne-bohb": "syne_tune", "smac": "smac", "priorband": "neps"}
"""The packages that are not among this project's own requirements."""
