"""The description of a model inside its file. Imports no torch."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator

from train_core.reading import FitName, Preparation
from train_core.specs import Frozen, PositiveInt, ResNetSpec

if TYPE_CHECKING:
    from train_core.data import TrainingData


class Description(Frozen):
    """The description of a model inside its file. Each field is an entry of the file's metadata, as JSON."""

    version: Literal[1] = 1
    origin: str
    network: ResNetSpec
    classes: tuple[str, ...]
    height: PositiveInt
    width: PositiveInt
    fit: FitName = "stretch"
    background: str = "white"
    bits: int = 16
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, network: ResNetSpec, data: "TrainingData", origin: str) -> Self:
        """The description of a network that was trained on this data."""
        # The name of a folder may not be valid text.
        classes = tuple(name.encode(errors="replace").decode() for name in data.classes)
        height, width = data.size
        return cls(
            origin=origin,
            network=network,
            classes=classes,
            height=height,
            width=width,
            fit=data.preparation.fit,
            background=data.preparation.background,
            bits=data.preparation.bits,
            mean=data.mean,
            std=data.std,
        )

    @model_validator(mode="after")
    def _fits_the_network(self) -> Self:
        channels = self.network.in_channels
        if (len(self.classes), len(self.mean), len(self.std)) != (self.network.num_classes, channels, channels):
            raise ValueError("classes, mean and std must be those of the network's outputs and inputs")
        return self

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for RGB."""
        return self.network.in_channels

    @property
    def preparation(self) -> Preparation:
        """What is done to an image file before the model classifies it."""
        return Preparation(
            width=self.width, height=self.height, fit=self.fit, background=self.background, bits=self.bits
        )

    def metadata(self) -> dict[str, str]:
        """The fields as entries of a file's metadata."""
        return {name: json.dumps(value) for name, value in self.model_dump(mode="json").items()}

    @classmethod
    def from_metadata(cls, entries: Mapping[str, str]) -> Self:
        """The description that `metadata` wrote; other entries are ignored."""
        return cls.model_validate({name: json.loads(entries[name]) for name in cls.model_fields})
