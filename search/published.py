"""What reports have printed of their networks, to be run again: the `[published]` table of a study file."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator

from search.errors import SpecError
from train_core.results import EpochResult
from train_core.specs import Frozen, Precision, ResNetSpec, TrainSpec

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Protocol = Literal["held-out", "published"]
"""How the number comes about: without the test split, or as the reports did it, chosen by it."""
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)


class Row(Frozen):
    """A result as it was printed, and how it came about."""

    network: str = Field(description="which of `[baselines]`")
    parameters: Positive = Field(description="as printed")
    accuracy: Annotated[float, Field(ge=0, le=100)] = Field(description="on the test split, in per cent, as printed")
    epochs: Positive = Field(description="that it was trained for")
    recipe: dict[str, Any] = Field(default={}, description="what of `[published.recipe]` is different in this row")


class Published(Frozen):
    """A report's results, one row for each."""

    title: str = Field(description="of the report")
    notes: tuple[str, ...] = Field(default=(), description="what it leaves open, and what was chosen")
    rounded: bool = Field(default=False, description="the report rounds its parameters: those of the rows are counted")
    validates: bool = Field(
        default=False,
        description="the report, too, held validation images out, by which it chose: its protocol is ours",
    )
    recipe: dict[str, Any] = Field(default={}, description="how all rows are trained, where they say nothing else")
    rows: dict[str, Row] = Field(default={}, description="its results by name")

    @model_validator(mode="after")
    def _recipes(self) -> Self:
        for name in self.rows:
            try:
                self.recipe_of(name)
            except ValidationError as error:
                finding = error.errors()[0]
                where = ".".join(map(str, finding["loc"]))
                raise ValueError(f"the recipe of row {name}: {where}: {finding['msg'].lower()}") from error
        return self

    def recipe_of(
        self, row: str, *, epochs: int | None = None, seed: int = 0, precision: Precision = "fp32"
    ) -> TrainSpec:
        """How a row is trained; `epochs` unless it be as long as it was."""
        ours, theirs = self.rows[row].recipe, self.recipe
        augment = {**theirs.get("augment", {}), **ours.get("augment", {})}
        fixed = {"epochs": epochs or self.rows[row].epochs, "seed": seed, "precision": precision}
        return TrainSpec.model_validate({**theirs, **ours, "augment": augment, **fixed})

    def chosen(self, patterns: Sequence[str]) -> list[str]:
        """The rows that any of the patterns fits (`A5`, `A5*`), in the report's order; all, if there is no pattern.

        Raises:
            SpecError: one fits none.

        """
        for pattern in patterns:
            if not fnmatch.filter(self.rows, pattern):
                raise SpecError(f"no row {pattern!r} in this report: there are {', '.join(self.rows)}")
        return [row for row in self.rows if not patterns or any(fnmatch.fnmatchcase(row, each) for each in patterns)]

    def best(self) -> str:
        """The row with the highest accuracy."""
        return max(self.rows, key=lambda row: self.rows[row].accuracy)


class Reproduction(Frozen):
    """A row as it was trained here, finished. Accuracies are shares of 1."""

    row: str
    network: ResNetSpec
    recipe: TrainSpec
    protocol: Protocol
    parameters: int
    accuracy: Share | None = Field(description="on the test split; none: there is none, or diverged")
    val_accuracy: Share | None = Field(description="of the same weights; none: nothing was held out, or diverged")
    epoch: int | None = Field(description="whose weights they are; none: diverged")
    seconds: float = Field(description="training and validation, over all pieces of the run")
    training_images: int
    device: str
    diverged: str | None = Field(default=None, description="why the run ended early")
    history: tuple[EpochResult, ...]


def unknown_network(published: Published, networks: Mapping[str, Any]) -> str | None:
    """The first row whose network is none of these; none if all are."""
    return next((name for name, row in published.rows.items() if row.network not in networks), None)
