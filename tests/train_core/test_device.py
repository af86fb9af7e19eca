"""Which GPU is used and asked, shown with stand-ins for two of them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from train_core.device import pick_precision, set_up


class TwoGpus:
    """What CUDA would answer with two GPUs: an old one, which has no bf16, and a new one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current = 0
        monkeypatch.setattr(torch.cuda, "set_device", self.set_device)
        monkeypatch.setattr(torch.cuda, "device", self.device)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: self.current == 1)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: ((7, 0), (9, 0))[device.index])

    def set_device(self, device: torch.device) -> None:
        assert device.index is not None  # torch refuses it
        self.current = device.index

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self.current = self.current, self.current if device.index is None else device.index
        yield
        self.current = before


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> TwoGpus:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # and as it was, after the test
    return TwoGpus(monkeypatch)


@pytest.mark.parametrize(("name", "current"), [("cuda:1", 1), ("cuda:0", 0), ("cuda", 0), ("cpu", 0)])
def test_the_gpu_that_was_chosen_becomes_the_current_one(name: str, current: int, gpus: TwoGpus) -> None:
    set_up(torch.device(name))
    assert gpus.current == current
    assert torch.backends.cudnn.benchmark == name.startswith("cuda")


@pytest.mark.parametrize(("name", "precision"), [("cuda:1", "bf16"), ("cuda:0", "fp16")])
def test_the_gpu_that_was_chosen_is_asked_for_its_precision(name: str, precision: str, gpus: TwoGpus) -> None:
    assert pick_precision(torch.device(name)) == precision
    assert gpus.current == 0  # as before
