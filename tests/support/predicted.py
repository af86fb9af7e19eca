"""Predictions that no network has made, stored where full runs store theirs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.promotions import Promotion
from search.run_folder import RunFolder, SplitName
from tests.support.runs import promoted
from train_core.predictions import PICTURED, Predictions, SeenBatch


def predictions(
    labels: Sequence[int] | NDArray[np.int64],
    logits: Any,
    *,
    classes: Sequence[str] = (),
    files: Sequence[str] = (),
    digest: str = "the images",
    side: int = 8,
) -> Predictions:
    """Predictions with these labels [N] and logits [N, K]; the classes are called 0, 1, ... unless they are given."""
    logits, labels = np.asarray(logits, dtype=np.float32), np.asarray(labels, dtype=np.int64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wrong = np.flatnonzero(logits.argmax(axis=1) != labels)
    pictured = wrong[np.argsort(-probabilities.max(axis=1)[wrong], kind="stable")][:PICTURED]
    generator = np.random.default_rng(0)
    return Predictions(
        classes=tuple(classes) or tuple(map(str, range(logits.shape[1]))),
        digest=digest,
        labels=labels,
        logits=logits,
        files=tuple(files),
        pictured=pictured,
        pictures=generator.integers(256, size=(len(pictured), side, side, 3), dtype=np.uint8),
    )


def drawn(images: int, number: int, *, seed: int = 0, margin: float = 3.0, **options: Any) -> Predictions:
    """Random predictions: right where `margin` is larger than the noise; classes of one group of five are similar."""
    generator = np.random.default_rng(seed)
    labels = np.arange(images) % number
    logits = generator.normal(size=(images, number))
    logits[np.arange(images), labels] += margin
    scattered = np.random.default_rng(1).permutation(number)  # similar classes are not neighbours in their order
    logits += 1.5 * (scattered[labels][:, None] // 5 == scattered[None] // 5)
    return predictions(labels, logits, **options)


def store(folder: RunFolder, run: Promotion, what: Predictions, split: SplitName = "val") -> None:
    """Store predictions of a full run."""
    path = folder.promotion(run.trial, run.recipe.epochs, run.seed, refit=run.refit)
    what.write(path.predictions(split))


def store_batch(folder: RunFolder, run: Promotion, classes: Sequence[str], side: int = 8) -> None:
    """Store a training batch of random pixels, each picture made of two."""
    generator = np.random.default_rng(0)
    batch = SeenBatch(
        classes=tuple(classes),
        pictures=generator.integers(256, size=(16, side, side, 3), dtype=np.uint8),
        labels=np.stack([np.arange(16) % len(classes), (np.arange(16) + 1) % len(classes)]),
        shares=np.array([0.7, 0.3], dtype=np.float32),
    )
    batch.write(folder.promotion(run.trial, run.recipe.epochs, run.seed).batch)


def promoted_with(
    folder: RunFolder, number: int, what: Predictions, test: Predictions | None = None, **outcome: Any
) -> Promotion:
    """A finished full run of a trial with these predictions; its accuracies are theirs."""
    accuracies = {"val_accuracy": what.accuracy, "test_accuracy": test.accuracy if test else None}
    run = promoted(folder, number, **accuracies | outcome)
    store(folder, run, what)
    if test is not None:
        store(folder, run, test, "test")
    return run
