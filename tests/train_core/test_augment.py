from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torchvision.transforms import RandomErasing, RandomPerspective, RandomResizedCrop
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from train_core.augment import (
    Augmenter,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    crop_flip,
    cutout,
    draw_boxes,
    draw_centres,
    draw_chosen,
    draw_corners,
    draw_erased,
    draw_first_flips,
    draw_offsets,
    draw_uniform,
    draw_window,
    enlarge_crop,
    erase,
    fixed_copy,
    normalise,
    perspective,
    resize_crop,
    rotate,
)
from train_core.policy import TrivialAugment
from train_core.specs import AugmentSpec, CopySpec

CPU = torch.device("cpu")
NOTHING = AugmentSpec(crop_padding=0, flip=False)
EVERYTHING = AugmentSpec(
    crop_padding=4,
    flip=True,
    policy="trivial-augment",
    cutout=5,
    enlarge=1.25,
    rotation=20,
    resize_crop=0.5,
    perspective=0.4,
    brightness=0.3,
    contrast=0.3,
    saturation=0.3,
    hue=0.2,
    erasing=0.7,
)
ONE_AT_A_TIME = [
    NOTHING.model_copy(update={name: value})
    for name, value in EVERYTHING.model_dump().items()
    if name not in {"flip", "flip_order"}  # they have tests of their own
]
SHAPES = [(3, 16, 16), (1, 16, 16), (3, 12, 20), (1, 21, 13)]  # RGB and grey, square and not
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)

shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def noise(count: int, shape: tuple[int, int, int]) -> Tensor:
    """Images in which every pixel differs from its neighbours: float [count, C, H, W] in [0, 1]."""
    return torch.rand(count, *shape)


def stored(count: int, shape: tuple[int, int, int]) -> Tensor:
    """Images as the trainer keeps them: uint8 [count, H, W, C]."""
    channels, height, width = shape
    return torch.randint(256, (count, height, width, channels), dtype=torch.uint8)


def assert_each_image_is(ours: Tensor, one: Callable[[int], Tensor], atol: float = 1e-5) -> None:
    torch.testing.assert_close(ours, torch.stack([one(i) for i in range(len(ours))]), atol=atol, rtol=0)


# Against torchvision, image by image. Both round in float32: equal to 1e-5.


@shapes
def test_rotate_is_torchvisions(shape: tuple[int, int, int]) -> None:
    degrees = torch.tensor([0.0, 90.0, 180.0, -180.0, 12.5, -71.0])
    x = noise(len(degrees), shape)
    bilinear = InterpolationMode.BILINEAR
    assert_each_image_is(rotate(x, degrees), lambda i: tv.rotate(x[i], degrees[i].item(), interpolation=bilinear))


@shapes
def test_perspective_is_torchvisions(shape: tuple[int, int, int]) -> None:
    x = noise(12, shape)
    _, height, width = shape
    corners = draw_corners(len(x), (height, width), 0.6, CPU)
    still = [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]
    # Looser: on noise an error of the coordinates is an error of the pixels, and a quotient's error is larger.
    assert_each_image_is(perspective(x, corners), lambda i: tv.perspective(x[i], still, corners[i].tolist()), atol=1e-4)


@shapes
def test_resize_crop_is_torchvisions(shape: tuple[int, int, int]) -> None:
    x = noise(12, shape)
    _, height, width = shape
    boxes = draw_boxes(len(x), (height, width), 0.1, CPU)
    boxes[0] = torch.tensor([0, 0, height, width])
    assert_each_image_is(
        resize_crop(x, boxes), lambda i: tv.resized_crop(x[i], *boxes[i].int().tolist(), [height, width])
    )


@shapes
def test_enlarge_crop_is_torchvisions_resize_and_crop(shape: tuple[int, int, int]) -> None:
    images, (_, height, width) = noise(6, shape), shape
    size = [round(height * 1.125), round(width * 1.125)]
    offsets = draw_window(6, (height, width), 1.125, CPU)

    def one(i: int) -> Tensor:
        enlarged = tv.resize(images[i], size, InterpolationMode.BILINEAR, antialias=False)
        cropped: Tensor = tv.crop(enlarged, *offsets[i].tolist(), height, width)
        return cropped

    assert_each_image_is(enlarge_crop(images, offsets, 1.125), one)


