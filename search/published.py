"""Published results that can be reproduced: the `[published]` table of a study file."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator

from search.errors import SpecError
from train_core.results import EpochResult
from train_core.specs import Frozen, Precision, ResNetSpec, TrainSpec

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Protocol = Literal["held-out", "all-images", "published"]
"""How the number was obtained: with validation images held out; from all training images, at the last epoch; or from
all of them, at the epoch that is best on the test split, as in many reports."""
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)


class Row(Frozen):
    """A published result, and how it was obtained."""

    network: str = Field(description="name of its network in `[baselines]`")
    parameters: Positive = Field(description="number of parameters, as printed")
    accuracy: Annotated[float, Field(ge=0, le=100)] | None = Field(
        default=None, description="test accuracy in per cent, as printed; none: the source printed none"
    )
    epochs: Positive = Field(description="number of training epochs")
    source: str = Field(default="", description="where the row is from, if the report collects several sources")
    recipe: dict[str, Any] = Field(default={}, description="values that differ from `[published.recipe]` in this row")


class Published(Frozen):
    """The results of a report, one row for each."""

    title: str = Field(description="title of the report")
    notes: tuple[str, ...] = Field(
        default=(), description="choices that the report leaves open, and what was chosen here"
    )
    rounded: bool = Field(
        default=False, description="the report rounds its numbers of parameters; those of the rows are exact counts"
    )
    validates: bool = Field(
        default=False,
        description="the report chose on held-out validation images, so its protocol is the same as here",
    )
    recipe: dict[str, Any] = Field(default={}, description="recipe of all rows; a row can override values of it")
    rows: dict[str, Row] = Field(default={}, description="results of the report by name")

    @model_validator(mode="after")
    def _recipes(self) -> Self:
        for name in self.rows:
            try:
                self.recipe_of(name)
            except ValidationError as error:
                finding = error.errors()[0]
                where = "".join(f"{part}: " for part in [".".join(map(str, finding["loc"]))] if part)
                said = finding["msg"].removeprefix("Value error, ")
                raise ValueError(f"the recipe of row {name}: {where}{said[:1].lower()}{said[1:]}") from error
        return self

    def recipe_of(
        self, row: str, *, epochs: int | None = None, seed: int = 0, precision: Precision = "fp32"
    ) -> TrainSpec:
        """The recipe of a row, for `epochs` or for as long as in the report."""
        changes, common = self.rows[row].recipe, self.recipe
        augment = {**common.get("augment", {}), **changes.get("augment", {})}
        fixed = {"epochs": epochs or self.rows[row].epochs, "seed": seed, "precision": precision}
        return TrainSpec.model_validate({**common, **changes, "augment": augment, **fixed})

    def chosen(self, patterns: Sequence[str]) -> list[str]:
        """The rows that match any of the patterns (`A5`, `A5*`), in the report's order; all if there is no pattern.

        Raises:
            SpecError: a pattern matches no row.

        """
        for pattern in patterns:
            if not fnmatch.filter(self.rows, pattern):
                raise SpecError(f"no row {pattern!r} in this report: there are {', '.join(self.rows)}")
        return [
            row for row in self.rows if not patterns or any(fnmatch.fnmatchcase(row, pattern) for pattern in patterns)
        ]

    def best(self) -> str:
        """The row with the highest accuracy."""
        return max(self.rows, key=lambda row: self.rows[row].accuracy or 0)


class Reproduction(Frozen):
    """A row that was trained here, finished. Accuracies are shares of 1."""

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
    """The first row whose network is not in `networks`; None if all are."""
    return next((name for name, row in published.rows.items() if row.network not in networks), None)
