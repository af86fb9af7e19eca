"""Steps along the gradients of a point nearby at which the loss is high."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from tests.support.tiny import NETWORK, same, tiny_data, tiny_recipe, weights
from train_core import checkpoint, step
from train_core.augment import Augmenter
from train_core.loop import train
from train_core.models import ResNet
from train_core.sharpness import ascended
from train_core.specs import ResNetSpec, TrainSpec
from train_core.state import TrainState
from train_core.step import HalfWeights, train_step

CPU = torch.device("cpu")


def batch(state: TrainState, images: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    data = tiny_data()
    augmenter = Augmenter(data.train.images, state.recipe.augment, data.mean, data.std)
    torch.manual_seed(0)
    return augmenter.batch(torch.arange(images)), data.train.labels[:images]


def test_the_ascent_point_of_a_quadratic_is_the_one_computed_by_hand() -> None:
    """Of the loss 2 u^2 + v^2 / 2 at (3, -1): its gradient is (12, -1), and T is (3.01, 1.01)."""
    model = nn.ParameterList([torch.tensor([3.0]), torch.tensor([-1.0])])

    def backward() -> None:
        u, v = model
        (2 * u**2 + v**2 / 2).sum().backward()

    backward()
    size = math.hypot(3.01 * 12, 1.01 * 1)
    high = 3 + 0.5 * 3.01**2 * 12 / size, -1 - 0.5 * 1.01**2 * 1 / size
    with ascended(model, 0.5):
        assert [each.item() for each in model] == pytest.approx(high)
        for each in model:
            each.grad = None
        backward()
    assert [each.item() for each in model] == [3, -1]
    assert [each.grad.item() for each in model] == pytest.approx([4 * high[0], high[1]])


def test_gradients_of_zero_move_nothing() -> None:
    model = nn.ParameterList([torch.tensor([3.0])])
    model[0].grad = torch.zeros(1)
    with ascended(model, 0.5):
        assert model[0].item() == 3


def test_a_step_is_a_plain_step_with_the_gradients_of_the_ascent_point() -> None:
    """By the definition, on a copy of the network, element by element; the sums are those of the first pass."""
    state = TrainState.new(NETWORK, tiny_recipe(asam=0.5, lr=0.1, momentum=0.0, weight_decay=0.0), CPU)
    images, labels = batch(state)
    start = weights(state)
    copy = ResNet(NETWORK)
    copy.load_state_dict(start)
    logits = copy(images)
    loss = nn.functional.cross_entropy(logits, labels)
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
    square = 0.0
    for parameter in copy.parameters():
        assert parameter.grad is not None
        square += float(((parameter.detach().abs() + 0.01) * parameter.grad).square().sum())
    with torch.no_grad():
        for parameter in copy.parameters():
            assert parameter.grad is not None
            parameter.add_(0.5 * (parameter.abs() + 0.01) ** 2 * parameter.grad / math.sqrt(square))
    copy.zero_grad()
    nn.functional.cross_entropy(copy(images), labels).backward()  # type: ignore[no-untyped-call]  # torch does not annotate it

    sums = train_step(state, images, labels)
    assert sums[0].item() == pytest.approx(16 * loss.item(), rel=1e-5)
    assert sums[1].item() == (logits.argmax(1) == labels).sum()
    for (name, ours), theirs in zip(state.model.named_parameters(), copy.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(ours, start[name] - 0.1 * theirs.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_the_norms_statistics_follow_the_first_pass_alone() -> None:
    plain, sharp = (TrainState.new(NETWORK, tiny_recipe(asam=asam), CPU) for asam in (0.0, 0.5))
    for state in (plain, sharp):
        train_step(state, *batch(state))
    buffers = dict(plain.model.named_buffers())
    assert any("running_mean" in name for name in buffers)
    assert all(torch.equal(buffers[name], buffer) for name, buffer in sharp.model.named_buffers())
    assert not same(weights(plain), weights(sharp))


def test_a_radius_of_zero_takes_plain_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(step, "ascended", never)
    runs = []
    for recipe in (tiny_recipe(), tiny_recipe(asam=0)):
        runs.append(TrainState.new(NETWORK, recipe, CPU))
        list(train(runs[-1], tiny_data()))
    assert same(*map(weights, runs))


@pytest.mark.parametrize("images", [16, 15])
@pytest.mark.parametrize("changes", [{}, {"clip_norm": 0.1}])
def test_in_parts_the_whole_batch_ascends(changes: dict[str, Any], images: int) -> None:
    network = NETWORK.model_copy(update={"norm": "none"})  # batch norm sees the part, not the batch
    whole, parts = (TrainState.new(network, tiny_recipe(asam=0.5, **changes), CPU) for _ in range(2))
    parts.accumulation_steps = 2
    sums = [train_step(state, *batch(state, images)) for state in (whole, parts)]
    torch.testing.assert_close(*sums)
    for (name, ours), theirs in zip(parts.model.named_parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)


def test_clipping_applies_to_the_gradients_of_the_ascent_point() -> None:
    state = TrainState.new(NETWORK, tiny_recipe(asam=0.5, clip_norm=1e-3), CPU)
    train_step(state, *batch(state))
    norms = [torch.linalg.vector_norm(each.grad) for each in state.model.parameters() if each.grad is not None]
    assert torch.linalg.vector_norm(torch.stack(norms)).item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("parts", [1, 2])
def test_weights_cast_all_at_once_ascend_like_those_of_autocast(parts: int) -> None:
    spec = ResNetSpec.model_validate(NETWORK.model_dump() | {"se_reduction": 2})
    autocast, cast = (TrainState.new(spec, tiny_recipe(precision="bf16", asam=0.5), CPU) for _ in range(2))
    half = HalfWeights(cast.model, torch.bfloat16)
    for state, twins in ((autocast, None), (cast, half)):
        state.accumulation_steps = parts
        for _ in range(3):
            train_step(state, *batch(state), torch.zeros(2), twins)
    assert same(weights(autocast), weights(cast))


def test_without_memory_for_the_second_pass_the_batch_is_taken_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    state = TrainState.new(NETWORK, tiny_recipe(asam=0.5, epochs=1), CPU)
    original, calls = ResNet.forward, list[int]()

    def forward(self: ResNet, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            calls.append(len(images))
            if len(calls) == 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(self, images)

    monkeypatch.setattr(ResNet, "forward", forward)
    (result,) = train(state, tiny_data())
    assert calls == [16, 16, *[8] * 12]
    assert result.accumulation_steps == 2
    assert all(buffer is not None for _, buffer in state.model.named_buffers())


@pytest.mark.parametrize("changes", [{}, {"optimizer": "muon", "lr": 0.01}, {"precision": "bf16", "ema_decay": 0.9}])
def test_a_resumed_run_ends_with_the_same_bits(changes: dict[str, Any], tmp_path: Any) -> None:
    network = NETWORK.model_copy(update={"block_dropout": 0.3})
    whole, stopped = (TrainState.new(network, tiny_recipe(asam=0.5, **changes), CPU) for _ in range(2))
    list(train(whole, tiny_data()))
    next(train(stopped, tiny_data()))
    checkpoint.save(stopped, tmp_path / "run.pt")
    stopped = checkpoint.load(tmp_path / "run.pt", CPU)
    list(train(stopped, tiny_data()))
    assert same(weights(whole), weights(stopped))
    assert same(whole.model.state_dict(), stopped.model.state_dict())


def test_a_run_with_it_learns_and_its_recipe_says_so() -> None:
    state = TrainState.new(NETWORK, tiny_recipe(asam=0.5, epochs=12), CPU)
    *_, last = train(state, tiny_data())
    assert last.val_accuracy > 0.9
    assert str(state.recipe).endswith("12 epochs, asam 0.5")
    assert "asam" not in str(tiny_recipe())


def test_it_is_refused_in_fp16_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"asam does not work in fp16, .*: use bf16 or fp32"):
        TrainSpec(epochs=1, asam=0.5, precision="fp16")
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        TrainSpec(epochs=1, asam=-1)


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_captured_run_on_a_gpu_is_the_run_without(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device, runs = torch.device("cuda"), []
    for warm_up in (3, 10**9):
        monkeypatch.setattr(step, "WARM_UP", warm_up)
        state = TrainState.new(NETWORK, tiny_recipe(epochs=12, precision=precision, asam=0.5), device)
        runs.append(list(train(state, tiny_data().to(device))))
    captured, plain = runs
    assert captured[-1].val_accuracy > 0.9
    for ours, theirs in zip(captured, plain, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=0.05)
