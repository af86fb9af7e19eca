"""The table of all trials: compact JSON, from which the page's script makes rows on demand."""

import json
from collections.abc import Hashable
from typing import Any

from search.results import Results
from search.trials import TrialRecord

COLUMNS = (
    "Trial",
    "Outcome",
    "Score (%)",
    "Parameters",
    "Multiply-adds",
    "Network",
    "Optimizer",
    "Learning rate",
    "Batch",
    "Seconds",
    "From",
)
WORDS = {1: "outcome", 5: "network", 6: "optimizer", 10: "from"}
"""The columns of words, by number: a row holds the index of its word in a list."""


def trials_json(results: Results) -> str:
    """The columns, the different words of each column of words, and a row of numbers for each ended trial."""
    words: dict[int, dict[Hashable, int]] = {column: {} for column in WORDS}
    rows = [_row(trial) for trial in results.trials]
    for row in rows:
        for column, known in words.items():
            row[column] = known.setdefault(row[column], len(known))
    document = {"columns": COLUMNS, "words": {column: list(known) for column, known in words.items()}, "rows": rows}
    return json.dumps(document, separators=(",", ":")).replace("<", "\\u003c")


def _row(trial: TrialRecord) -> list[Any]:
    """A trial's values; None (or an empty text) if it was never decided."""
    score = None if trial.last_score is None else round(100 * trial.last_score, 2)
    decided: list[Any] = [None, None, "", "", None, None]
    if trial.is_decided:
        recipe = trial.recipe
        decided = [trial.parameters, trial.multiply_adds, trial.network_words]
        decided += [recipe.optimizer, float(f"{recipe.lr:.3g}"), recipe.batch_size]
    seconds = None if trial.seconds is None else round(trial.seconds, 1)
    return [trial.number, trial.outcome, score, *decided, seconds, trial.given or "drawn"]
