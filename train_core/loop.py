"""Trains one network, epoch by epoch, the same on CPU and GPU."""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train_core.augment import Augmenter, normalise
from train_core.data import Split, TrainingData
from train_core.errors import DivergedError
from train_core.models import ResNet
from train_core.optim import lr_at, make_optimizer, set_lr
from train_core.specs import Precision, ResNetSpec, TrainSpec

EVAL_BATCH = 500


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


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Mean cross-entropy in nats and accuracy (share of 1) over a split."""

    loss: float
    accuracy: float


@dataclass(kw_only=True)
class TrainState:
    """All that a run carries from one epoch to the next. Resuming needs this and nothing else.

    It holds no random state: every epoch draws from a seed of its own (`_seed`).
    """

    network: ResNetSpec
    recipe: TrainSpec
    model: ResNet
    optimizer: torch.optim.Optimizer
    averaged: ResNet | None  # exponential moving average of `model`
    history: list[EpochResult] = field(default_factory=list)

    @classmethod
    def new(cls, network: ResNetSpec, recipe: TrainSpec, device: torch.device) -> "TrainState":
        """A network with fresh weights, drawn from the recipe's seed."""
        _seed(recipe, epoch=0)
        # Drawn on the CPU, so that every device starts from the same weights.
        model = ResNet(network).to(memory_format=torch.channels_last).to(device)
        averaged = copy.deepcopy(model).requires_grad_(False) if recipe.ema_decay else None
        return cls(
            network=network,
            recipe=recipe,
            model=model,
            optimizer=make_optimizer(model, recipe),
            averaged=averaged,
        )

    @property
    def scored(self) -> ResNet:
        """The weights that are scored: the averaged ones where the recipe averages."""
        return self.averaged or self.model


def train(state: TrainState, data: TrainingData) -> Iterator[EpochResult]:
    """Train the epochs that are left of the state's recipe; yield after each one.

    `state` is up to date at every yield, so that the caller can save it or stop. The host waits for the device
    once an epoch. An incomplete last batch is dropped; the next epoch's order is another.

    Raises:
        DivergedError: the loss is not finite; `state` then is of no use.

    """
    recipe, train_split = state.recipe, data.train
    device = train_split.images.device
    augmenter = Augmenter(train_split.images, recipe.augment, data.mean, data.std)
    batch_size = min(recipe.batch_size, len(train_split))
    steps_per_epoch = len(train_split) // batch_size
    steps = steps_per_epoch * recipe.epochs

    for epoch in range(len(state.history) + 1, recipe.epochs + 1):
        started = time.perf_counter()
        _seed(recipe, epoch)
        state.model.train()
        order = torch.randperm(len(train_split), device=device)
        train_sums = torch.zeros(2, device=device)  # loss, correct
        for i in range(steps_per_epoch):
            step = (epoch - 1) * steps_per_epoch + i
            lr = lr_at(recipe, step, steps)
            set_lr(state.optimizer, lr)
            chosen = order[i * batch_size : (i + 1) * batch_size]
            train_sums += train_step(state, augmenter.batch(chosen), train_split.labels[chosen])
            if state.averaged is not None:
                _average(state.averaged, state.model, recipe.ema_decay, step)
        val_sums = _evaluate(state.scored, data.val, data.mean, data.std, recipe.precision)

        # The epoch's one wait for the device.
        train_loss, train_correct, val_loss, val_correct = torch.cat([train_sums, val_sums]).tolist()
        images = steps_per_epoch * batch_size
        result = EpochResult(
            epoch=epoch,
            train_loss=train_loss / images,
            train_accuracy=train_correct / images,
            val_loss=val_loss / len(data.val),
            val_accuracy=val_correct / len(data.val),
            lr=lr,
            seconds=time.perf_counter() - started,
            images=images,
        )
        for split, loss in (("training", train_loss), ("validation", val_loss)):
            if not math.isfinite(loss):
                raise DivergedError(f"the {split} loss was {loss} in epoch {epoch}")
        state.history.append(result)
        yield result


def train_step(state: TrainState, images: Tensor, labels: Tensor) -> Tensor:
    """One optimizer step on normalised images [B, C, H, W]; returns [summed loss, correct], on the device."""
    recipe = state.recipe
    with _autocast(images.device, recipe.precision):
        logits = state.model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch ships this one without types
    if recipe.clip_norm:
        nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip_norm)
    state.optimizer.step()
    correct = (logits.detach().argmax(dim=1) == labels).sum()
    return torch.stack([loss.detach() * len(labels), correct])


def evaluate(
    model: ResNet, split: Split, mean: tuple[float, ...], std: tuple[float, ...], precision: Precision
) -> Evaluation:
    """Loss and accuracy of the model on a split that lies on the model's device."""
    loss, correct = _evaluate(model, split, mean, std, precision).tolist()
    return Evaluation(loss=loss / len(split), accuracy=correct / len(split))


@torch.inference_mode()
def _evaluate(
    model: ResNet, split: Split, mean: tuple[float, ...], std: tuple[float, ...], precision: Precision
) -> Tensor:
    """[summed loss, correct] over the split, on the device."""
    model.eval()
    sums = torch.zeros(2, device=split.images.device)
    for start in range(0, len(split), EVAL_BATCH):
        images = normalise(split.images[start : start + EVAL_BATCH], mean, std, torch.float32)
        labels = split.labels[start : start + EVAL_BATCH]
        with _autocast(images.device, precision):
            logits = model(images)
            loss = F.cross_entropy(logits, labels, reduction="sum")
        sums += torch.stack([loss, (logits.argmax(dim=1) == labels).sum()])
    return sums


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights and norm statistics towards the model's.

    The decay starts small, so that the random first weights are forgotten (as in TensorFlow's and timm's).
    """
    decay = min(decay, (1 + step) / (10 + step))
    ours = [tensor for tensor in averaged.state_dict().values() if tensor.is_floating_point()]
    theirs = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    torch._foreach_lerp_(ours, theirs, 1 - decay)


def _autocast(device: torch.device, precision: Precision) -> torch.autocast:
    # No cache of cast weights: each is used once a step, and a cache would not survive a captured step.
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)


def _seed(recipe: TrainSpec, epoch: int) -> None:
    """Seed torch on every device for one epoch (0: the initialisation).

    An epoch that starts from its own seed comes out the same in a resumed run and in an uninterrupted one.
    """
    torch.manual_seed(recipe.seed * 1_000_003 + epoch)
