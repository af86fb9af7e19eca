"""Trains one network, epoch by epoch, the same on CPU and GPU."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from train_core.augment import fixed_copy, normalise
from train_core.classes import balanced_weights, images_of_classes
from train_core.data import Split, TrainingData
from train_core.device import may_capture, wait_for, without_trials_of_algorithms
from train_core.errors import DivergedError
from train_core.models import ResNet
from train_core.optim import lr_at
from train_core.results import EpochResult, balanced_accuracy
from train_core.specs import Precision, TrainSpec
from train_core.state import TrainState, seed_epoch
from train_core.step import Stepper, autocast

EVAL_BATCH = 500  # images per batch, at most
EVALUATION = 1 / 3  # cost of evaluating an image relative to training on it: only a forward pass
LATENCY_RUNS, LATENCY_WARM_UP = 50, 10  # the warm-up runs are not counted


Between = Callable[[int, float], None]
"""Called between two steps with the number of the epoch (from 1) and the share of it that is done (0 to 1)."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Mean cross-entropy in nats, accuracy and balanced accuracy (shares of 1) over a split."""

    loss: float
    accuracy: float
    balanced: float

    @classmethod
    def of(cls, sums: Sequence[float], images_of_classes: Sequence[float]) -> Self:
        """Computed from the sums of `_evaluate` over a split with these numbers of images of each class."""
        loss, *correct = sums
        images = sum(images_of_classes)
        return cls(
            loss=loss / images,
            accuracy=sum(correct) / images,
            balanced=balanced_accuracy(correct, images_of_classes),
        )


def train(state: TrainState, data: TrainingData, between: Between = lambda epoch, share: None) -> Iterator[EpochResult]:
    """Train the remaining epochs of the state's recipe; yield after each one.

    `state` is up to date at every yield, so the caller can save it or stop. The host waits for the device once per
    epoch, and once early in the first. An incomplete last batch is dropped; each epoch has another order.

    `between` is called after each training step, so it must be fast. It does not wait for the device: on CUDA the steps
    are launched, not finished. The rest of an epoch's share is its evaluation. An exception from `between` ends the
    training in the middle of an epoch; `state` is then unusable.

    Raises:
        DivergedError: the loss is not finite; `state` is then unusable.

    """
    training = _Training.of(state, data)
    for epoch in range(len(state.history) + 1, state.recipe.epochs + 1):
        started = time.perf_counter()
        last_lr = training.train_epoch(epoch, between)
        result = training.measure(epoch, last_lr, started)
        state.add(result)
        yield result


