"""What a finished network gets wrong, from its stored predictions: by class, by pair of classes, image by image.

Imports no torch, and scikit-learn and SciPy only when they are called. Accuracies, recalls and precisions are shares of
1. Their intervals are Wilson's 95 % intervals (SciPy): for the images of this split as a sample of all such images.
They do not cover what another seed of the training would change.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from search.errors import RunError
from search.formatting import Interval
from search.promotions import Promotion, best_run, finished, full_runs_of
from search.run_folder import RunFolder, SplitName
from train_core.predictions import Predictions
from train_core.printable import printable

BINS = 15  # of the calibration error, of equal width
ANSWERED = (1.0, 0.99, 0.95, 0.9, 0.8)  # shares of the images for which thresholds are chosen
TEMPERATURES = 0.05, 20.0  # the fitted one is between them

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """How well one class is distinguished from the others."""

    name: str
    images: int  # of this class
    said: int  # images that the network assigns to this class
    recall: Interval | None  # share of its images that are assigned to it; None: the split has no image of it
    precision: Interval | None  # share of the images assigned to it that are of it; None: none is assigned
    f1: float | None  # harmonic mean of both; None: the class has no image


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Images of one class that were classified as another."""

    true: str
    said: str
    images: int
    share: float  # of the images of the true class


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A misclassified image."""

    image: int  # index in the split, from 0
    file: str | None  # None: the images come from no files
    true: str
    said: str
    probability: float  # of the predicted class
    probability_of_true: float


@dataclass(frozen=True, kw_only=True)
class Bin:
    """The images whose highest probability is between two bounds."""

    low: float
    high: float
    images: int
    probability: float  # the mean of the highest probabilities
    accuracy: Interval


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far probabilities are from the frequency of right answers."""

    error: float  # expected calibration error: the mean |accuracy - probability| of the bins, weighted by images
    loss: float  # mean negative log-likelihood, in nats
    bins: tuple[Bin, ...]  # the bins that contain images


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """The cost of refusing to answer if the highest probability is below a threshold."""

    threshold: float
    answered: float  # the share of the images that get an answer
    accuracy: Interval | None  # of the answered images; None: none is answered
    wrong: int  # wrong answers that remain
    lost: float  # share of the images whose answer would have been right, but is refused


@dataclass(frozen=True, kw_only=True)
class Mistakes:
    """What one full run gets wrong on one split."""

    run: str
    trial: int
    seed: int
    epochs: int
    split: SplitName
    images: int
    accuracy: Interval
    baseline: float  # accuracy of a network that always predicts the largest class
    largest_class: str
    balanced_accuracy: float  # the mean recall of the classes that have images
    macro_f1: float  # the mean F1 of these classes
    classes: tuple[ClassScore, ...]  # in the order of the network's outputs
    matrix: tuple[tuple[int, ...], ...]  # images, by true class (rows) and predicted class (columns)
    confusions: tuple[Confusion, ...]  # the most frequent first
    mistakes: tuple[Mistake, ...]  # all of them, the most certain first
    calibration: Calibration  # of the probabilities as they are
    temperature: float | None  # logits divided by it are calibrated; fitted on validation; None: see `examine`
    calibrated: Calibration | None  # with this temperature
    thresholds: tuple[Threshold, ...]  # chosen on validation, for the probabilities as they are

    @property
    def worst_classes(self) -> list[ClassScore]:
        """The classes, those with the lowest recall first; those without images are last."""
        return sorted(self.classes, key=lambda each: each.recall.value if each.recall else math.inf)


def mistakes_of(folder: RunFolder, trial: int | None = None, *, test: bool = False) -> Mistakes:
    """What the best full run of a run gets wrong, or the longest one of `trial`; on validation or test images.

    No network is run: the full runs have stored their predictions.

    Raises:
        RunError: there is no such full run, its predictions were not stored, or they are damaged.

    """
    run = best_run(full_runs_of(folder, trial))
    assert run is not None  # otherwise `full_runs_of` raises
    if test:
        best = best_run(finished(folder))
        if best is None or best.trial != run.trial:
            finalist = "" if best is None else f", trial {best.trial}"
            raise RunError(f"--test is for the best full run alone{finalist}: leave out --trial {run.trial}")
    return examine(folder, run, "test" if test else "val")


def wrong_files(mistakes: Mistakes) -> list[str]:
    """A line for each misclassified file: file, true class and predicted class, separated by tabs.

    Raises:
        RunError: the images come from no files.

    """
    if any(each.file is None for each in mistakes.mistakes):
        raise RunError(
            f"the images of run {mistakes.run!r} come from no files: leave out --files; --json has their numbers"
        )
    return ["\t".join(map(_one_line, (each.file or "", each.true, each.said))) for each in mistakes.mistakes]


def _one_line(text: str) -> str:
    """The text without characters that would end a line or a column, or control a terminal."""
    return printable(text.replace("\\", "\\\\"))


