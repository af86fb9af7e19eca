"""Initial weights from a network that was trained on ImageNet."""

import re
from collections.abc import Mapping

from torch import Tensor

from train_core.errors import ModelError
from train_core.models import ResNet

_NAMES = (
    (r"conv1\.", "stem.0."),
    (r"bn1\.", "stem.1."),
    (r"layer(\d)\.(\d)\.conv(\d)\.", "stages.{0}.{1}.conv{2}."),
    (r"layer(\d)\.(\d)\.bn(\d)\.", "stages.{0}.{1}.norm{2}."),
    (r"layer(\d)\.(\d)\.downsample\.(\d)\.", "stages.{0}.{1}.shortcut.{2}."),
    (r"fc\.", "classifier."),
)
"""The name of a layer in torchvision, and in `ResNet`; torchvision counts stages from 1."""


def load_imagenet(model: ResNet) -> None:
    """Give the model torchvision's ResNet-18 weights; the classifier is replaced only if the model has 1,000 classes.

    They are kept in torch's cache ($TORCH_HOME, else ~/.cache/torch).

    Raises:
        ModelError: they cannot be downloaded, or the model is not a ResNet-18.

    """
    from torchvision.models import ResNet18_Weights

    weights = ResNet18_Weights.IMAGENET1K_V1
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds: no network, a broken download or a full disk
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(
            f"the weights of start = 'imagenet' cannot be downloaded ({reason}): connect once, or put {weights.url} "
            "into $TORCH_HOME/hub/checkpoints (~/.cache/torch/hub/checkpoints)"
        ) from error
    load_torchvision(model, state)


def load_torchvision(model: ResNet, state: Mapping[str, Tensor]) -> None:
    """Give the model the weights of torchvision's ResNet of this shape; the classifier's if the class counts match.

    Raises:
        ModelError: its shape is different.

    """
    theirs, ours = {_our_name(name): values for name, values in state.items()}, model.state_dict()
    if ours["classifier.weight"].shape[0] != theirs["classifier.weight"].shape[0]:
        theirs |= {name: values for name, values in ours.items() if name.startswith("classifier.")}
    if {name: values.shape for name, values in ours.items()} != {name: values.shape for name, values in theirs.items()}:
        raise ModelError(
            "start = 'imagenet' has weights for ResNet-18 alone: give widths = [64, 128, 256, 512], "
            "blocks = [2, 2, 2, 2], stem_kernel = 7, stem_stride = 2, stem_pool = true, and three channels"
        )
    model.load_state_dict(theirs)


def _our_name(name: str) -> str:
    """The name in `ResNet` of one of torchvision's tensors."""
    for pattern, ours in _NAMES:
        if found := re.match(pattern, name):
            stage, *others = found.groups() or ("1",)
            return ours.format(int(stage) - 1, *others) + name[found.end() :]
    return name
