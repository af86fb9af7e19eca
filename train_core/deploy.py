"""A trained network in the form that is exported: it takes plain pixels and normalises them itself.

`train_core.formats` writes it to files and reads it back.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from train_core.description import Description
from train_core.models import ResNet

Network = Callable[[Tensor], Tensor]
"""From images float32 [N, C, H, W], 0 to 255, to logits float32 [N, classes]."""


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
    """A copy of a trained network for export: on the CPU, in fp32, in evaluation mode."""
    model = Deployed(copy.deepcopy(network), about).cpu().float().eval()
    return model.to(memory_format=torch.contiguous_format).requires_grad_(False)


@dataclass(frozen=True)
class Classifier:
    """The contents of a model file."""

    about: Description
    logits: Network

    def probabilities(self, images: Tensor) -> Tensor:
        """The probability of each class, [N, classes], for images uint8 [N, H, W, C]."""
        return self.logits(images.permute(0, 3, 1, 2).float().contiguous()).softmax(dim=1)
