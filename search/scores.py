"""The scores that compare networks: accuracy, or balanced accuracy if classes have different sizes."""

from collections.abc import Sequence

from train_core.results import Score

UNEQUAL = 3  # balanced accuracy is used if the largest class has this many times the training images of the smallest


def are_unequal(training_images: Sequence[int]) -> bool:
    """Whether classes with these numbers of training images are so unequal that accuracy hides the small ones."""
    return max(training_images) >= UNEQUAL * min(training_images)


def chosen(training_images: Sequence[int]) -> Score:
    """The score for classes with these numbers of training images."""
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
    """The score of always predicting the largest class, given the images of each class; None: these are not known."""
    if not images_of_classes:
        return None
    if score == "balanced":  # one class is always right, the others never
        return 1 / sum(count > 0 for count in images_of_classes)
    return max(images_of_classes) / sum(images_of_classes)


def named(score: Score, noun: str = "accuracy") -> str:
    """For example `balanced accuracy`; for accuracy, only the noun."""
    return f"balanced {noun}" if score == "balanced" else noun


def scored(figure: str, score: Score) -> str:
    """For example `94.24 % balanced accuracy`, for a sentence; for accuracy, only the figure."""
    return f"{figure} balanced accuracy" if score == "balanced" else figure


def marked(figure: str, score: Score | None) -> str:
    """For example `94.24 % balanced`, for narrow places; for accuracy, only the figure."""
    return f"{figure} balanced" if score == "balanced" else figure
