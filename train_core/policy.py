"""TrivialAugment wide (Müller & Hutter 2021, arXiv:2103.10158) for whole batches of uint8 images.

For each image one of torchvision's 14 operations is drawn, and one of its 31 strengths, with a random sign where the
operation has one. There are few enough of these settings to compute all that depends on a setting alone once, in
tables: the matrix of a shift in geometry, the new value of each of the 256 pixel values, the weights of a blend. Every
image of a batch goes through all three kinds of change; two of them leave it as it is.

As in `train_core/augment.py`, nothing here waits for the device or lets a shape depend on data.
"""

import math
from functools import cache
from typing import NamedTuple

import torch
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
        tables = _tables(size, channels)
        self._operations, self._matrices, self._values, self._weights = (each.to(device) for each in tables)
        self._size, self._channels = size, channels
        height, width = size
        x = (torch.arange(width, device=device) - (width - 1) / 2).expand(height, width)  # from the image's centre
        y = (torch.arange(height, device=device) - (height - 1) / 2)[:, None].expand(height, width)
        self._points = torch.stack((x, y, torch.ones_like(x))).flatten(1)  # [3, HW]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Change each image, as drawn: uint8 [B, H, W, C] -> uint8 [B, H, W, C]."""
        return self.apply(pixels, draw_settings(len(pixels), pixels.device))

    def apply(self, pixels: Tensor, settings: Tensor) -> Tensor:
        """Change each image by its setting (int64 [B], see `setting`): uint8 [B, H, W, C] -> uint8 [B, H, W, C].

        Equal to torchvision's function of the setting, with nearest interpolation and black outside. Where the source
        of a pixel lies exactly between two pixels, as on the diagonals of a rotation by 45 degrees, rounding decides.
        """
        operation = self._operations[settings]
        moved = self._move(pixels, self._matrices[settings])
        # A plane for each channel from here on: what differs between images is then the same for a whole row of memory.
        planes = moved.permute(0, 2, 1).contiguous()  # [B, C, HW]
        planes = self._map(planes, operation, self._values[settings])
        planes = self._blend(planes, operation, self._weights[settings])
        return planes.permute(0, 2, 1).contiguous().view(pixels.shape)

    def _move(self, pixels: Tensor, matrices: Tensor) -> Tensor:
        """Take each pixel from where its image's matrix says, the nearest one: [B, H, W, C], [B, 2, 3] -> [B, HW, C]."""
        count, (height, width) = len(pixels), self._size
        col, row = (matrices.view(-1, 3) @ self._points).round_().view(count, 2, -1).unbind(1)  # [B, HW]
        # What is outside comes from a black border of one pixel.
        pixel = row.clamp(-1, height).add_(1).mul_(width + 2).add_(col.clamp(-1, width).add_(1)).long()
        pixel += torch.arange(count, device=pixels.device)[:, None] * ((height + 2) * (width + 2))
        bordered = F.pad(pixels, (0, 0, 1, 1, 1, 1)).view(-1, self._channels)
        return bordered.index_select(0, pixel.view(-1)).view(count, -1, self._channels)

    def _map(self, planes: Tensor, operation: Tensor, values: Tensor) -> Tensor:
        """Give each of the 256 pixel values of a plane a new one: uint8 [B, C, HW] -> uint8 [B, C, HW].

        They are `values` (uint8 [B, 256]), unless they depend on the image.
        """
        count, channels, device = len(planes), self._channels, planes.device
        # A table of 256 values for each plane, and the place of each pixel in all of them.
        starts = torch.arange(count * channels, device=device).view(count, channels, 1) * VALUES
        places = (planes + starts).view(-1)
        histogram = torch.zeros(count * channels * VALUES, device=device)
        histogram = histogram.scatter_add_(0, places, torch.ones_like(histogram[:1]).expand(len(places)))
        histogram = histogram.view(count, channels, VALUES)
        least, most = planes.amin(2, keepdim=True), planes.amax(2, keepdim=True)
        tables = torch.where(_is("AutoContrast", operation), _autocontrast(least, most), values[:, None, :])
        tables = torch.where(_is("Equalize", operation), _equalize(histogram, most), tables)  # [B, C, 256]
        return tables.view(-1).index_select(0, places).view(planes.shape)

    def _blend(self, planes: Tensor, operation: Tensor, weights: Tensor) -> Tensor:
        """Weigh images against others made of them (weights [B, 2]): grey, uniformly grey, or blurred ones."""
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
    magnitude = float(magnitudes[strength])
    return Setting(name, -magnitude if is_signed and is_negative else magnitude)


