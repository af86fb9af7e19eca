"""The Python way in: the commands as functions for notebooks and scripts, with results to look at.

    from search import run, promote

    result = run("digits", budget=20_000, trials=10)
    result = promote(result, top=2, epochs=20)
    result.best, result.trials_dataframe(), result.report()

The same specs and the same errors as on the command line. Interrupting the kernel stops after the epoch; the same call
goes on from there.
"""

from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from search import api
from search.promotions import Promotion, finished, winner
from search.report import answer, progress, read_results
from search.run_folder import RunFolder
from search.spec import parse_budget

if TYPE_CHECKING:
    import pandas as pd

RUNS = Path("runs")


@dataclass(frozen=True)
class SearchResult:
    """What a run has come to, read from its folder and its study when it is asked for."""

    folder: RunFolder

    @cached_property
    def _results(self) -> Any:
        return read_results(self.folder)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name

    @property
    def best(self) -> Promotion | FrozenTrial | None:
        """The best longer run by validation (of several seeds, the first); before there is any, the best short one."""
        runs = winner(finished(self.folder))
        return runs[0] if runs else next(iter(self._results.complete), None)

    @property
    def promotions(self) -> list[Promotion]:
        """The longer runs that are finished: the longest first, of those the best on validation."""
        return finished(self.folder)

    @property
    def trials(self) -> list[FrozenTrial]:
        """The trials that count, by number."""
        return list(self._results.trials)

    def trials_dataframe(self) -> "pd.DataFrame":
        """A row for each trial that counts: its score, what it drew, and what is known of it.

        Raises:
            ImportError: pandas is not installed.

        """
        import pandas as pd

        return pd.DataFrame(
            {
                "number": trial.number,
                "state": trial.state.name.lower(),
                "score": trial.value,
                **{f"param {name}": value for name, value in trial.params.items()},
                **trial.user_attrs,
            }
            for trial in self.trials
        )

    def report(self) -> Path:
        """Write the report; returns its path."""
        from search.report import write_report

        return write_report(self.folder)

    def __str__(self) -> str:
        """The answer in a sentence or two, as on top of the report."""
        return f"{answer(self._results)} {progress(self._results)}"

    def _repr_html_(self) -> str:
        words = (f"<b>{escape(self.name)}</b>: {escape(answer(self._results))}", escape(progress(self._results)))
        return "".join(f"<p>{each}</p>" for each in words)


def run(
    study: str = "cifar10",
    *,
    budget: int | float | str | None = None,
    name: str | None = None,
    runs: Path | str = RUNS,
    hours: float | None = None,
    device: str = "auto",
    workers: int = 1,
    storage: str | None = None,
    **flags: Any,
) -> SearchResult:
    """Search, as `search run`: a study by name or path, with values over its own.

    `budget` is a number or as on the command line ("5M"); `flags` are any other keys of a study file: trials, epochs,
    data, seed, sampler, max_madds, space, promote, ...

    Raises:
        UserError: whatever the user can put right.

    """
    if budget is not None:
        flags["budget"] = parse_budget(budget) if isinstance(budget, str) else int(budget)
    folder = api.run(
        study, flags, runs=Path(runs), name=name, hours=hours, device=device, workers=workers, storage=storage
    )
    return SearchResult(folder)


def promote(
    run: SearchResult | str | None = None, *, runs: Path | str = RUNS, storage: str | None = None, **options: Any
) -> SearchResult:
    """Train the best trials of a run for longer, then test them, as `search promote`.

    `run` is what `run` gave, or a run's name (none: the one worked on last); `options` are those of `api.promote`: top,
    epochs, ladder, seeds, refit, mirrored, workers, device.

    Raises:
        UserError: whatever the user can put right.

    """
    if isinstance(run, SearchResult):
        name: str | None = run.name
        folder = run.folder.root.parent
        storage = storage or (run.folder.storage.url if run.folder.storage else None)
    else:
        name, folder = run, Path(runs)
    api.promote(name, runs=folder, storage=storage, **options)
    return SearchResult(api.find(name, runs=folder, storage=storage))
