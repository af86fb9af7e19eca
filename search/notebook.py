"""The commands as functions for notebooks and scripts, with results to look at.

    from search import run, promote

    result = run("digits", budget=20_000, trials=10)
    result = promote(result, top=2, epochs=20)
    result.best, result.trials_dataframe(), result.report(), result.export()

The same specs and the same errors as on the command line. Interrupting the kernel stops after the epoch; the same call
goes on from there.
"""

from dataclasses import dataclass, fields, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search import api, full_runs
from search.completion import RUNS
from search.full_runs import PromoteFlags
from search.promotions import Promotion, finished, winner
from search.results import Results, headline, progress, read_results
from search.run_folder import RunFolder, RunRef
from search.session import Placement
from search.trials import TrialRecord

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SearchResult:
    """A run's outcome, read from its folder and its study when it is asked for."""

    folder: RunFolder

    @property
    def _results(self) -> Results:
        return read_results(self.folder)

    @property
    def ref(self) -> RunRef:
        """The run, as a command names it."""
        storage = self.folder.storage
        return RunRef(self.name, self.folder.root.parent, storage.url if storage else None)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name

    @property
    def best(self) -> Promotion | TrialRecord | None:
        """The best full run by validation (of several seeds, the first); before there is any, the best trial."""
        runs = winner(finished(self.folder))
        return runs[0] if runs else next(iter(self._results.complete), None)

    @property
    def promotions(self) -> list[Promotion]:
        """The finished full runs: the longest first, of those the best on validation."""
        return finished(self.folder)

    @property
    def trials(self) -> list[TrialRecord]:
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
                "outcome": trial.outcome,
                "score": trial.score,
                **{f"param {name}": value for name, value in trial.draw.items()},
                **trial.optuna.user_attrs,
            }
            for trial in self.trials
        )

    def report(self) -> Path:
        """Write the report; returns its path."""
        from search.report import write_report

        return write_report(self.folder)

    def export(
        self,
        *,
        trial: int | None = None,
        format: str = "onnx",  # noqa: A002  # as on the command line
        data: str | None = None,
    ) -> Path:
        """Write the best model, or that of a trial, as one file, and its card beside it; returns the file's path.

        `data` is where the images of the run are now, if they were moved.

        Raises:
            UserError: the user can fix it, such as a missing package; the message says how.

        """
        return api.export(self.ref, trial=trial, fmt=format, data=data).file

    def __str__(self) -> str:
        """The answer in a sentence or two, as on top of the report."""
        results = self._results
        return f"{headline(results)} {progress(results)}"

    def _repr_html_(self) -> str:
        results = self._results
        words = f"<b>{escape(self.name)}</b>: {escape(headline(results))}", escape(progress(results))
        return "".join(f"<p>{each}</p>" for each in words)


def run(
    study: str = "cifar10",
    *,
    budget: int | float | str | None = None,
    ref: RunRef | None = None,
    placement: Placement | None = None,
    hours: float | None = None,
    control: str | None = None,
    **flags: Any,
) -> SearchResult:
    """Search, as `search run`: a study by name or path, with values over its own.

    `budget` is a number or as on the command line ("5M"); `flags` are any other keys of a study file (trials, epochs,
    data, seed, sampler, max_madds, space, promote, ...), or name, runs and storage of the run, or device, workers,
    gpus_per_worker and ray_address of where it trains. `ref` and `placement` give these at once.

    Raises:
        UserError: the user can fix it; the message says how.

    """
    ref = ref or _ref_from(flags)
    placement = placement or _placement_from(flags)
    if budget is not None:
        flags["budget"] = budget
    return SearchResult(api.run(study, flags, ref, placement, hours=hours, control=control))


def promote(run: SearchResult | str | None = None, **options: Any) -> SearchResult:
    """Train the best trials of a run in full runs, then test them, as `search promote`.

    `run` is what `run` returned, or a run's name (none: the run worked on last); `options` are runs, storage, device,
    workers, gpus_per_worker, data (where the images are now, if they were moved), and those of
    `full_runs.PromoteFlags`: top, epochs, ladder, seeds, refit, mirrored, asam.

    Raises:
        UserError: the user can fix it; the message says how.

    """
    ref, placement = _ref_from(options), _placement_from(options)
    if isinstance(run, SearchResult):
        ref = replace(run.ref, storage=ref.storage or run.ref.storage)
    else:
        ref = replace(ref, name=run)
    data = options.pop("data", None)
    full_runs.promote(ref, placement, PromoteFlags(**options), data=data)
    return SearchResult(ref.find())


def _ref_from(options: dict[str, Any]) -> RunRef:
    """Which run, taken out of the options."""
    name, runs, storage = (options.pop(key, None) for key in ("name", "runs", "storage"))
    return RunRef(name, Path(runs or RUNS), storage)


def _placement_from(options: dict[str, Any]) -> Placement:
    """Where it trains, taken out of the options."""
    names = [field.name for field in fields(Placement) if field.name in options]
    return Placement(**{name: options.pop(name) for name in names})
