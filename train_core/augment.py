"""Random changes to whole batches of training images, on the device that holds them.

Every transform is a function of explicit per-image parameters and agrees with torchvision's function of the same name;
the `draw_*` functions draw the parameters from torchvision's distributions with torch's default generator.

Nothing here waits for the device or lets a shape depend on data (no `.item()`, no boolean indexing, no tensor copied
from Python numbers on the host), so a training step, including its draws, can be captured in a CUDA graph.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from train_core.policy import TrivialAugment
from train_core.specs import AugmentSpec, CopySpec

COPIED_AT_ONCE = 1000  # images of a fixed copy that are changed together


class Augmenter:
    """Draws augmented training batches from images that stay on their device.

    `images` is uint8 [N, H, W, C]; `mean` and `std` are per channel, in units in which white is 1; `dtype` is that of
    the batches. Holds one copy of the images, with a black border of `spec.crop_padding` pixels (if this is 0: no
    copy).

    If flips alternate, `seed` decides which images are flipped in the first pass over the images. `enter_pass` starts
    the other passes.
    """

    def __init__(
        self,
        images: Tensor,
        spec: AugmentSpec,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        self.spec = spec
        self.dtype = dtype
        self.size = (images.shape[1], images.shape[2])
        border = spec.crop_padding
        self._padded = F.pad(images, (0, 0, border, border, border, border)) if border else images.contiguous()
        self._scale, self._shift = _scale_and_shift(mean, std, images.shape[2], images.device)
        self._policy = (
            TrivialAugment(self.size, images.shape[3], images.device) if spec.policy == "trivial-augment" else None
        )
        self._alternates = spec.flip and spec.flip_order == "alternating"
        if self._alternates:
            self._flipped_first = draw_first_flips(len(images), seed).to(images.device)
            self._is_odd_pass = torch.zeros((), dtype=torch.bool, device=images.device)  # read by the graph
            self._pass = 0
        self._distorts = any(getattr(spec, name) != each.none for name, each in DISTORTIONS.items())

    def batch(self, indices: Tensor) -> Tensor:
        """Augment images `indices` (int64 [B]) and normalise them: `dtype` [B, C, H, W], channels last.

        Each call draws new parameters.

        In this order: random crop and flip, the policy's operation, enlargement and crop, random resized crop,
        rotation, perspective, brightness, contrast, saturation, hue, normalisation, cutout, random erasing.
        (torchvision's ColorJitter draws the order of its four; here it is fixed.) Changes that the spec leaves out are
        not computed.
        """
        pixels = self._crop_and_flip(indices)
        if self._policy:
            pixels = self._policy(pixels)
        if self._distorts:
            x = self._distort(pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) / 255)
            batch = _multiply_add(x.permute(0, 2, 3, 1), 255 * self._scale, self._shift, self.dtype)
        else:
            batch = _multiply_add(pixels, self._scale, self._shift, self.dtype)
        if self.spec.cutout:
            batch = cutout(batch, draw_centres(len(indices), self.size, indices.device), self.spec.cutout)
        if self.spec.erasing:
            batch = erase(batch, draw_erased(len(indices), self.size, self.spec.erasing, indices.device))
        return batch

    def enter_pass(self, number: int) -> None:
        """Start the pass with this number (from 0) over the images: if flips alternate, the others are flipped."""
        if self._alternates and number != self._pass:
            self._is_odd_pass.fill_(number % 2 == 1)
            self._pass = number

    def _crop_and_flip(self, indices: Tensor) -> Tensor:
        """Crop and flip images `indices` as the spec says: uint8 [B, H, W, C]."""
        count, device = len(indices), indices.device
        if not (self.spec.crop_padding or self.spec.flip):
            return self._padded.index_select(0, indices)
        rows, cols = draw_offsets(count, self.spec.crop_padding, device)
        if self._alternates:
            flip = self._flipped_first[indices] ^ self._is_odd_pass
        else:
            flip = draw_chosen(count, 0.5 if self.spec.flip else 0.0, device)
        return crop_flip(self._padded, indices, rows, cols, flip, self.size)

    def _distort(self, x: Tensor) -> Tensor:
        """Change the geometry, then the colours, of float [B, C, H, W] in [0, 1]."""
        for name, distortion in DISTORTIONS.items():
            strength = getattr(self.spec, name)
            if strength != distortion.none:
                x = distortion.apply(x, strength)
        return x


@torch.no_grad()
def fixed_copy(images: Tensor, spec: CopySpec) -> Tensor:
    """Change each image once as the spec says: uint8 [N, H, W, C] -> uint8 [N, H, W, C]."""
    channels, copies = images.shape[3], []
    augmenter = Augmenter(images, spec, mean=(0.0,) * channels, std=(1.0,) * channels)
    for start in range(0, len(images), COPIED_AT_ONCE):
        indices = torch.arange(start, min(start + COPIED_AT_ONCE, len(images)), device=images.device)
        batch = augmenter.batch(indices)
        pixels = (batch.flip(3) if spec.mirror else batch).permute(0, 2, 3, 1)
        copies.append((pixels * 255).round().to(torch.uint8))
    return torch.cat(copies)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype) -> Tensor:
    """Compute (images / 255 - mean) / std: uint8 [B, H, W, C] -> `dtype` [B, C, H, W], channels last."""
    scale, shift = _scale_and_shift(mean, std, images.shape[2], images.device)
    return _multiply_add(images, scale, shift, dtype)


# Transforms. x is float [B, C, H, W] in [0, 1]; parameters hold one value, or one row of values, for each image.


def crop_flip(
    padded: Tensor, indices: Tensor, rows: Tensor, cols: Tensor, flip: Tensor, size: tuple[int, int]
) -> Tensor:
    """Cut windows of height and width `size` from images `indices` of `padded`; mirror them where `flip`.

    `padded` is [N, height, width, C], contiguous; `rows` and `cols` (int64 [B]) are the windows' top left pixels in it;
    `flip` is bool [B]. Returns [B, *size, C].

    One gather of whole pixels. (Gathering whole rows from images stored both plain and mirrored is faster on a CPU but
    takes double the memory; either time is small compared with a training step.)
    """
    height, width = size
    col = torch.arange(width, device=padded.device)
    row = rows[:, None] + torch.arange(height, device=padded.device)  # [B, height]
    col = cols[:, None] + torch.where(flip[:, None], width - 1 - col, col)  # [B, width]
    line = (indices[:, None] * padded.shape[1] + row) * padded.shape[2]  # [B, height]
    pixel = line[:, :, None] + col[:, None, :]  # [B, height, width]
    return padded.view(-1, padded.shape[3]).index_select(0, pixel.view(-1)).view(*pixel.shape, padded.shape[3])


def enlarge_crop(x: Tensor, offsets: Tensor, factor: float) -> Tensor:
    """Enlarge x by `factor` and cut the windows of its old size at `offsets` ([B, 2], in new pixels); bilinear."""
    (height, width), rows_cols = x.shape[-2:], _pixel_centres(x)
    rows, cols = (
        ((centres + offset[:, None, None]) * (side / round(side * factor))).clamp(0.5, side - 0.5)
        for centres, offset, side in zip(rows_cols, offsets.unbind(1), (height, width), strict=True)
    )
    return _sample(x, rows, cols)


def resize_crop(x: Tensor, boxes: Tensor) -> Tensor:
    """Enlarge the inside of `boxes` ([B, 4]: top, left, height, width in pixels) to the whole image; bilinear."""
    rows, cols = _pixel_centres(x)
    top, left, height, width = boxes[:, :, None, None].unbind(1)
    # A crop does not know the pixels outside it: nothing is read beyond the centres of its outermost pixels.
    rows = torch.minimum((rows * (height / x.shape[-2])).clamp(min=0.5), height - 0.5)
    cols = torch.minimum((cols * (width / x.shape[-1])).clamp(min=0.5), width - 0.5)
    return _sample(x, top + rows, left + cols)


def rotate(x: Tensor, degrees: Tensor) -> Tensor:
    """Turn x counter-clockwise about its centre by `degrees` ([B]); bilinear, black outside."""
    rows, cols = _pixel_centres(x)
    middle_row, middle_col = x.shape[-2] / 2, x.shape[-1] / 2
    rows, cols = rows - middle_row, cols - middle_col
    angle = torch.deg2rad(degrees)[:, None, None]
    cos, sin = angle.cos(), angle.sin()
    return _sample(x, sin * cols + cos * rows + middle_row, cos * cols - sin * rows + middle_col)


def perspective(x: Tensor, corners: Tensor) -> Tensor:
    """Show x as if its corner pixels had moved to `corners`; bilinear, black outside.

    `corners` ([B, 4, 2]) are the new (x, y) pixels of the top left, top right, bottom right and bottom left corner;
    if they lie on one line, everything is black.
    """
    rows, cols = _pixel_centres(x)
    to_square = _square_from_quadrilateral(corners)[..., None, None]  # [B, 3, 3, 1, 1]
    uvw = to_square[:, :, 0] * cols + to_square[:, :, 1] * rows + to_square[:, :, 2]  # [B, 3, H, W]
    # Points at infinity are moved far outside: grid_sample would return NaN for them.
    u, v = (uvw[:, :2] / uvw[:, 2:]).nan_to_num(nan=-1).clamp(-1, 2).unbind(1)
    # torchvision's convention: corners lie at 0 and width - 1 in a plane in which pixels' centres lie at halves.
    return _sample(x, v * (x.shape[-2] - 1), u * (x.shape[-1] - 1))


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Multiply x by `factor` ([B], 0 or more): 0 is black, 1 changes nothing."""
    return (x * factor[:, None, None, None]).clamp(0, 1)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Stretch x away from its mean lightness by `factor` ([B], 0 or more): 0 is a uniform grey, 1 changes nothing."""
    return _blend(_lightness(x).mean((1, 2, 3), keepdim=True), x, factor)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Stretch x away from grey by `factor` ([B], 0 or more): 0 is grey, 1 changes nothing. No grey image changes."""
    return _blend(_lightness(x), x, factor) if x.shape[1] == 3 else x


def adjust_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turn the hues of x by `shift` ([B], in turns of the colour wheel, -0.5 to 0.5). No grey image changes.

    To HSV and back (Smith 1978, "Color gamut transform pairs").
    """
    if x.shape[1] != 3:
        return x
    red, green, blue = x.unbind(1)
    value, least = x.amax(1), x.amin(1)
    chroma = value - least
    divisor = chroma.clamp(min=torch.finfo(x.dtype).tiny)  # grey pixels have hue 0, not NaN
    hue = torch.where(  # in sixths of a turn from red
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    hue = (hue + 6 * shift[:, None, None]) % 6
    channels = ((hue - 3).abs() - 1, 2 - (hue - 2).abs(), 2 - (hue - 4).abs())
    return torch.stack([least + chroma * channel.clamp(0, 1) for channel in channels], 1)


def cutout(x: Tensor, centres: Tensor, side: int) -> Tensor:
    """Set a square of `side` pixels about each centre (int64 [B, 2]: row, column) to zero.

    The square is cut off at the image's edges; zero is the mean of normalised images (DeVries & Taylor 2017,
    arXiv:1708.04552).
    """
    top, left = (centres - side // 2)[:, :, None].unbind(1)
    row = torch.arange(x.shape[-2], device=x.device)
    col = torch.arange(x.shape[-1], device=x.device)
    hit_rows = (row >= top) & (row < top + side)  # [B, H]
    hit_cols = (col >= left) & (col < left + side)  # [B, W]
    hit = hit_rows[:, None, :, None] & hit_cols[:, None, None, :]
    return x.clone().masked_fill_(hit, 0)  # masked_fill would lose the memory format


def erase(x: Tensor, boxes: Tensor) -> Tensor:
    """Set the inside of `boxes` (int64 [B, 4]: top, left, height, width in pixels) to zero, the mean of the images."""
    top, left, height, width = boxes[:, :, None].unbind(1)  # [B, 1]
    row = torch.arange(x.shape[-2], device=x.device)
    col = torch.arange(x.shape[-1], device=x.device)
    hit_rows = (row >= top) & (row < top + height)
    hit_cols = (col >= left) & (col < left + width)
    return x.clone().masked_fill_(hit_rows[:, None, :, None] & hit_cols[:, None, None, :], 0)


# Drawing the parameters of `count` images. `size` is height and width in pixels.


def draw_offsets(count: int, padding: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Draw rows and columns of crops from padded images: int64 [count] each, uniform on 0 ... 2 padding."""
    rows, cols = torch.randint(2 * padding + 1, (2, count), device=device).unbind()
    return rows, cols


