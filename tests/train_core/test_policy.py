"""TrivialAugment for batches against torchvision's, operation by operation and setting by setting."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.autoaugment import TrivialAugmentWide, _apply_op

from train_core.policy import OPERATIONS, SETTINGS, STRENGTHS, TrivialAugment, draw_settings, setting

CPU = torch.device("cpu")
SHAPES = [(3, 32, 32), (1, 32, 32), (3, 12, 20), (1, 21, 13), (3, 2, 5)]
BY_OPERATION = [range(first, first + 2 * STRENGTHS) for first in range(0, SETTINGS, 2 * STRENGTHS)]


def pictures(count: int, shape: tuple[int, int, int]) -> Tensor:
    """Noise of full range, dark noise of narrow range, and uniform images, in turn: uint8 [count, H, W, C]."""
    channels, height, width = shape
    torch.manual_seed(0)
    noise = torch.randint(256, (count, height, width, channels))
    noise[1::3] = noise[1::3] // 4 + 20
    noise[2::3] = noise[2::3, :1, :1]
    return noise.to(torch.uint8)


def torchvisions(image: Tensor, index: int) -> Tensor:
    """What torchvision makes of an image, uint8 [H, W, C], by the setting with this index."""
    name, magnitude = setting(index)
    planes = image.permute(2, 0, 1).contiguous()
    changed: Tensor = _apply_op(planes, name, magnitude, InterpolationMode.NEAREST, fill=None)
    return changed.permute(1, 2, 0)


def on_a_border(index: int, size: tuple[int, int]) -> Tensor:
    """Where the source of a pixel lies between two pixels, to a thousandth of a pixel: bool [H, W].

    Which of the two is taken depends on how the processor rounds, in torchvision's code as well.
    """
    height, width = size
    name, magnitude = setting(index)
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    row, col = y, x
    if name == "ShearX":
        col = x + magnitude * (y + 0.5)
    elif name == "ShearY":
        row = y + magnitude * (x + 0.5)
    elif name == "Rotate":
        cos, sin = math.cos(math.radians(magnitude)), math.sin(math.radians(magnitude))
        x, y = x - (width - 1) / 2, y - (height - 1) / 2
        col, row = cos * x - sin * y + (width - 1) / 2, sin * x + cos * y + (height - 1) / 2
    return (((col % 1) - 0.5).abs() < 1e-3) | (((row % 1) - 0.5).abs() < 1e-3)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("settings", BY_OPERATION, ids=OPERATIONS)
def test_every_setting_is_torchvisions_to_the_bit(settings: range, shape: tuple[int, int, int]) -> None:
    channels, *size = shape
    height, width = size
    images = pictures(len(settings), shape)
    ours = TrivialAugment((height, width), channels, CPU).apply(images, torch.tensor(settings))
    compared = 0
    for i, index in enumerate(settings):
        theirs, free = torchvisions(images[i], index), ~on_a_border(index, (height, width))
        assert torch.equal(ours[i][free], theirs[free]), setting(index)
        compared += int(free.sum())
    assert compared > 0.95 * len(settings) * height * width
    assert ours.dtype == torch.uint8
    assert ours.shape == images.shape


def test_the_settings_are_torchvisions() -> None:
    theirs = TrivialAugmentWide()._augmentation_space(STRENGTHS)
    assert tuple(theirs) == OPERATIONS
    found = dict[str, set[float]]()
    for index in range(SETTINGS):
        name, magnitude = setting(index)
        found.setdefault(name, set()).add(magnitude)
    for name, (magnitudes, is_signed) in theirs.items():
        expected = set(magnitudes.tolist()) if magnitudes.ndim else {0.0}
        assert found[name] == (expected | {-each for each in expected} if is_signed else expected), name


def test_operations_strengths_and_signs_are_drawn_uniformly() -> None:
    drawn = draw_settings(200_000, CPU)
    for divisor, kinds in ((2 * STRENGTHS, len(OPERATIONS)), (2, STRENGTHS), (1, 2)):
        shares = (drawn // divisor % kinds).bincount(minlength=kinds) / len(drawn)
        assert len(shares) == kinds
        # Five standard deviations of a share.
        assert (shares - 1 / kinds).abs().max() < 5 * math.sqrt(1 / kinds / len(drawn)), kinds


def test_each_image_of_a_batch_has_its_own_operation() -> None:
    image = pictures(1, (3, 16, 16))
    policy = TrivialAugment((16, 16), 3, CPU)
    torch.manual_seed(0)
    changed = policy(image.expand(300, -1, -1, -1))
    torch.manual_seed(0)
    settings = draw_settings(300, CPU)
    assert all(
        torch.equal(changed[i], policy.apply(image, settings[i : i + 1])[0]) for i in range(0, 300, 7)
    )  # it does not depend on the rest of the batch
    assert len({tuple(each.flatten().tolist()) for each in changed}) > 150