def test_windows_are_uniform_over_the_enlarged_image() -> None:
    offsets = draw_window(10_000, (32, 16), 1.125, CPU)
    assert [set(column.tolist()) for column in offsets.unbind(1)] == [{0, 1, 2, 3, 4}, {0, 1, 2}]
    assert offsets.double().mean(0).tolist() == pytest.approx([2, 1], abs=0.05)


def test_a_fixed_copy_of_nothing_is_the_images_and_a_mirrored_one_their_mirror_images() -> None:
    images = stored(1234, (3, 8, 6))  # more than are made at a time
    assert torch.equal(fixed_copy(images, CopySpec()), images)
    assert torch.equal(fixed_copy(images, CopySpec(mirror=True)), images.flip(2))


@pytest.mark.parametrize(
    "spec",
    [
        CopySpec(flip=True, crop_padding=4),
        CopySpec(flip=True, enlarge=1.125),
        CopySpec(flip=True, rotation=90),
        CopySpec(flip=True, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.5),
        CopySpec(flip=True, policy="trivial-augment", erasing=0.5),
    ],
    ids=lambda spec: " ".join(sorted(spec.model_fields_set - {"flip"})),
)
def test_a_fixed_copy_is_what_a_batch_would_be_and_depends_on_the_seed_alone(spec: CopySpec) -> None:
    images, copies = stored(40, (3, 16, 16)), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        copies.append(fixed_copy(images, spec))
    assert copies[0].dtype == torch.uint8
    assert torch.equal(copies[0], copies[1])
    assert not torch.equal(copies[0], copies[2])
    torch.manual_seed(1)
    batch = Augmenter(images, spec, mean=(0, 0, 0), std=(1, 1, 1)).batch(torch.arange(40))
    assert (copies[0].permute(0, 3, 1, 2) / 255 - batch).abs().max() <= 0.5 / 255 + 1e-6


@shapes
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colour_factors_are_torchvisions(shape: tuple[int, int, int], name: str) -> None:
    ours = {"brightness": adjust_brightness, "contrast": adjust_contrast, "saturation": adjust_saturation}[name]
    theirs = getattr(tv, f"adjust_{name}")
    factor = torch.tensor([0.0, 0.6, 1.0, 1.4, 2.0])
    x = noise(len(factor), shape)
    assert_each_image_is(ours(x, factor), lambda i: theirs(x[i], factor[i].item()))


@shapes
def test_hue_is_torchvisions(shape: tuple[int, int, int]) -> None:
    shift = torch.tensor([-0.5, -0.2, 0.0, 0.1, 0.5])
    x = noise(len(shift), shape)
    x[:, :, 0] = 0.5  # grey pixels
    x[:, :, 1] = (x[:, :, 1] > 0.5).float()  # fully saturated ones
    assert_each_image_is(adjust_hue(x, shift), lambda i: tv.adjust_hue(x[i], shift[i].item()))


def test_grey_images_keep_hue_and_saturation() -> None:
    x = noise(2, (1, 5, 5))
    assert adjust_saturation(x, torch.zeros(2)) is x
    assert adjust_hue(x, torch.full((2,), 0.3)) is x


# Crop, flip, cutout, normalisation: against loops.


@shapes
def test_crop_flip_cuts_windows_with_black_borders_and_mirrors_them(shape: tuple[int, int, int]) -> None:
    _, height, width = shape
    images = stored(5, shape)
    padded = torch.nn.functional.pad(images, (0, 0, 2, 2, 2, 2))
    indices = torch.tensor([4, 0, 0, 2])
    rows, cols = torch.tensor([0, 4, 2, 1]), torch.tensor([0, 4, 2, 3])
    flip = torch.tensor([False, True, False, True])
    windows = crop_flip(padded, indices, rows, cols, flip, (height, width))
    for n in range(4):
        window = padded[indices[n], rows[n] : rows[n] + height, cols[n] : cols[n] + width]
        assert torch.equal(windows[n], window.flip(1) if flip[n] else window)
    assert torch.equal(windows[2], images[0])  # in the middle: the image itself
    assert not windows[0, :2].any()  # at the edge: the border
    assert not windows[0, :, :2].any()


