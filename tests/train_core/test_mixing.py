"""Mixed images: what is in them, what their labels are, and how both are drawn."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from tests.support.tiny import NETWORK, tiny_recipe
from train_core import mixing
from train_core.errors import RecipeError, UserError
from train_core.mix import MIXES, MixName
from train_core.mixing import Mixer, Targets, cutmix, draw_permutation, draw_shares, mixup, ricap
from train_core.specs import TrainSpec
from train_core.state import TrainState
from train_core.step import train_step

CPU = torch.device("cpu")
ALWAYS, NEVER = torch.tensor(1.0), torch.tensor(0.0)
MIXED: list[MixName] = ["mixup", "cutmix", "ricap"]
mixes = pytest.mark.parametrize("mix", MIXED)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def numbered(count: int, size: tuple[int, int] = (12, 20)) -> tuple[Tensor, Tensor]:
    """Images of which every pixel tells its image, row and column; the label of an image is its number."""
    height, width = size
    image = torch.arange(count).view(-1, 1, 1).expand(count, height, width)
    row = torch.arange(height)[:, None].expand(count, height, width)
    col = torch.arange(width).expand(count, height, width)
    images = torch.stack((image, row, col), 1).float().contiguous(memory_format=torch.channels_last)
    return images, torch.arange(count)


@mixes
@pytest.mark.parametrize("channels", [1, 3])
def test_a_mixed_batch_has_the_form_of_its_images(mix: MixName, channels: int) -> None:
    images = torch.rand(6, channels, 12, 20).contiguous(memory_format=torch.channels_last)
    mixed, targets = MIXES[mix].build()(images, torch.arange(6), 1.0, ALWAYS)
    assert (mixed.shape, mixed.dtype) == (images.shape, images.dtype)
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert targets.labels.shape == (MIXES[mix].parts, 6)
    assert targets.shares is not None
    assert targets.shares.sum().item() == pytest.approx(1, abs=1e-6)
    assert all(labels.sort().values.tolist() == list(range(6)) for labels in targets.labels)


def test_mixup_is_the_sum_of_two_images_in_the_shares_of_their_labels() -> None:
    images, labels = torch.rand(7, 3, 5, 4), torch.arange(7)
    for _ in range(20):
        mixed, targets = mixup(images, labels, 0.4, ALWAYS)
        assert targets.shares is not None
        first, second = targets.shares
        assert torch.equal(targets.labels[0], labels)
        torch.testing.assert_close(mixed, first * images + second * images[targets.labels[1]])


def test_cutmix_fills_one_box_and_its_share_is_the_boxs_area() -> None:
    images, labels = numbered(8)
    areas = set()
    for _ in range(100):
        mixed, targets = cutmix(images, labels, 1.0, ALWAYS)
        assert targets.shares is not None
        moved = (mixed[:, 0] != labels[:, None, None]).any(0)
        assert torch.equal(mixed[:, 1:], images[:, 1:])  # each pixel stays where it is
        expected = torch.where(moved, targets.labels[1][:, None, None], labels[:, None, None])
        assert torch.equal(mixed[:, 0], expected.float())
        rows, cols = moved.any(1), moved.any(0)
        assert torch.equal(moved, rows[:, None] & cols)
        for line in (rows, cols):  # in one piece
            assert (line.int().diff() != 0).sum() <= 2
        assert targets.shares[1].item() == pytest.approx(moved.float().mean().item(), abs=1e-6)
        areas.add(int(moved.sum()))
    assert len(areas) > 20


def papers_box(height: int, width: int, share: float, row: int, col: int) -> tuple[int, int, int, int]:
    """The box of the code of Yun et al.: `rand_bbox` of github.com/clovaai/CutMix-PyTorch."""
    cut_h, cut_w = int(height * (1 - share) ** 0.5), int(width * (1 - share) ** 0.5)
    top, bottom = max(0, row - cut_h // 2), min(height, row + cut_h // 2)
    left, right = max(0, col - cut_w // 2), min(width, col + cut_w // 2)
    return top, bottom, left, right


def test_cutmixs_boxes_are_those_of_the_papers_code(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = numbered(2)
    monkeypatch.setattr(mixing, "draw_permutation", lambda count, device: torch.tensor([1, 0]))
    for share, row, col in [(0.3, 0, 0), (0.3, 11, 19), (0.75, 6, 10), (0.99, 5, 5), (0.0, 3, 18), (0.512, 2, 9)]:
        centres = iter((row, col))
        monkeypatch.setattr(mixing, "draw_shares", lambda *_, share=share: torch.tensor([share]))
        monkeypatch.setattr(mixing, "_draw_up_to", lambda most, centres=centres: torch.tensor([next(centres)]))
        mixed, _ = cutmix(images, labels, 1.0, ALWAYS)
        top, bottom, left, right = papers_box(12, 20, share, row, col)
        expected = images[0, 0].clone()
        expected[top:bottom, left:right] = 1
        assert torch.equal(mixed[0, 0], expected)


def test_ricap_puts_crops_of_four_images_around_a_point() -> None:
    images, labels = numbered(9)
    points, corners = set(), set()
    for _ in range(60):
        mixed, targets = ricap(images, labels, 0.3, ALWAYS)
        assert targets.shares is not None
        areas = [round(share * 12 * 20) for share in targets.shares.tolist()]
        top = round((areas[0] + areas[1]) / 20)
        left = round((areas[0] + areas[2]) / 12)
        points.add((top, left))
        where = [(0, top, 0, left), (0, top, left, 20), (top, 12, 0, left), (top, 12, left, 20)]
        for k, (first_row, end_row, first_col, end_col) in enumerate(where):
            patch = mixed[:, :, first_row:end_row, first_col:end_col]
            assert areas[k] == patch[0, 0].numel()
            if not areas[k]:
                continue
            assert (patch[:, 0] == targets.labels[k][:, None, None]).all()  # of one image
            row, col = (int(each) for each in patch[0, 1:, 0, 0])
            corners.add((k, row, col))
            crop = images[:, 1:, row : row + end_row - first_row, col : col + end_col - first_col]
            assert torch.equal(patch[:, 1:], crop)  # and in one piece, at one place for the whole batch
    assert len(points) > 20
    assert len(corners) > 60


def test_four_permutations_of_ricap_differ() -> None:
    images, labels = numbered(30)
    _, targets = ricap(images, labels, 1.0, ALWAYS)
    assert len({tuple(each.tolist()) for each in targets.labels}) == 4


@mixes
def test_a_batch_that_is_not_mixed_is_the_batch_itself(mix: MixName) -> None:
    images, labels = torch.randn(5, 3, 8, 8), torch.tensor([2, 0, 1, 1, 2])
    mixed, targets = MIXES[mix].build()(images, labels, 0.5, NEVER)
    assert torch.equal(mixed, images)
    assert torch.equal(targets.labels[0], labels)
    assert targets.shares is not None
    assert targets.shares.tolist() == [1.0] + [0.0] * (MIXES[mix].parts - 1)


def test_without_mix_nothing_is_drawn_and_nothing_computed() -> None:
    images, labels, before = torch.randn(5, 3, 8, 8), torch.arange(5), torch.get_rng_state()
    mixed, targets = Mixer(TrainSpec(epochs=1), (8, 8), CPU)(images, labels)
    assert mixed is images
    assert targets.shares is None
    assert targets.labels.tolist() == [labels.tolist()]
    assert torch.equal(torch.get_rng_state(), before)


def are_mixed(mixer: Mixer, batches: int) -> float:
    """The share of batches that the mixer mixes."""
    images, labels = torch.randn(4, 1, 4, 4), torch.arange(4)
    return sum(mixer(images, labels)[1].shares[0].item() < 1 for _ in range(batches)) / batches  # type: ignore[index]  # mixed, so not None


@mixes
def test_a_share_of_the_batches_is_mixed(mix: MixName) -> None:
    mixer = Mixer(TrainSpec(epochs=1, mix=mix, mix_share=0.3, mix_alpha=1), (64, 64), CPU)
    assert mixer._probability.item() == pytest.approx(0.3)
    images, labels = torch.randn(2, 1, 64, 64), torch.arange(2)
    mixed = 0
    for _ in range(600):
        shares = mixer(images, labels)[1].shares
        assert shares is not None
        mixed += shares[0].item() < 1
    assert mixed / 600 == pytest.approx(0.3, abs=0.07)


def test_a_run_ends_without_mixed_images() -> None:
    mixer = Mixer(TrainSpec(epochs=1, mix="mixup", mix_off=0.25), (4, 4), CPU)
    shares = []
    for step in range(20):
        mixer.at(step, 20)
        shares.append(are_mixed(mixer, 5))
    assert shares == [1.0] * 15 + [0.0] * 5
    mixer.at(3, 20)  # an earlier step, as when another run begins
    assert are_mixed(mixer, 5) == 1


@pytest.mark.parametrize("alpha", [0.01, 0.3, 1.0, 3.0])
def test_shares_have_the_moments_and_quantiles_of_the_beta_distribution(alpha: float) -> None:
    shares = draw_shares(alpha, 200_000, CPU).double()
    assert shares.isfinite().all()
    assert shares.min() >= 0
    assert shares.max() <= 1
    assert shares.mean().item() == pytest.approx(0.5, abs=0.006)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.02)
    theirs = torch.distributions.Beta(torch.tensor(alpha).double(), torch.tensor(alpha).double()).sample((200_000,))
    quartiles = torch.tensor([0.25, 0.5, 0.75]).double()
    if alpha > 0.1:  # below, half of the shares are 0 and half are 1
        torch.testing.assert_close(shares.quantile(quartiles), theirs.quantile(quartiles), atol=0.015, rtol=0)


def test_permutations_are_uniform() -> None:
    firsts = torch.stack([draw_permutation(4, CPU) for _ in range(8_000)])
    assert torch.equal(firsts.sort(1).values, torch.arange(4).expand(8_000, 4))
    for column in firsts.unbind(1):
        assert (column.bincount(minlength=4) / 8_000 - 0.25).abs().max() < 0.025


# Targets.


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_cross_entropy_with_the_mixed_labels(smoothing: float) -> None:
    logits, labels = torch.randn(6, 5), torch.randint(5, (4, 6))
    shares = torch.tensor([0.1, 0.2, 0.3, 0.4])
    soft = sum(share * F.one_hot(each, 5) for share, each in zip(shares, labels, strict=True))
    loss = Targets(labels=labels, shares=shares).cross_entropy(logits, smoothing)
    torch.testing.assert_close(loss, F.cross_entropy(logits, soft, label_smoothing=smoothing))


def test_an_answer_counts_as_the_share_of_the_images_that_it_is_right_for() -> None:
    logits = torch.eye(3)  # the answers are 0, 1 and 2
    targets = Targets(labels=torch.tensor([[0, 1, 0], [1, 1, 2]]), shares=torch.tensor([0.7, 0.3]))
    assert targets.correct(logits).item() == pytest.approx(0.7 + 1.0 + 0.3)
    assert Targets.of(torch.tensor([0, 1, 1])).correct(logits).item() == 2


@mixes
@pytest.mark.parametrize("batch", [16, 15])
def test_two_parts_of_a_mixed_batch_have_the_gradients_of_the_whole(mix: MixName, batch: int) -> None:
    network = NETWORK.model_copy(update={"norm": "none"})  # batch norm sees the part, not the batch
    images, labels = torch.randn(batch, 3, 8, 8), torch.arange(batch) % 3
    mixed, targets = MIXES[mix].build()(images, labels, 1.0, ALWAYS)
    whole, parts = (TrainState.new(network, tiny_recipe(label_smoothing=0.1, mix=mix), CPU) for _ in range(2))
    parts.accumulation_steps = 2
    torch.testing.assert_close(train_step(parts, mixed, targets), train_step(whole, mixed, targets))
    for (name, ours), theirs in zip(parts.model.named_parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=name)


# What a user can get wrong.


@pytest.mark.parametrize("mix", ["cutmix", "ricap"])
@pytest.mark.parametrize("size", [(1, 8), (8, 1)])
def test_images_of_a_single_pixel_cannot_be_cut(mix: MixName, size: tuple[int, int]) -> None:
    words = f"^mix = '{mix}' cuts images, and these have only {size[0]}x{size[1]} pixels: use mix = 'mixup' or 'none'$"
    with pytest.raises(RecipeError, match=words) as caught:
        Mixer(TrainSpec(epochs=1, mix=mix), size, CPU)
    assert isinstance(caught.value, UserError)
    Mixer(TrainSpec(epochs=1, mix="mixup"), size, CPU)


@pytest.mark.parametrize("changes", [{"mix_alpha": 0.5}, {"mix_share": 0.5}, {"mix_off": 0.1}])
def test_settings_of_mixed_images_need_a_mix(changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(ValueError, match=f"{name} has no effect without mixed images: set mix, or leave {name} out"):
        TrainSpec(epochs=1, **changes)
    assert TrainSpec(epochs=1, mix="cutmix", **changes).mix == "cutmix"


def test_an_alpha_of_zero_is_that_of_the_paper() -> None:
    assert [TrainSpec(epochs=1, mix=mix).alpha for mix in MIXED] == [1.0, 1.0, 0.3]
    assert TrainSpec(epochs=1, mix="ricap", mix_alpha=0.7).alpha == 0.7


def test_the_function_of_each_mix_is_there() -> None:
    assert all(callable(kind.build()) for kind in MIXES.values())


# Nothing waits for the device.


@mixes
@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_nothing_reads_the_device_or_takes_its_shape_from_data(mix: MixName, alpha: float) -> None:
    # Fake CUDA tensors have no data: .item(), boolean indexing and mixing in CPU tensors raise. They need no GPU.
    with FakeTensorMode():
        mixer = Mixer(TrainSpec(epochs=1, mix=mix, mix_alpha=alpha, mix_off=0.1), (8, 6), torch.device("cuda"))
        mixer.at(9, 10)
        images = torch.empty(4, 3, 8, 6, device="cuda")
        mixed, targets = mixer(images, torch.empty(4, dtype=torch.int64, device="cuda"))
        loss = targets.cross_entropy(torch.empty(4, 10, device="cuda"), 0.1)
        correct = targets.correct(torch.empty(4, 10, device="cuda"))
    assert mixed.shape == images.shape
    assert mixed.device.type == loss.device.type == correct.device.type == "cuda"


@mixes
def test_nothing_is_copied_from_the_host(mix: MixName) -> None:
    mixer = Mixer(TrainSpec(epochs=1, mix=mix, mix_alpha=0.7), (8, 8), CPU)
    images, labels, logits = torch.randn(4, 3, 8, 8), torch.arange(4), torch.randn(4, 10)
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as record:
        _, targets = mixer(images, labels)
        targets.cross_entropy(logits, 0.1)
        targets.correct(logits)
    operations = {event.key for event in record.key_averages()}
    assert "aten::nll_loss_forward" in operations or "aten::cross_entropy_loss" in operations
    assert not operations & {"aten::lift_fresh", "aten::item", "aten::nonzero", "aten::_local_scalar_dense"}