def examine(folder: RunFolder, run: Promotion, split: SplitName) -> Mistakes:
    """What a full run gets wrong. The temperature and the thresholds are those of its validation images.

    Without stored validation predictions (as for a refit, which is trained on these images), both are missing. If all
    validation images are right, no temperature can be fitted.

    Raises:
        RunError: its predictions were not stored, or they are damaged.

    """
    predictions = stored(folder, run, split)
    if split == "val":
        return analyse(predictions, folder.name, run, split)
    fitted = examine(folder, run, "val") if path_of(folder, run, "val").exists() else None
    return analyse(predictions, folder.name, run, split, fitted)


def stored(folder: RunFolder, run: Promotion, split: SplitName) -> Predictions:
    """The stored predictions of a full run.

    Raises:
        RunError: there are none, or they are damaged.

    """
    path = path_of(folder, run, split)
    what, again = f"trial {run.trial} of run {folder.name!r}", f"`search promote {folder.name}`"
    if split == "test" and run.test_accuracy is None:
        why = (
            "its data have no test split" if run.tested else f"the test split is not read for it yet: {again} reads it"
        )
        raise RunError(f"no test predictions of {what}: {why}")
    # The test split is not read a second time, so its predictions cannot be made again.
    lost = "and the test images are read only once: leave out --test"
    try:
        return Predictions.read(path)
    except FileNotFoundError as error:
        way_out = lost if split == "test" else f"promote again, with the same {again}, and nothing is trained twice"
        raise RunError(f"no stored {_WORDS[split]} predictions of {what} (of an earlier version), {way_out}") from error
    except (ValueError, OSError) as error:
        way_out = lost if split == "test" else f"delete it, and {again} writes it again from the checkpoint"
        raise RunError(f"{path} cannot be read, {way_out}") from error


def path_of(folder: RunFolder, run: Promotion, split: SplitName) -> Path:
    """The path of the stored predictions of a full run."""
    return folder.promotion(run.trial, run.recipe.epochs, run.seed, refit=run.refit).predictions(split)


_WORDS: dict[SplitName, str] = {"val": "validation", "test": "test"}


def analyse(
    predictions: Predictions, name: str, run: Promotion, split: SplitName, fitted: Mistakes | None = None
) -> Mistakes:
    """What these predictions get wrong; temperature and thresholds are fitted, or taken from `fitted`.

    They are fitted on validation images only.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    labels, said, right = predictions.labels, predictions.said, predictions.is_right
    numbers = np.arange(len(predictions.classes))
    matrix = confusion_matrix(labels, said, labels=numbers)
    images_of, said_of = matrix.sum(axis=1), matrix.sum(axis=0)
    present = numbers[images_of > 0]
    _, _, f1, _ = precision_recall_fscore_support(labels, said, labels=numbers, zero_division=0)
    _, balanced, macro_f1, _ = precision_recall_fscore_support(
        labels, said, labels=present, average="macro", zero_division=0
    )
    logits = predictions.logits.astype(np.float64)
    probabilities = softmax(logits)
    highest = probabilities.max(axis=1)
    if split == "val":
        temperature, chosen = None if right.all() else fit_temperature(logits, labels), thresholds_for(highest)
    else:
        temperature = fitted.temperature if fitted else None
        chosen = [each.threshold for each in fitted.thresholds] if fitted else []
    names = predictions.classes
    return Mistakes(
        run=name,
        trial=run.trial,
        seed=run.seed,
        epochs=run.recipe.epochs,
        split=split,
        images=len(predictions),
        accuracy=wilson(int(right.sum()), len(predictions)),
        baseline=float(images_of.max() / len(predictions)),
        largest_class=names[int(images_of.argmax())],
        balanced_accuracy=float(balanced),
        macro_f1=float(macro_f1),
        classes=tuple(
            ClassScore(
                name=names[i],
                images=int(images_of[i]),
                said=int(said_of[i]),
                recall=wilson(int(matrix[i, i]), int(images_of[i])) if images_of[i] else None,
                precision=wilson(int(matrix[i, i]), int(said_of[i])) if said_of[i] else None,
                f1=float(f1[i]) if images_of[i] else None,
            )
            for i in numbers
        ),
        matrix=tuple(tuple(row) for row in matrix.tolist()),
        confusions=tuple(_confusions(matrix, names)),
        mistakes=tuple(_mistakes(predictions, probabilities)),
        calibration=calibration(logits, labels),
        temperature=temperature,
        calibrated=calibration(logits / temperature, labels) if temperature is not None else None,
        thresholds=tuple(_threshold(each, highest, right) for each in chosen),
    )


def wilson(right: int, images: int) -> Interval:
    """A share and Wilson's 95 % interval for it."""
    from scipy.stats import binomtest

    bounds = binomtest(right, images).proportion_ci(confidence_level=0.95, method="wilson")
    return Interval(right / images, float(bounds.low), float(bounds.high))


def softmax(logits: Floats) -> Floats:
    """Probabilities [N, K] of logits [N, K]."""
    from scipy.special import softmax as of

    probabilities: Floats = of(logits, axis=1)
    return probabilities