_MAGNITUDES = {  # and whether their sign is random
    "ShearX": (torch.linspace(0, 0.99, STRENGTHS), True),
    "ShearY": (torch.linspace(0, 0.99, STRENGTHS), True),
    "TranslateX": (torch.linspace(0, 32, STRENGTHS), True),  # pixels
    "TranslateY": (torch.linspace(0, 32, STRENGTHS), True),
    "Rotate": (torch.linspace(0, 135, STRENGTHS), True),  # degrees
    "Brightness": (torch.linspace(0, 0.99, STRENGTHS), True),
    "Color": (torch.linspace(0, 0.99, STRENGTHS), True),
    "Contrast": (torch.linspace(0, 0.99, STRENGTHS), True),
    "Sharpness": (torch.linspace(0, 0.99, STRENGTHS), True),
    "Posterize": (8 - (torch.arange(STRENGTHS) / ((STRENGTHS - 1) / 6)).round(), False),  # bits that stay
    "Solarize": (torch.linspace(255, 0, STRENGTHS), False),  # the least value that is inverted
}


@cache
def _tables(size: tuple[int, int], channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give for each setting: operation int64, matrix float [2, 3], values uint8 [256], weights float [2]."""
    height, width = size
    settings = [setting(index) for index in range(SETTINGS)]
    to_pixels = torch.tensor([[0, 0, (width - 1) / 2], [0, 0, (height - 1) / 2]])  # from the centre of pixel (0, 0)
    return (
        torch.arange(SETTINGS) // (2 * STRENGTHS),
        torch.tensor([_matrix(each, size) for each in settings]).view(-1, 2, 3) + to_pixels,
        torch.stack([_values(each) for each in settings]),
        torch.tensor([_weights(each, size, channels) for each in settings]),
    )


def _matrix(setting: Setting, size: tuple[int, int]) -> tuple[float, ...]:
    """Give xx, xy, x0, yx, yy, y0: a pixel at (x, y) comes from (xx x + xy y + x0, yx x + yy y + y0).

    From the image's centre, with y down. As in torchvision, a shear leaves the top left corner where it is.
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


def _values(setting: Setting) -> Tensor:
    """Give the new value of each of the 256 pixel values: uint8 [256]."""
    values = torch.arange(VALUES)
    name, magnitude = setting
    match name:
        case "Brightness":
            values = ((1 + magnitude) * values).clamp(max=VALUES - 1)
        case "Posterize":
            values = values & -(2 ** (8 - int(magnitude)))
        case "Solarize":
            values = torch.where(values >= magnitude, VALUES - 1 - values, values)
    return values.to(torch.uint8)


def _weights(setting: Setting, size: tuple[int, int], channels: int) -> tuple[float, float]:
    """Give the weights of an image and of the one that it is blended with."""
    name, magnitude = setting
    blends = {"Contrast": True, "Color": channels == 3, "Sharpness": min(size) > 2}
    return (1 + magnitude, 1 - (1 + magnitude)) if blends.get(name) else (1, 0)


def _is(name: str, operation: Tensor) -> Tensor:
    """Tell which images have the operation of this name: bool [B, 1, 1]."""
    return (operation == OPERATIONS.index(name))[:, None, None]


def _grey(planes: Tensor) -> Tensor:
    """Weigh RGB to luma, truncated to whole numbers: uint8 [B, C, HW] -> float [B, 1, HW]. Grey images stay."""
    if planes.shape[1] != 3:
        return planes.float()
    red, green, blue = planes.unbind(1)
    return (0.2989 * red).add_(0.587 * green).add_(0.114 * blue).floor_()[:, None]


def _blurred(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Average each pixel (weight 5) with its 8 neighbours (weight 1), rounded; pixels at the edges stay. [B, C, HW]."""
    height, width = size
    if min(size) <= 2:
        return x
    images = x.unflatten(2, size)
    rows = images[:, :, :-2] + images[:, :, 1:-1]
    rows += images[:, :, 2:]
    sums = 4 * images[:, :, 1:-1, 1:-1]
    for first in range(3):
        sums += rows[..., first : first + width - 2]
    blurred = images.clone()
    blurred[:, :, 1:-1, 1:-1] = sums.div_(13).round_()
    return blurred.flatten(2)


def _autocontrast(least: Tensor, most: Tensor) -> Tensor:
    """Give the values that stretch planes from `least` to `most` (uint8 [B, C, 1]) to 0 to 255: uint8 [B, C, 256]."""
    is_uniform = least == most
    scale = torch.where(is_uniform, 1.0, 255 / (most.float() - least))
    values = torch.arange(VALUES, device=least.device)
    return ((values - torch.where(is_uniform, 0.0, least.float())) * scale).clamp_(0, VALUES - 1).to(torch.uint8)


def _equalize(histogram: Tensor, most: Tensor) -> Tensor:
    """Give the values that become about equally frequent: histograms [B, C, 256], greatest values uint8 [B, C, 1].

    Numbers of pixels are floats here: they are exact below 2^24, and divided faster than integers.
    """
    darker = histogram.cumsum(2) - histogram  # number of pixels below each value
    step = (darker.gather(2, most.long()) / (VALUES - 1)).floor_()
    equal = darker.add_((step / 2).floor_()).div_(step.clamp(min=1)).floor_().clamp_(0, VALUES - 1)
    values = torch.arange(VALUES, device=histogram.device)
    return torch.where(step == 0, values, equal * (values > 0)).to(torch.uint8)  # as in torchvision, 0 stays 0
