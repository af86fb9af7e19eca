"""Our search against others, in one run: the same space, the same trainer, the same epochs, the same seeds.

    python -m benchmarks.peers [RUNS.jsonl] [--seeds 20] [--epochs-budget 1200] [--peers ours,random] [--out peers.json]

The trainer is a surrogate, fitted to real short and long runs (`surrogate.py`), so that it takes minutes; each seed has
a world of its own, as likely as the others by what was measured, and all methods meet the same ones. Every method pays
for every epoch that it trains, and none may train a network over the budget. What counts is the configuration it
would recommend: of those that it has trained for 40 epochs, the best on the validation images; and of that, the
accuracy on the test images, without the noise of a seed.

ours           the search of this project: rounds of 12 trials, each with the steps of 6 epochs on a part of the images,
               and then the best 2 of all that were not at 40 epochs yet
ours-all       the same with short runs on all images
ours-held      the same with the regularisers held, as in the shipped studies: short runs on all images
ours-phases    as ours, the first half of the trials with a plain recipe, the others on the best architectures of those
random-short   as ours, but the trials are drawn at random: what TPE adds
one-epoch      random draws, one annealed epoch each; of every hundred, the best 5 that had none for 40 epochs
random         random draws, 40 epochs each
tpe            Optuna's TPE with the width solved as here, 40 epochs each: what the short runs add
tpe-constraint Optuna's TPE with the width drawn, and `trial.set_constraint` for the budget; 40 epochs each. A network
               that is too large costs no epochs
tpe-pruned     the same, but a network that is too large is pruned
asha-3, asha-6 Ray Tune's ASHAScheduler with random draws, four trials at a time, reduction factor 3, grace period 3 or
               6, on the curves of 40-epoch runs (see `asha`)
smac           SMAC3's MultiFidelityFacade: Hyperband with a random forest, at 4, 13 and 40 epochs. It starts again at
               each length; so each run is annealed in its own length, and paid for in whole
"""

import argparse
import contextlib
import json
import logging
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

import space
from benchmarks.surrogate import CHANCE, FULL, RUNS, STUDY, Params, Surrogate, network
from search import study as studies
from search.data_shape import NAMED_SHAPES
from search.drawing import Setting
from search.heartbeat import Worker
from search.ladder import choose
from search.spec import PhasesSpec
from search.trials import TrialRecord, records
from tests.support.trainers import Silent
from train_core.results import EpochResult
from train_core.specs import ResNetSpec, TrainSpec, num_params

ROUND = 12  # trials between two promotions
TOP = 2  # trials of each promotion
HELD: dict[str, Any] = {
    "crop_padding": 4,
    "cutout": 8,
    "label_smoothing": 0.1,
    "sgd_weight_decay": 5e-4,
    "adam_weight_decay": 5e-5,
    "adamw_weight_decay": 0.05,
    "block_dropout": 0.0,
}
"""The regularisers, as the shipped studies hold them."""

PLAIN: dict[str, bool | int | float | str] = {"optimizer": "sgd", "sgd_lr": 0.1, "batch_size": 64}
"""A recipe that architectures can be compared by."""

WIDTHS = (8, 64, 8)  # of the first stage, where it is drawn: least, most, step
DRAWS = 5_000  # at most, of those that may cost nothing
ETA = 3  # ASHA and Hyperband go on with one in three
TIMES = 9  # that random draws are tried in each world, to measure their result there
SAMPLES = 2_000  # of the bootstrap


class _SpentError(Exception):
    """The epochs do not last for this run."""


@dataclass
class Account:
    """One method's epochs with one seed: what they were spent on, and what they have found so far."""

    surrogate: Surrogate
    seed: int
    budget: int  # epochs
    spent: int = 0
    points: list[tuple[int, float]] = field(default_factory=list)  # epochs spent, quality of what is recommended then
    scored: list[tuple[float, Params]] = field(default_factory=list)  # full-length validation accuracies

    @property
    def left(self) -> int:
        """Epochs."""
        return self.budget - self.spent

    def pay(self, params: Params, epochs: int) -> None:
        """Take the epochs of a run of this configuration.

        Raises:
            _SpentError: there are not as many left.

        """
        parameters = num_params(network(params))
        if parameters > STUDY.budget:
            raise ValueError(f"{parameters:,} parameters are more than {STUDY.budget:,}")
        if epochs > self.left:
            raise _SpentError
        self.spent += epochs

    def run(self, params: Params, epochs: int) -> float:
        """Train a configuration for `epochs`, annealed in them. Returns the validation accuracy at the end."""
        if epochs == FULL:
            return self.full(params)
        self.pay(params, epochs)
        return self.surrogate.run(params, epochs, self.seed)[-1]

    def full(self, params: Params) -> float:
        """Train a configuration at full length. Returns the validation accuracy at the end."""
        self.pay(params, FULL)
        accuracy = self.surrogate.full_val(params, self.seed)
        self.score(params, accuracy)
        return accuracy

    def score(self, params: Params, accuracy: float) -> None:
        """Note the validation accuracy of a full-length run; the best of them is what is recommended."""
        if all(accuracy > other for other, _ in self.scored):
            self.points.append((self.spent, self.surrogate.full(params)))
        self.scored.append((accuracy, params))


