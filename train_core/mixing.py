"""Mixed images: the images of a batch are mixed with each other, and their labels in the same shares.

As in `train_core/augment.py`, nothing here waits for the device or lets a shape depend on data, so a training step,
including its draws, can be captured in a CUDA graph.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from train_core.errors import RecipeError
from train_core.mix import MIXES, MixName
from train_core.specs import TrainSpec


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The correct labels for a batch: for each image, the labels of the K images that it is made of.

    `labels` is int64 [K, B]. `shares` is float [K], the share of each of the K images, with the sum 1; without it, K is
    1. `weights` is float [K, B], how much the loss for each label counts; without it, all count 1.
    """

    labels: Tensor
    shares: Tensor | None = None
    weights: Tensor | None = None

    @classmethod
    def of(cls, labels: Tensor) -> "Targets":
        """The targets of single images with these labels (int64 [B])."""
        return cls(labels=labels[None])

    def weighted(self, class_weights: Tensor | None) -> "Targets":
        """The same targets, with the loss for each label multiplied by the weight of its class: float [classes].

        Without class weights, they are unchanged.
        """
        return self if class_weights is None else replace(self, weights=class_weights[self.labels])

    def chunk(self, parts: int) -> Sequence["Targets"]:
        """The targets of the parts of a batch that `Tensor.chunk` makes of its images."""
        labels = self.labels.chunk(parts, dim=1)
        weights = [None] * len(labels) if self.weights is None else self.weights.chunk(parts, dim=1)
        return [replace(self, labels=ours, weights=theirs) for ours, theirs in zip(labels, weights, strict=True)]

    def cross_entropy(self, logits: Tensor, label_smoothing: float) -> Tensor:
        """The mean loss of logits [B, classes]: the cross-entropies for each of the K labels, weighted by shares.

        With `weights`, it is the mean over the images of weight times loss. It is not divided by the sum of the batch's
        weights, so the mean of the losses of a batch's parts is the loss of the whole batch. A weight applies to the
        whole loss of its label, including label smoothing. (`weight` of `F.cross_entropy` applies to each class of the
        smoothed target instead: with weights as different as the classes are, most of a frequent class's target would
        then lie on the rare classes.)
        """
        if self.weights is None:
            losses = [F.cross_entropy(logits, labels, label_smoothing=label_smoothing) for labels in self.labels]
        else:
            losses = [
                (F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none") * weights).mean()
                for labels, weights in zip(self.labels, self.weights, strict=True)
            ]
        return losses[0] if self.shares is None else (torch.stack(losses) * self.shares).sum()

    def correct(self, logits: Tensor) -> Tensor:
        """The number of right answers; for a mixed image, the share of the images for which the answer is right."""
        right = logits.argmax(dim=1) == self.labels
        return right.sum() if self.shares is None else (right * self.shares[:, None]).sum()


MixFunction = Callable[[Tensor, Tensor, float, Tensor], tuple[Tensor, Targets]]
"""Mixes normalised images [B, C, H, W] with labels (int64 [B]); shares are drawn from Beta(alpha, alpha).

The last argument is a scalar on the device: the probability that the batch is mixed. If it is not mixed, its images and
labels stay as they are, in the form of mixed ones.
"""


class Mixer:
    """Mixes training batches by a recipe; `size` is the height and width of the images."""

    def __init__(self, recipe: TrainSpec, size: tuple[int, int], device: torch.device) -> None:
        """Prepare to mix images on `device`.

        Raises:
            RecipeError: the images are too small to be cut.

        """
        check_size(recipe.mix, size)
        self._recipe = recipe
        self._function = MIXES[recipe.mix].build()
        self._probability = torch.full((), recipe.mix_share, device=device)  # read by the graph
        self._is_off = False

    def at(self, step: int, steps: int) -> None:
        """Prepare for step `step` (from 0) of a run of `steps` steps: decide whether images are still mixed."""
        is_off = steps - step <= self._recipe.mix_off * steps
        if is_off != self._is_off:
            self._probability.fill_(0.0 if is_off else self._recipe.mix_share)
            self._is_off = is_off

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Targets]:
        """Mix a batch of normalised images [B, C, H, W], channels last, with labels (int64 [B])."""
        return self._function(images, labels, self._recipe.alpha, self._probability)


def check_size(mix: MixName, size: tuple[int, int]) -> None:
    """Check that images of height and width `size` can be mixed in this way.

    Raises:
        RecipeError: they are too small to be cut.

    """
    if MIXES[mix].needs_area and min(size) < 2:
        raise RecipeError(
            f"mix = {mix!r} cuts images, and these have only {size[0]}x{size[1]} pixels: use mix = 'mixup' or 'none'"
        )


# The functions of `train_core.mix.MIXES`.


def no_mix(images: Tensor, labels: Tensor, alpha: float, probability: Tensor) -> tuple[Tensor, Targets]:  # noqa: ARG001  # a MixFunction
    """Return the batch unchanged, and draw nothing."""
    return images, Targets.of(labels)


def mixup(images: Tensor, labels: Tensor, alpha: float, probability: Tensor) -> tuple[Tensor, Targets]:
    """Add to each image another one of the batch, with one share for all (Zhang et al. 2018, arXiv:1710.09412)."""
    share = torch.where(_draw_mixed(probability), draw_shares(alpha, 1, images.device), 1.0)
    partner = draw_permutation(len(images), images.device)
    pixels = _channels_last(images)
    mixed = torch.lerp(pixels.index_select(0, partner), pixels, share)
    shares = torch.cat((share, 1 - share))
    return _channels_first(mixed), Targets(labels=torch.stack((labels, labels[partner])), shares=shares)


