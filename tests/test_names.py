"""A name that is added to a closed set, and nothing else, is noticed at once: a message says what is missing."""

import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError

from space import REGULARISERS, Space
from tests.support.processes import python
from train_core import models
from train_core.blocks import BLOCKS, OPTIONAL, BlockName
from train_core.optimizers import OPTIMIZERS
from train_core.specs import AugmentSpec, ResNetSpec
from train_core.tables import table

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in ("train_core", "search", "studies"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "space.py", copy)
    return copy


NEW = "no_such_name"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("train_core/blocks.py", '    "basic", "preact"', f'    "{NEW}", "basic", "preact"', f"block '{NEW}' has no"),
        ("train_core/optimizers.py", 'Literal["sgd"', f'Literal["{NEW}", "sgd"', f"optimizer '{NEW}' has no record"),
        ("train_core/mix.py", 'Literal["none"', f'Literal["{NEW}", "none"', f"mix '{NEW}' has no record"),
        (
            "train_core/datasets.py",
            'Literal[\n    "cifar10"',
            f'Literal["{NEW}", "cifar10"',
            f"data set '{NEW}' has no",
        ),
        ("train_core/examples.py", 'Literal["onnx"', f'Literal["{NEW}", "onnx"', f"format '{NEW}' has no record"),
        ("search/spec.py", 'Literal["tpe"', f'Literal["{NEW}", "tpe"', f"sampler '{NEW}' has no record"),
        (
            "train_core/optimizers.py",
            '        "sgd": OptimizerKind(',
            '        "no_such_name": OptimizerKind(description="", build=_sgd, lr=(1, 2), weight_decay=0),\n'
            '        "sgd": OptimizerKind(',
            f"optimizer '{NEW}' has a record but is not among the names sgd, adam, adamw",
        ),
        (
            "train_core/specs.py",
            "    flip: bool = Field(default=True",
            f"    {NEW}: float = 0.0\n    flip: bool = Field(default=True",
            f"augmentation '{NEW}' has no",
        ),
        ("space.py", "    adam_lr: Number[Rate]", "    other_lr: Number[Rate]", "no dimension adam_lr in Space"),
    ],
    ids=["block", "optimizer", "mix", "data set", "format", "sampler", "record", "augmentation", "dimension"],
)
def test_a_name_without_its_record_is_named_when_the_code_is_imported(
    checkout: Path, file: str, old: str, new: str, message: str
) -> None:
    source = (checkout / file).read_text()
    assert source.count(old) == 1
    (checkout / file).write_text(source.replace(old, new))
    try:
        done = python(["-c", "import search.api"], checkout)
        _, said = done.communicate(timeout=240)
    finally:
        (checkout / file).write_text(source)
    assert done.returncode == 1
    assert message in said.splitlines()[-1]


def test_a_table_holds_its_names_in_their_order() -> None:
    from typing import Literal

    names = Literal["b", "a"]
    assert list(table("thing", names, {"a": 1, "b": 2})) == list(get_args(names))


def test_the_module_of_each_block_is_a_residual_block() -> None:
    for block in BLOCKS.values():
        assert issubclass(getattr(models, block.module), models.ResidualBlock)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_uses_the_fields_that_its_record_names_and_no_others(name: BlockName) -> None:
    """Other values of these change what the network computes; other values of the rest are refused."""
    others = {
        "k2": 5,
        "stem_end": "none",
        "final_norm": True,
        "shortcut_input": "activated",
        "expansion": 2,
        "groups": 2,
    }
    assert others.keys() == OPTIONAL
    first: dict[str, Any] = {"widths": (8, 16), "blocks": (1, 1), "block": name}
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def outputs(spec: ResNetSpec) -> torch.Tensor:
        torch.manual_seed(0)
        logits: torch.Tensor = models.ResNet(spec)(images)
        return logits

    usual = outputs(ResNetSpec(**first))
    for field, value in others.items():
        if field in BLOCKS[name].uses:
            assert not torch.equal(outputs(ResNetSpec(**first, **{field: value})), usual), field
        else:
            with pytest.raises(ValidationError, match=f'{field} = .* has no effect with block = "{name}": leave it'):
                ResNetSpec(**first, **{field: value})


def test_what_regularises_is_known_of_every_optimizer_and_augmentation() -> None:
    assert {f"{name}_weight_decay" for name in OPTIMIZERS} <= set(REGULARISERS)
    assert set(AugmentSpec.model_fields) <= set(REGULARISERS)
    assert {"mix", "mix_share", "mix_off"} <= set(REGULARISERS)
    assert set(REGULARISERS) <= set(Space.model_fields)
