"""Published networks that several tests use."""

from train_core.specs import ResNetSpec


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
