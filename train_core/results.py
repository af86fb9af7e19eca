"""What an epoch comes to. Imports no torch, so that a command line can read results in a moment."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """What one epoch came to. Accuracies are shares of 1; losses are mean cross-entropies in nats."""

    epoch: int  # 1 for the first
    train_loss: float  # over the epoch's augmented batches, while the weights changed
    train_accuracy: float  # the same
    val_loss: float
    val_accuracy: float
    lr: float  # of the last step
    seconds: float  # wall time, evaluation included
    images: int  # trained on
    accumulation_steps: int = 1  # that each batch went through the network in, for want of memory
