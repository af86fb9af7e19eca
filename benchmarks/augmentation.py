"""How many images per second each change to the training images processes, alone, on the CPU.

    python -m benchmarks.augmentation [--rounds 15] [--batch 128] [--side 32]

On one thread, in processor time (`time.process_time`), so other work on the machine disturbs it less. Each round
measures all rows in turn. "crop and flip" is the whole way from indices to a normalised batch, which the other rows of
augmentation include. Mixed images are measured alone, on a finished batch.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.loops import spread
from train_core.augment import Augmenter
from train_core.device import set_up
from train_core.mix import MIXES
from train_core.mixing import Mixer
from train_core.specs import AugmentSpec, TrainSpec

IMAGES = 5_000
MEASURED_S = 0.3  # of each row in each round, approximately
AUGMENTATIONS = {
    "crop and flip": AugmentSpec(),
    "the same, alternating flips": AugmentSpec(flip_order="alternating"),
    "crop, flip, cutout 8": AugmentSpec(cutout=8),
    "crop, flip, erasing 0.25": AugmentSpec(erasing=0.25),
    "crop, flip, trivial-augment": AugmentSpec(policy="trivial-augment"),
}


def steps_of(batch: int, side: int) -> dict[str, Callable[[], object]]:
    """Each row's work on one batch of RGB images of `side` x `side` pixels."""
    images = torch.randint(256, (IMAGES, side, side, 3), dtype=torch.uint8)
    chosen = torch.randint(IMAGES, (batch,))
    mean, std = (0.5,) * 3, (0.25,) * 3
    steps: dict[str, Callable[[], object]] = {
        name: partial(Augmenter(images, spec, mean, std).batch, chosen) for name, spec in AUGMENTATIONS.items()
    }
    ready, labels = Augmenter(images, AugmentSpec(), mean, std).batch(chosen), torch.arange(batch) % 10
    for name in MIXES:
        if name != "none":
            mixer = Mixer(TrainSpec(epochs=1, mix=name), (side, side), torch.device("cpu"))
            steps[f"{name} alone"] = partial(mixer, ready, labels)
    return steps


def measured(step: Callable[[], object], batch: int) -> float:
    """Images per second of processor time."""
    started, count = time.process_time(), 0
    while (seconds := time.process_time() - started) < MEASURED_S:
        step()
        count += batch
    return count / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--side", type=int, default=32, help="of the images, in pixels")
    args = parser.parse_args()
    set_up(torch.device("cpu"))
    torch.set_num_threads(1)
    steps = steps_of(args.batch, args.side)
    for step in steps.values():
        measured(step, args.batch)  # for objects that are made once
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(args.rounds):
        for name, step in steps.items():
            rates[name].append(measured(step, args.batch))
    for name, values in rates.items():
        print(f"{name:<28} {spread(values, 0)} images/s")


if __name__ == "__main__":
    main()
