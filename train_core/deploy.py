"""A trained network as it is deployed: it takes plain pixels and normalises them itself.

`train_core.formats` writes it to files and reads it back.
"""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from train_core.data import TrainingData
from train_core.models import ResNet
from train_core.reading import FitName, Preparation
from train_core.specs import Frozen, PositiveInt, ResNetSpec

Network = Callable[[Tensor], Tensor]
"""From images float32 [N, C, H, W], 0 to 255, to logits float32 [N, classes]."""


class Description(Frozen):
    """What a model file says of itself. Each field is an entry of the file's metadata, as JSON."""

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
    def of(cls, network: ResNetSpec, data: TrainingData, origin: str) -> Self:
        """What is to be said of a network that was trained on this data."""
        # The name of a folder may be no text.
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
        """The description that `metadata` wrote; what else is among the entries is left alone."""
        return cls.model_validate({name: json.loads(entries[name]) for name in cls.model_fields})


class Deployed(nn.Module):
    """A network with its normalisation: maps images float32 [N, C, H, W], 0 to 255, to logits [N, classes]."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: ResNet, about: Description) -> None:
        super().__init__()
        self.network = network
        scale = [1 / (255 * std) for std in about.std]
        shift = [-mean / std for mean, std in zip(about.mean, about.std, strict=True)]
        self.register_buffer("scale", torch.tensor(scale)[:, None, None])
        self.register_buffer("shift", torch.tensor(shift)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes] of images [N, C, H, W]."""
        logits: Tensor = self.network(images * self.scale + self.shift)
        return logits


def deployed(network: ResNet, about: Description) -> Deployed:
    """A copy of a trained network as it is deployed: on the CPU, in fp32, as it is when it is scored."""
    model = Deployed(copy.deepcopy(network), about).cpu().float().eval()
    return model.to(memory_format=torch.contiguous_format).requires_grad_(False)


@dataclass(frozen=True)
class Classifier:
    """A model file, read."""

    about: Description
    logits: Network

    def probabilities(self, images: Tensor) -> Tensor:
        """Of each class, [N, classes], for images uint8 [N, H, W, C]."""
        return self.logits(images.permute(0, 3, 1, 2).float().contiguous()).softmax(dim=1)
