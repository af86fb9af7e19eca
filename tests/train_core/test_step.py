"""One step: in parts where memory is short, and captured or not with the same outcome."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.torch_version import TorchVersion

from tests.support.tiny import NETWORK, same, tiny_data, tiny_recipe, weights
from train_core import step
from train_core.augment import Augmenter
from train_core.device import NO_CAPTURE, is_out_of_memory, may_capture, release_memory
from train_core.errors import CaptureError, UserError
from train_core.loop import train
from train_core.models import ResNet
from train_core.specs import ResNetSpec
from train_core.state import TrainState
from train_core.step import HalfWeights, Stepper, train_step

CPU = torch.device("cpu")


def a_step(state: TrainState, batch: int = 16) -> torch.Tensor:
    """One step on the first images; returns its sums."""
    data = tiny_data()
    augmenter = Augmenter(data.train.images, state.recipe.augment, data.mean, data.std)
    torch.manual_seed(0)
    return train_step(state, augmenter.batch(torch.arange(batch)), data.train.labels[:batch], torch.zeros(2))


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adamw", "lr": 0.01}, {"clip_norm": 0.1}])
@pytest.mark.parametrize("batch", [16, 15])
def test_accumulated_gradients_are_those_of_the_whole_batch(changes: dict[str, Any], batch: int) -> None:
    network = NETWORK.model_copy(update={"norm": "none"})  # batch norm sees the part, not the batch
    whole, parts = (TrainState.new(network, tiny_recipe(label_smoothing=0.1, **changes), CPU) for _ in range(2))
    parts.accumulation_steps = 2
    torch.testing.assert_close(a_step(parts, batch), a_step(whole, batch))
    for (name, ours), theirs in zip(parts.model.named_parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=name)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)


@pytest.fixture
def small_device(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A device that can hold the activations of `most` images; it counts how often it could not."""
    device = {"most": 8, "refused": 0}
    original = ResNet.forward

    def forward(self: ResNet, images: torch.Tensor) -> torch.Tensor:
        if self.training and len(images) > device["most"]:
            device["refused"] += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return original(self, images)

    monkeypatch.setattr(ResNet, "forward", forward)
    return device


def test_without_memory_for_a_batch_it_is_taken_in_halves_and_said(small_device: dict[str, int]) -> None:
    state = TrainState.new(NETWORK, tiny_recipe(epochs=8), CPU)
    results = list(train(state, tiny_data()))
    assert small_device["refused"] == 1
    assert {result.accumulation_steps for result in results} == {2}
    assert {result.images for result in results} == {48}
    assert results[-1].val_accuracy > 0.9


def test_without_memory_for_half_a_batch_the_run_fails_with_the_reason(small_device: dict[str, int]) -> None:
    small_device["most"] = 7
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        list(train(TrainState.new(NETWORK, tiny_recipe(), CPU), tiny_data()))
    assert small_device["refused"] == 2


