"""Builders of studies, runs and trials, of which nothing was trained."""

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

import space
from search.data_shape import NAMED_SHAPES, DataShape, data_shape_of
from search.drawing import Setting
from search.errors import StudyFailedError
from search.heartbeat import Worker
from search.identity import claim, open_study
from search.promotions import Promotion
from search.run_folder import RunFacts, RunFolder, write_facts, write_text
from search.spec import PrunerSpec, StudySpec, load_study
from search.storage import Address
from search.study import run
from search.trials import TRAINING_S, TrialRecord, attributes, finished_trials
from space import RandomTrial
from tests.support.tiny import NETWORK, tiny_recipe
from tests.support.trainers import FakeTrainer, Recorder, epoch_result, in_turn
from train_core.data import default_cache, load_training
from train_core.specs import ResNetSpec, TrainSpec, num_madds, num_params

TASK = NAMED_SHAPES["digits"]
SMALL_SPACE: dict[str, Any] = {
    "stages": {"low": 2, "high": 3},
    "budget_fraction": {"low": 0.1, "high": 1.0},
    "blocks": {"low": 1, "high": 8},
    "growth": {"low": 1.0, "high": 2.5, "step": 0.25},
    "final_norm": [False, True],
    "k1": [1, 3, 5, 7],
    "k2": 3,
    "shortcut": "conv",
    "shortcut_kernel": 1,
    "stem_kernel": 3,
    "se_reduction": 0,
    "optimizer": ["sgd", "adam", "adamw"],
    "adamw_lr": 1e-3,
    "schedule": ["cosine", "one-cycle"],
}
"""Two thirds of the dimensions that vary by default: each one takes a trial some milliseconds."""
NEVER = PrunerSpec(startup_trials=1000)
"""Stops no trial."""
SOON = PrunerSpec(startup_trials=2, warmup=0, min_values=1, like=())
"""Stops the third trial after its first epoch, if it is worse than the first two."""