@pytest.mark.parametrize("side", [1, 4, 5, 40])
def test_cutout_clears_a_square_about_its_centre(side: int) -> None:
    x = torch.ones(4, 3, 12, 20)
    centres = torch.tensor([[0, 0], [6, 10], [11, 19], [3, 18]])
    cut = cutout(x, centres, side)
    expected = x.clone()
    for n, (row, col) in enumerate(centres.tolist()):
        top, left = row - side // 2, col - side // 2
        expected[n, :, max(0, top) : top + side, max(0, left) : left + side] = 0
    assert torch.equal(cut, expected)
    assert (cut == 0).sum((1, 2, 3)).max() <= 3 * side**2
    if side <= 5:
        assert (cut[1] == 0).sum() == 3 * side**2  # far from the edges: all of it


def test_erasing_clears_the_inside_of_the_boxes() -> None:
    x = torch.ones(4, 3, 12, 20)
    boxes = [[0, 0, 3, 4], [5, 6, 1, 14], [11, 19, 1, 1], [4, 4, 0, 7]]
    erased, expected = erase(x, torch.tensor(boxes)), x.clone()
    for n, (top, left, height, width) in enumerate(boxes):
        expected[n, :, top : top + height, left : left + width] = 0
    assert torch.equal(erased, expected)
    assert torch.equal(erased[3], x[3])  # no height: nothing is erased


@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_normalise_subtracts_the_mean_and_divides_by_std(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    channels = shape[0]
    images = stored(3, shape)
    mean, std = MEAN[:channels], STD[:channels]
    x = normalise(images, mean, std, dtype)
    exact = (images.double() / 255 - torch.tensor(mean).double()) / torch.tensor(std).double()
    assert x.dtype == dtype
    assert x.is_contiguous(memory_format=torch.channels_last)
    # bfloat16 keeps 8 bits: what is rounded once is off by at most one part in 256.
    rtol = 1e-5 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(x.double(), exact.permute(0, 3, 1, 2), atol=1e-5, rtol=rtol)


# Parameters as drawn.


def test_offsets_are_uniform_from_none_to_twice_the_padding() -> None:
    for offsets in draw_offsets(20_000, 4, CPU):
        shares = offsets.bincount(minlength=9) / len(offsets)
        assert len(shares) == 9
        assert (shares - 1 / 9).abs().max() < 0.01


@pytest.mark.parametrize("probability", [0.0, 0.5])
def test_images_are_chosen_with_the_probability(probability: float) -> None:
    assert draw_chosen(20_000, probability, CPU).float().mean().item() == pytest.approx(probability, abs=0.015)


def test_factors_are_uniform_about_the_middle() -> None:
    factors = draw_uniform(20_000, 1, 0.3, CPU)
    quartiles = factors.quantile(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    torch.testing.assert_close(quartiles, torch.tensor([0.7, 0.85, 1.0, 1.15, 1.3]), atol=0.01, rtol=0)
    assert factors.min() >= 0.7
    assert factors.max() <= 1.3


@pytest.mark.parametrize(
    ("height", "width", "least_area"), [(32, 32, 0.08), (32, 32, 0.7), (24, 40, 0.5), (40, 24, 0.5)]
)
def test_boxes_are_spread_as_torchvisions(height: int, width: int, least_area: float) -> None:
    boxes = draw_boxes(10_000, (height, width), least_area, CPU)
    image = torch.empty(3, height, width)
    scale, ratio = [least_area, 1.0], [3 / 4, 4 / 3]
    theirs = torch.tensor([RandomResizedCrop.get_params(image, scale, ratio) for _ in range(3_000)]).float()
    top, left, box_height, box_width = boxes.unbind(1)
    assert torch.equal(boxes, boxes.round())
    assert boxes[:, :2].min() >= 0
    assert boxes[:, 2:].min() >= 1
    assert (top + box_height).max() <= height
    assert (left + box_width).max() <= width
    # 3,000 draws know the deciles of a side of 40 pixels to about half a pixel; sides are whole numbers.
    deciles = torch.linspace(0.1, 0.9, 9)
    torch.testing.assert_close(boxes.quantile(deciles, 0), theirs.quantile(deciles, 0), atol=1.01, rtol=0)
    torch.testing.assert_close(boxes.mean(0), theirs.mean(0), atol=0.5, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40), (8, 64)])