def test_another_error_is_not_taken_for_a_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def forward(self: ResNet, images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(ResNet, "forward", forward)
    with pytest.raises(RuntimeError, match="shapes"):
        list(train(TrainState.new(NETWORK, tiny_recipe(), CPU), tiny_data()))
    assert calls == [16]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GiB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("FIND was unable to find an engine to execute this computation"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


def test_a_real_allocation_that_fails_counts() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


class FakeGraphs:
    """Stands in for CUDA's graphs: what runs in a capture is remembered and not done, and done at each replay."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.captures = self.replays = 0
        self.error = error
        original = Stepper.__init__

        def init(stepper: Stepper, *args: Any, **settings: Any) -> None:
            original(stepper, *args, **settings)
            self.stepper = stepper

        monkeypatch.setattr(Stepper, "__init__", init)
        monkeypatch.setattr(step, "may_capture", lambda device: os.environ.get(NO_CAPTURE) != "1")
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        monkeypatch.setattr(torch.cuda, "graph", self.graph)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(step, "train_step", self.train_step)
        self.capturing = False

    @contextmanager
    def graph(self, graph: object, stream: object) -> Iterator[None]:
        assert graph is self
        self.capturing = True
        try:
            yield
        finally:
            self.capturing = False

    def train_step(self, state: TrainState, images: torch.Tensor, labels: torch.Tensor, *more: Any) -> torch.Tensor:
        if not self.capturing:
            return train_step(state, images, labels, *more)
        self.captures += 1
        if self.error:
            raise self.error
        return torch.zeros(2)

    def replay(self) -> None:
        self.replays += 1
        self.stepper._work()


def test_a_graph_reads_from_the_device_which_pass_it_is_and_whether_images_are_mixed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A replayed step is the captured one: nothing that changes may be a number of Python's."""
    recipe = tiny_recipe(mix="mixup", mix_off=0.5, augment={"crop_padding": 0, "flip_order": "alternating"})
    stepper = Stepper.of(TrainState.new(NETWORK, recipe, CPU), tiny_data().train, (0.5,) * 3, (0.2,) * 3, 4)
    tensors = (stepper._mixer._probability, stepper._augmenter._is_odd_pass)
    addresses = [each.data_ptr() for each in tensors]
    for number, (step_number, is_mixed) in enumerate([(0, True), (4, True), (5, False), (9, False)]):
        stepper.prepare(step_number, 10, number)
        assert [each.item() for each in tensors] == [float(is_mixed), number % 2 == 1]
    assert [each.data_ptr() for each in tensors] == addresses


@pytest.mark.parametrize("error", [None, RuntimeError("operation not permitted when stream is capturing")])
def test_captured_or_not_the_run_is_the_same(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = TrainState.new(NETWORK, tiny_recipe(augment={"crop_padding": 0, "flip": False}), CPU)
    captured = TrainState.new(NETWORK, plain.recipe, CPU)
    expected = list(train(plain, tiny_data()))

    graphs = FakeGraphs(monkeypatch, error)
    with caplog.at_level(logging.WARNING):
        results = list(train(captured, tiny_data()))

    assert graphs.captures == 1
    assert graphs.replays == (0 if error else 9 - step.WARM_UP)  # 3 epochs of 3 steps
    assert [record.getMessage() for record in caplog.records] == (
        [
            f"steps could not be captured in a CUDA graph ({error}): they are launched kernel by kernel; "
            "SEARCH_EAGER=1 does so from the start"
        ]
        if error
        else []
    )
    assert same(weights(plain), weights(captured))
    assert [result.train_loss for result in results] == [result.train_loss for result in expected]


def test_where_torch_does_not_recover_from_a_failed_capture_the_run_ends_and_names_the_switch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graphs = FakeGraphs(monkeypatch, RuntimeError("operation not permitted when stream is capturing\nmore"))
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.11.0+cu130"))
    run = train(TrainState.new(NETWORK, tiny_recipe(), CPU), tiny_data())
    with pytest.raises(CaptureError, match=r"stream is capturing\): set SEARCH_EAGER=1 and run the same") as caught:
        list(run)
    assert isinstance(caught.value, UserError)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("SEARCH_EAGER", "1")
    assert len(list(train(TrainState.new(NETWORK, tiny_recipe(), CPU), tiny_data()))) == 3
    assert graphs.captures == 1


def test_kernels_are_captured_on_cuda_alone_and_not_where_the_user_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEARCH_EAGER", raising=False)
    assert may_capture(torch.device("cuda"))
    assert not may_capture(CPU)
    monkeypatch.setenv("SEARCH_EAGER", "1")
    assert not may_capture(torch.device("cuda"))


def test_all_steps_of_a_process_share_one_side_stream_for_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.device] = []

    def stream(device: torch.device) -> int:
        made.append(device)
        return len(made)

    monkeypatch.setattr(torch.cuda, "Stream", stream)
    step._side_stream.cache_clear()
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    assert [step._side_stream(each) for each in (first, second, first, torch.device("cuda:1"))] == [1, 2, 1, 2]
    assert made == [first, second]
    step._side_stream.cache_clear()


@pytest.mark.parametrize("network", [{}, {"block": "preact", "se_reduction": 2, "final_norm": True}])
@pytest.mark.parametrize("parts", [1, 2])
def test_weights_cast_all_at_once_give_the_values_of_autocast(network: dict[str, Any], parts: int) -> None:
    spec = ResNetSpec.model_validate(NETWORK.model_dump() | network)
    images, labels = torch.randn(15, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(15) % 3
    autocast, cast = (TrainState.new(spec, tiny_recipe(precision="bf16"), CPU) for _ in range(2))
    half = HalfWeights(cast.model, torch.bfloat16)
    assert {"stem.0.weight", "classifier.weight", "classifier.bias"} <= set(half.twins)
    for state, twins in ((autocast, None), (cast, half)):
        state.accumulation_steps = parts
        for _ in range(3):
            train_step(state, images, labels, torch.zeros(2), twins)
    for (name, ours), theirs in zip(cast.model.named_parameters(), autocast.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
        assert ours.dtype == torch.float32
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad), name


def test_a_first_step_that_overflows_leaves_no_garbage_as_momentum() -> None:
    """torch's fused SGD makes its buffers uninitialised, and fp16's scaler skips a step with gradients of infinity."""
    state = TrainState.new(NETWORK, tiny_recipe(precision="fp16", lr=0.1), CPU)
    before = weights(state)
    images, labels = torch.full((4, 3, 8, 8), 1e30), torch.zeros(4, dtype=torch.int64)
    train_step(state, images, labels, torch.zeros(2))
    assert state.scaler.get_scale() < 65536  # it did overflow
    buffers = [each["momentum_buffer"] for each in state.optimizer.state.values()]
    assert len(buffers) == len(list(state.model.parameters()))
    assert all(not buffer.any() for buffer in buffers)
    now = weights(state)
    assert all(torch.equal(before[name], now[name]) for name, _ in state.model.named_parameters())


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw", "lr": 0.01},
        {"optimizer": "nadam", "lr": 0.01},
        {"optimizer": "radam", "lr": 0.3},
        {"optimizer": "rmsprop", "lr": 0.001},
        {"optimizer": "lion", "lr": 0.01},
        {"optimizer": "muon", "lr": 0.01},
        {"clip_norm": 0.5},
        {"ema_decay": 0.9},
        {"class_weights": "balanced", "mix": "cutmix", "mix_share": 0.5},
        {"mix": "mixup", "mix_alpha": 0.2, "mix_off": 0.5},
        {"mix": "cutmix", "mix_share": 0.5, "mix_off": 0.5, "augment": {"flip_order": "alternating"}},
        {"mix": "ricap", "mix_off": 0.5, "augment": {"crop_padding": 1, "erasing": 0.2}},
    ],
)
def test_a_captured_run_on_a_gpu_is_the_run_without(
    precision: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    device, runs = torch.device("cuda"), []
    for warm_up in (3, 10**9):
        monkeypatch.setattr(step, "WARM_UP", warm_up)
        state = TrainState.new(NETWORK, tiny_recipe(epochs=8, precision=precision, **changes), device)
        runs.append(list(train(state, tiny_data().to(device))))
    captured, plain = runs
    assert captured[-1].val_accuracy > 0.9
    for ours, theirs in zip(captured, plain, strict=True):
        assert ours.lr == theirs.lr
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=0.05)


@pytest.mark.cuda
def test_many_runs_leave_no_memory_behind_on_a_gpu() -> None:
    device, held = torch.device("cuda"), []
    data = tiny_data().to(device)
    for _ in range(20):
        list(train(TrainState.new(NETWORK, tiny_recipe(), device), data))
        release_memory(device)
        held.append(torch.cuda.memory_reserved(device))
    assert held[-1] == held[4]
