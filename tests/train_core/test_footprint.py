from collections.abc import Mapping, Sequence
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.train_core.strategies import resnet_specs
from train_core.footprint import peak_activations
from train_core.models import ResNet
from train_core.specs import ResNetSpec

OVERWRITES = ("batch_norm", "relu", "hardtanh", "clamp", "add", "mul", "sigmoid")


class Recorded(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """What each operation of a pass reads and makes, by the tensors' storages."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.weights = {each.untyped_storage().data_ptr() for each in weights}
        self.kept: list[Tensor] = []  # so that no storage is used twice
        self.operations: list[tuple[str, list[int], int, int]] = []  # name, read, made, its bytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        out = tree_leaves(made)[0]
        if "slice" in str(func) and out.numel() < args[0].numel():  # a part: runtimes copy it
            made = out = out.clone()
        read = [each for each in tree_leaves(args) if isinstance(each, Tensor)]
        self.kept += [*read, *(each for each in tree_leaves(made) if isinstance(each, Tensor))]
        storages = [each.untyped_storage().data_ptr() for each in read]
        if out.untyped_storage().data_ptr() not in self.weights:  # a view of weights
            reads = [each for each in storages if each not in self.weights]
            self.operations.append((str(func), reads, out.untyped_storage().data_ptr(), out.untyped_storage().nbytes()))
        return made


def measured_peak(model: ResNet, images: Tensor) -> int:
    """The most bytes that are in use at once, over the operations that a pass really runs.

    An operation of `OVERWRITES` writes over its first input if no later one reads that.
    """
    with Recorded([*model.parameters(), *model.buffers()]) as recorded, torch.no_grad():
        model.eval()(images)
    image = images.untyped_storage()
    same = {image.data_ptr(): image.data_ptr()}  # what a storage is the same memory as
    size = {image.data_ptr(): image.nbytes()}
    last = {same_one: i for i, (_, read, made, _) in enumerate(recorded.operations) for same_one in (*read, made)}
    steps: list[tuple[list[int], int]] = []
    for i, (name, read, made, number) in enumerate(recorded.operations):
        inputs = [same[each] for each in read]
        if made not in same:
            overwritten = inputs[0] if inputs else 0
            free = bool(inputs) and all(last[each] <= i for each, memory in same.items() if memory == overwritten)
            over = free and size[overwritten] == number and any(word in name for word in OVERWRITES)
            same[made] = overwritten if over else made
            size.setdefault(same[made], number)
        steps.append((inputs, same[made]))
    until = {memory: max(last[each] for each, other in same.items() if other == memory) for memory in size}
    since: dict[int, int] = {image.data_ptr(): 0}
    for i, (_, memory) in enumerate(steps):
        since.setdefault(memory, i)
    return max(sum(size[each] for each in size if since[each] <= i <= until[each]) for i in range(len(steps)))


@settings(max_examples=150, deadline=None)
@given(spec=resnet_specs(), height=st.integers(5, 33), width=st.integers(5, 33))
def test_peak_is_that_of_the_operations_that_the_built_network_runs(spec: ResNetSpec, height: int, width: int) -> None:
    images = torch.zeros(1, spec.in_channels, height, width)
    assert 4 * peak_activations(spec, (height, width)) == measured_peak(ResNet(spec), images)