def test_erased_boxes_are_spread_as_torchvisions(height: int, width: int) -> None:
    boxes = draw_erased(10_000, (height, width), 1.0, CPU)
    image, whole = torch.empty(3, height, width), (height, width)
    scale, ratio = (0.02, 0.33), (0.3, 3.3)
    theirs = torch.tensor([RandomErasing.get_params(image, scale, ratio, [0.0])[:4] for _ in range(3_000)])
    theirs[(theirs[:, 2:] == torch.tensor(whole)).all(1)] = 0  # none of ten tries fits: the image stays
    top, left, box_height, box_width = boxes.unbind(1)
    assert boxes.min() >= 0
    assert (top + box_height).max() <= height
    assert (left + box_width).max() <= width
    chosen = box_height > 0
    assert chosen.float().mean().item() == pytest.approx((theirs[:, 2] > 0).float().mean().item(), abs=0.02)
    ours, theirs = boxes[chosen].float(), theirs[theirs[:, 2] > 0].float()
    deciles = torch.linspace(0.1, 0.9, 9)
    torch.testing.assert_close(ours.quantile(deciles, 0), theirs.quantile(deciles, 0), atol=1.01, rtol=0)
    torch.testing.assert_close(ours.mean(0), theirs.mean(0), atol=0.5, rtol=0)


def test_images_are_erased_with_the_probability() -> None:
    boxes = draw_erased(20_000, (32, 32), 0.25, CPU)
    assert (boxes[:, 2] > 0).float().mean().item() == pytest.approx(0.25, abs=0.015)


@pytest.mark.parametrize(("height", "width"), [(8, 64), (64, 8)])
def test_where_no_box_fits_it_is_torchvisions_central_one(height: int, width: int) -> None:
    central = RandomResizedCrop.get_params(torch.empty(1, height, width), [1.0, 1.0], [3 / 4, 4 / 3])
    assert draw_boxes(3, (height, width), 1.0, CPU).tolist() == 3 * [list(central)]


@pytest.mark.parametrize("distortion", [0.2, 1.0])
def test_corners_move_inwards_as_torchvisions_on_half_of_the_images(distortion: float) -> None:
    height, width = 24, 40
    corners = draw_corners(20_000, (height, width), distortion, CPU)
    moved = (corners != corners.new_tensor([[0, 0], [39, 0], [39, 23], [0, 23]])).any(2).any(1)
    assert moved.float().mean().item() == pytest.approx(0.5, abs=0.02)
    theirs = torch.tensor([RandomPerspective.get_params(width, height, distortion)[1] for _ in range(2_000)]).float()
    ours = corners[moved]
    assert torch.equal(ours.amin(0), theirs.amin(0))
    assert torch.equal(ours.amax(0), theirs.amax(0))
    torch.testing.assert_close(ours.mean(0), theirs.mean(0), atol=0.6, rtol=0)


def test_perspectives_folded_on_themselves_or_on_a_line_give_no_nan() -> None:
    corners = draw_corners(2_000, (8, 8), 1.0, CPU)  # many of these are degenerate
    x = perspective(noise(len(corners), (1, 8, 8)), corners)
    assert x.min() >= 0
    assert x.max() <= 1 + 1e-6


def test_centres_are_uniform_over_the_image() -> None:
    row, col = draw_centres(40_000, (4, 10), CPU).unbind(1)
    shares = (row * 10 + col).bincount(minlength=40) / 40_000
    assert len(shares) == 40
    assert (shares - 1 / 40).abs().max() < 0.005


# Batches.