def ended(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count and have ended, as Optuna holds them."""
    return [trial.optuna for trial in finished_trials(study)]


def network_of(trial: FrozenTrial) -> ResNetSpec:
    """The network of a trial."""
    return TrialRecord(trial).network


def recipe_of(trial: FrozenTrial) -> TrainSpec:
    """The recipe of a trial."""
    return TrialRecord(trial).recipe


def study_spec(**changes: Any) -> StudySpec:
    """A study of digits in a small space: 6 trials of 4 epochs, at most 20,000 parameters."""
    values = {"data": "digits", "budget": 20_000, "trials": 6, "epochs": 4, "space": SMALL_SPACE}
    return StudySpec.model_validate(values | changes)


def run_study(folder: RunFolder, spec: StudySpec, trainer: FakeTrainer, **options: Any) -> optuna.Study:
    """Run the study's trials in the folder, as `search run` would; `options` are those of `search.study.run`."""
    study = open_study(folder, create=True)
    with Worker(folder, study) as worker:
        setting = Setting(study, spec, options.pop("task", TASK), "fp32", worker)
        run(setting, trainer, options.pop("events", Recorder()), **options)
    return study


def raising(error: BaseException, *, run: int, epoch: int = 1) -> Callable[[int, int], None]:
    """Misbehaviour for a `FakeTrainer`: raise the error before this epoch of this run."""

    def misbehave(this_run: int, this_epoch: int) -> None:
        if (this_run, this_epoch) == (run, epoch):
            raise error

    return misbehave


def make_run(
    root: Path,
    scores: Sequence[float | Exception] = (),
    *,
    spec: StudySpec | None = None,
    task: DataShape = TASK,
    trainer: FakeTrainer | None = None,
    storage: Address | None = None,
    **values: Any,
) -> RunFolder:
    """A run folder with its study file and its study.

    One trial is run for each of the `scores`, in their order, or the study's trials by `trainer`; with neither, the
    study is empty. The study is `spec`, or else of digits, with trials of 3 epochs that are never pruned; `values` are
    fields of it.
    """
    defaults = {"data": "digits", "budget": 20_000, "trials": len(scores) or 1, "epochs": 3, "pruner": NEVER}
    spec = spec or StudySpec(**{**defaults, **values})
    folder = RunFolder(root, storage)
    folder.create()
    write_text(folder.study_file, spec.as_toml())
    claim(open_study(folder, create=True), spec, task, folder)
    if scores:
        trainer = FakeTrainer(in_turn(scores))
    if trainer:
        with suppress(StudyFailedError):
            run_study(folder, spec, trainer, task=task)
    return folder


def promoted(
    folder: RunFolder, number: int, *, seed: int = 0, epochs: int = 5, asam: float = 0.0, **outcome: Any
) -> Promotion:
    """A finished full run of a trial, written where `search promote` writes it; `outcome` are fields of its result."""
    trial = open_study(folder).trials[number]
    changes = {"epochs": epochs, "seed": seed, "asam": asam}
    network, recipe = network_of(trial), recipe_of(trial).model_copy(update=changes)
    promotion = Promotion(
        **{
            "trial": number,
            "seed": seed,
            "network": network,
            "recipe": recipe,
            "parameters": num_params(network),
            "multiply_adds": num_madds(network, 32),
            "short_score": trial.value,
            "val_accuracy": 0.9,
            "test_accuracy": 0.8,
            "test_images": 360,
            "seconds": 12.3,
            "device": "a device",
            "history": tuple(epoch_result(epoch, 0.1 * epoch) for epoch in range(1, epochs + 1)),
        }
        | outcome
    )
    write_text(folder.promotion(number, epochs, seed).result, promotion.model_dump_json())
    return promotion


def add_trial(
    study: optuna.Study, score: float, optimizer: str, state: TrialState = TrialState.COMPLETE, **recipe: Any
) -> None:
    """Add a finished trial of the tiny network to the study; `recipe` are fields of its recipe."""
    study.add_trial(
        optuna.trial.create_trial(
            value=score if state != TrialState.FAIL else None,
            state=state,
            user_attrs={
                "network": NETWORK.model_dump_json(),
                "recipe": tiny_recipe(optimizer=optimizer, **recipe).model_dump_json(),
            },
        )
    )


def distributions_of(study: optuna.Study, spec: StudySpec) -> dict[str, BaseDistribution]:
    """The distributions of the parameters that the space draws; leaves a failed trial in the study."""
    trial = study.ask()
    space.suggest(trial, spec.space)
    study.tell(trial, state=TrialState.FAIL)
    return dict(study.trials[-1].distributions)


def finished_trial(
    generator: random.Random, distributions: dict[str, BaseDistribution], spec: StudySpec, task: DataShape
) -> FrozenTrial:
    """A complete trial, drawn at random from the study's space, with all that the search writes into a trial."""
    draw = space.suggest(RandomTrial(generator, spec.space), spec.space)
    network = space.network(draw, spec.space, spec.budget, task.task)
    recipe = space.recipe(draw, epochs=spec.epochs, seed=0, precision="fp32", data_fraction=1.0)
    score, now = generator.uniform(0.6, 0.9), datetime.now()
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=TrialState.COMPLETE,
        value=score,
        params={name: draw[name] for name in distributions},
        distributions=distributions,
        user_attrs={
            **attributes(network, recipe, task.size),
            "worker": "host-1234-abcdef",
            TRAINING_S: 12.345,
        },
        system_attrs={},
        intermediate_values={epoch: score * epoch / spec.epochs for epoch in range(1, spec.epochs + 1)},
        datetime_start=now,
        datetime_complete=now,
    )


def finished_run(name: str, trials: int, **flags: Any) -> RunFolder:
    """A run of the digits study with this many trials, without training; `flags` are over those of the study."""
    spec = load_study("digits", {"trials": max(trials, 1), **flags})
    data = load_training(spec.data, val_fraction=spec.val_fraction, seed=spec.seed, cache=default_cache())
    trainer = FakeTrainer() if trials else None
    folder = make_run(Path("runs") / name, spec=spec, task=data_shape_of(data), trainer=trainer)
    write_facts(folder, RunFacts())
    return folder
