"""The search space: which networks and recipes a study may draw, and how a draw becomes a network within the budget.

Read `Space` first: one line for each dimension. A study file overrides any of them under `[space]`:

    optimizer = "sgd"                            held fixed
    optimizer = ["sgd", "adamw"]                 one of these
    k1 = { choices = [3, 5], weights = [9, 1] }  one of these; a random draw takes the first in nine of ten cases
    sgd_lr = { low = 0.01, high = 0.5, log = true }    a range; `step` instead of `log` for a grid
    blocks = { low = 1, high = 18, mostly = [1, 5] }   98 % of the random draws are in `mostly`

Two rules keep the sampler's model of the space whole (TPE drops a parameter from its joint model as soon as one
trial lacks it or has it with other bounds):

- every trial suggests every parameter, always with the same bounds, also those that its network does not use;
- width is not drawn. It is solved: the widest network whose parameter count stays within `budget_fraction` x budget
  (and whose multiply-adds stay within `budget_fraction` x their limit, if there is one), every width a multiple of 8.
  So no trial is over the budget, and none has to be rejected for it.
"""

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, islice, product
from operator import mul
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, Protocol, Self, TypeVar, cast

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from train_core.blocks import BlockName
from train_core.limits import Bound, Limits
from train_core.mix import MixName
from train_core.optimizers import OPTIMIZERS, OptimizerName
from train_core.specs import (
    BLOCK_KERNELS,
    MIX_SETTINGS,
    AugmentSpec,
    ClassWeights,
    FlipOrder,
    Frozen,
    Kernel,
    Norm,
    PolicyName,
    Precision,
    ResNetSpec,
    ScheduleName,
    ShortcutInput,
    ShortcutNorm,
    ShortcutType,
    StemEnd,
    Stride,
    TrainSpec,
    block_shapes,
    num_params,
    unused,
    width_step,
)

WIDTH_STEP = 8  # widths are multiples of this, which suits tensor cores and vector units
Widening = Literal["stages", "blocks"]

BASE_STEP = 0.25  # channels; smaller steps use no more of the budget (median share at 5 M: 97 %, with 1: 96 %)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Range(Generic[T]):
    """Any value from `low` to `high`, both included."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", allow_inf_nan=False)

    low: T
    high: T
    log: bool = False  # drawn uniformly in the logarithm
    step: int | float | None = None  # only low, low + step, low + 2 step, ...
    mostly: tuple[T, T] | None = None  # the range of the share `MOSTLY` of the random draws

    def __post_init__(self) -> None:
        low, high = cast(float, self.low), cast(float, self.high)
        if self.mostly is not None:
            least, most = cast(tuple[float, float], self.mostly)
            if not low <= least < most <= high or not (_is_on_grid(self, least) and _is_on_grid(self, most)):
                raise ValueError(
                    f"mostly must be two different values of the range, the smaller first, not {least}, {most}"
                )
        if not low < high:
            raise ValueError(f"low must be less than high, not {low} and {high}")
        if self.log and (self.step is not None or low <= 0):
            raise ValueError("log needs low > 0 and no step")
        if self.step is not None:
            if not self.step > 0 or (isinstance(low, int) and self.step != int(self.step)):
                raise ValueError(f"step must be greater than 0, and whole where low is, not {self.step}")
            steps = (high - low) / self.step
            if abs(steps - round(steps)) > 1e-9:
                raise ValueError(f"high must be low and a whole number of steps, not {steps:.3g} steps")


@dataclass(frozen=True, kw_only=True)
class Weighted(Generic[T]):
    """One of `choices`, which a random draw takes in proportion to `weights`."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", allow_inf_nan=False)

    choices: tuple[T, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        _all_different(self.choices)
        if len(self.choices) < 2 or len(self.weights) != len(self.choices):
            raise ValueError("choices must have at least two values, and weights one number for each of them")
        if min(self.weights) <= 0:
            raise ValueError(f"weights must be greater than 0, not {min(self.weights):g}")


def _is_on_grid(dimension: Range[Any], value: float) -> bool:
    return dimension.step is None or ((value - dimension.low) / dimension.step) % 1 == 0


MOSTLY = 0.98
"""The share of the random draws of a range that are within its `mostly`."""


def _kind(value: object) -> str:
    if isinstance(value, list | tuple):
        return "choices"
    if isinstance(value, Weighted) or (isinstance(value, dict) and "choices" in value):
        return "weighted"
    return "range" if isinstance(value, dict | Range) else "fixed"


def _all_different(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("a choice is listed twice")
    return values


_Fixed = Annotated[T, Tag("fixed")]
_Choices = Annotated[Annotated[tuple[T, ...], Field(min_length=1), AfterValidator(_all_different)], Tag("choices")]
_Weighted = Annotated[Weighted[T], Tag("weighted")]
_Range = Annotated[Range[T], Tag("range")]

Choice = Annotated[_Fixed[T] | _Choices[T] | _Weighted[T], Discriminator(_kind)]
Number = Annotated[_Fixed[T] | _Choices[T] | _Weighted[T] | _Range[T], Discriminator(_kind)]

Share = Annotated[float, Field(gt=0, le=1)]
Rate = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Stages = Annotated[int, Field(ge=2, le=5)]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0, le=1024)]
Strength = Annotated[float, Field(ge=0, le=1)]
Degrees = Annotated[float, Field(ge=0, le=180)]
Turns = Annotated[float, Field(ge=0, le=0.5)]
Factor = Annotated[float, Field(ge=1, le=4)]
Growth = Annotated[float, Field(ge=1, le=4)]


