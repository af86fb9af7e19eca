import sys
import time
import timeit
from subprocess import run
from typing import Any

import pytest
from pydantic import ValidationError

from train_core.specs import AugmentSpec, ResNetSpec, TrainSpec, block_shapes, num_madds, num_params

A5 = ResNetSpec(widths=(32, 64, 128, 256), blocks=(8, 6, 4, 3), block="preact", stem_kernel=1, shortcut="max-pool")


def test_specs_are_frozen_keyword_only_and_refuse_unknown_keys() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        A5.k1 = 5  # type: ignore[misc]  # it is frozen: that is the test
    with pytest.raises(TypeError):
        ResNetSpec((8, 8), (1, 1))  # type: ignore[call-arg]  # which is what is tested
    with pytest.raises(ValidationError, match="wdths"):
        ResNetSpec(wdths=(8, 8), blocks=(1, 1))  # type: ignore[call-arg]  # which is what is tested


@pytest.mark.parametrize(
    "wrong",
    [
        {"widths": (8,), "blocks": (1,)},
        {"widths": (8,) * 6, "blocks": (1,) * 6},
        {"widths": (8, 8), "blocks": (1, 1, 1)},
        {"widths": (8, 8), "blocks": (1, 0)},
        {"widths": (8, 8), "blocks": (1, 1), "k1": 2},
        {"widths": (8, 8), "blocks": (1, 1), "strides": (1, 3)},
        {"widths": (8, 8), "blocks": (1, 1), "final_norm": True},
        {"widths": (8, 8), "blocks": (1, 1), "stem_end": "none"},
        {"widths": (8, 8), "blocks": (1, 1), "shortcut_input": "activated"},
        {"widths": (8, 8), "blocks": (1, 1), "stem_end": "norm"},
        {"widths": (8, 8), "blocks": (2, 2), "strides": (1, 2, 2)},
        {"widths": (8, 8, 8), "blocks": (2, 2)},
        {"widths": (8, 12), "blocks": (1, 1), "block": "bottleneck", "groups": 2},
        {"widths": (8, 8), "blocks": (1, 1), "block": "inverted-residual", "groups": 2},
        {"widths": (8, 8), "blocks": (1, 1), "shortcut": "pad", "shortcut_kernel": 3},
        {"widths": (8, 8), "blocks": (1, 1), "drop_path": 1.0},
        {"widths": (8, 8), "blocks": (1, 1), "head_dropout": 1.0},
    ],
)
def test_impossible_networks_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ResNetSpec.model_validate(wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"widths": (8, 8, 8)}, "or widths one for each of the 4 blocks"),
        ({"groups": 3, "block": "bottleneck"}, "widths of bottleneck blocks must be multiples of expansion x groups ="),
        ({"shortcut": "none", "shortcut_norm": "none"}, 'shortcut_norm = none has no effect with shortcut = "none": '),
        ({"final_norm": True}, 'final_norm = true has no effect with block = "basic": leave it out'),
    ],
)
def test_an_error_says_what_does_not_go_together(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ResNetSpec.model_validate({"widths": (16, 32), "blocks": (2, 2), **wrong})


def test_widths_of_one_stage_each_are_those_of_its_blocks() -> None:
    by_stage = ResNetSpec(widths=(8, 16), blocks=(2, 3))
    by_block = ResNetSpec(widths=(8, 8, 16, 16, 16), blocks=(2, 3))
    assert block_shapes(by_stage) == block_shapes(by_block) == [[(8, 8, 1)] * 2, [(8, 16, 2), *[(16, 16, 1)] * 2]]
    assert num_params(by_stage) == num_params(by_block)
    assert num_madds(by_stage, 20) == num_madds(by_block, 20)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"lr": 0},
        {"optimizer": "no-such-optimizer"},
        {"milestones": (0.6, 0.3)},
        {"augment": {"hue": 0.6}},
        {"augment": {"policy": "no-such-policy"}},
        {"augment": {"flip_order": "no-such-order"}},
        {"augment": {"erasing": 1.5}},
        {"copies": [{"flip_order": "random"}]},
        {"mix": "no-such-mix"},
        {"mix": "mixup", "mix_share": 0},
        {"mix": "mixup", "mix_off": 1},
        {"mix": "mixup", "mix_alpha": -1},
        {"mix_share": 0.5},
    ],
)
def test_impossible_recipes_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TrainSpec.model_validate({"epochs": 1, **wrong})