def augmenter(images: Tensor, spec: AugmentSpec, dtype: torch.dtype = torch.float32) -> Augmenter:
    channels = images.shape[3]
    return Augmenter(images, spec, MEAN[:channels], STD[:channels], dtype=dtype)


@shapes
@pytest.mark.parametrize("spec", [NOTHING, AugmentSpec(), EVERYTHING], ids=["nothing", "default", "everything"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batches_have_shape_dtype_and_channels_last(
    shape: tuple[int, int, int], spec: AugmentSpec, dtype: torch.dtype
) -> None:
    batch = augmenter(stored(6, shape), spec, dtype).batch(torch.tensor([5, 0, 3]))
    assert batch.shape == (3, *shape)
    assert batch.dtype == dtype
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert batch.isfinite().all()


def test_a_batch_depends_on_the_seed_alone() -> None:
    draw = augmenter(stored(6, (3, 12, 20)), EVERYTHING).batch
    indices = torch.arange(6)
    batches = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        batches.append(draw(indices))
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])
    assert not torch.equal(batches[2], draw(indices))


@shapes
def test_a_spec_of_nothing_normalises_and_draws_nothing(shape: tuple[int, int, int]) -> None:
    images, indices = stored(6, shape), torch.tensor([2, 2, 5])
    state = torch.get_rng_state()
    batch = augmenter(images, NOTHING).batch(indices)
    assert torch.equal(batch, normalise(images[indices], MEAN[: shape[0]], STD[: shape[0]], torch.float32))
    assert torch.equal(torch.get_rng_state(), state)


