"""Training loops to be timed, each in its own process, waiting while others are measured."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from train_core.data import TrainingData, default_cache, load_training
from train_core.device import pick_device, set_up, wait_for
from train_core.models import ResNet
from train_core.specs import AugmentSpec, Precision, ResNetSpec, TrainSpec
from train_core.state import TrainState
from train_core.step import WARM_UP, Stepper

SETTLING = WARM_UP + 5  # steps until a captured one has been replayed several times
END_S = 10.0  # for a process to end after a request

NETWORKS = {
    "A5": ResNetSpec(
        widths=(32, 64, 128, 256), blocks=(8, 6, 4, 3), block="preact", stem_kernel=1, shortcut="max-pool"
    ),
    "B2": ResNetSpec(widths=(64, 128, 256), blocks=(3, 5, 3)),
    "small": ResNetSpec(widths=(16, 32, 64), blocks=(1, 1, 1)),
}
ON_CPU = ("A5", "small")  # networks that a CPU trains fast enough to be measured on one


def fitted(network: ResNetSpec, data: TrainingData) -> ResNetSpec:
    """The network with the channels and classes of the images."""
    return network.model_copy(update={"in_channels": data.in_channels, "num_classes": data.num_classes})


def stepper_for(state: TrainState, data: TrainingData, *, captured: bool = True) -> Stepper:
    """The stepper for this state on these images; `captured`: as a graph, if there is CUDA."""
    state.model.train()
    return Stepper.of(state, data.train, data.mean, data.std, state.recipe.batch_size, capture=captured)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is timed. The standard loop is that of tutorials; ours is made of the parts of `train_core`."""

    kind: Literal["standard", "ours"] = "ours"
    network: ResNetSpec  # with the channels and classes of any images
    source: str  # as for `search run --data`
    device: str
    precision: Precision
    batch: int = 128
    threads: int | None = None  # None: as many as torch uses


class Loop:
    """A training loop in a process of its own."""

    def __init__(self, setting: Setting) -> None:
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, setting))
        self._process.start()
        theirs.close()  # so that reading from a dead process ends

    def warm_up(self) -> None:
        """Take the first steps, and return once they are done."""
        self._connection.send("warm up")
        self._receive()

    def begin(self, seconds: float) -> None:
        """Train for this many seconds."""
        self._connection.send(seconds)

    def images_per_second(self) -> float:
        """The throughput since `begin`, after its end."""
        return float(self._receive())

    def end(self) -> None:
        """Stop the process."""
        with suppress(OSError):  # it has died
            self._connection.send(0)
        self._process.join(END_S)
        if self._process.is_alive():
            self._process.kill()

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            self._process.join(END_S)
            raise RuntimeError(f"a training process died (exit code {self._process.exitcode})") from None


@contextmanager
def running(settings: Sequence[Setting]) -> Iterator[list[Loop]]:
    """Loops of these settings, all ready: nothing is measured while another one is still starting.

    They start together and take their first steps in turn, in which cuDNN times its algorithms.
    """
    loops: list[Loop] = []
    try:
        loops.extend(map(Loop, settings))
        for loop in loops:
            loop.warm_up()
        yield loops
    finally:
        for loop in loops:
            loop.end()


def together(loops: Sequence[Loop], seconds: float) -> float:
    """Images per second of loops that train at the same time, summed."""
    for loop in loops:
        loop.begin(seconds)
    return sum(loop.images_per_second() for loop in loops)


def interleaved(groups: dict[str, list[Setting]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Images per second of each group of loops that train at the same time, summed over the group, round by round.

    All loops stay alive; in each round the groups take turns of `seconds`.
    """
    results: dict[str, list[float]] = {name: [] for name in groups}
    with running([setting for settings in groups.values() for setting in settings]) as loops:
        waiting = iter(loops)
        members = {name: [next(waiting) for _ in settings] for name, settings in groups.items()}
        for _ in range(rounds):
            for name, group in members.items():
                time.sleep(1)  # the workers of the standard loop still fill their queue
                results[name].append(together(group, seconds))
    return results


def spread(values: list[float], digits: int = 2) -> str:
    """Median and range in words."""
    middle, low, high = (f"{each:,.{digits}f}" for each in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low} to {high}, n={len(values)})"


def ratios(over: list[float], under: list[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(over, under, strict=True)]


class _Images(Dataset[tuple[Any, int]]):
    """The training images one by one, as torchvision's own data sets give them."""

    def __init__(self, data: TrainingData, transform: Callable[[Any], Tensor]) -> None:
        self.images = data.train.images.cpu().numpy()
        self.labels = data.train.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def _standard(setting: Setting, data: TrainingData, device: torch.device) -> Iterator[None]:
    """Train forever, one batch per step, as in tutorials."""
    from torchvision import transforms  # as slow to import as torch, and the other loops do not need it

    transform = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.RandomCrop(data.size, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(data.mean, data.std),
        ]
    )
    model = ResNet(fitted(setting.network, data)).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(
        _Images(data, transform),
        setting.batch,
        shuffle=True,
        drop_last=True,
        num_workers=2,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )
    while True:
        for images, labels in loader:
            loss = F.cross_entropy(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch ships this one without types
            optimizer.step()
            yield


def _ours(setting: Setting, data: TrainingData, device: torch.device) -> Iterator[None]:
    """Train forever, one batch per step, with our parts."""
    recipe = TrainSpec(epochs=1, batch_size=setting.batch, precision=setting.precision, augment=AugmentSpec())
    stepper = stepper_for(TrainState.new(fitted(setting.network, data), recipe, device), data)
    while True:
        order = torch.randperm(len(data.train), device=device)
        for i in range(0, len(order) - setting.batch + 1, setting.batch):
            stepper.step(order[i : i + setting.batch], 0.1)
            yield


def _serve(connection: Connection, setting: Setting) -> None:
    """Warm up on request; then answer each number of seconds with the images per second of training that long."""
    if setting.threads:
        torch.set_num_threads(setting.threads)
    device = pick_device(setting.device)
    if setting.kind == "ours":
        set_up(device)
    data = load_training(setting.source, val_fraction=0.1, seed=0, cache=default_cache()).to(device)
    loop = (_ours if setting.kind == "ours" else _standard)(setting, data, device)
    at_once = 20 if device.type == "cuda" else 1  # steps between checks of the clock, for which the host must wait
    connection.recv()
    for _ in range(SETTLING if device.type == "cuda" else 5):
        next(loop)
    wait_for(device)
    connection.send("ready")
    while seconds := connection.recv():
        next(loop)  # memory that was swapped out while others ran is loaded again
        wait_for(device)
        started, steps = time.perf_counter(), 0
        while time.perf_counter() < started + seconds:
            for _ in range(at_once):
                next(loop)
            steps += at_once
            wait_for(device)
        connection.send(steps * setting.batch / (time.perf_counter() - started))
