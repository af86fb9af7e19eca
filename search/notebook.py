"""The Python way in: the commands as functions for notebooks and scripts, with results to look at.

    from search import run, promote

    result = run("digits", budget=20_000, trials=10)
    result = promote(result, top=2, epochs=20)
    result.best, result.trials_dataframe(), result.report(), result.export()

The same specs and the same errors as on the command line. Interrupting the kernel stops after the epoch; the same call
goes on from there.
"""

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from search import api, full_runs
from search.charts import Results
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

    @property
    def _results(self) -> Results:
        return read_results(self.folder)

    @property
    def _where(self) -> dict[str, Any]:
        """How the functions of `api` are told of the run."""
        storage = self.folder.storage
        return {"name": self.name, "runs": self.folder.root.parent, "storage": storage.url if storage else None}

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

    def export(self, *, trial: int | None = None, format: str = "onnx") -> Path:  # noqa: A002  # as on the command line
        """Write the best model, or that of a trial, as one file, and its card beside it; returns the file's path.

        Raises:
            UserError: whatever the user can put right, as a package that is missing.

        """
        return api.export(**self._where, trial=trial, fmt=format).file

    def __str__(self) -> str:
        """The answer in a sentence or two, as on top of the report."""
        results = self._results
        return f"{answer(results)} {progress(results)}"

    def _repr_html_(self) -> str:
        results = self._results
        words = f"<b>{escape(self.name)}</b>: {escape(answer(results))}", escape(progress(results))
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
    gpus_per_worker: float | None = None,
    ray_address: str | None = None,
    control: str | None = None,
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
        study,
        flags,
        runs=Path(runs),
        name=name,
        hours=hours,
        device=device,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        ray_address=ray_address,
        control=control,
        storage=storage,
    )
    return SearchResult(folder)


def promote(
    run: SearchResult | str | None = None, *, runs: Path | str = RUNS, storage: str | None = None, **options: Any
) -> SearchResult:
    """Train the best trials of a run for longer, then test them, as `search promote`.

    `run` is what `run` returned, or a run's name (none: the one worked on last); `options` are those of
    `full_runs.promote`: top, epochs, ladder, seeds, refit, mirrored, workers, gpus_per_worker, device.

    Raises:
        UserError: whatever the user can put right.

    """
    where: dict[str, Any] = {"name": run, "runs": Path(runs), "storage": storage}
    if isinstance(run, SearchResult):
        where = run._where | ({"storage": storage} if storage else {})
    full_runs.promote(**where, **options)
    return SearchResult(api.find(**where))