def test_normalised_batches_have_mean_0_and_std_1_per_channel() -> None:
    images = stored(200, (3, 16, 16)) // torch.tensor([1, 2, 4], dtype=torch.uint8)
    pixels = images.double().flatten(0, 2) / 255
    mean, std = pixels.mean(0).tolist(), pixels.std(0).tolist()
    batch = Augmenter(images, NOTHING.model_copy(update={"flip": True}), mean, std).batch(torch.arange(200))
    torch.testing.assert_close(batch.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(batch.std((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)


def test_half_of_a_batch_is_flipped() -> None:
    images = torch.zeros(1, 1, 2, 1, dtype=torch.uint8)
    images[..., 0, :] = 255
    batch = augmenter(images, NOTHING.model_copy(update={"flip": True})).batch(torch.zeros(10_000, dtype=torch.int64))
    assert (batch[:, 0, 0, 1] > batch[:, 0, 0, 0]).float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_alternating_flips_flip_each_image_in_every_second_pass() -> None:
    spec = NOTHING.model_copy(update={"flip": True, "flip_order": "alternating"})
    images, indices = stored(400, (3, 4, 6)), torch.randperm(400)
    plain, mirrored = (normalise(each[indices], MEAN, STD, torch.float32) for each in (images, images.flip(2)))
    augmented = Augmenter(images, spec, MEAN, STD, seed=5)
    first = draw_first_flips(400, seed=5)[indices]
    assert first.float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert not torch.equal(first, draw_first_flips(400, seed=6)[indices])
    before = torch.get_rng_state()
    for number in (0, 1, 2, 5, 0, 7, 8):  # also when a run continues
        augmented.enter_pass(number)
        flipped = (first ^ (number % 2 == 1))[:, None, None, None]
        assert torch.equal(augmented.batch(indices), torch.where(flipped, mirrored, plain))
    torch.manual_seed(1)
    same_seed = Augmenter(images, spec, MEAN, STD, seed=5)
    assert torch.equal(same_seed.batch(indices), torch.where(first[:, None, None, None], mirrored, plain))
    torch.set_rng_state(before)


def test_the_order_of_flips_has_no_effect_without_flips() -> None:
    spec = NOTHING.model_copy(update={"flip_order": "alternating"})
    images, indices = stored(6, (3, 4, 6)), torch.arange(6)
    augmented = augmenter(images, spec)
    augmented.enter_pass(1)
    assert torch.equal(augmented.batch(indices), normalise(images, MEAN, STD, torch.float32))


def test_transforms_come_in_the_documented_order() -> None:
    images, indices, size = stored(8, (3, 12, 20)), torch.arange(8), (12, 20)
    torch.manual_seed(3)
    batch = augmenter(images, EVERYTHING).batch(indices)
    torch.manual_seed(3)
    rows, cols = draw_offsets(8, 4, CPU)
    padded = torch.nn.functional.pad(images, (0, 0, 4, 4, 4, 4))
    pixels = crop_flip(padded, indices, rows, cols, draw_chosen(8, 0.5, CPU), size)
    x = TrivialAugment(size, 3, CPU)(pixels).permute(0, 3, 1, 2) / 255
    x = enlarge_crop(x, draw_window(8, size, EVERYTHING.enlarge, CPU), EVERYTHING.enlarge)
    x = resize_crop(x, draw_boxes(8, size, EVERYTHING.resize_crop, CPU))
    x = rotate(x, draw_uniform(8, 0, EVERYTHING.rotation, CPU))
    x = perspective(x, draw_corners(8, size, EVERYTHING.perspective, CPU))
    x = adjust_brightness(x, draw_uniform(8, 1, EVERYTHING.brightness, CPU))
    x = adjust_contrast(x, draw_uniform(8, 1, EVERYTHING.contrast, CPU))
    x = adjust_saturation(x, draw_uniform(8, 1, EVERYTHING.saturation, CPU))
    x = adjust_hue(x, draw_uniform(8, 0, EVERYTHING.hue, CPU))
    x = tv.normalize(x, list(MEAN), list(STD))
    x = cutout(x, draw_centres(8, size, CPU), EVERYTHING.cutout)
    x = erase(x, draw_erased(8, size, EVERYTHING.erasing, CPU))
    torch.testing.assert_close(batch, x, atol=1e-4, rtol=0)


@pytest.mark.parametrize("spec", ONE_AT_A_TIME, ids=[" ".join(sorted(s.model_fields_set)) for s in ONE_AT_A_TIME])
def test_every_setting_changes_the_batch(spec: AugmentSpec) -> None:
    images, indices = stored(8, (3, 12, 20)), torch.arange(8)
    plain = normalise(images, MEAN, STD, torch.float32)
    assert not torch.allclose(augmenter(images, spec).batch(indices), plain, atol=1e-3)


# Nothing waits for the device.


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_reads_the_device_or_takes_its_shape_from_data(channels: int) -> None:
    # Fake CUDA tensors have no data: .item(), boolean indexing and mixing in CPU tensors raise. They need no GPU.
    with FakeTensorMode():
        images = torch.empty(9, 12, 20, channels, dtype=torch.uint8, device="cuda")
        indices = torch.empty(4, dtype=torch.int64, device="cuda")
        alternating = augmenter(images, EVERYTHING.model_copy(update={"flip_order": "alternating"}))
        alternating.enter_pass(3)
        batch = augmenter(images, EVERYTHING).batch(indices) + alternating.batch(indices)
        evaluated = normalise(images, MEAN[:channels], STD[:channels], torch.float32)
    assert batch.shape == (4, channels, 12, 20)
    assert batch.device.type == evaluated.device.type == "cuda"


def test_nothing_is_copied_from_the_host() -> None:
    images, indices = stored(9, (3, 12, 20)), torch.arange(4)
    draw = augmenter(images, EVERYTHING).batch
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as record:
        draw(indices)
        normalise(images, MEAN, STD, torch.float32)
    operations = {event.key for event in record.key_averages()}
    assert "aten::index_select" in operations
    # torch.tensor(numbers) ends in lift_fresh; linear solvers look at their results on the host.
    assert not operations & {"aten::lift_fresh", "aten::item", "aten::nonzero", "aten::_linalg_check_errors"}


@pytest.mark.cuda
def test_a_cuda_graph_draws_anew_on_every_replay() -> None:
    draw = augmenter(stored(9, (3, 12, 20)).cuda(), EVERYTHING).batch
    indices = torch.arange(4, device="cuda")
    draw(indices)  # what is made at the first call is made outside of the graph
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        batch = draw(indices)
    graph.replay()
    first = batch.clone()
    graph.replay()
    assert first.isfinite().all()
    assert not torch.equal(first, batch)