@dataclass(frozen=True, kw_only=True)
class _Training:
    """The objects that are the same in all epochs of a run."""

    state: TrainState
    split: Split  # the training images with their copies
    part: Tensor | None  # indices of the images that are trained on; None: all of them
    val: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    val_images: Tensor  # number of images of each class
    stepper: Stepper
    ema_updater: "EmaUpdater"
    batch_size: int

    @classmethod
    def of(cls, state: TrainState, data: TrainingData) -> Self:
        recipe, classes = state.recipe, state.network.num_classes
        split = _copied(data.train, recipe) if recipe.copies else data.train
        part = split.subset(recipe.data_fraction, recipe.seed) if recipe.data_fraction < 1 else None
        weights = None
        if recipe.class_weights == "balanced":
            weights = balanced_weights(split.labels if part is None else split.labels[part], classes)
        batch_size = min(recipe.batch_size, len(split))
        return cls(
            state=state,
            split=split,
            part=part,
            val=data.val,
            mean=data.mean,
            std=data.std,
            val_images=images_of_classes(data.val.labels, classes),
            stepper=Stepper.of(state, split, data.mean, data.std, batch_size, class_weights=weights),
            ema_updater=EmaUpdater(state),
            batch_size=batch_size,
        )

    @property
    def steps_per_epoch(self) -> int:
        return len(self.split) // self.batch_size

    def train_epoch(self, epoch: int, between: Between) -> float:
        """Take the epoch's steps; returns the learning rate of the last step."""
        recipe, stepper, batch_size = self.state.recipe, self.stepper, self.batch_size
        steps_per_epoch = self.steps_per_epoch
        steps = steps_per_epoch * recipe.epochs
        step_share = batch_size / (steps_per_epoch * batch_size + EVALUATION * len(self.val))
        seed_epoch(recipe, epoch)
        self.state.model.train()
        order = self._order()
        images_a_pass = len(self.split) if self.part is None else len(self.part)
        passes = math.ceil(len(self.split) / images_a_pass)  # per epoch
        stepper.sums.zero_()
        for i in range(steps_per_epoch):
            step = (epoch - 1) * steps_per_epoch + i
            lr = lr_at(recipe, step, steps)
            # The first image of the batch decides to which pass it belongs.
            stepper.prepare(step, steps, (epoch - 1) * passes + i * batch_size // images_a_pass)
            stepper.step(order[i * batch_size : (i + 1) * batch_size], lr)
            self.ema_updater.follow(step)
            # Most divergence happens in the first steps: no need to wait for the end of the epoch.
            if step == steps_per_epoch // 8 and not math.isfinite(sum_so_far := stepper.sums[0].item()):
                raise DivergedError(f"the training loss was {sum_so_far} after {step + 1} steps of epoch 1")
            between(epoch, (i + 1) * step_share)
        return lr

    def _order(self) -> Tensor:
        """The indices of an epoch's images, in the order of its steps."""
        images = len(self.split)
        return _shuffled(images, self.split.images.device) if self.part is None else _passes(self.part, images)

    def measure(self, epoch: int, lr: float, started: float) -> EpochResult:
        """Evaluate after the epoch, which began at `started`; the only wait for the device in an epoch is here."""
        val_sums = _evaluate(self.state.eval_model, self.val, self.mean, self.std, self.state.recipe.precision)
        train_loss, train_correct, *val = torch.cat([self.stepper.sums, val_sums, self.val_images]).tolist()
        validation = Evaluation.of(val[: len(val_sums)], val[len(val_sums) :])
        for split, loss in (("training", train_loss), ("validation", val[0])):
            if not math.isfinite(loss):
                raise DivergedError(f"the {split} loss was {loss} in epoch {epoch}")
        images = self.steps_per_epoch * self.batch_size
        return EpochResult(
            epoch=epoch,
            train_loss=train_loss / images,
            train_accuracy=train_correct / images,
            val_loss=validation.loss,
            val_accuracy=validation.accuracy,
            val_balanced=validation.balanced,
            lr=lr,
            seconds=time.perf_counter() - started,
            images=images,
            accumulation_steps=self.state.accumulation_steps,
        )


def _copied(split: Split, recipe: TrainSpec) -> Split:
    """The split's images in all their copies; the same copies whenever the run continues."""
    seed_epoch(recipe, epoch=0)
    copies = [fixed_copy(split.images, each) for each in recipe.copies]
    return Split(torch.cat(copies), split.labels.repeat(len(copies)))


def _shuffled(images: int, device: torch.device) -> Tensor:
    return torch.randperm(images, device=device)


def _passes(part: Tensor, images: int) -> Tensor:
    """As many indices as there are images: whole passes over the part, each in another order; the last is cut off."""
    passes = [part[_shuffled(len(part), part.device)] for _ in range(math.ceil(images / len(part)))]
    return torch.cat(passes)[:images]


def evaluate(
    model: ResNet,
    split: Split,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    precision: Precision,
    *,
    mirrored: bool = False,
) -> Evaluation:
    """Loss and accuracies of the model on a split on the model's device.

    `mirrored`: the logits are the mean of those of each image and of its mirror image.
    """
    sums = _evaluate(model, split, mean, std, precision, mirrored=mirrored)
    return Evaluation.of(sums.tolist(), images_of_classes(split.labels, len(sums) - 1).tolist())


@torch.inference_mode()
@without_trials_of_algorithms()
def _evaluate(
    model: ResNet,
    split: Split,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    precision: Precision,
    *,
    mirrored: bool = False,
) -> Tensor:
    """[summed loss, correct answers for each class] over the split: float [1 + classes], on the device."""
    sums = torch.zeros(1 + model.classifier.out_features, device=split.images.device)
    for logits, labels in outputs(model, split, mean, std, precision, mirrored=mirrored):
        with autocast(logits.device, precision):
            loss = F.cross_entropy(logits, labels, reduction="sum")
        sums[0].add_(loss)
        sums[1:].index_add_(0, labels, (logits.argmax(dim=1) == labels).to(sums.dtype))
    return sums


def outputs(
    model: ResNet,
    split: Split,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    precision: Precision,
    *,
    mirrored: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The logits [B, classes] and the labels [B] of a split on the model's device, batch by batch.

    Iterate in `torch.inference_mode`. `mirrored`: the mean of the logits of each image and of its mirror image.
    """
    model.eval()
    batches = math.ceil(len(split) / EVAL_BATCH)
    for pixels, labels in zip(split.images.chunk(batches), split.labels.chunk(batches), strict=True):
        images = normalise(pixels, mean, std, torch.float32)
        with autocast(images.device, precision):
            logits = model(images)
            if mirrored:
                logits = (logits + model(images.flip(3))) / 2
        yield logits, labels


@torch.inference_mode()
def latency(model: ResNet, shape: tuple[int, int, int]) -> float:
    """Seconds from one image to its logits: the median of `LATENCY_RUNS`, in fp32, on the model's device.

    `shape` is the image's channels, height and width. On CUDA the pass is replayed from a graph: if its kernels were
    launched one by one, they would wait for Python.
    """
    model.eval()
    device = next(model.parameters()).device
    image = torch.zeros(1, *shape, device=device)
    classify: Callable[[], object] = partial(model, image)
    if may_capture(device):
        for _ in range(LATENCY_WARM_UP):
            classify()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            classify()
        classify = graph.replay
    seconds = []
    for _ in range(LATENCY_WARM_UP + LATENCY_RUNS):
        started = time.perf_counter()
        classify()
        wait_for(device)
        seconds.append(time.perf_counter() - started)
    return median(seconds[LATENCY_WARM_UP:])


class EmaUpdater:
    """Moves the averaged weights and norm statistics towards the model's, step by step, if the recipe averages."""

    def __init__(self, state: TrainState) -> None:
        self._decay = state.recipe.ema_decay
        models = () if state.ema_model is None else (state.ema_model, state.model)
        self._tensors = [[each for each in model.state_dict().values() if each.is_floating_point()] for model in models]

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Include the weights after step `step` (from 0) in the average.

        The decay starts small, so that the random initial weights are forgotten (as in TensorFlow's and timm's).
        """
        if self._tensors:
            averaged, current = self._tensors
            torch._foreach_lerp_(averaged, current, 1 - min(self._decay, (1 + step) / (10 + step)))
