"""Training throughput against the standard loop, interleaved in one run.

    python benchmarks/throughput.py DATA [--rounds 5] [--device auto] [--out FILE.json]

DATA is anything that `search run --data` takes, of 32x32 RGB images. The standard loop is what tutorials show:
a torchvision-style dataset, per-image RandomCrop, RandomHorizontalFlip, ToTensor and Normalize in a DataLoader of
two workers, fp32, contiguous tensors, plain SGD. Both train the same network at batch 128 with as many threads, in
turn, `--rounds` times; the ratio is taken within each round, and its median and range over the rounds are printed.
Each loop lives in a process of its own, so that neither runs with the other's memory settings, and waits while the
other is measured.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from train_core.augment import Augmenter
from train_core.data import TrainingData, default_cache, load_training
from train_core.device import describe, keep_freed_memory, pick_device, pick_precision
from train_core.loop import TrainState, train_step
from train_core.models import ResNet
from train_core.optim import lr_at, set_lr
from train_core.specs import AugmentSpec, ResNetSpec, TrainSpec

BATCH = 128
NETWORKS = {
    "A5": ResNetSpec(
        widths=(32, 64, 128, 256), blocks=(8, 6, 4, 3), block="preact", stem_kernel=1, shortcut="max-pool"
    ),
    "small": ResNetSpec(widths=(16, 32, 64), blocks=(1, 1, 1)),
}


class Images(Dataset[tuple[Any, int]]):
    """The training images one by one, as torchvision's own data sets give them."""

    def __init__(self, data: TrainingData, transform: Callable[[Any], Tensor]) -> None:
        self.images = data.train.images.cpu().numpy()
        self.labels = data.train.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(transforms.functional.to_pil_image(self.images[index])), self.labels[index]


def standard_loop(network: ResNetSpec, data: TrainingData, device: torch.device) -> Iterator[None]:
    """Train for ever, a batch a step, as tutorials do."""
    transform = transforms.Compose(
        [
            transforms.RandomCrop(data.size, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(data.mean, data.std),
        ]
    )
    model = ResNet(network).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(
        Images(data, transform),
        BATCH,
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
            loss.backward()
            optimizer.step()
            yield


def our_loop(network: ResNetSpec, data: TrainingData, device: torch.device) -> Iterator[None]:
    """Train for ever, a batch a step, by the parts of `train_core.loop`."""
    recipe = TrainSpec(epochs=1, batch_size=BATCH, precision=pick_precision(device), augment=AugmentSpec())
    state = TrainState.new(network, recipe, device)
    state.model.train()
    augmenter = Augmenter(data.train.images, recipe.augment, data.mean, data.std)
    steps = len(data.train) // BATCH
    while True:
        order = torch.randperm(len(data.train), device=device)
        for i in range(steps):
            set_lr(state.optimizer, lr_at(recipe, i, steps))
            chosen = order[i * BATCH : (i + 1) * BATCH]
            train_step(state, augmenter.batch(chosen), data.train.labels[chosen])
            yield


def serve(connection: Connection, kind: str, network: str, source: str, device_name: str) -> None:
    """Answer each number of batches received with the images per second of training on that many more."""
    device = pick_device(device_name)
    if kind == "ours":
        keep_freed_memory()
    data = load_training(source, val_fraction=0.1, seed=0, cache=default_cache()).to(device)
    loop = (our_loop if kind == "ours" else standard_loop)(NETWORKS[network], data, device)
    while steps := connection.recv():
        for _ in range(3):
            next(loop)  # whatever was swapped out while the other loop ran comes back
        _wait(device)
        started = time.perf_counter()
        for _ in range(steps):
            next(loop)
        _wait(device)
        connection.send(steps * BATCH / (time.perf_counter() - started))


class Loop:
    """A loop in a process of its own."""

    def __init__(self, kind: str, network: str, source: str, device: str) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, kind, network, source, device))
        self.process.start()

    def images_per_second(self, steps: int) -> float:
        """Throughput of the next `steps` batches."""
        time.sleep(1)  # the workers of the loop measured before still fill their queue
        self.connection.send(steps)
        return float(self.connection.recv())

    def end(self) -> None:
        """Stop the process."""
        self.connection.send(0)
        self.process.join()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement, about")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    device = pick_device(args.device)
    print(f"{describe(device)}, torch {torch.__version__}, ours in {pick_precision(device)}, batch {BATCH}")
    results: dict[str, dict[str, list[float]]] = {}
    for name in NETWORKS:
        standard, ours = (Loop(kind, name, args.data, args.device) for kind in ("standard", "ours"))
        steps = max(2, round(args.seconds * standard.images_per_second(2) / BATCH))
        result: dict[str, list[float]] = {"standard": [], "ours": [], "ratios": []}
        for _ in range(args.rounds):
            result["standard"].append(standard.images_per_second(steps))
            result["ours"].append(ours.images_per_second(2 * steps))
            result["ratios"].append(result["ours"][-1] / result["standard"][-1])
        standard.end()
        ours.end()
        results[name] = result
        middle = {key: statistics.median(values) for key, values in result.items()}
        print(
            f"{name:<6} standard {middle['standard']:>8,.0f}  ours {middle['ours']:>8,.0f} images/s  ratio "
            f"{middle['ratios']:.2f} ({min(result['ratios']):.2f} to {max(result['ratios']):.2f}, n={args.rounds})",
            flush=True,
        )
    if args.out:
        args.out.write_text(json.dumps({"device": describe(device), "torch": torch.__version__, **results}, indent=2))


if __name__ == "__main__":
    main()
