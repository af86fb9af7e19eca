"""Trials, learning curves and full runs as rows of plain values: the tables for CSV files, JSON and DataFrames.

All three are made here, so they cannot differ. The names of the columns need no quotes: `[a-z0-9_]`. Every row has all
columns, with None for unknown values. Shares are shares of 1, times are seconds. Imports no torch.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.promotions import Promotion
from search.trials import TrialRecord
from train_core.results import Score
from train_core.specs import ResNetSpec, TrainSpec

Row = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """A table: the names of its columns, and its rows, each with a value (or None) for each column."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, columns: Iterable[str], rows: Iterable[Row]) -> "Rows":
        """The table with these columns first, followed by the columns that only some rows have."""
        rows = list(rows)
        names = dict.fromkeys((*columns, *(name for row in rows for name in row)))
        return cls(tuple(names), tuple({name: row.get(name) for name in names} for row in rows))

    def csv(self) -> str:
        """The table as CSV: a line with the names, then a line for each row; unknown values are empty."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()


TRIAL_COLUMNS = (
    *("number", "outcome", "reason", "score", "validation_accuracy", "validation_balanced", "parameters"),
    *("multiply_adds", "seconds", "epochs", "network", "baseline", "start"),
)
"""The first columns of each table of trials; `epochs` is the number of trained epochs."""


def trial_rows(trials: Sequence[TrialRecord]) -> Rows:
    """A row for each of these trials, in the given order.

    After `TRIAL_COLUMNS` come the fields of the network (`network_`) and of the recipe (`recipe_`), the drawn
    parameters (`drawn_`), and the score after each epoch (`epoch_1`, `epoch_2`, ...).
    """
    rows = [_trial_row(trial) for trial in trials]
    names = dict.fromkeys(name for row in rows for name in row)
    by_kind = [name for kind in ("network_", "recipe_", "drawn_") for name in names if name.startswith(kind)]
    longest = max((trial.last_epoch for trial in trials), default=0)
    return Rows.of((*TRIAL_COLUMNS, *by_kind, *(f"epoch_{epoch}" for epoch in range(1, longest + 1))), rows)


def _trial_row(trial: TrialRecord) -> Row:
    row: Row = {
        "number": trial.number,
        "outcome": trial.outcome,
        "reason": trial.reason,
        "score": trial.score,
        "validation_accuracy": trial.accuracy,
        "validation_balanced": trial.balanced,
        "seconds": trial.seconds,
        "epochs": trial.last_epoch,
        "baseline": trial.baseline,
        "start": trial.start,
    }
    if trial.is_decided:
        row |= {"parameters": trial.parameters, "multiply_adds": trial.multiply_adds, "network": trial.network_words}
        row |= _made(trial.network, trial.recipe)
    row |= _flat("drawn", trial.draw)
    return row | {f"epoch_{epoch}": score for epoch, score in trial.curve.items()}


CURVE_COLUMNS = (
    *("trial", "run", "run_epochs", "seed", "refit", "epoch", "score", "validation_accuracy", "validation_balanced"),
    *("validation_loss", "training_accuracy", "training_loss", "learning_rate", "seconds"),
)


def curve_rows(trials: Iterable[TrialRecord], full_runs: Iterable[Promotion], score: Score) -> Rows:
    """A row for each epoch of each short run (`run` is "short"), then of each full run ("full").

    `run_epochs` is the length of the run. For a short run, the study keeps only the score after each epoch; `score` is
    the name of this score.
    """
    return Rows.of(CURVE_COLUMNS, (*_short_curves(trials, score), *_full_curves(full_runs)))


def _short_curves(trials: Iterable[TrialRecord], score: Score) -> Iterator[Row]:
    which = f"validation_{score}"
    for trial in trials:
        recipe = trial.recipe if trial.is_decided else None
        for epoch, reached in trial.curve.items():
            yield {
                "trial": trial.number,
                "run": "short",
                "run_epochs": recipe.epochs if recipe else None,
                "seed": recipe.seed if recipe else None,
                "refit": False,
                "epoch": epoch,
                "score": reached,
                which: reached,
            }


def _full_curves(full_runs: Iterable[Promotion]) -> Iterator[Row]:
    for run in full_runs:
        for each in run.history:
            yield {
                "trial": run.trial,
                "run": "full",
                "run_epochs": run.recipe.epochs,
                "seed": run.seed,
                "refit": run.refit,
                "epoch": each.epoch,
                "score": each.validation(run.score),
                "validation_accuracy": each.val_accuracy,
                "validation_balanced": each.val_balanced,
                "validation_loss": each.val_loss,
                "training_accuracy": each.train_accuracy,
                "training_loss": each.train_loss,
                "learning_rate": each.lr,
                "seconds": each.seconds,
            }


FULL_RUN_COLUMNS = (
    *("trial", "epochs", "seed", "refit", "short_score", "score", "test_score", "mirrored_test_score"),
    *("validation_accuracy", "validation_balanced", "test_accuracy", "test_balanced", "mirrored_test_accuracy"),
    *("mirrored_test_balanced", "tested", "test_images", "diverged", "parameters", "multiply_adds", "latency_seconds"),
    *("seconds", "device", "network"),
)


def full_run_rows(full_runs: Iterable[Promotion]) -> Rows:
    """A row for each of these finished full runs, in the given order.

    `score` is that on validation; it is None for a run that diverged, and for a refit. `tested`: whether the test split
    was to be read. The fields of the network and of the recipe follow.
    """
    return Rows.of(FULL_RUN_COLUMNS, map(_full_run_row, full_runs))


def _full_run_row(run: Promotion) -> Row:
    return {
        "trial": run.trial,
        "epochs": run.recipe.epochs,
        "seed": run.seed,
        "refit": run.refit,
        "short_score": run.short_score,
        "score": run.val_score,
        "test_score": run.test_score,
        "mirrored_test_score": run.mirrored_test_score,
        "validation_accuracy": run.val_accuracy,
        "validation_balanced": run.val_balanced,
        "test_accuracy": run.test_accuracy,
        "test_balanced": run.test_balanced,
        "mirrored_test_accuracy": run.mirrored_test_accuracy,
        "mirrored_test_balanced": run.mirrored_test_balanced,
        "tested": run.tested,
        "test_images": run.test_images,
        "diverged": run.diverged,
        "parameters": run.parameters,
        "multiply_adds": run.multiply_adds,
        "latency_seconds": run.latency_s,
        "seconds": run.seconds,
        "device": run.device,
        "network": str(run.network),
        **_made(run.network, run.recipe),
    }


def _made(network: ResNetSpec, recipe: TrainSpec) -> Row:
    """The fields of a network and its recipe, one column each."""
    fields = _flat("network", network.model_dump(mode="json"))
    return fields | _flat("recipe", recipe.model_dump(mode="json"))


def _flat(prefix: str, values: Mapping[str, Any]) -> Row:
    """The values with the prefix added to their names; nested tables are flattened, lists become JSON."""
    row: Row = {}
    for name, value in values.items():
        column = re.sub(r"[^a-z0-9]+", "_", f"{prefix}_{name}".lower())
        if isinstance(value, Mapping):
            row |= _flat(column, value)
        else:
            row[column] = json.dumps(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    return row
