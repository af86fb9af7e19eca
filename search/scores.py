"""What the networks of a study are compared by: accuracy, or balanced accuracy where classes are not equal."""

from collections.abc import Sequence

from train_core.results import Score

UNEQUAL = 3  # times as many training images in the largest class as in the smallest: balanced accuracy compares


def are_unequal(training_images: Sequence[int]) -> bool:
    """Whether the classes, with so many training images each, are so unequal that accuracy hides the small ones."""
    return max(training_images) >= UNEQUAL * min(training_images)


def chosen(training_images: Sequence[int]) -> Score:
    """The score for classes with so many training images each."""
    return "balanced" if are_unequal(training_images) else "accuracy"


def reason(training_images: Sequence[int], classes: Sequence[str]) -> str:
    """Why this score was chosen: `because class cat has 220 training images and ship 8`; empty for accuracy."""
    if not are_unequal(training_images):
        return ""
    by_class = list(zip(training_images, classes, strict=True))
    (most, largest), (least, smallest) = max(by_class, key=_images), min(by_class, key=_images)
    return f"because class {largest} has {most:,} training images and {smallest} {least:,}"


def _images(of_class: tuple[int, str]) -> int:
    return of_class[0]


def always_largest(images_of_classes: Sequence[int], score: Score) -> float | None:
    """The score of always answering the largest of the classes with so many images each; none: these are not known."""
    if not images_of_classes:
        return None
    if score == "balanced":  # one class is always right, the others never
        return 1 / sum(count > 0 for count in images_of_classes)
    return max(images_of_classes) / sum(images_of_classes)


def named(score: Score, noun: str = "accuracy") -> str:
    """As in `balanced accuracy`; by accuracy, the noun alone."""
    return f"balanced {noun}" if score == "balanced" else noun


def scored(figure: str, score: Score) -> str:
    """As in `94.24 % balanced accuracy`, in a sentence; of an accuracy, the figure alone."""
    return f"{figure} balanced accuracy" if score == "balanced" else figure


def marked(figure: str, score: Score | None) -> str:
    """As in `94.24 % balanced`, where there is little room; of an accuracy, the figure alone."""
    return f"{figure} balanced" if score == "balanced" else figure
