"""TrivialAugment wide (Müller & Hutter 2021, arXiv:2103.10158) for whole batches of uint8 images.

For each image, one of torchvision's 14 operations is drawn, and one of its 31 strengths, with a random sign if the
operation has one. There are few enough of these settings to compute everything that depends only on a setting once, in
tables: the matrix of a geometric transform, the new value of each of the 256 pixel values, the weights of a blend.
Every image of a batch goes through all three kinds of change; two of them leave it unchanged.

As in `train_core/augment.py`, nothing here waits for the device or lets a shape depend on data.
"""

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

OPERATIONS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)
"""torchvision's names, in its order."""
STRENGTHS = 31
SETTINGS = len(OPERATIONS) * STRENGTHS * 2  # the last factor: the signs
VALUES = 256


class Setting(NamedTuple):
    """An operation with its signed strength, in torchvision's units."""

    operation: str
    magnitude: float


class TrivialAugment:
    """Changes each image of a batch by an operation and a strength drawn for it.

    `size` is the height and width of the images, `channels` 1 (grey) or 3 (RGB).
    """

    def __init__(self, size: tuple[int, int], channels: int, device: torch.device) -> None:
        tables = [torch.tensor(each, device=device) for each in _tables(size, channels)]
        self._operations, self._matrices, self._values, self._weights = tables
        self._size, self._channels = size, channels
        height, width = size
        x = (torch.arange(width, device=device) - (width - 1) / 2).expand(height, width)  # from the image's centre
        y = (torch.arange(height, device=device) - (height - 1) / 2)[:, None].expand(height, width)
        self._points = torch.stack((x, y, torch.ones_like(x))).flatten(1)  # [3, HW]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Change each image by a drawn setting: uint8 [B, H, W, C] -> uint8 [B, H, W, C]."""
        return self.apply(pixels, draw_settings(len(pixels), pixels.device))

    def apply(self, pixels: Tensor, settings: Tensor) -> Tensor:
        """Change each image by its setting (int64 [B], see `setting`): uint8 [B, H, W, C] -> uint8 [B, H, W, C].

        Equal to torchvision's function of the setting, with nearest interpolation and black outside. If the source of a
        pixel lies exactly between two pixels, as on the diagonals of a rotation by 45 degrees, rounding decides.
        """
        operation = self._operations[settings]
        moved = self._move(pixels, self._matrices[settings])
        # One plane per channel from here on: values that differ only between images are then the same along a row.
        planes = torch.stack(moved.unbind(2), 1)  # [B, C, HW]
        planes = self._map(planes, operation, self._values[settings])
        planes = self._blend(planes, operation, self._weights[settings])
        return torch.stack(planes.unbind(1), 2).view(pixels.shape)

    def _move(self, pixels: Tensor, matrices: Tensor) -> Tensor:
        """Take each pixel from the point given by its image's matrix ([B, 2, 3]): [B, H, W, C] -> [B, HW, C].

        The nearest pixel is taken, and black outside.
        """
        count, (height, width) = len(pixels), self._size
        col, row = (matrices.view(-1, 3) @ self._points).round_().view(count, 2, -1).unbind(1)  # [B, HW]
        # Pixels outside come from a border of one pixel.
        pixel = row.clamp(-1, height).add_(1).mul_(width + 2).add_(col.clamp(-1, width).add_(1)).long()
        pixel += torch.arange(count, device=pixels.device)[:, None] * ((height + 2) * (width + 2))
        bordered = F.pad(pixels, (0, 0, 1, 1, 1, 1)).view(-1, self._channels)
        return bordered.index_select(0, pixel.view(-1)).view(count, -1, self._channels)

    def _map(self, planes: Tensor, operation: Tensor, values: Tensor) -> Tensor:
        """Replace each of the 256 pixel values of a plane by a new one: uint8 [B, C, HW] -> uint8 [B, C, HW].

        The new values are `values` (uint8 [B, 256]), unless they depend on the image.
        """
        count, channels, device = len(planes), self._channels, planes.device
        # A table of 256 values for each plane, and the index of each pixel in all of them.
        starts = torch.arange(count * channels, device=device).view(count, channels, 1) * VALUES
        places = planes.long().add_(starts).view(-1)
        histogram = torch.zeros(count * channels * VALUES, device=device)
        histogram = histogram.scatter_add_(0, places, torch.ones_like(histogram[:1]).expand(len(places)))
        histogram = histogram.view(count, channels, VALUES)
        least, most = planes.amin(2, keepdim=True), planes.amax(2, keepdim=True)
        tables = torch.where(_is("AutoContrast", operation), _autocontrast(least, most), values[:, None, :])
        tables = torch.where(_is("Equalize", operation), _equalize(histogram, most), tables)  # [B, C, 256]
        return tables.view(-1).index_select(0, places).view(planes.shape)

    def _blend(self, planes: Tensor, operation: Tensor, weights: Tensor) -> Tensor:
        """Blend images (weights [B, 2]) with versions of them: grey, uniformly grey, or blurred."""
        exact, grey = planes.float(), _grey(planes)
        other = torch.where(_is("Contrast", operation), grey.mean((1, 2), keepdim=True), grey)
        other = torch.where(_is("Sharpness", operation), _blurred(exact, self._size), other)
        ours, others = weights[:, :, None, None].unbind(1)
        return (ours * exact).add_(others * other).clamp_(0, VALUES - 1).to(torch.uint8)


