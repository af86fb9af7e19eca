"""How long networks take on one machine: a model fitted to some that were timed there. No torch.

The time of an operation is the sum of a time for each call, for each multiply-add, and for each number that it reads
or writes; these differ between kinds of operations. The sum over a network is linear in `workload`, and no coefficient
is negative, so a wider network never takes less.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from train_core.blocks import BLOCKS, Convolution
from train_core.specs import (
    BlockShape,
    Frozen,
    ResNetSpec,
    block_shapes,
    convolves,
    height_and_width,
    in_stage,
    sizes_by_part,
)

KINDS = ("full", "pointwise", "grouped")  # kinds of convolutions
WORKLOAD = (*(f"{kind} {what}" for kind in KINDS for what in ("calls", "madds", "numbers")), "others", "their numbers")
"""The counts of a network: for each kind of convolution, then for all other operations."""
COVERED = 0.95  # share of networks that take at most the predicted time plus its error


class LatencyModel(Frozen):
    """How long networks take on the machine that it was fitted on, with the error of its predictions."""

    machine: str = Field(description="where the networks were timed")
    networks: int = Field(description="number of networks that were timed")
    error: float = Field(
        ge=0, description=f"{COVERED:.0%} of networks that it had not seen took at most 1 + error times the predicted"
    )
    seconds: tuple[float, ...] = Field(
        min_length=len(WORKLOAD),
        max_length=len(WORKLOAD),
        description=f"seconds for one of each: {', '.join(WORKLOAD)}",
    )

    def predict(self, spec: ResNetSpec, side: int | tuple[int, int]) -> float:
        """Seconds that the network takes for one image."""
        return sum(each * number for each, number in zip(self.seconds, workload(spec, side), strict=True))

    def at_most(self, spec: ResNetSpec, side: int | tuple[int, int]) -> float:
        """The prediction plus its error: the most that the network is expected to take."""
        return (1 + self.error) * self.predict(spec, side)


def workload(spec: ResNetSpec, side: int | tuple[int, int]) -> tuple[float, ...]:
    """The work of a network for one image, in the order of `WORKLOAD`."""
    total = dict.fromkeys(WORKLOAD, 0.0)
    for operation in _operations(spec, side):
        for name, number in operation:
            total[name] += number
    return tuple(total.values())


Counted = tuple[tuple[str, float], ...]


def _operations(spec: ResNetSpec, side: int | tuple[int, int]) -> Iterator[Counted]:
    height, width = height_and_width(side)
    sizes = sizes_by_part(spec, side)
    stem = Convolution(spec.in_channels, spec.stem_channels, spec.stem_kernel)
    before_pool = math.ceil(height / spec.stem_stride) * math.ceil(width / spec.stem_stride)
    yield _convolution(stem, height * width, before_pool)
    yield _other(spec.stem_channels * before_pool)
    for number, (stage, (before, after)) in enumerate(zip(block_shapes(spec), pairwise(sizes), strict=True)):
        here, pixels = in_stage(spec, number), math.prod(after)
        for shape in stage:
            yield from _block(here, shape, pixels if shape.stride == 1 else math.prod(before), pixels)
    yield _other(spec.widths[-1] * math.prod(sizes[-1]))


def _block(spec: ResNetSpec, shape: BlockShape, before: int, after: int) -> Iterator[Counted]:
    kind, pixels = BLOCKS[spec.block], before
    for each in kind.convolutions(spec, shape.inputs, shape.width):
        made = before if each.before_stride else after
        yield _convolution(each, pixels, made)
        yield _other(each.outputs * made)  # its norm and activation function
        pixels = made
    if kind.opens != "nothing":
        yield _other(shape.inputs * before)
    if spec.se_reduction:
        excited = kind.convolutions(spec, shape.inputs, shape.width)[kind.excites].outputs
        yield from (_other(each) for each in (excited * after, excited, excited, excited * after))
    if convolves(spec, shape):
        yield _convolution(Convolution(shape.inputs, shape.width, spec.shortcut_kernel), before, after)
    if spec.shortcut != "none":
        yield _other(shape.width * after)


def _convolution(each: Convolution, read: int, made: int) -> Counted:
    """A convolution that reads and writes so many pixels."""
    kind = "grouped" if each.groups > 1 else "full" if each.kernel > 1 else "pointwise"
    numbers = each.inputs * read + each.outputs * made
    return (f"{kind} calls", 1), (f"{kind} madds", each.parameters * made), (f"{kind} numbers", numbers)


def _other(numbers: int) -> Counted:
    return ("others", 1), ("their numbers", numbers)


def fitted(
    specs: Sequence[ResNetSpec], seconds: Sequence[float], side: int | tuple[int, int], machine: str
) -> LatencyModel:
    """The model of networks with these measured `seconds`; its error is from cross-validation over the networks.

    Raises:
        ValueError: fewer than `FOLDS` networks.

    """
    if len(specs) < FOLDS:
        raise ValueError(f"{len(specs)} networks are too few to fit a latency to")
    work = np.array([workload(spec, side) for spec in specs])
    took = np.array(seconds)
    ratios = np.empty(len(took))
    for fold in range(FOLDS):
        left_out = np.arange(len(took)) % FOLDS == fold
        coefficients = _least_squares(work[~left_out], took[~left_out])
        ratios[left_out] = took[left_out] / (work[left_out] @ coefficients)
    error = max(0.0, float(np.quantile(ratios, COVERED, method="higher")) - 1)
    return LatencyModel(
        machine=machine, networks=len(took), error=error, seconds=tuple(_least_squares(work, took).tolist())
    )


FOLDS = 8  # of the cross-validation: each is predicted from the others


def _least_squares(work: NDArray[np.float64], took: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coefficients, none negative, with the least squares of relative errors."""
    from scipy.optimize import nnls

    scale = work.max(axis=0)
    scale[scale == 0] = 1  # no network has this kind of operation
    found, _ = nnls(work / scale / took[:, None], np.ones(len(took)))
    coefficients: NDArray[np.float64] = found / scale
    return coefficients
