"""Parameter counts as published, against the closed form."""

from typing import Any

import pytest

from tests.support.networks import pyramidnet, wide_resnet
from train_core.specs import ResNetSpec, num_params

FOUR = {"widths": (32, 64, 128, 256)}
A1 = {**FOUR, "blocks": (8, 6, 4, 3)}
POOL = {"shortcut": "max-pool"}
PRE = {"block": "preact"}
D1 = {
    "widths": (64, 128, 256, 512),
    "blocks": (2, 2, 2, 2),
    "stem_kernel": 7,
    "stem_stride": 2,
    "stem_pool": True,
    "num_classes": 100,
}
D2 = {**D1, "widths": (128, 256, 512, 1024), "stem_width": 64}

PUBLISHED = {
    "A1": (A1, 4_976_426),
    "A2": ({**A1, **POOL}, 4_976_426),
    "A3 conv": ({**A1, "stem_kernel": 1}, 4_975_658),
    "A3 max-pool": ({**A1, **POOL, "stem_kernel": 1}, 4_975_658),
    "A4 conv": ({**A1, **PRE}, 4_975_978),
    "A4 max-pool": ({**A1, **PRE, **POOL}, 4_975_978),
    "A5 conv": ({**A1, **PRE, "stem_kernel": 1}, 4_975_210),
    "A5 max-pool": ({**A1, **PRE, **POOL, "stem_kernel": 1}, 4_975_210),
    "A6": ({**FOUR, "blocks": (3, 3, 5, 3), **PRE, "stem_kernel": 1}, 4_955_882),
    "A7": ({"widths": (64, 128, 256, 512), "blocks": (2, 1, 1, 1), **PRE, "stem_kernel": 1}, 4_974_794),
    "B1": ({"widths": (64, 128, 256, 512), "blocks": (1, 2, 3, 1), "k1": 1}, 4_971_338),
    "B2": ({"widths": (64, 128, 256), "blocks": (3, 5, 3)}, 4_918_602),
    "B3": ({"widths": (64, 128, 256), "blocks": (2, 2, 2), "k1": 5}, 4_874_826),
    "B4": ({**FOUR, "blocks": (3, 3, 5, 3)}, 4_957_098),
    "B5": ({**FOUR, "blocks": (2, 2, 2, 2), "k1": 5}, 4_894_762),
    "B6": ({"widths": (16, 32, 64, 128), "blocks": (2, 3, 4, 2), "k1": 7, "k2": 7, "shortcut_kernel": 5}, 4_914_842),
    "C1": ({"widths": (32, 64, 128, 128, 256), "blocks": (2, 2, 2, 2, 3), "stem_kernel": 5}, 4_587_306),
    "C2": ({**FOUR, "blocks": (2, 2, 2, 2), "stem_kernel": 5}, 2_799_146),
    "C3": ({**FOUR, "blocks": (3, 3, 3, 3), "stem_kernel": 5}, 4_367_786),
    "D1": (D1, 11_227_812),
    "D2": (D2, 44_695_716),
    "D3": ({**D1, "shortcut_kernel": 3}, 12_604_068),
    "D4": ({**D1, **PRE, "shortcut_norm": "before"}, 11_226_020),
    "D5": ({**D1, "norm": "none"}, 11_218_212),
    "D6": ({**D1, "block_dropout": 0.2, "head_dropout": 0.5}, 11_227_812),
    "D9": ({**D2, "shortcut_kernel": 3}, 50_266_276),
    "E": ({**FOUR, "blocks": (3, 3, 3, 3), "se_reduction": 16}, 4_398_890),
}


WIDE = {  # of public implementations; the paper prints 2.2, 8.9, 11.0 and 36.5 million
    "WRN-16-4": (wide_resnet(16, 4), 2_748_890),
    "WRN-28-2": (wide_resnet(28, 2), 1_467_610),
    "WRN-40-2": (wide_resnet(40, 2), 2_243_546),
    "WRN-40-4": (wide_resnet(40, 4), 8_949_210),
    "WRN-16-8": (wide_resnet(16, 8), 10_961_370),
    "WRN-28-10": (wide_resnet(28, 10), 36_479_194),
}


IMAGENET: dict[str, Any] = {
    "widths": (256, 512, 1024, 2048),
    "blocks": (3, 4, 6, 3),
    "block": "bottleneck",
    "stem_width": 64,
    "stem_kernel": 7,
    "stem_stride": 2,
    "stem_pool": True,
    "num_classes": 1000,
}
OTHERS: dict[str, tuple[ResNetSpec, float]] = {  # exact counts of torchvision; millions of CutMix's table 6 and hysts
    "PyramidNet-110-a64": (pyramidnet(110, 64, bottleneck=True), 1.7),
    "PyramidNet-200-a240": (pyramidnet(200, 240, bottleneck=True, num_classes=100), 26.8),
    "PyramidNet-110-a84": (pyramidnet(110, 84, bottleneck=False), 3.9),
    "ResNet-50": (ResNetSpec(**IMAGENET), 25_557_032),
    "ResNeXt-50 32x4d": (ResNetSpec(**IMAGENET, expansion=2, groups=32), 25_028_904),
    "Wide ResNet-50-2": (ResNetSpec(**IMAGENET, expansion=2), 68_883_240),
}


@pytest.mark.parametrize("row", PUBLISHED)
def test_the_closed_form_gives_the_published_count(row: str) -> None:
    values, published = PUBLISHED[row]
    assert num_params(ResNetSpec.model_validate(values)) == published


@pytest.mark.parametrize("row", OTHERS)
def test_the_closed_form_gives_the_count_of_pyramids_and_bottlenecks(row: str) -> None:
    spec, published = OTHERS[row]
    counted = num_params(spec)
    assert counted == published if published > 1000 else round(counted / 1e6, 1) == published


@pytest.mark.parametrize("row", WIDE)
def test_the_closed_form_gives_the_count_of_wide_residual_networks(row: str) -> None:
    spec, published = WIDE[row]
    assert num_params(spec) == published