def draw_chosen(count: int, probability: float, device: torch.device) -> Tensor:
    """Choose each image with `probability`: bool [count]."""
    return torch.rand(count, device=device) < probability


def draw_uniform(count: int, middle: float, spread: float, device: torch.device) -> Tensor:
    """Draw angles or factors, uniform on middle - spread ... middle + spread: float [count]."""
    return torch.empty(count, device=device).uniform_(middle - spread, middle + spread)


def draw_boxes(count: int, size: tuple[int, int], least_area: float, device: torch.device) -> Tensor:
    """Draw boxes for `resize_crop` (Szegedy et al. 2015, arXiv:1409.4842): float [count, 4] of whole numbers.

    As torchvision's RandomResizedCrop: areas uniform from `least_area` to all of the image's, ratios of width to height
    log-uniform from 3/4 to 4/3, positions uniform. The first of ten tries that fits into the image is used; if none
    fits, the largest central box with an allowed ratio.
    """
    height, width = size
    tries = (10, count)
    area = height * width * torch.empty(tries, device=device).uniform_(least_area, 1)
    ratio = torch.empty(tries, device=device).uniform_(-math.log(4 / 3), math.log(4 / 3)).exp()
    box_height, box_width = (area / ratio).sqrt().round(), (area * ratio).sqrt().round()
    fits = (box_height > 0) & (box_height <= height) & (box_width > 0) & (box_width <= width)
    first = fits.to(torch.uint8).argmax(0, keepdim=True)  # if several are equal, argmax takes the first
    some_fit = fits.any(0)
    box_height = torch.where(some_fit, box_height.gather(0, first)[0], min(height, round(width * 4 / 3)))
    box_width = torch.where(some_fit, box_width.gather(0, first)[0], min(width, round(height * 4 / 3)))
    room_y, room_x = height - box_height, width - box_width
    top = torch.where(some_fit, (torch.rand(count, device=device) * (room_y + 1)).floor(), (room_y / 2).floor())
    left = torch.where(some_fit, (torch.rand(count, device=device) * (room_x + 1)).floor(), (room_x / 2).floor())
    return torch.stack((top, left, box_height, box_width), 1)


