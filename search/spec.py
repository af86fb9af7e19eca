"""What a study is: `StudySpec`, made from defaults, then a study file, then flags."""

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

import tomli_w
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from search.completion import shipped_studies
from search.errors import SpecError
from search.ladder import FAMILIES, Rung, parse_ladder
from search.published import Published, unknown_network
from search.scores import UNEQUAL
from search.targets import limits_at
from space import Space, bounds_of, choices_of, drawn_regularisers, not_held, parameter_names
from train_core.datasets import DATASETS
from train_core.examples import FormatName
from train_core.footprint import FOOTPRINTS
from train_core.latency import LatencyModel
from train_core.limits import COSTS, LIMITS, LimitName, Limits
from train_core.reading import Reading
from train_core.results import Score
from train_core.specs import ANNEALED, Frozen, ResNetSpec

Positive = Annotated[int, Field(ge=1)]
T = TypeVar("T")


def _as_budget(value: object) -> object:
    return _value_error(parse_budget)(value) if isinstance(value, str) else value


def _as_bytes(value: object) -> object:
    return _value_error(parse_bytes)(value) if isinstance(value, str) else value


def _as_seconds(value: object) -> object:
    return _value_error(parse_seconds)(value) if isinstance(value, str) else value


def _as_costs(value: object) -> object:
    """One cost as a list with one element, and `params` as parameters."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        return given
    names = dict(zip(COSTS, LIMITS, strict=True)) | {name: name for name in LIMITS}
    for each in given:
        if not isinstance(each, str) or each not in names:
            raise ValueError(f"{each!r} is no cost: give {', '.join(COSTS[:-1])} or {COSTS[-1]}")
    return [names[each] for each in given]


def _value_error(parse: Callable[[str], T]) -> Callable[[str], T]:
    """The same function, with the errors that pydantic expects."""

    def parsed(text: str) -> T:
        try:
            return parse(text)
        except SpecError as error:
            raise ValueError(str(error)) from error

    return parsed


class PrunerSpec(Frozen):
    """The pruner stops a trial early if it is below the median of the trials of its kind at the same epoch.

    It waits for many completed trials, because learning curves cross: in measurements, early pruning lost more than
    it saved.
    """

    like: tuple[str, ...] = Field(
        default=("optimizer", "schedule"),
        description="parameters that define a kind: trials with equal values are compared; empty: all trials",
    )

    startup_trials: int = Field(default=20, ge=0, description="number of completed trials before the pruner starts")
    warmup: float = Field(default=1 / 3, ge=0, le=1, description="share of a short run in which it is not pruned")
    min_values: Positive = Field(
        default=5,
        description="number of completed or pruned trials of a kind before a trial of this kind can be pruned",
    )


class PromoteSpec(Frozen):
    """These keys say how the best trials are trained at full length."""

    top: Positive = Field(default=3, description="number of trials to promote")
    front: int = Field(
        default=0,
        ge=0,
        description="number of trials to promote along the front of a study that has one, in place of the best; 0: "
        "the best, whatever their size",
    )
    epochs: Positive = Field(default=200, description="number of epochs of a full run")
    ladder: str = Field(
        default="",
        description="rungs that replace top and epochs: 8x60,3x200 trains 8 for 60 epochs, then the best 3 for 200",
    )
    family: str = Field(
        default="optimizer",
        description="key whose values keep their best candidate until the last rung; none: by score alone",
    )
    seeds: Positive = Field(default=1, description="number of full runs of each finalist, with different seeds")
    refit: bool = Field(
        default=False, description="trains the winner once more, on the training and the validation images"
    )
    mirrored: bool = Field(
        default=False, description="also reports test accuracy averaged over each image and its mirror image"
    )
    asam: float = Field(
        default=0.0,
        ge=0,
        description="radius of adaptive sharpness-aware steps in full runs, which then take twice the time (Kwon et "
        "al. 2021, arXiv:2102.11600: 0.5 for CIFAR-10, 1 for CIFAR-100); short runs take plain steps; 0: plain steps",
    )

    @field_validator("ladder")
    @classmethod
    def _a_ladder(cls, text: str) -> str:
        _value_error(parse_ladder)(text or "1x1")
        return text

    @model_validator(mode="after")
    def _front_or_ladder(self) -> Self:
        if self.front and self.ladder:
            raise ValueError("a front is trained in one rung: leave out promote.front or promote.ladder")
        return self

    @field_validator("family")
    @classmethod
    def _a_family(cls, key: str) -> str:
        if key not in (*FAMILIES, "none"):
            raise ValueError(f"unknown family {key!r}{_nearest(key, FAMILIES)}")
        return key

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """The ladder; `top` and `epochs` are a ladder of one rung, and so is a front."""
        if self.front:
            return (Rung(top=self.front, epochs=self.epochs),)
        return parse_ladder(self.ladder) if self.ladder else (Rung(top=self.top, epochs=self.epochs),)

    @property
    def families(self) -> str | None:
        """The key that defines families, if there is one."""
        return None if self.family == "none" else self.family


class PhasesSpec(Frozen):
    """The search first draws architectures, with the baseline recipe, then recipes for the best few architectures."""

    architecture: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the trials that draw the architecture alone; 0: one phase that draws both",
    )
    keep: Positive = Field(
        default=3, description="number of architectures for which the other trials draw recipes, in turn"
    )


SamplerName = Literal["tpe", "random"]


class StudySpec(Frozen):
    """A whole study: data, budget, effort, space and the networks to try first."""

    data: str = Field(
        description=f"training data: {', '.join(DATASETS)}, a folder of images, a table that names them, an archive of "
        "these, or arrays (.npz, .mat)"
    )
    budget: Annotated[int, Field(ge=1, le=10**10), BeforeValidator(_as_budget)] = Field(
        description="largest number of trainable parameters of a network"
    )
    max_madds: Annotated[int, Field(ge=1, le=10**15), BeforeValidator(_as_budget)] | None = Field(
        default=None, description="largest number of multiply-adds of one forward pass; none: no limit"
    )
    max_memory: Annotated[int, Field(ge=1, le=10**15), BeforeValidator(_as_bytes)] | None = Field(
        default=None,
        description="largest number of bytes of memory that a network's activations take for one image, at its peak, "
        "in the exported `format`: a text such as 100kB, or a number; none: no limit",
    )
    max_file: Annotated[int, Field(ge=1, le=10**15), BeforeValidator(_as_bytes)] | None = Field(
        default=None,
        description="largest number of bytes of the model file in the exported `format`: a text such as 250kB, or a "
        "number; none: no limit",
    )
    max_latency: Annotated[float, Field(gt=0, le=3600), BeforeValidator(_as_seconds)] | None = Field(
        default=None,
        description="longest time that a network takes for one image on the device that the search trains on, in fp32: "
        "a text such as 20ms, or a number of seconds; none: no limit",
    )
    target: str = Field(
        default="",
        description="device that the model is for, by its name or as a .toml file: it sets those of these limits, and "
        "`format`, that the study file leaves out ([devices](devices.md#targets)); empty: none",
    )
    format: FormatName = Field(
        default="onnx", description="format of the exported model, for which `max_memory` and `max_file` count"
    )
    timed: LatencyModel | None = Field(
        default=None,
        description="how long networks take, which `search run` measures once where there is a `max_latency`; in a "
        "study file of your own: leave it out",
    )
    front: Annotated[tuple[LimitName, ...], Field(max_length=2), BeforeValidator(_as_costs)] = Field(
        default=(),
        description="costs, at most two, along which one search looks for the best network of every size: `params`, "
        "`madds`, `memory`, `file`, `latency`; each needs its limit, the largest size; none: networks of the "
        "limit's size",
    )
    trials: Positive = Field(
        default=200, description="total number of trials; run again with a larger number to continue"
    )
    epochs: Positive = Field(default=30, description="number of epochs of a short run")
    short_run_images: Literal["auto", "all", "subset"] = Field(
        default="auto",
        description="images that short runs train on. all: all training images; subset: the same part of them in all "
        "short runs, so that each image is seen as often as in a full run, in as many steps as with all images; auto: "
        "subset if the space draws regularisers, which short runs on all images misjudge, otherwise all",
    )
    seed: int = Field(
        default=0, ge=0, lt=2**31, description="random seed for the validation split, the sampler and the training runs"
    )
    test_fraction: float = Field(
        default=0.15,
        ge=0,
        lt=1,
        description="share of the images of each class that is held out as a test split, which only full runs read, if "
        "the data bring none; 0: none",
    )
    val_fraction: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="share of the training images that is held out for validation (unless the data have val/)",
    )
    reading: Reading = Reading()
    score: Literal["auto", "accuracy", "balanced"] = Field(
        default="auto",
        description="what networks are compared by, on the validation images. accuracy: share of the images that are "
        "classified correctly; balanced: balanced accuracy, the mean over the classes of that share; auto: balanced if "
        f"the largest class has at least {UNEQUAL} times as many training images as the smallest, otherwise accuracy",
    )
    sampler: SamplerName = Field(
        default="tpe", description="sampler of the search: tpe, or random (the baseline of random search)"
    )
    control: Literal["", "random", "one-epoch", "no-portfolio"] = Field(
        default="",
        description="the control that this study is, which `--control` sets: the sampler of a control draws from a "
        "random stream of its own; empty: no control",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto",
        description="precision of training; auto: bf16 if the device has it natively (on a GPU fp16 where a step is "
        "measured to be faster in it), else fp16 on a GPU, else fp32",
    )
    pruner: PrunerSpec = PrunerSpec()
    phases: PhasesSpec = PhasesSpec()
    promote: PromoteSpec = PromoteSpec()
    space: Space = Space()
    baselines: dict[str, ResNetSpec] = Field(
        default={}, description="baselines by name; those that fit the budget and the space are the first trials"
    )
    baselines_from: tuple[str, ...] = Field(
        default=(),
        description="shipped studies whose baselines are also tried in this study, or single ones as `STUDY/NAME`",
    )
    baseline_recipe: dict[str, bool | int | float | str] = Field(
        default={}, description="values of the recipe's parameters for the baselines"
    )
    portfolio: bool = Field(
        default=True,
        description="whether the first trials behind the baselines are configurations that did best on other images, "
        "as far as the space holds them",
    )
    learn_from: tuple[str, ...] = Field(
        default=(), description="runs whose best trials are tried first here; they lie in the same folder of runs"
    )
    published: Published | None = Field(
        default=None, description="what a report printed of the baselines, for `search reproduce`"
    )

    @model_validator(mode="after")
    def _memory_is_known(self) -> Self:
        if self.max_memory is not None and FOOTPRINTS[self.format].schedule is None:
            known = ", ".join(name for name, each in FOOTPRINTS.items() if each.schedule is not None)
            raise ValueError(f"max_memory: what memory {self.format} files take is not known: set format to {known}")
        return self

    @model_validator(mode="after")
    def _file_is_known(self) -> Self:
        if self.max_file is not None and FOOTPRINTS[self.format].file is None:
            known = ", ".join(name for name, each in FOOTPRINTS.items() if each.file is not None)
            raise ValueError(
                f"max_file: the size of {self.format} files is not known before they are written: set format to {known}"
            )
        return self

    @model_validator(mode="after")
    def _front_is_possible(self) -> Self:
        if len(set(self.front)) < len(self.front):
            raise ValueError("front: the same cost is named twice: name it once")
        for limit in (LIMITS[name] for name in self.front):
            if getattr(self, limit.key) is None:
                raise ValueError(f"front: the largest size is not known: give {limit.flag}, or {limit.key} in the file")
        if self.front and self.trials == 1:
            raise ValueError("front: one trial has no front: give --trials 2 or more")
        if self.front and self.phases.architecture:
            raise ValueError("front: a study of two phases keeps a few networks, not one of every size: leave out one")
        return self

    @property
    def limits(self) -> Limits:
        """The most that a network may cost."""
        most = {name: getattr(self, limit.key) for name, limit in LIMITS.items()}
        return Limits(**most, format=self.format, timed=self.timed, front=self.front)

    @property
    def data_name(self) -> str:
        """The name of the data for other readers: of a path, only the last part."""
        return Path(self.data).name

    @property
    def data_fraction(self) -> float:
        """Share of the training images that short runs use."""
        if self.short_run_images == "all" or (self.short_run_images == "auto" and not drawn_regularisers(self.space)):
            return 1.0
        return min(1.0, self.epochs / self.promote.rungs[-1].epochs)

    def for_size(self, size: tuple[int, int]) -> Self:
        """The study for images of this height and width: see `Space.for_size`. Its baselines get the same stem."""
        new = self.space.for_size(size)
        if new.stem_stride == self.space.stem_stride:
            return self.model_copy(update={"space": new})
        stem = {"stem_stride": new.stem_stride, "stem_pool": new.stem_pool}
        baselines = {
            name: each if {"stem_stride", "stem_pool"} & each.model_fields_set else each.model_copy(update=stem)
            for name, each in self.baselines.items()
        }
        return self.model_copy(update={"space": new, "baselines": baselines})

    def for_score(self, score: Score) -> Self:
        """The study with this score for comparing its networks.

        With balanced accuracy, all classes also count the same in training, unless the study sets `class_weights`:
        otherwise a network in a short run would learn to predict the largest class, and all scores would be the same.
        """
        space = self.space
        if score == "balanced" and "class_weights" not in space.model_fields_set:
            space = space.model_copy(update={"class_weights": "balanced"})
        return self.model_copy(update={"score": score, "space": space})

    @property
    def scored_by(self) -> Score:
        """The score that networks are compared by; the study file of a run states it."""
        return "balanced" if self.score == "balanced" else "accuracy"

    def as_toml(self) -> str:
        """The whole spec as a study file."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def load_study(study: str, flags: Mapping[str, Any]) -> StudySpec:
    """The spec of a shipped study (by name) or of a study file (by path), with `flags` applied.

    Raises:
        SpecError: no such study, not TOML, an unknown key, a value out of range.

    """
    if flags.get("data") == "":
        raise SpecError("--data is empty: give the name of a data set, a folder, a table, an archive or an .npz file")
    values = _with_target(_read(study_path(study)), flags)
    for key, value in flags.items():
        table = values.get(key)
        values[key] = table | value if isinstance(value, dict) and isinstance(table, dict) else value
    values = _with_baselines_of_others(values, study)
    try:
        spec = StudySpec.model_validate(values)
    except ValidationError as error:
        raise SpecError(_first_problem(error, study, flags)) from error
    _check_annealed(spec, study)
    if spec.promote.asam and spec.precision == "fp16":
        whose = "--precision fp16" if "precision" in flags else f"study {study}"
        raise SpecError(f"{whose}: promote.asam does not work in fp16: set precision to auto, bf16 or fp32")
    names = parameter_names(spec.space)
    for table, keys in (("baseline_recipe.", spec.baseline_recipe), ("pruner.like: ", spec.pruner.like)):
        for name in keys:
            if name not in names:
                raise SpecError(f"study {study}: unknown key '{table}{name}'{_nearest(name, names)}")
    if spec.published and (row := unknown_network(spec.published, spec.baselines)):
        raise SpecError(f"study {study}: published.rows.{row}: its network is none of the baselines: add it to them")
    if spec.phases.architecture and not spec.baseline_recipe:
        raise SpecError(f"study {study}: two phases need a [baseline_recipe], by which architectures are compared")
    if spec.phases.architecture and (outside := not_held(spec.baseline_recipe, spec.space)):
        raise SpecError(f"study {study}: space.{outside} does not hold the baseline recipe's: widen it, or change that")
    return spec