def test_specs_survive_json() -> None:
    recipe = TrainSpec(epochs=3, schedule="multi-step", milestones=(0.5,))
    assert ResNetSpec.model_validate_json(A5.model_dump_json()) == A5
    assert TrainSpec.model_validate_json(recipe.model_dump_json()) == recipe


def test_a_recipe_in_words() -> None:
    assert str(TrainSpec(epochs=30)) == "sgd, lr 0.1, cosine, batch 128, 30 epochs"
    mixed = TrainSpec(epochs=30, data_fraction=0.15, mix="cutmix", augment=AugmentSpec(policy="trivial-augment"))
    assert str(mixed) == ("sgd, lr 0.1, cosine, batch 128, 30 epochs on 15% of the images, cutmix, trivial-augment")


def test_a_network_in_words() -> None:
    assert str(A5) == "[32,64,128,256] x [8,6,4,3] preact, 1x1 stem, max-pool shortcut"


def test_networks_that_differ_have_different_words() -> None:
    others: dict[str, Any] = {
        "widths": (32, 64, 128, 264),
        "blocks": (8, 6, 4, 2),
        "strides": (1, 1, 2, 2),
        "stem_width": 64,
        "stem_kernel": 7,
        "stem_stride": 2,
        "stem_pool": True,
        "block": "basic",
        "final_norm": True,
        "k1": 5,
        "k2": 5,
        "max_kernels": (3, 3, 3, 1),
        "shortcut": "conv",
        "shortcut_kernel": 3,
        "shortcut_norm": "before",
        "se_reduction": 4,
        "block_dropout": 0.2,
        "head_dropout": 0.2,
        "stem_end": "none",
        "shortcut_input": "activated",
        "drop_path": 0.2,
        "zero_init": True,
        "norm": "none",
    }
    of_bottlenecks: dict[str, Any] = {"block": "preact-bottleneck", "expansion": 2, "groups": 2}
    assert (others | of_bottlenecks).keys() == ResNetSpec.model_fields.keys() - {"in_channels", "num_classes"}
    made = [{**A5.model_dump(), key: value} for key, value in others.items()]
    made += [{**made[0], "block": "preact-bottleneck", key: value} for key, value in of_bottlenecks.items()]
    made += [{**made[0], "stem_end": "norm"}, {**made[0], "shortcut": "pad"}, {**made[0], "shortcut": "none"}]
    words = {str(ResNetSpec.model_validate(values)) for values in made}
    assert len(words | {str(A5)}) == len(made) + 1


def test_a_recipe_with_all_extras_in_words() -> None:
    augment = AugmentSpec(policy="trivial-augment", erasing=0.2, flip_order="alternating")
    recipe = TrainSpec(epochs=1, mix="cutmix", mix_share=0.5, mix_off=0.1, augment=augment, asam=0.5)
    extras = "cutmix in 50% of the batches, without it in the last 10%, trivial-augment, erasing 0.2, alternating flips"
    assert recipe.method == f"sgd, lr 0.1, cosine, batch 128, {extras}, asam 0.5"
    assert str(recipe) == f"sgd, lr 0.1, cosine, batch 128, 1 epoch, {extras}, asam 0.5"
    assert TrainSpec(epochs=2).method == "sgd, lr 0.1, cosine, batch 128"


def test_counting_takes_microseconds() -> None:
    for count in (lambda: num_params(A5), lambda: num_madds(A5, 32)):
        # Of this process alone: others may use the processors, too.
        took = min(timeit.repeat(count, number=100, repeat=20, timer=time.process_time)) / 100
        assert took < 100e-6  # 4 to 5 us on a desktop core


def test_counting_needs_no_torch() -> None:
    code = "import sys, space, train_core.specs; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0