Peer = Callable[[Account], None]
"""A method: spends the account until it raises `_SpentError` or has no use for what is left."""


# Ours ----------------------------------------------------------------------------------------------------------------


class _ShortRuns(Silent):
    """Trains a study's trials on the surrogate, and pays for each epoch; listens to the study, and does nothing."""

    def __init__(self, account: Account, study: optuna.Study, held: Params) -> None:
        self.account = account
        self.study = study
        self.held = held
        self.training = False

    def params_of(self, trial: FrozenTrial) -> Params:
        """The configuration of a trial, with what it did not draw."""
        return {**self.held, **trial.params}

    def is_spent(self) -> bool:
        """Whether no further trial can be paid for."""
        return not self.training and self.account.left < STUDY.epochs

    def __call__(self, network: ResNetSpec, recipe: TrainSpec, first_attempt: int) -> Generator[EpochResult]:
        """One trial, an epoch a step."""
        params = self.params_of(self.study.get_trials(deepcopy=False)[first_attempt])
        self.training = True
        try:
            surrogate, seed = self.account.surrogate, self.account.seed
            curve = (
                surrogate.part(params, seed) if recipe.data_fraction < 1 else surrogate.run(params, recipe.epochs, seed)
            )
            for epoch, accuracy in enumerate(curve, 1):
                self.account.pay(params, 1)
                yield EpochResult(
                    epoch=epoch,
                    train_loss=0.0,
                    train_accuracy=accuracy,
                    val_loss=0.0,
                    val_accuracy=accuracy,
                    lr=recipe.lr,
                    seconds=0.0,
                    images=0,
                )
        finally:
            self.training = False

    def forget(self, first_attempt: int) -> None:
        """Nothing is remembered."""


class _OneWorker(Worker):
    """The only worker of a study in memory: nothing to lock."""

    def __init__(self) -> None:
        self.id = "the only one"

    def alone(self) -> contextlib.AbstractContextManager[object]:
        """Always so."""
        return contextlib.nullcontext()

    def has(self, trial_id: int | None) -> None:
        """Nobody asks."""

    def is_dead(self, trial: TrialRecord) -> bool:
        """There is no other."""
        return False


def ours(account: Account, *, held: Params | None = None, **changes: Any) -> None:
    """Rounds of short runs and promotions, as `search run` and `search promote` do them, the same commands in turn.

    `held`: parameters that are not drawn. `changes` are of the study.
    """
    held = held or {}
    searched = STUDY.space.model_copy(update=dict(held))
    spec = STUDY.model_copy(update={"seed": account.seed, "space": searched, **changes})
    study = optuna.create_study(direction="maximize")
    short_runs = _ShortRuns(account, study, held)
    worker = _OneWorker()
    promoted: set[int] = set()
    for trials in count(ROUND, ROUND):
        round_spec = spec.model_copy(update={"trials": trials})
        setting = Setting(study, round_spec, NAMED_SHAPES["cifar10"], "fp32", worker)
        studies.run(setting, short_runs, short_runs, stop=short_runs.is_spent)
        fresh = [
            (trial, trial.score) for trial in records(study) if trial.score is not None and trial.number not in promoted
        ]
        for trial in choose(fresh, min(TOP, len(fresh)), None):
            promoted.add(trial.number)
            account.full(short_runs.params_of(trial.optuna))
        if short_runs.is_spent():
            break


def ours_all(account: Account) -> None:
    """Short runs on all images."""
    ours(account, short_run_images="all")


def ours_held(account: Account) -> None:
    """The regularisers held."""
    ours(account, held=HELD)


def ours_two_phases(account: Account) -> None:
    """Half of the trials for the architecture, and half for the recipe."""
    ours(account, phases=PhasesSpec(architecture=0.5), baseline_recipe=PLAIN)


