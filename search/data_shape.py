"""What data asks of a network: channels, classes and size."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import space as search_space
from train_core.datasets import DATASETS
from train_core.reading import Reading
from train_core.specs import ResNetSpec

if TYPE_CHECKING:  # it loads torch, which read-only commands do not need
    from train_core.data import TrainingData


@dataclass(frozen=True, kw_only=True)
class DataShape:
    """What the data asks of a network, and which data it is."""

    fingerprint: str
    in_channels: int
    num_classes: int
    size: tuple[int, int]  # height and width of the images, in pixels

    @property
    def task(self) -> search_space.Task:
        """What the space asks of the data."""
        return search_space.Task(self.in_channels, self.num_classes, self.size)

    def __str__(self) -> str:
        """In a few words, width x height: `32x32 RGB, 10 classes`."""
        colours = "RGB" if self.in_channels == 3 else "grey"
        return f"{self.size[1]}x{self.size[0]} {colours}, {self.num_classes} classes"


def data_shape_of(data: "TrainingData") -> DataShape:
    """What these images ask of a network."""
    return DataShape(
        fingerprint=data.fingerprint, in_channels=data.in_channels, num_classes=data.num_classes, size=data.size
    )


NAMED_SHAPES = {
    str(name): DataShape(fingerprint="", in_channels=each.in_channels, num_classes=each.num_classes, size=each.size)
    for name, each in DATASETS.items()
}
"""What the named data sets ask, in their own size."""


def shape_of_named(data: str, reading: Reading) -> DataShape | None:
    """What a named data set asks in the size that `reading` gives it, without loading it; none for other data."""
    shape = NAMED_SHAPES.get(data)
    if shape is None or reading.size is None:
        return shape
    width, height = reading.size
    return replace(shape, size=(height, width))


def with_data_shape(network: ResNetSpec, shape: DataShape) -> ResNetSpec:
    """The network with the data's channels and classes."""
    return network.model_copy(update={"in_channels": shape.in_channels, "num_classes": shape.num_classes})
