"""The kinds of residual blocks: one record each, with everything that the rest of the code needs to know of a kind.

Imports no torch before a block is built, so a command can count parameters quickly. To add a kind, name
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

BlockName = Literal[
    "basic", "preact", "bottleneck", "preact-bottleneck", "pyramid", "pyramid-bottleneck", "inverted-residual"
]


Opening = Literal["nothing", "norm", "norm-relu"]


@dataclass(frozen=True)
class Convolution:
    """A convolution of a block's branch."""

    inputs: int
    outputs: int
    kernel: int  # side, in pixels
    groups: int = 1
    before_stride: bool = False  # computed at the resolution of the block's input; the others at that of its output

    @property
    def parameters(self) -> int:
        """The number of its weights; also its multiply-adds for each pixel of its output."""
        return self.inputs // self.groups * self.outputs * self.kernel**2

    def __str__(self) -> str:
        """In a few words: `3x3`, `3x3 in 32 groups` or `3x3 depthwise`."""
        words = f"{self.kernel}x{self.kernel}"
        if self.groups == 1:
            return words
        return f"{words} depthwise" if self.groups == self.inputs else f"{words} in {self.groups} groups"


@dataclass(frozen=True, kw_only=True)
class Block:
    """A kind of residual block. Its functions take the network's spec, and the channels of the input and the output.

    The network builds and counts the shortcut and squeeze-and-excitation, which are the same for all kinds.
    """

    description: str  # of the branch and what follows it, for the page of all keys
    module: str  # the name of its class in `train_core.models`
    convolutions: Callable[[ResNetSpec, int, int], Sequence[Convolution]]  # of the branch, in order
    norms: Callable[[ResNetSpec, int, int], Sequence[int]]  # channels of each norm of the branch
    uses: frozenset[str]  # the fields in `OPTIONAL` that have an effect in this kind
    opens: Opening = "nothing"  # what the branch does to its input before the first convolution
    activations: int  # ReLUs of the branch and after the sum, in each block
    clips: int = 0  # ReLU6s
    excites: int = -1  # the index in `convolutions` of the one whose output squeeze-and-excitation scales
    narrows: bool = False  # the inner channels are those of the output divided by `expansion`, in `groups`

    def build(self, spec: ResNetSpec, inputs: int, width: int, stride: int) -> ResidualBlock:
        """A block of this kind, with its initial weights."""
        from train_core import models

        module: type[ResidualBlock] = getattr(models, self.module)
        return module(spec, inputs, width, stride)


OPTIONAL = frozenset({"k2", "stem_end", "final_norm", "shortcut_input", "expansion", "groups"})
"""Fields of the spec that have an effect only in some kinds."""

_NO_LAST_RELU = frozenset({"stem_end", "final_norm"})
_PREACTIVATES = _NO_LAST_RELU | {"shortcut_input"}


def _two(spec: ResNetSpec, inputs: int, width: int) -> Sequence[Convolution]:
    return Convolution(inputs, width, spec.k1), Convolution(width, width, spec.k2)


def _bottleneck(spec: ResNetSpec, inputs: int, width: int) -> Sequence[Convolution]:
    inner = width // spec.expansion
    return (
        Convolution(inputs, inner, 1, before_stride=True),
        Convolution(inner, inner, spec.k1, spec.groups),
        Convolution(inner, width, 1),
    )


def _inverted(spec: ResNetSpec, inputs: int, width: int) -> Sequence[Convolution]:
    inner = inputs * spec.expansion
    return (
        Convolution(inputs, inner, 1, before_stride=True),
        Convolution(inner, inner, spec.k1, inner),
        Convolution(inner, width, 1),
    )


BLOCKS: dict[BlockName, Block] = table(
    "block",
    BlockName,
    {
        "basic": Block(
            description="conv-norm-ReLU-conv-norm, add, ReLU",
            module="BasicBlock",
            activations=2,
            convolutions=_two,
            norms=lambda _spec, _inputs, width: (width, width),
            uses=frozenset({"k2"}),
        ),
        "preact": Block(
            description="norm and ReLU before each conv",
            module="PreActBlock",
            activations=2,
            opens="norm-relu",
            convolutions=_two,
            norms=lambda _spec, inputs, width: (inputs, width),
            uses=_PREACTIVATES | {"k2"},
        ),
        "bottleneck": Block(
            description="like basic, with three convs: 1x1 to fewer channels, k1 (with the stride), 1x1",
            module="BottleneckBlock",
            activations=3,
            convolutions=_bottleneck,
            norms=lambda spec, _inputs, width: (width // spec.expansion, width // spec.expansion, width),
            uses=frozenset({"expansion", "groups"}),
            narrows=True,
        ),
        "preact-bottleneck": Block(
            description="the same three convs, with norm and ReLU before each",
            module="PreActBottleneckBlock",
            activations=3,
            opens="norm-relu",
            convolutions=_bottleneck,
            norms=lambda spec, inputs, width: (inputs, width // spec.expansion, width // spec.expansion),
            uses=_PREACTIVATES | {"expansion", "groups"},
            narrows=True,
        ),
        "pyramid": Block(
            description="norm-conv-norm-ReLU-conv-norm, add (Han et al. 2017, arXiv:1610.02915)",
            module="PyramidBlock",
            activations=1,
            opens="norm",
            convolutions=_two,
            norms=lambda _spec, inputs, width: (inputs, width, width),
            uses=_NO_LAST_RELU | {"k2"},
        ),
        "pyramid-bottleneck": Block(
            description="the same with the three convs of a bottleneck",
            module="PyramidBottleneckBlock",
            activations=2,
            opens="norm",
            convolutions=_bottleneck,
            norms=lambda spec, inputs, width: (inputs, width // spec.expansion, width // spec.expansion, width),
            uses=_NO_LAST_RELU | {"expansion", "groups"},
            narrows=True,
        ),
        "inverted-residual": Block(
            description="1x1 conv to more channels, depthwise conv k1 (with the stride), 1x1 conv, add "
            "(Sandler et al. 2018, arXiv:1801.04381)",
            module="InvertedResidualBlock",
            activations=0,
            clips=2,
            convolutions=_inverted,
            norms=lambda spec, inputs, width: (inputs * spec.expansion, inputs * spec.expansion, width),
            uses=frozenset({"final_norm", "expansion"}),
            excites=1,
        ),
    },
)