def draw_settings(count: int, device: torch.device) -> Tensor:
    """Draw a setting for each of `count` images: int64 [count], uniform on operations, strengths and signs."""
    return torch.randint(SETTINGS, (count,), device=device)


def setting(index: int) -> Setting:
    """The setting with this index, from 0 to `SETTINGS` - 1."""
    operation, rest = divmod(index, 2 * STRENGTHS)
    strength, is_negative = divmod(rest, 2)
    name = OPERATIONS[operation]
    if name not in _MAGNITUDES:
        return Setting(name, 0.0)
    magnitudes, is_signed = _MAGNITUDES[name]
    magnitude = magnitudes[strength]
    return Setting(name, -magnitude if is_signed and is_negative else magnitude)


_UP_TO_1 = tuple(torch.linspace(0, 0.99, STRENGTHS).tolist())
_PIXELS = tuple(torch.linspace(0, 32, STRENGTHS).tolist())
_MAGNITUDES: dict[str, tuple[tuple[float, ...], bool]] = {  # strengths, and whether their sign is random
    "ShearX": (_UP_TO_1, True),
    "ShearY": (_UP_TO_1, True),
    "TranslateX": (_PIXELS, True),
    "TranslateY": (_PIXELS, True),
    "Rotate": (tuple(torch.linspace(0, 135, STRENGTHS).tolist()), True),  # degrees
    "Brightness": (_UP_TO_1, True),
    "Color": (_UP_TO_1, True),
    "Contrast": (_UP_TO_1, True),
    "Sharpness": (_UP_TO_1, True),
    "Posterize": (tuple(8 - round(i / ((STRENGTHS - 1) / 6)) for i in range(STRENGTHS)), False),  # bits that are kept
    "Solarize": (tuple(torch.linspace(255, 0, STRENGTHS).tolist()), False),  # the smallest value that is inverted
}


@cache
def _tables(size: tuple[int, int], channels: int) -> tuple[NDArray[Any], ...]:
    """For each setting: operation int64, matrix float32 [2, 3], values uint8 [256], weights float32 [2]."""
    height, width = size
    settings = [setting(index) for index in range(SETTINGS)]
    to_pixels = [[0, 0, (width - 1) / 2], [0, 0, (height - 1) / 2]]  # from the centre of pixel (0, 0)
    matrices = np.reshape([_matrix(each, size) for each in settings], (-1, 2, 3)) + to_pixels
    return (
        np.arange(SETTINGS) // (2 * STRENGTHS),
        matrices.astype(np.float32),
        np.stack([_values(each) for each in settings]),
        np.array([_weights(each, size, channels) for each in settings], np.float32),
    )


def _matrix(setting: Setting, size: tuple[int, int]) -> tuple[float, ...]:
    """The coefficients xx, xy, x0, yx, yy, y0: pixel (x, y) comes from (xx x + xy y + x0, yx x + yy y + y0).

    Relative to the image's centre, with y down. As in torchvision, a shear keeps the top left corner in place.
    """
    height, width = size
    name, magnitude = setting
    match name:
        case "ShearX":
            return 1, magnitude, magnitude * height / 2, 0, 1, 0
        case "ShearY":
            return 1, 0, 0, magnitude, 1, magnitude * width / 2
        case "TranslateX":
            return 1, 0, -int(magnitude), 0, 1, 0
        case "TranslateY":
            return 1, 0, 0, 0, 1, -int(magnitude)
        case "Rotate":  # counter-clockwise
            cos, sin = math.cos(math.radians(magnitude)), math.sin(math.radians(magnitude))
            return cos, -sin, 0, sin, cos, 0
        case _:
            return 1, 0, 0, 0, 1, 0