def _with_target(values: dict[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a study file with the limits of its target; a target among the flags overrides the file."""
    if "target" in flags:
        return {**values, **limits_at(flags["target"])}
    return {**limits_at(values["target"]), **values} if values.get("target") else values


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SpecError(f"study file {path} cannot be read, because there is none: check the path") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"study file {path} is not text in UTF-8: save it as such") from error
    except OSError as error:
        raise SpecError(f"study file {path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"study file {path} is not TOML: {error}") from error


def _with_baselines_of_others(values: dict[str, Any], study: str) -> dict[str, Any]:
    """A study's values with the baselines of the studies in `baselines_from` before its own, without that key."""
    others = values.get("baselines_from", [])
    shipped = shipped_studies()
    if not isinstance(others, list) or not isinstance(values.get("baselines", {}), dict):
        return values  # it is refused with everything else of the wrong type
    baselines: dict[str, Any] = {}
    for other in map(str, others):
        source, _, name = other.partition("/")
        if source not in shipped:
            raise SpecError(f"study {study}: baselines_from: no shipped study {source!r}{_nearest(source, shipped)}")
        found = _shipped_baselines(shipped[source])
        if name and name not in found:
            raise SpecError(f"study {study}: baselines_from: {source} has no {name!r}{_nearest(name, found)}")
        baselines |= {name: found[name]} if name else {**found}
    ours = {key: value for key, value in values.items() if key != "baselines_from"}
    return ours | {"baselines": baselines | values.get("baselines", {})} if others else ours


@cache
def _shipped_baselines(path: Path) -> Mapping[str, Any]:
    """The baselines in the file of a shipped study; it is read once."""
    baselines: dict[str, Any] = _read(path).get("baselines", {})
    return baselines


class Known(NamedTuple):
    """The best published result of a network."""

    row: str
    title: str
    parameters: int
    accuracy: float  # on the test split, a share of 1
    epochs: int


@cache
def _shipped_reports() -> list[StudySpec]:
    """The shipped studies that have published results; they are read once."""
    return [spec for study in shipped_studies() if (spec := load_study(study, {})).published]


def known_results(data: str, budget: int) -> list[Known]:
    """The results in shipped reports for networks within the budget, on these data: for each network its best row."""
    best: dict[str, Known] = {}
    for spec in _shipped_reports():
        for name, row in spec.published.rows.items() if spec.published and spec.data == data else ():
            assert spec.published is not None
            if row.accuracy is None:
                continue
            title = row.source or spec.published.title
            known = Known(name, title, row.parameters, row.accuracy / 100, row.epochs)
            if (
                known.parameters <= budget
                and known.accuracy > best.get(row.network, known._replace(accuracy=0)).accuracy
            ):
                best[row.network] = known
    return list(best.values())


CONTROLS: dict[str, dict[str, Any]] = {
    "random": {"sampler": "random", "portfolio": False},
    "one-epoch": {"sampler": "random", "portfolio": False, "epochs": 1},
    "no-portfolio": {"portfolio": False},
}
"""The controls of a search, as changes to its study: the same with random draws (Li & Talwalkar 2019,
arXiv:1902.07638), random draws that are trained for one epoch each (Egele et al. 2023, arXiv:2207.14207), and the
same search without what was learned from other images. In such a study, the key `control` is the name here.
"""


def study_path(study: str) -> Path:
    """The file of a study: a path that ends in .toml, or the name of a shipped study."""
    if study.endswith(".toml"):
        return Path(study)
    shipped = shipped_studies()
    if study not in shipped:
        names = ", ".join(sorted(shipped))
        raise SpecError(f"unknown study {study!r}{_nearest(study, shipped)}: give one of {names}, or a .toml file")
    return shipped[study]


def parse_budget(text: str, what: str = "budget") -> int:
    """A number of parameters or multiply-adds: `5e6`, `5M`, `200k`, `5_000_000`.

    Raises:
        SpecError: not a positive whole number.

    """
    match = re.fullmatch(r"\s*(\d[\d_]*(?:\.\d+)?(?:e\+?\d{1,2})?)\s*([km]?)\s*", text, flags=re.IGNORECASE)
    value = Decimal(match[1].replace("_", "")) * {"": 1, "k": 1_000, "m": 1_000_000}[match[2].lower()] if match else 0
    if value < 1 or value != int(value):
        raise SpecError(f"{what} {text!r} is not a positive whole number: write it as 5e6, 5M, 200k or 5_000_000")
    return int(value)


BYTES = {"": 1, "b": 1, "k": 1000, "kb": 1000, "kib": 1024, "m": 1000**2, "mb": 1000**2, "mib": 1024**2}
SECONDS = {"s": Decimal(1), "ms": Decimal("0.001"), "us": Decimal("0.000001")}


def parse_bytes(text: str, what: str = "size") -> int:
    """A number of bytes: `100kB` (1,000 bytes each), `64KiB` (1,024 each), `1.5MB`, `65536`.

    Raises:
        SpecError: not a positive whole number of bytes.

    """
    value = _amount(text, BYTES)
    if value < 1 or value != int(value):
        raise SpecError(f"{what} {text!r} is no size: write it as 100kB (100,000 bytes), 64KiB (65,536) or 1.5MB")
    return int(value)


def parse_seconds(text: str, what: str = "latency") -> float:
    """A short time in seconds: `20ms`, `0.5s`, `800us`.

    Raises:
        SpecError: not a positive time.

    """
    value = _amount(text, SECONDS)
    if value <= 0:
        raise SpecError(f"{what} {text!r} is no time: write it as 20ms, 0.5s or 800us")
    return float(value)


def _amount(text: str, units: Mapping[str, Decimal | int]) -> Decimal:
    """The number before a unit, in units of 1; 0 if there is none."""
    match = re.fullmatch(r"\s*(\d[\d_]*(?:\.\d+)?)\s*([a-z]*)\s*", text, flags=re.IGNORECASE)
    if match is None or match[2].lower() not in units:
        return Decimal(0)
    return Decimal(match[1].replace("_", "")) * units[match[2].lower()]


def _check_annealed(spec: StudySpec, study: str) -> None:
    """Refuse short runs that would be a full run cut off early: neither annealed to zero nor averaged."""
    cut_off = [schedule for schedule in choices_of(spec.space.schedule) if schedule not in ANNEALED]
    if cut_off and bounds_of(spec.space.ema_decay)[0] == 0:
        raise SpecError(
            f"study {study}: space.schedule {cut_off[0]!r} does not reach zero within a short run, "
            "which then ranks wrongly: use cosine or one-cycle, or average the weights (space.ema_decay = 0.999)"
        )


FLAGS = {"short_run_images": "images", "test_fraction": "no-test"}
"""The flags whose names differ from their keys in a study file."""


def _flag_of(path: Sequence[str], flags: Mapping[str, Any]) -> str | None:
    """The flag that gave the value at `path` of a study; None: the study file did."""
    key, given = (path[0], flags) if path[0] != "reading" else (path[1], flags.get("reading", {}))
    return f"--{FLAGS.get(key, key).replace('_', '-')}" if key in given else None


def _first_problem(error: ValidationError, study: str, flags: Mapping[str, Any]) -> str:
    """The most informative of pydantic's findings, in one line, with the nearest valid word if there is one.

    It begins with the study, or with the flag that gave the value.
    """
    # A misspelt key is often also a missing key: name what was written, not what was missing.
    unknown = {"extra_forbidden", "unexpected_keyword_argument"}
    finding = min(error.errors(), key=lambda finding: finding["type"] not in unknown)
    # The tags of a dimension's forms ("fixed", "choices", ...) are internal names.
    path = [str(part) for part in finding["loc"] if part not in {"fixed", "choices", "weighted", "range"}]
    where, whose = ".".join(path), f"study {study}: "
    if finding["type"] in unknown:
        return f"{whose}unknown key {where!r}{_nearest(path[-1], _keys_at(path[:-1]))}"
    if finding["type"] == "missing":
        return f"{whose}{where} is missing"
    if finding["type"] == "union_tag_invalid":
        return f"{whose}{where} cannot be a range: give one value or a list"
    if path and (flag := _flag_of(path, flags)):
        where, whose = flag, ""
    message = finding["msg"].removeprefix("Value error, ")
    message = re.sub(r"^(Input|Tuple) should", "should", message).replace(" after validation", "")
    nearest = ""
    if finding["type"] == "literal_error" and isinstance(finding["input"], str):
        nearest = _nearest(finding["input"], re.findall(r"'([^']*)'", finding["ctx"]["expected"]))
    given = finding["input"]
    is_shown = isinstance(given, dict | list | tuple | Frozen) or repr(given) in message
    shown = "" if is_shown else f", not {given!r}"
    return f"{whose}{where + ': ' if where else ''}{message}{shown}{nearest}"


def _keys_at(path: list[str]) -> list[str]:
    """The valid keys of the table at `path` of a study file."""
    tables: dict[str, type[Frozen]] = {
        "space": Space,
        "pruner": PrunerSpec,
        "phases": PhasesSpec,
        "promote": PromoteSpec,
        "baselines": ResNetSpec,
        "published": Published,
    }
    if not path:
        return list(StudySpec.model_fields)
    if path[0] == "space" and len(path) > 1:
        return ["low", "high", "log", "step", "mostly", "choices", "weights"]
    return list(tables[path[0]].model_fields) if path[0] in tables else []


def _nearest(word: str, valid: Any) -> str:
    matches = difflib.get_close_matches(word, list(valid), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
