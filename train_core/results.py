"""The metrics of a training epoch. Imports no torch, so that read-only commands are fast."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """Metrics of one training epoch. Accuracies are shares of 1; losses are mean cross-entropies in nats."""

    epoch: int  # 1 for the first
    train_loss: float  # over the epoch's augmented batches, while the weights changed
    train_accuracy: float  # the same
    val_loss: float
    val_accuracy: float
    lr: float  # of the last step
    seconds: float  # wall time, evaluation included
    images: int  # trained on
    accumulation_steps: int = 1  # micro-batches per step; more than 1 after an out-of-memory retry