def _values(setting: Setting) -> NDArray[np.uint8]:
    """The new value of each of the 256 pixel values: uint8 [256]."""
    values = np.arange(VALUES)
    name, magnitude = setting
    match name:
        case "Brightness":  # in float32, as torchvision rounds
            factors = np.float32(1 + magnitude) * values.astype(np.float32)
            values = np.minimum(factors, VALUES - 1).astype(np.int64)
        case "Posterize":
            values = values & -(2 ** (8 - int(magnitude)))
        case "Solarize":
            values = np.where(values >= magnitude, VALUES - 1 - values, values)
    return values.astype(np.uint8)


def _weights(setting: Setting, size: tuple[int, int], channels: int) -> tuple[float, float]:
    """The weights of an image and of the one that it is blended with."""
    name, magnitude = setting
    blends = {"Contrast": True, "Color": channels == 3, "Sharpness": min(size) > 2}
    return (1 + magnitude, 1 - (1 + magnitude)) if blends.get(name) else (1, 0)


def _is(name: str, operation: Tensor) -> Tensor:
    """Which images have the operation of this name: bool [B, 1, 1]."""
    return (operation == OPERATIONS.index(name))[:, None, None]


def _grey(planes: Tensor) -> Tensor:
    """Convert RGB to luma, truncated to whole numbers: uint8 [B, C, HW] -> float [B, 1, HW]. Grey images stay."""
    if planes.shape[1] != 3:
        return planes.float()
    red, green, blue = planes.unbind(1)
    return (0.2989 * red).add_(0.587 * green).add_(0.114 * blue).floor_()[:, None]


def _blurred(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Average each pixel (weight 5) with its 8 neighbours (weight 1), rounded; pixels at the edges stay. [B, C, HW].

    Whole planes are added, shifted by rows and by pixels, because short rows would be slow. Only the pixels at the left
    and right edges are then wrong, and these stay as they were.
    """
    width, pixels = size[1], x.shape[2]
    if min(size) <= 2:
        return x
    rows = x[..., : -2 * width] + x[..., width:-width]
    rows += x[..., 2 * width :]
    sums = rows[..., :-2] + rows[..., 1:-1]
    sums += rows[..., 2:]
    inner = slice(width + 1, pixels - width - 1)  # from the second pixel of the second row
    column = torch.arange(pixels, device=x.device)[inner] % width
    sums = sums.add_(4 * x[..., inner]).div_(13).round_()
    blurred = x.clone()
    blurred[..., inner] = torch.where((column > 0) & (column < width - 1), sums, x[..., inner])
    return blurred


def _autocontrast(least: Tensor, most: Tensor) -> Tensor:
    """The values that stretch planes from `least` to `most` (uint8 [B, C, 1]) to 0 to 255: uint8 [B, C, 256]."""
    is_uniform = least == most
    scale = torch.where(is_uniform, 1.0, 255 / (most.float() - least))
    values = torch.arange(VALUES, device=least.device)
    return ((values - torch.where(is_uniform, 0.0, least.float())) * scale).clamp_(0, VALUES - 1).to(torch.uint8)


def _equalize(histogram: Tensor, most: Tensor) -> Tensor:
    """The values that become about equally frequent: histograms [B, C, 256], greatest values uint8 [B, C, 1].

    Numbers of pixels are floats here: these are exact below 2^24, and division is faster than with integers.
    """
    darker = histogram.cumsum(2) - histogram  # number of pixels below each value
    step = (darker.gather(2, most.long()) / (VALUES - 1)).floor_()
    equal = darker.add_((step / 2).floor_()).div_(step.clamp(min=1)).floor_().clamp_(0, VALUES - 1)
    values = torch.arange(VALUES, device=histogram.device)
    return torch.where(step == 0, values, equal * (values > 0)).to(torch.uint8)  # as in torchvision, 0 stays 0