def draw_erased(count: int, size: tuple[int, int], probability: float, device: torch.device) -> Tensor:
    """Draw boxes for `erase` (Zhong et al. 2020, arXiv:1708.04896): int64 [count, 4].

    As torchvision's RandomErasing: areas uniform from 0.02 to 0.33 of the image's, ratios of height to width
    log-uniform from 0.3 to 3.3, positions uniform. The first of ten tries that is lower and narrower than the image
    is used. The boxes of images that keep all pixels are empty.
    """
    height, width = size
    tries = (10, count)
    area = height * width * torch.empty(tries, device=device).uniform_(0.02, 0.33)
    ratio = torch.empty(tries, device=device).uniform_(math.log(0.3), math.log(3.3)).exp()
    box_height, box_width = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (box_height < height) & (box_width < width)
    first = fits.to(torch.uint8).argmax(0, keepdim=True)
    is_erased = draw_chosen(count, probability, device) & fits.any(0)
    box_height, box_width = (each.gather(0, first)[0] * is_erased for each in (box_height, box_width))
    top = (torch.rand(count, device=device) * (height - box_height + 1)).floor()
    left = (torch.rand(count, device=device) * (width - box_width + 1)).floor()
    return torch.stack((top, left, box_height, box_width), 1).long()


def draw_first_flips(images: int, seed: int) -> Tensor:
    """Draw which images are flipped in the first pass over them: bool [images], on the CPU, from the seed alone."""
    return torch.rand(images, generator=torch.Generator().manual_seed(seed)) < 0.5


