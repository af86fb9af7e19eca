"""Hypothesis strategies for specs."""

from typing import Any

from hypothesis import strategies as st

from train_core.blocks import BLOCKS
from train_core.specs import ResNetSpec, unused

KERNELS = st.sampled_from([1, 3, 5, 7])


@st.composite
def resnet_specs(draw: st.DrawFn) -> ResNetSpec:
    """Any network of the family, small enough to be built in a moment."""
    stages = draw(st.integers(2, 5))
    block = draw(st.sampled_from(list(BLOCKS)))
    blocks = draw(st.lists(st.integers(1, 3), min_size=stages, max_size=stages))
    count = draw(st.sampled_from([stages, sum(blocks)]))
    expansion, groups = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2]))
    step = expansion * groups if BLOCKS[block].narrows else 1
    values: dict[str, Any] = {
        "widths": [step * draw(st.integers(1, max(20 // step, 3))) for _ in range(count)],
        "blocks": blocks,
        "strides": draw(st.one_of(st.just([]), st.lists(st.sampled_from([1, 2]), min_size=stages, max_size=stages))),
        "in_channels": draw(st.integers(1, 4)),
        "num_classes": draw(st.integers(1, 12)),
        "stem_width": draw(st.none() | st.integers(1, 20)),
        "stem_kernel": draw(KERNELS),
        "stem_stride": draw(st.sampled_from([1, 2])),
        "stem_pool": draw(st.booleans()),
        "block": block,
        "final_norm": draw(st.booleans()),
        "stem_end": draw(st.sampled_from(["norm-relu", "norm", "none"])),
        "shortcut_input": draw(st.sampled_from(["block", "activated"])),
        "expansion": expansion,
        "groups": groups,
        "k1": draw(KERNELS),
        "k2": draw(KERNELS),
        "max_kernels": draw(st.just([]) | st.lists(KERNELS, min_size=stages, max_size=stages)),
        "shortcut": draw(st.sampled_from(["conv", "max-pool", "pad", "none"])),
        "shortcut_kernel": draw(KERNELS),
        "shortcut_norm": draw(st.sampled_from(["after", "before", "none"])),
        "se_reduction": draw(st.sampled_from([0, 1, 2, 4, 16])),
        "block_dropout": draw(st.sampled_from([0.0, 0.3])),
        "head_dropout": draw(st.sampled_from([0.0, 0.5])),
        "drop_path": draw(st.sampled_from([0.0, 0.5])),
        "zero_init": draw(st.booleans()),
        "norm": draw(st.sampled_from(["batch", "none"])),
    }
    return ResNetSpec.model_validate(values | unused(values))