def random_short(account: Account) -> None:
    """Random draws."""
    ours(account, sampler="random")


# Random draws --------------------------------------------------------------------------------------------------------


def random_draws(seed: int) -> Iterator[Params]:
    """Configurations drawn at random, without end."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    while True:
        trial = study.ask()
        space.suggest(trial, STUDY.space)
        yield trial.params


def random_full(account: Account) -> None:
    """Each draw at full length."""
    for params in random_draws(account.seed):
        account.full(params)


def one_epoch(account: Account, *, draws: int = 100, best: int = 5) -> None:
    """One epoch for each of `draws`, full length for the `best` of all that had none; and again."""
    screened: list[tuple[float, int, Params]] = []
    for number, params in enumerate(random_draws(account.seed), 1):
        screened.append((account.run(params, 1), number, params))
        if number % draws == 0:
            screened.sort(key=lambda each: each[0])
            for _ in range(best):
                account.full(screened.pop()[-1])


# Optuna --------------------------------------------------------------------------------------------------------------


def tpe(account: Account) -> None:
    """Optuna's TPE, the width solved, each trial at full length."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=account.seed))
    while True:
        trial = study.ask()
        space.suggest(trial, STUDY.space)
        study.tell(trial, account.full(trial.params))


def tpe_drawn_width(account: Account, *, constraint: bool) -> None:
    """Optuna's TPE, the width drawn, each network that fits at full length."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=account.seed))
    low, high, step = WIDTHS
    for _ in range(DRAWS):
        trial = study.ask()
        draw = dict(space.suggest(trial, STUDY.space.model_copy(update={"budget_fraction": 1.0})))
        width = trial.suggest_int("width", low, high, step=step)
        parameters = num_params(widened(draw, width))
        if constraint:
            trial.set_constraint("parameters", parameters / STUDY.budget - 1)
        if parameters > STUDY.budget:
            study.tell(trial, state=TrialState.PRUNED)
            continue
        # The widest network within half a parameter more than it has is this one.
        drawn = {name: value for name, value in trial.params.items() if name != "width"}
        study.tell(trial, account.full({**drawn, "budget_fraction": (parameters + 0.5) / STUDY.budget}))


def widened(draw: space.Draw, width: int) -> ResNetSpec:
    """The network of this shape with so wide a first stage, however many parameters it has."""
    widths, exact = [], float(width)
    for stage in (1, 2, 3):
        exact *= draw[f"growth_{stage}"] if stage > 1 else 1
        widths.append(space.WIDTH_STEP * int(exact / space.WIDTH_STEP + 0.5))
    return network(draw).model_copy(update={"widths": tuple(widths)})


def tpe_constraint(account: Account) -> None:
    """Networks over the budget are reported as infeasible."""
    tpe_drawn_width(account, constraint=True)


def tpe_pruned(account: Account) -> None:
    """Networks over the budget are pruned."""
    tpe_drawn_width(account, constraint=False)


# Multi-fidelity ------------------------------------------------------------------------------------------------------


def asha(account: Account, *, grace: int, at_once: int = 4) -> None:
    """Ray Tune's ASHA, which stops runs of 40 epochs that are behind, on random draws.

    The decisions are those of Ray's scheduler. It is driven here, by an epoch of each of `at_once` running trials in
    turn: Ray Tune's own loop starts a process for every trial, took 34 s for a dozen of them on two cores (a seed has
    about a hundred), and gives another result each time.
    """
    scheduler = import_module("ray.tune.schedulers").ASHAScheduler(
        time_attr="epoch", metric="accuracy", mode="max", max_t=FULL, grace_period=grace, reduction_factor=ETA
    )
    draws = enumerate(random_draws(account.seed))
    running: deque[tuple[Any, Params, list[float], int]] = deque()  # as Ray knows it; its curve, and the epochs it has
    while True:
        if len(running) < at_once:
            number, params = next(draws)
            trial = SimpleNamespace(trial_id=str(number))
            scheduler.on_trial_add(None, trial)
            accuracies, epochs = account.surrogate.cut(params, FULL, account.seed), 0
        else:
            trial, params, accuracies, epochs = running.popleft()
        account.pay(params, 1)
        epochs += 1
        accuracy = accuracies[epochs - 1]
        action = scheduler.on_trial_result(None, trial, {"epoch": epochs, "accuracy": accuracy})
        if epochs == FULL:
            account.score(params, accuracy)
        if action == "CONTINUE":
            running.append((trial, params, accuracies, epochs))


def asha_3(account: Account) -> None:
    """The first decision after 3 epochs."""
    asha(account, grace=3)


def asha_6(account: Account) -> None:
    """The first decision after 6 epochs."""
    asha(account, grace=6)


def smac(account: Account, *, shortest: int = 3) -> None:
    """SMAC3's multi-fidelity facade with its own defaults, through its ask-and-tell interface."""
    api, manager = import_module("smac"), import_module("smac.runhistory.dataclasses")
    trials = max(20, account.budget // 12)  # about as many as the epochs last for; a quarter are drawn at random
    with tempfile.TemporaryDirectory() as folder:
        scenario = api.Scenario(
            _configuration_space(account.seed),
            deterministic=True,
            n_trials=trials,
            min_budget=shortest,
            max_budget=FULL,
            seed=account.seed,
            output_directory=Path(folder),
        )
        facade = api.MultiFidelityFacade(scenario, lambda config, seed, budget: 0.0, overwrite=True, logging_level=40)
        known: dict[Any, float] = {}
        while True:
            asked = facade.ask()
            key = asked.config, asked.budget
            if key not in known:
                known[key] = account.run(_as_params(asked.config), round(asked.budget))
            facade.tell(asked, manager.TrialValue(cost=1 - known[key]))


def _configuration_space(seed: int) -> Any:
    """The dimensions of the study, as SMAC wants them; choices by their place in the list."""
    configs = import_module("ConfigSpace")
    made = configs.ConfigurationSpace(seed=seed)
    for name in space.parameters(STUDY.space):
        values = _dimension(name)
        if isinstance(values, tuple):
            made.add(configs.CategoricalHyperparameter(name, list(range(len(values)))))
        elif isinstance(values.low, int):
            made.add(configs.UniformIntegerHyperparameter(name, values.low, values.high))
        elif values.step is not None:
            steps = round((values.high - values.low) / values.step)
            made.add(configs.UniformIntegerHyperparameter(name, 0, steps))
        else:
            made.add(configs.UniformFloatHyperparameter(name, values.low, values.high, log=values.log))
    return made


def _as_params(config: Mapping[str, Any]) -> Params:
    params: dict[str, Any] = {}
    for name, value in dict(config).items():
        values = _dimension(name)
        if isinstance(values, tuple):
            params[name] = values[int(value)]
        elif isinstance(values.low, int):
            params[name] = int(value)
        else:
            params[name] = values.low + int(value) * values.step if values.step is not None else float(value)
    return params


def _dimension(parameter: str) -> Any:
    """What a parameter may be; `blocks_2` is of the dimension `blocks`."""
    name, _, stage = parameter.rpartition("_")
    return getattr(STUDY.space, name if stage.isdigit() else parameter)


PEERS: dict[str, Peer] = {
    "ours": ours,
    "ours-held": ours_held,
    "ours-all": ours_all,
    "ours-phases": ours_two_phases,
    "random-short": random_short,
    "one-epoch": one_epoch,
    "random": random_full,
    "tpe": tpe,
    "tpe-constraint": tpe_constraint,
    "tpe-pruned": tpe_pruned,
    "asha-3": asha_3,
    "asha-6": asha_6,
    "smac": smac,
}
NEEDS = {"asha-3": "ray.tune.schedulers", "asha-6": "ray.tune.schedulers", "smac": "smac"}
"""What is not among this project's own requirements."""


# The comparison ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """What one method would recommend after so many epochs, with one seed."""

    points: tuple[tuple[int, float], ...]  # epochs spent, quality

    def at(self, epochs: int) -> float:
        """Quality of what it recommends by then; chance, as long as it has nothing to recommend."""
        return next((quality for spent, quality in reversed(self.points) if spent <= epochs), CHANCE)

    def reaches(self, quality: float, budget: int) -> int:
        """Epochs until it first recommends something as good; the budget, where it never does."""
        return next((spent for spent, reached in self.points if reached >= quality), budget)


def curve(peer: Peer, surrogate: Surrogate, seed: int, budget: int) -> Curve:
    """Let a method spend its epochs in the world of this seed."""
    account = Account(surrogate.world(seed), seed, budget)
    with contextlib.suppress(_SpentError):
        peer(account)
    return Curve(tuple(account.points))


def random_ends(surrogate: Surrogate, seeds: int, budget: int) -> list[float]:
    """For the world of each seed, the result of random draws with all epochs: the median of several times."""
    ends = []
    for seed in range(seeds):
        times = [Account(surrogate.world(seed), seeds * time + seed, budget) for time in range(1, TIMES + 1)]
        for account in times:
            with contextlib.suppress(_SpentError):
                random_full(account)
        ends.append(float(np.median([account.points[-1][1] for account in times])))
    return ends


@dataclass(frozen=True)
class Spread:
    """The median over seeds, and its 95 % interval by bootstrap."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of one value for each seed."""
        generator = np.random.default_rng(0)
        medians = np.median(generator.choice(values, (SAMPLES, len(values))), axis=1)
        low, high = np.quantile(medians, [0.025, 0.975])
        return cls(float(np.median(values)), float(low), float(high))

    def shown(self, pattern: str) -> str:
        """For a table."""
        return f"{self.median:{pattern}} ({self.low:{pattern}} to {self.high:{pattern}})"


@dataclass(frozen=True)
class Row:
    """One method's line in the table."""

    name: str
    quality: dict[int, Spread]  # by epochs spent
    gain: Spread  # of the quality in the end over the result of random draws in that world
    epochs: Spread  # to reach the result of random draws with all of them; all, where it does not get there
    share: float  # of random's epochs
    reached: float  # share of the seeds that got there
    worse_than_ours: float | None  # share of the seeds with which it ends below ours


def table(curves: Mapping[str, Sequence[Curve]], ends: Sequence[float], budget: int) -> list[Row]:
    """A line for each method, best first. `ends`: the result of random draws in the world of each seed."""
    rows = []
    for name, each in curves.items():
        rivals = zip(each, curves.get("ours", ()), strict=False)
        worse = [theirs.at(budget) < own.at(budget) for theirs, own in rivals]
        pairs = list(zip(each, ends, strict=True))
        epochs = Spread.of([one.reaches(end, budget) for one, end in pairs])
        rows.append(
            Row(
                name=name,
                quality={at: Spread.of([one.at(at) for one in each]) for at in (budget // 4, budget // 2, budget)},
                gain=Spread.of([one.at(budget) - end for one, end in pairs]),
                epochs=epochs,
                share=epochs.median / budget,
                reached=float(np.mean([any(quality >= end for _, quality in one.points) for one, end in pairs])),
                worse_than_ours=float(np.mean(worse)) if worse and name != "ours" else None,
            )
        )
    return sorted(rows, key=lambda row: row.gain.median, reverse=True)


def shown(rows: Sequence[Row]) -> str:
    """The table as Markdown."""
    budgets = list(rows[0].quality)
    heads = [
        "method",
        *(f"at {epochs:,} epochs" for epochs in budgets),
        "over random's end",
        "epochs to random's end",
        "share",
        "seeds that get there",
        "seeds below ours",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [
            row.name,
            *("none yet" if each.median <= CHANCE else each.shown(".4f") for each in row.quality.values()),
            row.gain.shown("+.4f"),
            row.epochs.shown(".0f"),
            f"{row.share:.0%}",
            f"{row.reached:.0%}",
            "" if row.worse_than_ours is None else f"{row.worse_than_ours:.0%}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def installed(name: str) -> bool:
    """Whether a method's package is there; says how to get it where not."""
    try:
        import_module(NEEDS.get(name, "optuna"))
    except ImportError as error:
        print(f"{name}: skipped ({error}); pip install '.[peers]'", flush=True)
        return False
    return True


def main() -> None:
    """Parse the command line, let each method spend its epochs with each seed, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="?", default=RUNS)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--epochs-budget", type=int, default=1200)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    names = options.peers.split(",")
    if unknown := set(names) - set(PEERS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("smac").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # the others' own

    surrogate = Surrogate.load(options.runs)
    print(surrogate.report(), flush=True)
    curves: dict[str, list[Curve]] = {}
    for name in filter(installed, names):
        started = time.monotonic()
        curves[name] = [curve(PEERS[name], surrogate, seed, options.epochs_budget) for seed in range(options.seeds)]
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    rows = table(curves, random_ends(surrogate, options.seeds, options.epochs_budget), options.epochs_budget)
    print(shown(rows))
    if options.out:
        found = {
            "configurations": surrogate.configs,
            "seeds": options.seeds,
            "epochs": options.epochs_budget,
            "surrogate": surrogate.report().splitlines(),
            "table": [_as_json(row) for row in rows],
            "curves": {name: [one.points for one in each] for name, each in curves.items()},
        }
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _as_json(row: Row) -> dict[str, Any]:
    values = vars(row) | {"gain": vars(row.gain), "epochs": vars(row.epochs)}
    return values | {"quality": {str(epochs): vars(each) for epochs, each in row.quality.items()}}


if __name__ == "__main__":
    main()