def fit_temperature(logits: Floats, labels: NDArray[np.int64]) -> float:
    """The number by which to divide logits [N, K] so that their loss is smallest (Guo et al. 2017, arXiv:1706.04599).

    It is within `TEMPERATURES`.
    """
    from scipy.optimize import minimize_scalar

    low, high = map(math.log, TEMPERATURES)
    found = minimize_scalar(lambda log: _loss(logits / math.exp(log), labels), bounds=(low, high), method="bounded")
    return math.exp(found.x)


def _loss(logits: Floats, labels: NDArray[np.int64]) -> float:
    """Mean negative log-likelihood of the labels [N], in nats."""
    from scipy.special import log_softmax

    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def calibration(logits: Floats, labels: NDArray[np.int64]) -> Calibration:
    """How far the highest probabilities of logits [N, K] are from the share of right answers, in `BINS` equal bins."""
    from sklearn.calibration import calibration_curve

    probabilities = softmax(logits)
    highest, right = probabilities.max(axis=1), logits.argmax(axis=1) == labels
    accuracies, means = calibration_curve(right, highest, n_bins=BINS, strategy="uniform", pos_label=1)
    edges = np.linspace(0, 1, BINS + 1)
    numbers = np.searchsorted(edges[1:-1], highest)  # as scikit-learn does
    images = np.bincount(numbers, minlength=BINS)
    filled = np.flatnonzero(images)
    return Calibration(
        error=float((images[filled] * np.abs(accuracies - means)).sum() / len(labels)),
        loss=_loss(logits, labels),
        bins=tuple(
            Bin(
                low=float(edges[i]),
                high=float(edges[i + 1]),
                images=int(images[i]),
                probability=float(mean),
                accuracy=wilson(round(accuracy * images[i]), int(images[i])),
            )
            for i, accuracy, mean in zip(filled, accuracies, means, strict=True)
        ),
    )


def thresholds_for(highest: Floats) -> list[float]:
    """Thresholds (four decimals) that the shares `ANSWERED` of the highest probabilities [N] reach.

    A threshold that answers as many images as the one before is left out.
    """
    descending = np.sort(highest)[::-1]
    chosen = [0.0]
    for share in ANSWERED[1:]:
        # Rounded down, so the printed threshold answers as many images.
        threshold = math.floor(descending[math.ceil(share * len(highest)) - 1] * 1e4) / 1e4
        if (highest >= threshold).sum() < (highest >= chosen[-1]).sum():
            chosen.append(threshold)
    return chosen


def _threshold(threshold: float, highest: Floats, right: NDArray[np.bool_]) -> Threshold:
    answered = highest >= threshold
    number, of_them = int(answered.sum()), int(right[answered].sum())
    return Threshold(
        threshold=threshold,
        answered=number / len(right),
        accuracy=wilson(of_them, number) if number else None,
        wrong=number - of_them,
        lost=int(right[~answered].sum()) / len(right),
    )


def _confusions(matrix: NDArray[np.int64], names: Sequence[str]) -> Iterator[Confusion]:
    images_of = matrix.sum(axis=1)
    off = matrix * ~np.eye(len(matrix), dtype=bool)
    order = np.argsort(-off, axis=None, kind="stable")[: int((off > 0).sum())]
    for true, said in zip(*np.unravel_index(order, matrix.shape), strict=True):
        number = int(matrix[true, said])
        yield Confusion(true=names[true], said=names[said], images=number, share=number / int(images_of[true]))


def _mistakes(predictions: Predictions, probabilities: Floats) -> Iterator[Mistake]:
    wrong = np.flatnonzero(~predictions.is_right)
    certainties = probabilities[wrong, predictions.said[wrong]]
    for i in wrong[np.argsort(-certainties, kind="stable")].tolist():
        true, said = int(predictions.labels[i]), int(predictions.said[i])
        yield Mistake(
            image=i,
            file=predictions.files[i] if predictions.files else None,
            true=predictions.classes[true],
            said=predictions.classes[said],
            probability=float(probabilities[i, said]),
            probability_of_true=float(probabilities[i, true]),
        )


def neighbours(matrix: Sequence[Sequence[int]]) -> list[int]:
    """An order of the classes that puts classes near each other if they are often confused."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    counts = np.array(matrix, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    distances = 1 - np.minimum(shares + shares.T, 1)
    np.fill_diagonal(distances, 0)
    tree = linkage(squareform(distances, checks=False), method="average", optimal_ordering=len(counts) <= 200)
    order: list[int] = leaves_list(tree).tolist()
    return order


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two networks on the same images: McNemar's exact test."""

    images: int
    only_first: int  # images that only the first gets right
    only_second: int
    p: float  # probability of counts at least this uneven, if both networks are equally good


def paired(one: Predictions, other: Predictions) -> Paired | None:
    """Compare two networks image by image; None if their images are not the same."""
    if one.digest != other.digest or len(one) != len(other):
        return None
    only_first = int((one.is_right & ~other.is_right).sum())
    only_second = int((other.is_right & ~one.is_right).sum())
    return Paired(images=len(one), only_first=only_first, only_second=only_second, p=mcnemar(only_first, only_second))


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p of McNemar's exact test: images that only one network gets right are like coin tosses."""
    from scipy.stats import binomtest

    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