def draw_window(count: int, size: tuple[int, int], factor: float, device: torch.device) -> Tensor:
    """Draw offsets for `enlarge_crop`: int64 [count, 2], uniform over all windows."""
    room = [round(side * factor) - side for side in size]
    return torch.stack([torch.randint(each + 1, (count,), device=device) for each in room], 1)


def draw_corners(count: int, size: tuple[int, int], distortion: float, device: torch.device) -> Tensor:
    """Draw corners for `perspective`: float [count, 4, 2] of whole numbers.

    As torchvision's RandomPerspective: on half of the images each corner moves inwards, down and across independently,
    by 0 to `distortion` times half the side; on the others none moves.
    """
    height, width = size
    chosen = draw_chosen(count, 0.5, device)[:, None]
    x = chosen * (torch.rand(count, 4, device=device) * (int(distortion * (width // 2)) + 1)).floor()
    y = chosen * (torch.rand(count, 4, device=device) * (int(distortion * (height // 2)) + 1)).floor()
    right, bottom = width - 1, height - 1
    x = torch.stack((x[:, 0], right - x[:, 1], right - x[:, 2], x[:, 3]), 1)
    y = torch.stack((y[:, 0], y[:, 1], bottom - y[:, 2], bottom - y[:, 3]), 1)
    return torch.stack((x, y), 2)


def draw_centres(count: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """Draw pixels (row, column), uniform over the image: int64 [count, 2]."""
    row = torch.randint(size[0], (count,), device=device)
    col = torch.randint(size[1], (count,), device=device)
    return torch.stack((row, col), 1)


# Functions used by several transforms.


def _scale_and_shift(
    mean: Sequence[float], std: Sequence[float], width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Fold 1/255, mean and std into one multiply-add for a row of pixels: float32 [width C] each.

    For a whole row, because three channels are too few for vector instructions: a CPU is several times as fast on rows.
    """
    scale = [1 / (255 * s) for s in std]
    shift = [-m / s for m, s in zip(mean, std, strict=True)]

    def row(values: list[float]) -> Tensor:  # filled on the device: torch.tensor would wait for it
        return torch.stack([torch.full((), value, device=device) for value in values]).repeat(width)

    return row(scale), row(shift)


def _multiply_add(pixels: Tensor, scale: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
    """Compute pixels * scale + shift, rounded only at the end: [B, H, W, C] -> `dtype` [B, C, H, W], channels last."""
    rows = pixels.reshape(-1, len(scale)).to(torch.float32)
    return torch.addcmul(shift, rows, scale).to(dtype).view(pixels.shape).permute(0, 3, 1, 2)


def _pixel_centres(x: Tensor) -> tuple[Tensor, Tensor]:
    """The rows [H, 1] and columns [W] of the pixels' centres; pixel 0 covers 0 to 1."""
    rows = torch.arange(x.shape[-2], device=x.device, dtype=x.dtype)[:, None] + 0.5
    cols = torch.arange(x.shape[-1], device=x.device, dtype=x.dtype) + 0.5
    return rows, cols


def _sample(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Read x at rows and columns that broadcast to [B, H, W], in `_pixel_centres`' coordinates; bilinear, 0 outside."""
    batch, _, height, width = x.shape
    cols = (cols * (2 / width) - 1).expand(batch, height, width)
    rows = (rows * (2 / height) - 1).expand(batch, height, width)
    return F.grid_sample(x, torch.stack((cols, rows), -1), mode="bilinear", padding_mode="zeros", align_corners=False)


def _square_from_quadrilateral(corners: Tensor) -> Tensor:
    """Matrices [B, 3, 3] that map the corners [B, 4, 2], in this order, to (0, 0), (1, 0), (1, 1) and (0, 1).

    For homogeneous coordinates, up to scale. Heckbert's closed form (1989, "Fundamentals of texture mapping and image
    warping", 2.2.3) maps the square to the quadrilateral, and its adjugate maps back. (A linear solver would wait for
    the device to look for singular matrices.)
    """
    p0, p1, p2, p3 = corners.unbind(1)  # [B, 2]
    d1, d2, total = p1 - p2, p3 - p2, p0 - p1 + p2 - p3
    g, h, i = _cross(total, d2), _cross(d1, total), _cross(d1, d2)  # [B, 1]
    first = torch.cat((i * (p1 - p0) + g * p1, g), 1)  # the columns, [B, 3]
    second = torch.cat((i * (p3 - p0) + h * p3, h), 1)
    third = torch.cat((i * p0, i), 1)
    cross = torch.linalg.cross
    return torch.stack((cross(second, third), cross(third, first), cross(first, second)), 1)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    """The cross product of vectors in the plane: [B, 2], [B, 2] -> [B, 1]."""
    return a[:, :1] * b[:, 1:] - a[:, 1:] * b[:, :1]


def _lightness(x: Tensor) -> Tensor:
    """Convert RGB to luma (ITU-R BT.601, with torchvision's digits): [B, 3, H, W] -> [B, 1, H, W]. Others stay."""
    return 0.2989 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:] if x.shape[1] == 3 else x


def _blend(start: Tensor, end: Tensor, factor: Tensor) -> Tensor:
    """Interpolate from `start` (factor 0) through `end` (1) and beyond, clamped to [0, 1]."""
    return torch.lerp(start, end, factor[:, None, None, None]).clamp(0, 1)


# ------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True, kw_only=True)
class Distortion:
    """A change to float images [B, C, H, W] in [0, 1], with its strength: a field of `AugmentSpec`."""

    none: float  # the strength that changes nothing
    apply: Callable[[Tensor, float], Tensor]


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]


DISTORTIONS = {
    "enlarge": Distortion(
        none=1.0, apply=lambda x, factor: enlarge_crop(x, draw_window(len(x), _size(x), factor, x.device), factor)
    ),
    "resize_crop": Distortion(
        none=1.0, apply=lambda x, least: resize_crop(x, draw_boxes(len(x), _size(x), least, x.device))
    ),
    "rotation": Distortion(none=0.0, apply=lambda x, most: rotate(x, draw_uniform(len(x), 0, most, x.device))),
    "perspective": Distortion(
        none=0.0, apply=lambda x, strength: perspective(x, draw_corners(len(x), _size(x), strength, x.device))
    ),
    "brightness": Distortion(
        none=0.0, apply=lambda x, most: adjust_brightness(x, draw_uniform(len(x), 1, most, x.device))
    ),
    "contrast": Distortion(none=0.0, apply=lambda x, most: adjust_contrast(x, draw_uniform(len(x), 1, most, x.device))),
    "saturation": Distortion(
        none=0.0, apply=lambda x, most: adjust_saturation(x, draw_uniform(len(x), 1, most, x.device))
    ),
    "hue": Distortion(none=0.0, apply=lambda x, most: adjust_hue(x, draw_uniform(len(x), 0, most, x.device))),
}
"""The changes of geometry, then of colours, in this order; crop, flip and policy come before, cutout and erasing
after."""

# `Augmenter` itself does these, on uint8 or on normalised images.
_ON_PIXELS = ("crop_padding", "flip", "flip_order", "policy", "cutout", "erasing")

if missing := set(AugmentSpec.model_fields) - set(DISTORTIONS) - set(_ON_PIXELS):
    raise TypeError(f"augmentation {min(missing)!r} has no record in DISTORTIONS: add one")
