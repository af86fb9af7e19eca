"""Networks that several tests use, and the description of one."""

from typing import Any

from train_core.description import Description
from train_core.specs import ResNetSpec


def described(spec: ResNetSpec, height: int = 9, width: int = 12) -> Description:
    """What a model file says of this network, for images of this size."""
    channels = spec.in_channels
    return Description(
        origin="a test",
        network=spec,
        classes=tuple(map(str, range(spec.num_classes))),
        height=height,
        width=width,
        mean=(0.4, 0.5, 0.6, 0.5)[:channels],
        std=(0.2, 0.25, 0.3, 0.25)[:channels],
    )


def wide_resnet(depth: int, factor: int) -> ResNetSpec:
    """WRN-depth-factor for CIFAR-10 (Zagoruyko & Komodakis 2016, arXiv:1605.07146, table 1)."""
    return ResNetSpec(
        widths=(16 * factor, 32 * factor, 64 * factor),
        blocks=((depth - 4) // 6,) * 3,
        block="preact",
        stem_width=16,
        stem_end="none",
        shortcut_input="activated",
        shortcut_norm="none",
        final_norm=True,
    )


def pyramidnet(depth: int, alpha: int, *, bottleneck: bool, **values: Any) -> ResNetSpec:
    """PyramidNet-depth with alpha channels added, for CIFAR (Han et al. 2017, arXiv:1610.02915, section 2.1).

    Widths are rounded as in the authors' PyTorch code, which is that of CutMix (Yun et al. 2019), too.
    """
    blocks = (depth - 2) // (9 if bottleneck else 6)
    inside = [round(16 + alpha * i / (3 * blocks)) for i in range(1, 3 * blocks + 1)]
    return ResNetSpec(
        widths=tuple((4 if bottleneck else 1) * width for width in inside),
        blocks=(blocks,) * 3,
        block="pyramid-bottleneck" if bottleneck else "pyramid",
        stem_width=16,
        stem_end="norm",
        shortcut="pad",
        final_norm=True,
        **values,
    )
