"""How many operators one training step calls, which on a GPU is about the number of kernels that it launches.

    python -m benchmarks.kernels

Counted on the CPU, in bf16, forward and backward, augmentation and optimizer included; views and allocations are not
counted, since they launch nothing. A fused optimizer and each `_foreach` operator count once. "autocast" lets torch
cast each weight by itself; "twins" is what training on CUDA does (`train_core.step.HalfWeights`).
"""

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.loops import NETWORKS
from train_core.augment import Augmenter
from train_core.specs import AugmentSpec, ResNetSpec, TrainSpec
from train_core.state import TrainState
from train_core.step import HalfWeights, train_step

IMAGES = 8
# They return a view, or unwritten memory: nothing is launched on a device.
FREE = {"view", "_unsafe_view", "as_strided", "expand", "permute", "t", "transpose", "select", "slice", "unsqueeze"}
FREE |= {"squeeze", "detach", "alias", "split", "chunk", "empty", "empty_like", "empty_strided", "new_empty", "unbind"}
FREE |= {"lift_fresh", "is_same_size", "resize_", "new_empty_strided", "_reshape_alias", "split_with_sizes"}


class Counting(TorchDispatchMode):
    """Counts the operators that are called."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch ships this one without types
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in FREE:
            self.calls[name] += 1
        return func(*args, **(kwargs or {}))


def calls(network: ResNetSpec, *, twins: bool) -> Counter[str]:
    """The operators of the second step, in which the optimizer's buffers exist."""
    recipe = TrainSpec(epochs=1, precision="bf16", lr=0.01, label_smoothing=0.1, augment=AugmentSpec(cutout=8))
    state = TrainState.new(network, recipe, torch.device("cpu"))
    state.model.train()
    images, labels = torch.randint(256, (IMAGES, 32, 32, 3), dtype=torch.uint8), torch.arange(IMAGES) % 10
    augmenter = Augmenter(images, recipe.augment, (0.5,) * 3, (0.25,) * 3)
    half, sums, chosen = (
        HalfWeights(state.model, torch.bfloat16) if twins else None,
        torch.zeros(2),
        torch.arange(IMAGES),
    )
    train_step(state, augmenter.batch(chosen), labels, sums, half)
    counting = Counting()
    with counting:
        train_step(state, augmenter.batch(chosen), labels[chosen], sums, half)
    return counting.calls


def main() -> None:
    print(f"{'network':8} {'autocast':>9} {'twins':>6}   most frequent with twins")
    for name, network in NETWORKS.items():
        plain, cast = calls(network, twins=False), calls(network, twins=True)
        most = ", ".join(f"{count} {operator}" for operator, count in cast.most_common(5))
        print(f"{name:8} {plain.total():>9,} {cast.total():>6,}   {most}")


if __name__ == "__main__":
    main()
