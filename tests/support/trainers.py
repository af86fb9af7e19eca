"""Stands in for the trainer and for those who listen, so that search logic is tested without training anything."""

import time
from collections.abc import Callable, Generator, Iterable

from search.trials import TrialRecord
from train_core.results import EpochResult
from train_core.specs import ResNetSpec, TrainSpec, num_params

Score = Callable[[ResNetSpec, TrainSpec], float | Exception]


def epoch_result(epoch: int, accuracy: float, *, seconds: float = 0.01, balanced: float | None = None) -> EpochResult:
    """An epoch of 100 images, with this accuracy on training and validation images."""
    return EpochResult(
        epoch=epoch,
        train_loss=1.0,
        train_accuracy=accuracy,
        val_loss=1.0,
        val_accuracy=accuracy,
        lr=0.1,
        seconds=seconds,
        images=100,
        val_balanced=balanced,
    )


def score_of(network: ResNetSpec, recipe: TrainSpec) -> float:
    """A made-up accuracy: larger and deeper networks and a middling rate are better."""
    return min(0.99, 0.5 + num_params(network) / 100_000 + 0.01 * sum(network.blocks) - abs(recipe.lr - 0.05))


def in_turn(scores: Iterable[float | Exception]) -> Score:
    """The first run gets the first score, the second run the second, and so on."""
    left = iter(scores)
    return lambda network, recipe: next(left)


class FakeTrainer:
    """Learning curves that rise in equal steps to a score; nothing is trained.

    A run whose `score` is an exception raises it after its first epoch. `misbehave` is called before each epoch with
    the numbers of the run and of the epoch, both from 1. An epoch takes `epoch_s` seconds.
    """

    def __init__(
        self,
        score: Score = score_of,
        misbehave: Callable[[int, int], None] = lambda run, epoch: None,
        epoch_s: float = 0.0,
        balanced: Callable[[float], float | None] = lambda accuracy: None,
    ) -> None:
        self.score = score
        self.misbehave = misbehave
        self.epoch_s = epoch_s
        self.balanced = balanced  # the balanced accuracy beside each accuracy
        self.runs: list[tuple[ResNetSpec, TrainSpec]] = []
        self.forgotten: list[int] = []
        self.closed_by: list[type[BaseException]] = []
        self.epochs = 0

    def forget(self, first_attempt: int) -> None:
        """Note that the trial has its verdict."""
        self.forgotten.append(first_attempt)

    def __call__(self, network: ResNetSpec, recipe: TrainSpec, first_attempt: int) -> Generator[EpochResult]:
        """The curve, an epoch a step."""
        self.runs.append((network, recipe))
        run, score = len(self.runs), self.score(network, recipe)
        for epoch in range(1, recipe.epochs + 1):
            self.misbehave(run, epoch)
            if self.epoch_s:
                time.sleep(self.epoch_s)
            self.epochs += 1
            accuracy = 0.9 if isinstance(score, Exception) else max(0.0, score) * epoch / recipe.epochs
            try:
                balanced = self.balanced(accuracy)
                yield epoch_result(epoch, accuracy, seconds=self.epoch_s or 0.01, balanced=balanced)
            except BaseException as error:
                self.closed_by.append(type(error))
                raise
            if isinstance(score, Exception):
                raise score


class Silent:
    """Listens to a study, and does nothing."""

    def trial_started(self, number: int, network: ResNetSpec, recipe: TrainSpec) -> None:
        """Do nothing."""

    def epoch_ended(self, number: int, result: EpochResult) -> None:
        """Do nothing."""

    def trial_ended(self, trial: TrialRecord, finished: list[TrialRecord]) -> None:
        """Do nothing."""


class Recorder:
    """Listens to a study, and notes every event."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.epochs: list[tuple[int, int]] = []
        self.ended: list[TrialRecord] = []

    def trial_started(self, number: int, network: ResNetSpec, recipe: TrainSpec) -> None:
        """Note the trial's number."""
        self.started.append(number)

    def epoch_ended(self, number: int, result: EpochResult) -> None:
        """Note the numbers of trial and epoch."""
        self.epochs.append((number, result.epoch))

    def trial_ended(self, trial: TrialRecord, finished: list[TrialRecord]) -> None:
        """Note the trial."""
        self.ended.append(trial)