def cutmix(images: Tensor, labels: Tensor, alpha: float, probability: Tensor) -> tuple[Tensor, Targets]:
    """Fill a box in each image with that of another, the same box for all (Yun et al. 2019, arXiv:1905.04899).

    As in the paper's code, the box is cut off at the edges of the image, and the shares are those of the areas.
    """
    (channels, height, width), device = images.shape[1:], images.device
    share = torch.where(_draw_mixed(probability), draw_shares(alpha, 1, device), 1.0)
    rows, cols = (_draw_interval(side, share) for side in (height, width))  # bool [side]
    partner = draw_permutation(len(images), device)
    inside = rows[:, None] & cols.repeat_interleave(channels)  # [H, W C]: whole rows are faster than single pixels
    lines = _channels_last(images).flatten(2)
    mixed = torch.where(inside, lines.index_select(0, partner), lines).view(-1, height, width, channels)
    cut = rows.float().mean() * cols.float().mean()
    shares = torch.stack((1 - cut, cut))
    return _channels_first(mixed), Targets(labels=torch.stack((labels, labels[partner])), shares=shares)


def ricap(images: Tensor, labels: Tensor, alpha: float, probability: Tensor) -> tuple[Tensor, Targets]:
    """Put random crops of four images around a random point (Takahashi et al. 2018, arXiv:1811.09030).

    The point and the positions of the four crops are the same for the whole batch. The top left crop is from the image
    itself: a permutation of the whole batch would change nothing.
    """
    (height, width), device = images.shape[2:], images.device
    is_mixed = _draw_mixed(probability)
    points = draw_shares(alpha, 2, device)
    top, left = (  # height and width of the top left crop
        torch.where(is_mixed, (side * share).round(), float(side))
        for side, share in zip((height, width), points.unbind(), strict=True)
    )
    heights, widths = torch.stack((top, top, height - top, height - top)), torch.stack((left, width - left)).repeat(2)
    first_rows, first_cols = (_draw_up_to(side - sides) for side, sides in ((height, heights), (width, widths)))

    row, col = torch.arange(height, device=device), torch.arange(width, device=device)
    below, right = row >= top, col >= left
    patch = 2 * below.long()[:, None] + right.long()  # [H, W], 0 to 3
    source_row = (row - below * top.long())[:, None] + first_rows[patch]
    source_col = col - right * left.long() + first_cols[patch]
    itself = torch.arange(len(images), device=device)
    sources = torch.stack([itself, *(draw_permutation(len(images), device) for _ in range(3))])  # [4, B]

    pixel = (sources.t()[:, patch] * height + source_row) * width + source_col  # [B, H, W]
    mixed = _channels_last(images).reshape(-1, images.shape[1]).index_select(0, pixel.view(-1))
    shares = heights * widths / (height * width)
    return _channels_first(mixed.view(*pixel.shape, -1)), Targets(labels=labels[sources], shares=shares)


# Functions that draw.


def draw_shares(alpha: float, count: int, device: torch.device) -> Tensor:
    """Draw from Beta(alpha, alpha): float [count], 0 to 1.

    A quotient of gamma variables, in logarithms: for a small alpha, both are often too small for a float. Gamma(alpha)
    is Gamma(alpha + 1) U^(1 / alpha), with a uniform U.
    """
    if alpha == 1:
        return torch.rand(count, device=device)
    gammas = torch._standard_gamma(torch.full((2, count), alpha + 1, device=device))
    uniform = torch.rand(2, count, device=device).clamp(min=torch.finfo(torch.float32).tiny)
    first, second = (gammas.log() + uniform.log() / alpha).unbind()
    return (first - second).sigmoid()


def draw_permutation(count: int, device: torch.device) -> Tensor:
    """Draw a permutation of `count` images: int64 [count].

    By sorting, because `torch.randperm` does not promise that it can be captured.
    """
    return torch.rand(count, device=device).argsort()


def _draw_mixed(probability: Tensor) -> Tensor:
    """Draw whether the batch is mixed: a bool."""
    return torch.rand((), device=probability.device) < probability


def _draw_interval(side: int, kept: Tensor) -> Tensor:
    """Draw the pixels of a side covered by CutMix's box, if it leaves the share `kept` of the area: bool [side]."""
    half = ((side * (1 - kept).sqrt()).floor() / 2).floor()
    centre = _draw_up_to(torch.full_like(kept, side - 1))
    pixel = torch.arange(side, device=kept.device)
    return (pixel >= centre - half) & (pixel < centre + half)


def _draw_up_to(most: Tensor) -> Tensor:
    """Draw whole numbers, uniform on 0 ... `most` (whole numbers): int64 of its shape."""
    drawn = (torch.rand(most.shape, device=most.device) * (most + 1)).floor()
    return torch.minimum(drawn, most).long()  # a product just below a whole number may be rounded up to it


def _channels_last(images: Tensor) -> Tensor:
    return images.permute(0, 2, 3, 1)


def _channels_first(pixels: Tensor) -> Tensor:
    return pixels.permute(0, 3, 1, 2)
