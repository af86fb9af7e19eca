"""Hypothesis strategies for specs."""

from typing import Any

from hypothesis import strategies as st

from train_core.blocks import BLOCKS
from train_core.specs import ResNetSpec

KERNELS = st.sampled_from([1, 3, 5, 7])


@st.composite
def resnet_specs(draw: st.DrawFn) -> ResNetSpec:
    """Any network of the family, small enough to be built in a moment."""
    stages = draw(st.integers(2, 5))
    block = draw(st.sampled_from(list(BLOCKS)))
    values: dict[str, Any] = {
        "widths": draw(st.lists(st.integers(1, 20), min_size=stages, max_size=stages)),
        "blocks": draw(st.lists(st.integers(1, 3), min_size=stages, max_size=stages)),
        "strides": draw(st.one_of(st.just([]), st.lists(st.sampled_from([1, 2]), min_size=stages, max_size=stages))),
        "in_channels": draw(st.integers(1, 4)),
        "num_classes": draw(st.integers(1, 12)),
        "stem_width": draw(st.none() | st.integers(1, 20)),
        "stem_kernel": draw(KERNELS),
        "stem_stride": draw(st.sampled_from([1, 2])),
        "stem_pool": draw(st.booleans()),
        "block": block,
        "final_norm": BLOCKS[block].preactivates and draw(st.booleans()),
        "stem_end": draw(st.sampled_from(["norm-relu", "none"] if BLOCKS[block].preactivates else ["norm-relu"])),
        "shortcut_input": draw(st.sampled_from(["block", "activated"] if BLOCKS[block].preactivates else ["block"])),
        "k1": draw(KERNELS),
        "k2": draw(KERNELS),
        "shortcut": draw(st.sampled_from(["conv", "max-pool"])),
        "shortcut_kernel": draw(KERNELS),
        "shortcut_norm": draw(st.sampled_from(["after", "before", "none"])),
        "se_reduction": draw(st.sampled_from([0, 1, 2, 4, 16])),
        "block_dropout": draw(st.sampled_from([0.0, 0.3])),
        "head_dropout": draw(st.sampled_from([0.0, 0.5])),
        "norm": draw(st.sampled_from(["batch", "none"])),
    }
    return ResNetSpec.model_validate(values)
