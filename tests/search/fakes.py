"""Stands in for the trainer and the terminal, so that search logic is tested without training anything."""

from collections.abc import Callable, Generator
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.spec import StudySpec
from search.study import NAMED_TASKS
from tests.train_core.tiny import NETWORK, tiny_recipe
from train_core.results import EpochResult
from train_core.specs import ResNetSpec, TrainSpec, num_params

TASK = NAMED_TASKS["digits"]
SPACE = {"stages": {"low": 2, "high": 3}, "fill": {"low": 0.1, "high": 1.0}}


def study_spec(**changes: Any) -> StudySpec:
    values = {"data": "digits", "budget": 20_000, "trials": 6, "epochs": 4, "space": SPACE}
    return StudySpec.model_validate(values | changes)


def epoch_result(epoch: int, accuracy: float, seconds: float = 0.01) -> EpochResult:
    return EpochResult(
        epoch=epoch,
        train_loss=1.0,
        train_accuracy=accuracy,
        val_loss=1.0,
        val_accuracy=accuracy,
        lr=0.1,
        seconds=seconds,
        images=100,
    )


def score_of(network: ResNetSpec, recipe: TrainSpec) -> float:
    """A made-up accuracy: larger and deeper networks and a middling rate are better."""
    return min(0.99, 0.5 + num_params(network) / 100_000 + 0.01 * sum(network.blocks) - abs(recipe.lr - 0.05))


class FakeTrainer:
    """Learning curves that rise to `score`, or that do as `misbehave` says at the start of an epoch."""

    def __init__(
        self,
        score: Callable[[ResNetSpec, TrainSpec], float] = score_of,
        misbehave: Callable[[int, int], None] = lambda run, epoch: None,
    ) -> None:
        self.score = score
        self.misbehave = misbehave
        self.runs: list[tuple[ResNetSpec, TrainSpec]] = []
        self.forgotten: list[int] = []
        self.closed_by: list[type[BaseException]] = []
        self.epochs = 0

    def forget(self, root: int) -> None:
        self.forgotten.append(root)

    def __call__(self, network: ResNetSpec, recipe: TrainSpec, root: int) -> Generator[EpochResult]:
        self.runs.append((network, recipe))
        run = len(self.runs)
        for epoch in range(1, recipe.epochs + 1):
            self.misbehave(run, epoch)
            self.epochs += 1
            try:
                yield epoch_result(epoch, max(0.0, self.score(network, recipe)) * epoch / recipe.epochs)
            except BaseException as error:
                self.closed_by.append(type(error))
                raise


class Recorder:
    """Notes every event."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.epochs: list[tuple[int, int]] = []
        self.ended: list[FrozenTrial] = []

    def trial_started(self, number: int, network: ResNetSpec, recipe: TrainSpec) -> None:
        self.started.append(number)

    def epoch_ended(self, number: int, result: EpochResult) -> None:
        self.epochs.append((number, result.epoch))

    def trial_ended(self, trial: FrozenTrial, ended: list[FrozenTrial]) -> None:
        self.ended.append(trial)


def add(
    study: optuna.Study, score: float, optimizer: str, state: TrialState = TrialState.COMPLETE, **recipe: Any
) -> None:
    """Add a finished trial to the study."""
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