def _rates(optimizer: OptimizerName) -> Range[float]:
    low, high = OPTIMIZERS[optimizer].lr
    return Range(low=low, high=high, log=True)


def _rate(optimizer: OptimizerName) -> float:
    """The middle of the optimizer's range, in the logarithm, rounded to one digit."""
    return float(f"{math.sqrt(math.prod(OPTIMIZERS[optimizer].lr)):.1g}")


def _described(default: Any, words: str) -> Any:
    """A dimension that is not described by a field of the specs."""
    return Field(default=default, description=words)


def _weighted(values: Mapping[Any, float]) -> Any:
    return Weighted(choices=tuple(values), weights=tuple(values.values()))


LARGEST_WHOLE = 48  # side in pixels up to which the first stage sees the full resolution
LARGEST_HALVED = 112  # side in pixels up to which it sees half the resolution


class Space(Frozen):
    """Every dimension of the search; the defaults are for images of 32x32 pixels.

    Short runs misjudge regularisation: they always prefer too little of it. So everything that regularises is fixed at
    a strong setting here, and drawn only if a study file says so.
    """

    # The network
    budget_fraction: Number[Share] = _described(
        Range(low=0.5, high=1.0, mostly=(0.9, 1.0)), "share of the budget that a network may use"
    )
    stages: Number[Stages] = _described(
        Range(low=3, high=5, mostly=(3, 4)), "number of stages; each stage except the first halves height and width"
    )
    blocks: Number[Positive] = _described(
        Range(low=1, high=8, mostly=(2, 5)), "number of residual blocks in each stage"
    )
    growth: Number[Growth] = _described(
        Range(low=1.0, high=2.5, step=0.25, mostly=(1.5, 2.0)),
        "width of a stage divided by the width of the stage before it",
    )
    widening: Choice[Widening] = _described(
        "stages",
        "where the width grows. stages: all blocks of a stage are equally wide; blocks: each block is wider than the "
        "one before it by the same number of channels, from the stem to the last block (Han et al. 2017)",
    )
    block: Choice[BlockName] = ("basic", "preact")
    final_norm: Choice[bool] = _weighted(
        {True: 19, False: 1}
    )  # in blocks that use it, like some other dimensions (`unused`)
    k1: Choice[Kernel] = _weighted({1: 1, 3: 97, 5: 1, 7: 1})
    k2: Choice[Kernel] = _weighted({1: 1, 3: 97, 5: 1, 7: 1})
    fit_maps: Choice[bool] = _described(
        True,
        "leaves out stages with feature maps of one pixel, and limits kernels to what a map can use: on a map of n "
        "pixels, only the inner 2n - 1 weights of a kernel's side are ever multiplied with a pixel",
    )
    expansion: Choice[Positive] = 4
    groups: Choice[Positive] = 1
    shortcut: Choice[ShortcutType] = ("conv", "max-pool")
    shortcut_kernel: Choice[Kernel] = _weighted({1: 18, 3: 1, 5: 1})
    shortcut_norm: Choice[ShortcutNorm] = "after"
    shortcut_input: Choice[ShortcutInput] = "block"
    stem_width: Choice[Count] = 0  # channels; 0: as wide as the first stage
    stem_kernel: Choice[Kernel] = _weighted({1: 1, 3: 18, 5: 1})
    stem_stride: Choice[Stride] = 1
    stem_pool: Choice[bool] = False
    stem_end: Choice[StemEnd] = "norm-relu"
    se_reduction: Choice[Count] = (0, 16)
    zero_init: Choice[bool] = False
    norm: Choice[Norm] = "batch"

    # The optimizer and its schedule
    optimizer: Choice[OptimizerName] = _weighted({"sgd": 6, "muon": 2, "adam": 1, "adamw": 1})
    sgd_lr: Number[Rate] = _rate("sgd")  # this and the next ones are ranges if `optimizer` names them
    adam_lr: Number[Rate] = _rate("adam")
    adamw_lr: Number[Rate] = _rate("adamw")
    nadam_lr: Number[Rate] = _rate("nadam")
    radam_lr: Number[Rate] = _rate("radam")
    rmsprop_lr: Number[Rate] = _rate("rmsprop")
    lion_lr: Number[Rate] = _rate("lion")
    muon_lr: Number[Rate] = _rate("muon")
    sgd_weight_decay: Number[Decay] = OPTIMIZERS["sgd"].weight_decay
    adam_weight_decay: Number[Decay] = OPTIMIZERS["adam"].weight_decay
    adamw_weight_decay: Number[Decay] = OPTIMIZERS["adamw"].weight_decay
    nadam_weight_decay: Number[Decay] = OPTIMIZERS["nadam"].weight_decay
    radam_weight_decay: Number[Decay] = OPTIMIZERS["radam"].weight_decay
    rmsprop_weight_decay: Number[Decay] = OPTIMIZERS["rmsprop"].weight_decay
    lion_weight_decay: Number[Decay] = OPTIMIZERS["lion"].weight_decay
    muon_weight_decay: Number[Decay] = OPTIMIZERS["muon"].weight_decay
    momentum: Number[Probability] = 0.9
    nesterov: Choice[bool] = True
    schedule: Choice[ScheduleName] = _weighted({"cosine": 4, "one-cycle": 1})
    warmup: Number[Probability] = 0.05  # share of the run; one-cycle has its own warm-up
    batch_size: Number[Positive] = (64, 128, 256)
    clip_norm: Number[Decay] = 0.0
    ema_decay: Number[Probability] = 0.0
    class_weights: Choice[ClassWeights] = "none"

    # Regularisers: fixed at a strong setting
    label_smoothing: Number[Probability] = 0.1
    block_dropout: Number[Probability] = 0.0
    head_dropout: Number[Probability] = 0.0
    drop_path: Number[Probability] = 0.0
    crop_padding: Number[Count] = 4
    flip: Choice[bool] = True
    flip_order: Choice[FlipOrder] = "random"
    policy: Choice[PolicyName] = "none"
    cutout: Number[Count] = 8
    rotation: Number[Degrees] = 0.0
    enlarge: Number[Factor] = 1.0
    resize_crop: Number[Share] = 1.0
    perspective: Number[Strength] = 0.0
    brightness: Number[Strength] = 0.0
    contrast: Number[Strength] = 0.0
    saturation: Number[Strength] = 0.0
    hue: Number[Turns] = 0.0
    erasing: Number[Strength] = 0.0
    mix: Choice[MixName] = "none"
    mix_share: Number[Share] = 1.0
    mix_off: Number[Probability] = 0.0

    @model_validator(mode="before")
    @classmethod
    def _draw_the_rates_of_choices(cls, values: Any) -> Any:
        """If `optimizer` names an optimizer whose rate is not given, its rate is drawn."""
        if not isinstance(values, dict):
            return values
        named = values.get("optimizer", cls.model_fields["optimizer"].default)
        named = named.get("choices") if isinstance(named, dict) else named
        choices = named if isinstance(named, list | tuple) else choices_of(named)
        known = [name for name in OPTIMIZERS if name in choices]
        return {f"{name}_lr": _rates(name) for name in known} | values

    def for_size(self, size: tuple[int, int]) -> Self:
        """The space for images of this height and width: dimensions left at their default follow the size.

        If the larger side is more than `LARGEST_WHOLE` pixels, the stem halves the images; above `LARGEST_HALVED`, a
        pool halves them once more, as He et al. (2016) do with 224 pixels. The first stage then has maps of 24 to 56
        pixels. Crops and cutouts keep their share of an image.
        """
        side = max(size)
        if side <= LARGEST_WHOLE:
            return self
        follows = {"crop_padding": side // 8, "cutout": side // 4}
        if not {"stem_stride", "stem_pool"} & self.model_fields_set:
            follows |= {"stem_stride": 2, "stem_pool": side > LARGEST_HALVED}
        return self.model_copy(
            update={name: value for name, value in follows.items() if name not in self.model_fields_set}
        )

    @property
    def max_stages(self) -> int:
        """The most stages that a draw can have."""
        return int(bounds_of(self.stages)[1])


GROUPS = {
    "budget_fraction": (
        "The network",
        "`blocks` and `growth` are drawn for each stage; the parameters are `blocks_1`, ..., `growth_2`, ...",
    ),
    "optimizer": (
        "The optimizer",
        "Each optimizer has its own learning rate and weight decay, because their scales differ. A rate that is one "
        "number by default becomes a range if `optimizer` names its optimizer, unless the study file gives the rate.",
    ),
    "label_smoothing": ("Regularisation", ""),
}
"""The groups on the page of all keys, by the first dimension of each: a heading, and an explanation of the group."""


def _check_dimensions(space: type[Space]) -> None:
    """Check that the space has a dimension for everything in the tables of `train_core`.

    Raises:
        TypeError: one is missing. This is a mistake in the code, found on import.

    """
    for optimizer in OPTIMIZERS:
        for dimension in (f"{optimizer}_lr", f"{optimizer}_weight_decay"):
            if dimension not in space.model_fields:
                raise TypeError(f"optimizer {optimizer!r} has no dimension {dimension} in Space: add it")
    for augmentation in AugmentSpec.model_fields:
        if augmentation not in space.model_fields:
            raise TypeError(f"augmentation {augmentation!r} has no dimension in Space: add it")


_check_dimensions(Space)


class Trial(Protocol):
    """What `suggest` needs of an Optuna trial; Optuna documents the methods."""

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...  # noqa: D102  # see Optuna
    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...  # noqa: D102  # see Optuna
    def suggest_float(  # noqa: D102  # see Optuna
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...


class RandomTrial:
    """Draws every parameter of a space independently; replaces an Optuna trial if there is no study."""

    def __init__(self, generator: random.Random, space: Space) -> None:
        self.generator = generator
        self.weights, self.mostly = weights(space), mostly(space)

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of the choices, with their weights if they have any."""
        return self.generator.choices(choices, self.weights.get(name))[0]

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """One of low, low + step, ..., high."""
        low, high = self._bounds(name, low, high)
        return self.generator.randrange(low, high + 1, step)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number from low to high; with `step`, one of low, low + step, ..., high."""
        low, high = self._bounds(name, low, high)
        if step is None:
            return self.generator.uniform(low, high)
        return low + step * self.generator.randrange(round((high - low) / step) + 1)

    def _bounds(self, name: str, low: T, high: T) -> tuple[T, T]:
        is_usual = name in self.mostly and self.generator.random() < MOSTLY
        return self.mostly[name] if is_usual else (low, high)


Draw = Mapping[str, Any]
"""A value for every dimension, by parameter name (`blocks_1`, ... and `growth_2`, ... for each stage)."""


def suggest(trial: Trial, space: Space) -> Draw:
    """One value for each dimension: fixed ones keep their value, the others come from the trial."""
    return {name: _suggest(trial, name, dimension) for name, dimension in _dimensions(space)}


def _suggest(trial: Trial, name: str, dimension: Any) -> Any:
    if isinstance(dimension, tuple | Weighted):
        return trial.suggest_categorical(name, choices_of(dimension))
    if not isinstance(dimension, Range):
        return dimension
    if isinstance(dimension.low, int):
        return trial.suggest_int(name, dimension.low, dimension.high, step=int(dimension.step or 1), log=dimension.log)
    return trial.suggest_float(name, dimension.low, dimension.high, step=dimension.step, log=dimension.log)


def parameters(space: Space) -> list[str]:
    """Names of the parameters that a trial draws: the dimensions that are not fixed."""
    return [name for name, dimension in _dimensions(space) if isinstance(dimension, tuple | Weighted | Range)]


def weights(space: Space) -> dict[str, tuple[float, ...]]:
    """The weights of the choices of the parameters that have weights."""
    return {name: dimension.weights for name, dimension in _dimensions(space) if isinstance(dimension, Weighted)}


def mostly(space: Space) -> dict[str, tuple[Any, Any]]:
    """The range of most random draws, for the parameters that have one."""
    ranges = ((name, dimension) for name, dimension in _dimensions(space) if isinstance(dimension, Range))
    return {name: dimension.mostly for name, dimension in ranges if dimension.mostly is not None}


def held(space: Space) -> dict[str, Any]:
    """The values of the fixed dimensions, by parameter."""
    drawn = set(parameters(space))
    return {name: dimension for name, dimension in _dimensions(space) if name not in drawn}


def parameter_names(space: Space) -> list[str]:
    """Names of all parameters, fixed or not."""
    return [name for name, _ in _dimensions(space)]


def dimensions_in_words(space: Space) -> tuple[list[str], list[str]]:
    """The dimensions that trials draw, and those that are fixed: `k1 [1, 3]`, `sgd_lr 0.01 to 0.5`, `flip true`.

    Dimensions of optimizers that the space does not have are left out.
    """
    others = [f"{name}_" for name in OPTIMIZERS if name not in choices_of(space.optimizer)]
    drawn, fixed = [], []
    for name, dimension in space:
        if name.startswith(tuple(others)):
            continue
        if isinstance(dimension, Range):
            words = f"{name} {dimension.low:g} to {dimension.high:g}"
            words += f" in steps of {dimension.step:g}" if dimension.step else ""
            drawn.append(
                words + (f", mostly {dimension.mostly[0]:g} to {dimension.mostly[1]:g}" if dimension.mostly else "")
            )
        elif isinstance(dimension, Weighted):
            pairs = zip(dimension.choices, dimension.weights, strict=True)
            shares = (f"{_in_words(value)} {weight / sum(dimension.weights):.0%}" for value, weight in pairs)
            drawn.append(f"{name} [{', '.join(shares)}]")
        elif isinstance(dimension, tuple):
            drawn.append(f"{name} [{', '.join(map(_in_words, dimension))}]")
        else:
            fixed.append(f"{name} {_in_words(dimension)}")
    return drawn, fixed


def _in_words(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def is_architecture(name: str) -> bool:
    """Whether a parameter belongs to the network; the others belong to the recipe, including dropout."""
    first = name.rsplit("_", 1)[0]
    return name in {"budget_fraction", "stages", "fit_maps", *_SHRINKS} or first in {"blocks", "growth"}


REGULARISERS = (
    *(f"{optimizer}_weight_decay" for optimizer in OPTIMIZERS),
    "label_smoothing",
    "block_dropout",
    "head_dropout",
    "drop_path",
    *AugmentSpec.model_fields,
    "mix",
    "mix_share",
    "mix_off",
)
"""Parameters that short runs misjudge: they prefer less of each than full runs do."""


def used(draw: Draw, space: Space) -> set[str]:
    """The drawn parameters that have an effect: not the blocks of missing stages, or another optimizer's rate."""
    names = set(parameters(space))
    stages = range(draw["stages"] + 1, space.max_stages + 1)
    names -= {f"{name}_{stage}" for name in ("blocks", "growth") for stage in stages}
    names -= set(unused(draw))
    others = (name for name in OPTIMIZERS if name != draw["optimizer"])
    names -= {f"{name}_{value}" for name in others for value in ("lr", "weight_decay")}
    return names - (set(MIX_SETTINGS) if draw["mix"] == "none" else set())


def least_changes(draw: Draw, others: Iterable[Draw], space: Space, *, enough: int | None = None) -> int:
    """The number of parameters used by `draw` that differ in the nearest of the others; these must be whole draws.

    A number differs if it differs by more than `CHANGE` of its range. Counting stops at `enough`.
    """
    dimensions = all_dimensions(space)
    compared = [(name, dimensions[name], draw[name]) for name in used(draw, space)]

    def changes(other: Draw) -> int:
        differing = (True for name, dimension, value in compared if _differs(dimension, value, other[name]))
        return sum(islice(differing, enough))

    return min(map(changes, others), default=len(compared))


CHANGE = 0.15
"""The share of a range by which a number must differ to count as different."""


def _differs(dimension: Any, one: Any, other: Any) -> bool:
    if not isinstance(dimension, Range):
        return bool(one != other)
    low, high = dimension.low, dimension.high
    if dimension.log:
        return abs(math.log(one / other)) > CHANGE * math.log(high / low)
    return bool(abs(one - other) > CHANGE * (high - low))


def drawn_regularisers(space: Space) -> list[str]:
    """The regularisers that trials of the space draw."""
    return [name for name in parameters(space) if name in REGULARISERS]


def all_dimensions(space: Space) -> dict[str, Any]:
    """The possible values of each parameter, by name."""
    return dict(_dimensions(space))


def _dimensions(space: Space) -> Iterator[tuple[str, Any]]:
    """Each parameter's name and its possible values, in the order of `Space`."""
    for name, dimension in space:
        if name == "blocks":
            yield from ((f"blocks_{stage}", dimension) for stage in range(1, space.max_stages + 1))
        elif name == "growth":
            yield from ((f"growth_{stage}", dimension) for stage in range(2, space.max_stages + 1))
        else:
            yield name, dimension


def recipe(draw: Draw, *, epochs: int, seed: int, precision: Precision, data_fraction: float = 1.0) -> TrainSpec:
    """The recipe that a draw describes, for a run of `epochs` on the share `data_fraction` of the training images."""
    optimizer = draw["optimizer"]
    unused = MIX_SETTINGS if draw["mix"] == "none" else ()
    return TrainSpec(
        epochs=epochs,
        data_fraction=data_fraction,
        seed=seed,
        precision=precision,
        optimizer=optimizer,
        lr=draw[f"{optimizer}_lr"],
        weight_decay=draw[f"{optimizer}_weight_decay"],
        augment=AugmentSpec(**{name: draw[name] for name in AugmentSpec.model_fields}),
        **{name: draw[name] for name in TrainSpec.model_fields if name in draw and name not in ("optimizer", *unused)},
    )


class Task(NamedTuple):
    """What the data require of a network."""

    in_channels: int = 3
    num_classes: int = 10
    size: tuple[int, int] = (32, 32)  # height and width of the images, in pixels


def network(draw: Draw, space: Space, limits: Limits | int, task: Task) -> ResNetSpec:
    """The widest network of the shape within the limits; of parameters and multiply-adds, within `budget_fraction`.

    A number instead of the limits is a limit on parameters. If the narrowest network of a shape takes more than that
    fraction, that narrowest network is built, if the limits allow it; if not, `_smaller` reduces the shape until they
    do. Along a front, that fraction is itself a limit, for which shapes are reduced as well. Stages that the images are
    too small for are left out, and kernels are limited (`_fitted`).

    Raises:
        ValueError: a limit is below the cost of the smallest network of the space.

    """
    limits = Limits.of(limits)
    bounds = limits.bounds(task.size)
    if limits.front:
        bounds = [each.part(draw["budget_fraction"]) for each in bounds]
    for smaller in _smaller(draw, space, keeps_depth=_depth_is_free(draw, space, bounds, task)):
        shape = _fitted(smaller, space, task.size)
        narrowest = _build(shape, WIDTH_STEP, task)
        if all(each.holds(narrowest) for each in bounds):
            within = bounds if limits.front else [each.share(shape["budget_fraction"], narrowest) for each in bounds]
            return _checked(_build(shape, _widest(shape, within, task), task))
    raise ValueError(f"no network of this space has at most {limits}")


def _depth_is_free(draw: Draw, space: Space, bounds: Sequence[Bound], task: Task) -> bool:
    """Whether the narrowest network of a shape is too expensive, but fewer blocks would not help."""
    narrowest = _build(_fitted(draw, space, task.size), WIDTH_STEP, task)
    exceeded = [each for each in bounds if not each.holds(narrowest)]
    return bool(exceeded) and not any(each.limit.grows_with_depth for each in exceeded)


def _fitted(draw: Draw, space: Space, size: tuple[int, int]) -> Draw:
    """The draw without parameters that no pixel of images of this size would reach, if it has `fit_maps`.

    Stages with maps of one pixel are left out if the space allows it.
    """
    shape = dict(draw)
    if not shape["fit_maps"]:
        return shape
    while _map_sides(shape, size)[-1] < 2 and (fewer := _below(space.stages, shape["stages"])) is not None:
        shape["stages"] = fewer
    without_effect = unused(shape)
    largest = max(shape[name] for name in BLOCK_KERNELS if name not in without_effect)
    fitting = tuple(min(largest, 2 * side - 1) for side in _map_sides(shape, size))
    return shape | {"max_kernels": fitting if min(fitting) < largest else ()}


def _map_sides(shape: Draw, size: tuple[int, int]) -> list[int]:
    """The shorter side, in pixels, of the feature maps of each stage."""
    stem = shape["stem_stride"] * (2 if shape["stem_pool"] else 1)
    return [math.ceil(min(size) / (stem * 2**stage)) for stage in range(shape["stages"])]


def smallest(space: Space, task: Task) -> ResNetSpec:
    """The network of the space with the fewest parameters."""
    return _checked(_build(_fitted(_smallest(space), space, task.size), WIDTH_STEP, task))


@lru_cache(maxsize=8)
def _smallest(space: Space) -> Draw:
    """The shape of the smallest network: every number at its minimum, and the cheapest of the unordered choices."""
    # Among the ratios, 0 costs nothing, and the smallest costs most; a stem width of 0 is that of the first stage.
    unordered = (
        *("widening", "block", "expansion", "groups", "shortcut", "shortcut_norm"),
        *("norm", "se_reduction", "stem_width", "stem_end"),
    )
    least = lowest(space)
    shapes = (
        {**least, **dict(zip(unordered, values, strict=True))}
        for values in product(*(choices_of(getattr(space, name)) for name in unordered))
    )
    return min(shapes, key=lambda shape: num_params(_build(shape, WIDTH_STEP, Task())))


def as_parameters(
    wanted: ResNetSpec,
    recipe_values: Draw,
    space: Space,
    limits: Limits | int,
    *,
    size: tuple[int, int] = Task().size,
) -> dict[str, Any] | None:
    """The parameters whose draw is the network `wanted` with `recipe_values`: the inverse of `network`.

    None if the space or a limit does not allow that network for images of this size, or the space does not allow a
    value of its recipe. A number instead of the limits is a limit on parameters.
    """
    dimensions = all_dimensions(space)
    stages = len(wanted.blocks)
    ends = [stage[-1].width for stage in block_shapes(wanted)]
    by_block = any(len({shape.width for shape in stage}) > 1 for stage in block_shapes(wanted))
    # If the study fixes dropout or values of the recipe, its values are used.
    free = set(parameters(space))
    values = {
        name: value
        for name, value in (wanted.model_dump() | {"stem_width": wanted.stem_width or 0}).items()
        if name in dimensions and (name in free or name not in _SETTINGS)
    }
    # Parameters without effect in this network may have any value.
    for name in unused(wanted.model_dump()):
        if not holds(dimensions[name], values[name]):
            del values[name]
    values |= {"stages": stages} | {f"blocks_{i}": wanted.blocks[i - 1] for i in range(1, stages + 1)}
    growth = {f"growth_{i}": ends[i - 1] / ends[i - 2] for i in range(2, stages + 1)}
    # If each block is wider than the one before, only the product of these counts: any product in the space.
    values |= {name: nearest(dimensions[name], value) if by_block else value for name, value in growth.items()}
    values |= {"widening": "blocks" if by_block else "stages"}
    # Slightly more than its cost: the widest network within that is this one.
    bounds = Limits.of(limits).bounds(size)
    share = max(_just_above(each.cost(wanted)) / each.most for each in bounds if each.is_shared)
    values["budget_fraction"] = min(
        max(share, bounds_of(space.budget_fraction)[0]), bounds_of(space.budget_fraction)[1]
    )
    values |= {name: value for name, value in recipe_values.items() if name in free}
    if any(name not in dimensions or not holds(dimensions[name], value) for name, value in values.items()):
        return None
    # Parameters that the network does not use (the growth of a missing stage, another optimizer's rate) are left out of
    # the answer, so the sampler draws them; any value gives the same network.
    draw = {**lowest(space), **values}
    task = Task(wanted.in_channels, wanted.num_classes, size)
    settings = {name: draw[name] for name in _SETTINGS}
    if not all(each.holds(wanted) for each in bounds):
        return None
    if network(draw, space, limits, task) != wanted.model_copy(update=settings):
        return None
    return {name: values[name] for name in parameters(space) if name in values}


def _just_above(cost: float) -> float:
    """A slightly larger cost: by half a parameter, or for a time, which is not a whole number, by one part in 10^12."""
    return cost + 0.5 if isinstance(cost, int) else cost * (1 + 1e-12)


def _smaller(draw: Draw, space: Space, *, keeps_depth: bool = False) -> Iterator[Draw]:
    """The drawn shape, then smaller and smaller ones, down to the smallest of the space.

    First depth: the stage with most blocks (if there are several, the last) takes the next lower number. Then stages,
    growth, and the rest in the order of `Space`, each down to the value in the smallest network of the space. With
    `keeps_depth`, the rest comes before all of these.
    """
    if keeps_depth:
        yield from _simpler(dict(draw), space)
    shape = dict(draw)
    yield shape
    while True:
        blocks = {name: shape[name] for name in (f"blocks_{i}" for i in range(1, shape["stages"] + 1))}
        deepest = max(blocks, key=lambda name: (blocks[name], name))
        fewer = _below(space.blocks, blocks[deepest])
        if fewer is None:
            break
        shape[deepest] = fewer
        yield shape
    while (fewer := _below(space.stages, shape["stages"])) is not None:
        shape["stages"] = fewer
        yield shape
    yield from _simpler(shape, space)


def _simpler(shape: Draw, space: Space) -> Iterator[Draw]:
    """The shape with more and more values of the smallest network of the space, except its depth."""
    shape = dict(shape)
    for name, value in _smallest(space).items():
        if name in _SHRINKS or name.startswith("growth"):
            shape[name] = value
            yield shape


_SETTINGS = frozenset({"block_dropout", "head_dropout", "drop_path", "zero_init"})
"""The fields of a network that do not change its shape."""
_SHRINKS = (frozenset(ResNetSpec.model_fields) | {"widening"}) - _SETTINGS
"""The fields that `_smaller` may change in a network, apart from its stages, blocks and growth."""


def _widest(shape: Draw, bounds: Sequence[Bound], task: Task) -> float:
    """The largest base width whose network is within the bounds; at least `WIDTH_STEP`."""

    def fits(steps: int) -> bool:
        spec = _build(shape, steps * BASE_STEP, task)
        return all(each.holds(spec) for each in bounds)

    low = round(WIDTH_STEP / BASE_STEP)
    high = 2 * low
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * BASE_STEP


def _build(shape: Draw, base: float, task: Task) -> ResNetSpec:
    """The network of a shape: each stage as wide as `base` times the growth so far, in multiples of `WIDTH_STEP`.

    `base` changes in small steps and each stage is rounded separately, so the later stages use the rest of the budget
    when the first cannot grow by 8 more. If each block has its own width, the width of the last is `base` times the
    growth, and the others lie on a line from the stem's to it, rounded to whole channels.

    Valid by construction, and not checked: hundreds are counted to find one network.
    """
    fields = {name: shape[name] for name in ResNetSpec.model_fields if name in shape}
    fields |= unused(fields)
    blocks = [shape[f"blocks_{stage}"] for stage in range(1, shape["stages"] + 1)]
    step = width_step(fields)
    exact = list(accumulate((shape[f"growth_{i}"] for i in range(2, shape["stages"] + 1)), mul, initial=base))
    widths = [_rounded(width, math.lcm(WIDTH_STEP, step)) for width in exact]
    stem = shape["stem_width"] or None
    if shape["widening"] == "blocks":
        stem = stem or _rounded(base, WIDTH_STEP)
        # In a bottleneck, the inner channels begin with as many as the stem has.
        last = _rounded(exact[-1], step)
        first = min(stem * step // fields["groups"], last)  # after a wide stem, all blocks are as wide as the last
        widths = [_rounded(first + (last - first) * i / sum(blocks), step) for i in range(1, sum(blocks) + 1)]
    shapes: dict[str, Any] = {
        "widths": tuple(widths),
        "blocks": tuple(blocks),
        "strides": (1, *[2] * (len(blocks) - 1)),
    }
    shapes |= {"in_channels": task.in_channels, "num_classes": task.num_classes}
    values: dict[str, Any] = {**fields, **shapes, "stem_width": stem}
    return ResNetSpec.model_construct(**values)


def _checked(spec: ResNetSpec) -> ResNetSpec:
    return ResNetSpec.model_validate(spec.model_dump())


def _rounded(width: float, step: int) -> int:
    """The nearest multiple of `step`, halves rounded up, but at least `step`."""
    return step * max(1, math.floor(width / step + 0.5))


def lowest(space: Space) -> dict[str, Any]:
    """The minimum of each dimension; for unordered choices, the first."""
    return {name: bounds_of(dimension)[0] for name, dimension in _dimensions(space)}


def choices_of(dimension: Any) -> tuple[Any, ...]:
    """The values of a dimension that is not a range."""
    if isinstance(dimension, Weighted):
        return dimension.choices
    return dimension if isinstance(dimension, tuple) else (dimension,)


def bounds_of(dimension: Any) -> tuple[Any, Any]:
    """The minimum and the maximum of a dimension; for unordered choices, the first and the last."""
    if isinstance(dimension, Range):
        return dimension.low, dimension.high
    values = choices_of(dimension)
    return (values[0], values[-1]) if isinstance(values[0], str) else (min(values), max(values))


def _below(dimension: Any, value: int) -> int | None:
    """The next lower value of a dimension of whole numbers; None if `value` is its minimum."""
    if isinstance(dimension, Range):
        lower = value - int(dimension.step or 1)
        return lower if lower >= dimension.low else None
    return max((each for each in choices_of(dimension) if each < value), default=None)


def nearest(dimension: Any, value: float) -> Any:
    """The value of a dimension of numbers that is nearest to `value`."""
    if not isinstance(dimension, Range):
        return min(choices_of(dimension), key=lambda each: abs(each - value))
    inside = min(max(value, dimension.low), dimension.high)
    if dimension.step is None:
        return inside
    return dimension.low + dimension.step * round((inside - dimension.low) / dimension.step)


def not_held(values: Mapping[str, Any], space: Space) -> str | None:
    """The first of these parameters whose value is not in the space; None if all are."""
    dimensions = all_dimensions(space)
    return next((name for name, value in values.items() if not holds(dimensions[name], value)), None)


def holds(dimension: Any, value: Any) -> bool:
    """Whether a dimension can take this value."""
    if not isinstance(dimension, Range):
        return value in choices_of(dimension)
    if not isinstance(value, int | float):
        return False
    return bool(dimension.low <= value <= dimension.high and _is_on_grid(dimension, value))
