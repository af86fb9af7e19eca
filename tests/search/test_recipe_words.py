"""The recipe in words leaves nothing out."""

from typing import Any

import pytest

from search.recipe_words import OPTIMIZER_NAMES, notation, recipe_in_words
from train_core.optimizers import OPTIMIZERS
from train_core.specs import AugmentSpec, CopySpec, ResNetSpec, TrainSpec

CHANGES: dict[str, dict[str, Any]] = {
    "epochs": {"epochs": 31},
    "data_fraction": {"data_fraction": 0.5},
    "copies": {"copies": (CopySpec(),)},
    "start": {"start": "imagenet"},
    "keep": {"keep": "best"},
    "batch_size": {"batch_size": 96},
    "optimizer": {"optimizer": "muon"},
    "lr": {"lr": 0.123},
    "momentum": {"momentum": 0.8},
    "beta2": {"beta2": 0.9},
    "nesterov": {"nesterov": True},
    "weight_decay": {"weight_decay": 0.0},
    "decay_norm_and_bias": {"decay_norm_and_bias": True},
    "schedule": {"schedule": "one-cycle"},
    "warmup": {"warmup": 0.05},
    "label_smoothing": {"label_smoothing": 0.1},
    "class_weights": {"class_weights": "balanced"},
    "clip_norm": {"clip_norm": 1.0},
    "clip_value": {"clip_value": 0.1},
    "ema_decay": {"ema_decay": 0.99},
    "asam": {"asam": 0.5},
    "seed": {"seed": 7},
    "precision": {"precision": "bf16"},
    "mix": {"mix": "cutmix"},
    "mix_alpha": {"mix": "cutmix", "mix_alpha": 0.3},
    "mix_share": {"mix": "cutmix", "mix_share": 0.5},
    "mix_off": {"mix": "cutmix", "mix_off": 0.1},
    "milestones": {"schedule": "multi-step", "milestones": (0.5, 0.7)},
    "step_every": {"schedule": "step", "step_every": 0.5},
    "gamma": {"schedule": "step", "gamma": 0.3},
}
AUGMENT: dict[str, dict[str, Any]] = {
    "crop_padding": {"crop_padding": 2},
    "flip": {"flip": False},
    "flip_order": {"flip_order": "alternating"},
    "policy": {"policy": "trivial-augment"},
    "cutout": {"cutout": 8},
    "rotation": {"rotation": 15.0},
    "enlarge": {"enlarge": 1.25},
    "resize_crop": {"resize_crop": 0.5},
    **{name: {name: 0.3} for name in ("perspective", "brightness", "contrast", "saturation", "hue", "erasing")},
}


def words(**changes: Any) -> tuple[tuple[str, str], ...]:
    return tuple(recipe_in_words(TrainSpec(**{"epochs": 30} | changes)))


def test_every_field_of_a_recipe_is_told() -> None:
    assert set(CHANGES) == set(TrainSpec.model_fields) - {"augment"}
    plain = words()
    told = {name: words(**changes) for name, changes in CHANGES.items()}
    assert plain not in told.values()
    assert len(set(told.values())) == len(told)


def test_every_change_of_the_images_is_told() -> None:
    assert set(AUGMENT) == set(AugmentSpec.model_fields)
    plain = words()
    told = {name: words(augment=AugmentSpec(**changes)) for name, changes in AUGMENT.items()}
    assert plain not in told.values()
    assert len(set(told.values())) == len(told)
    nothing = dict(words(augment=AugmentSpec(crop_padding=0, flip=False)))
    assert nothing["augmentation"] == "none"


def test_every_optimizer_has_a_name() -> None:
    assert set(OPTIMIZER_NAMES) == set(OPTIMIZERS)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (
            ResNetSpec(widths=(8, 16, 32), blocks=(1, 1, 2)),
            "`[8,16,32] x [1,1,2] basic` means: 3 stages with 8, 16 and 32 channels and 1, 1 and 2 residual blocks of "
            "the kind `basic`, after a first convolution, the stem.",
        ),
        (
            ResNetSpec(widths=(8, 16, 24, 32), blocks=(2, 2), block="preact", final_norm=True),
            "`[8-16,24-32] x [2,2] preact` means: 2 stages with 8-16 and 24-32 channels and 2 and 2 residual blocks of "
            "the kind `preact`, after a first convolution, the stem.",
        ),
    ],
)
def test_the_short_name_of_a_network_is_explained(network: ResNetSpec, said: str) -> None:
    assert notation(network) == said
