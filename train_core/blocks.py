"""The kinds of residual blocks: one record each, with all that the rest of the code asks of a kind.

Imports no torch before a block is built, so that a command line can count parameters in a moment. To add a kind, name
it in `BlockName`, give it a record here, and write its module in `train_core/models.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from train_core.tables import table

if TYPE_CHECKING:
    from train_core.models import ResidualBlock
    from train_core.specs import ResNetSpec

BlockName = Literal["basic", "preact"]


@dataclass(frozen=True)
class Convolution:
    """A convolution of a block's branch, computed at the resolution of the block's output."""

    inputs: int
    outputs: int
    kernel: int  # side, in pixels

    @property
    def parameters(self) -> int:
        """Its weights; also its multiply-adds for each pixel of its output."""
        return self.inputs * self.outputs * self.kernel**2


@dataclass(frozen=True, kw_only=True)
class Block:
    """A kind of residual block. Its functions take the network's spec, and the channels of the input and the output.

    The shortcut and squeeze-and-excitation are the same for all kinds; they are built and counted by the network.
    """

    description: str  # of the branch and what follows it, for the page of all keys
    module: str  # the name of its class in `train_core.models`
    convolutions: Callable[[ResNetSpec, int, int], Sequence[Convolution]]  # of the branch, in their order
    norms: Callable[[int, int], Sequence[int]]  # channels of each norm of the branch
    preactivates: bool  # a norm and ReLU come before each convolution, so the stem may lack them (`PREACT_ONLY`)

    def build(self, spec: ResNetSpec, inputs: int, width: int, stride: int) -> ResidualBlock:
        """A block of this kind, with its first weights."""
        from train_core import models

        module: type[ResidualBlock] = getattr(models, self.module)
        return module(spec, inputs, width, stride)


def _two_convolutions(spec: ResNetSpec, inputs: int, width: int) -> Sequence[Convolution]:
    return Convolution(inputs, width, spec.k1), Convolution(width, width, spec.k2)


BLOCKS: dict[BlockName, Block] = table(
    "block",
    BlockName,
    {
        "basic": Block(
            description="conv-norm-ReLU-conv-norm, add, ReLU",
            module="BasicBlock",
            convolutions=_two_convolutions,
            norms=lambda inputs, width: (width, width),
            preactivates=False,
        ),
        "preact": Block(
            description="norm and ReLU before each conv",
            module="PreActBlock",
            convolutions=_two_convolutions,
            norms=lambda inputs, width: (inputs, width),
            preactivates=True,
        ),
    },
)
