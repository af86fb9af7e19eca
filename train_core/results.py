"""The metrics of a training epoch. Imports no torch, so that read-only commands are fast."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

Score = Literal["accuracy", "balanced"]
"""What networks are compared by: accuracy, or balanced accuracy, the mean recall of the classes."""


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """Metrics of one training epoch. Accuracies are shares of 1; losses are mean cross-entropies in nats."""

    epoch: int  # 1 for the first
    train_loss: float  # over the epoch's augmented batches, during its weight updates; with the recipe's class weights
    train_accuracy: float  # over the same batches
    val_loss: float
    val_accuracy: float
    lr: float  # of the last step
    seconds: float  # wall time, including evaluation
    images: int  # trained on
    accumulation_steps: int = 1  # micro-batches per step; more than 1 after an out-of-memory retry
    val_balanced: float | None = None  # balanced accuracy; None: written by a version that did not measure it

    def validation(self, score: Score) -> float:
        """The validation score of the epoch, by accuracy or by balanced accuracy; a share of 1."""
        if score == "accuracy":
            return self.val_accuracy
        assert self.val_balanced is not None  # only versions that measure it compare by it
        return self.val_balanced


def balanced_accuracy(correct: Sequence[float], images: Sequence[float]) -> float:
    """The mean of the recalls of the classes that have images; a share of 1.

    `correct` and `images` are the numbers of right answers and of images for each class. Equal to
    `sklearn.metrics.balanced_accuracy_score`.
    """
    return fmean(right / count for right, count in zip(correct, images, strict=True) if count)
