"""The RAM that a TFLite file in int8 takes in TensorFlow Lite Micro: computed from the file. Imports no torch.

The library keeps everything in one block of memory, the arena: the tensors at one end, its records about tensors and
operators at the other. The tensors are planned here as by its greedy planner.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from train_core.tflite import Graph

ALIGNED = 16  # bytes: each tensor starts at a multiple of it


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """Memory that is in use from one operator to another, both included."""

    size: int  # in bytes
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class Arena:
    """Bytes of RAM, computed and not measured."""

    tensors: int
    records: int  # about tensors and operators: an estimate

    @property
    def total(self) -> int:
        """The sum of both, rounded up to whole KiB."""
        return -(-(self.tensors + self.records) // 1024) * 1024


def arena_of(graph: Graph) -> Arena:
    """The memory that an int8 network takes, with the reference kernels of the library."""
    channels = sum(
        graph.tensors[each.inputs[1]].shape[AXES[each.name]] for each in graph.operators if each.name in AXES
    )
    records = PER_TENSOR * len(graph.tensors) + PER_OPERATOR * len(graph.operators) + 8 * channels + FIXED
    return Arena(tensors=planned(list(buffers_of(graph))), records=records)


AXES = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3}
"""The axis of the weights with the output channels: for each of these, the library stores a multiplier and a shift."""

PER_TENSOR, PER_OPERATOR, FIXED = 24, 200, 1024  # bytes


def buffers_of(graph: Graph) -> Iterator[Buffer]:
    """The tensors that are not constants, and the working memory of means, in the library's order."""
    last = len(graph.operators)  # the input exists before operator 1
    first_of, last_of = {graph.input: 0}, {graph.input: 0}
    for number, each in enumerate(graph.operators, start=1):
        for output in each.outputs:
            first_of.setdefault(output, number)
        for used in (*each.inputs, *each.outputs):
            last_of[used] = number
    last_of[graph.output] = last
    for number, tensor in enumerate(graph.tensors):
        if number in first_of and not tensor.is_constant:
            yield Buffer(size=_aligned(tensor.size), first=first_of[number], last=last_of[number])
    for number, each in enumerate(graph.operators, start=1):
        if each.name == "MEAN":
            features, axes = (graph.tensors[one] for one in each.inputs)
            for size in (4 * graph.tensors[each.outputs[0]].size, 4 * len(features.shape), axes.size):
                yield Buffer(size=_aligned(size), first=number, last=number)


def planned(buffers: Sequence[Buffer]) -> int:
    """How many bytes the buffers take: the largest first, each in the first gap that is free during its use.

    This is `GreedyMemoryPlanner` of TensorFlow Lite Micro. Of buffers of the same size, it places the last one first.
    """
    placed: list[tuple[int, Buffer]] = []  # with their offsets, in order
    for _, buffer in sorted(enumerate(buffers), key=lambda each: (-each[1].size, -each[0])):
        offset = 0
        for start, other in placed:
            if other.first > buffer.last or buffer.first > other.last:
                continue
            if start - offset >= buffer.size:
                break
            offset = max(offset, start + other.size)
        placed.append((offset, buffer))
        placed.sort(key=lambda each: each[0])
    return max((offset + each.size for offset, each in placed), default=0)


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED
