"""How many images each class has, and the resulting weights of the loss.

Nothing here waits for the device.
"""

import torch
from torch import Tensor


def images_of_classes(labels: Tensor, classes: int) -> Tensor:
    """The number of images of each class: float [classes] on the device of `labels`, int64 [N]."""
    counts = torch.zeros(classes, device=labels.device)
    return counts.index_add_(0, labels, torch.ones_like(labels, dtype=counts.dtype))


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """A weight for each class, inversely proportional to its number of images, with mean 1 over the images.

    Float [classes]. It is "balanced" of `sklearn.utils.class_weight.compute_class_weight`. Classes without images do
    not count.
    """
    counts = images_of_classes(labels, classes)
    present = (counts > 0).sum()
    return len(labels) / (present * counts.clamp(min=1))
