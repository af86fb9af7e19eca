"""The commands as functions for notebooks and scripts, with results to look at.

    from search import auto, open_run, promote, run

    result = run("digits", budget=20_000, trials=10)
    result = promote(result, top=2, epochs=20)
    result.best, result.trials_dataframe(), result.report(), result.export()
    result = auto("digits", minutes=3)
    result.model
    result = open_run("digits-20k")

The same specs and the same errors as on the command line. Interrupting the kernel stops after the epoch; the same call
continues.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search import api, full_runs, overnight
from search.completion import RUNS
from search.errors import RunError
from search.export import model_of
from search.formatting import mean_and_deviation, percent
from search.full_runs import PromoteFlags
from search.identity import open_study
from search.overnight import Time
from search.promotions import Promotion, finalists, finished, winner
from search.results import Results, headline, progress, read_results
from search.rows import Rows, curve_rows, full_run_rows, trial_rows
from search.run_folder import RunFolder, RunRef
from search.scores import named
from search.session import Placement
from search.trials import TrialRecord, score_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SearchResult:
    """A run's outcome, read from its folder and its study on access."""

    folder: RunFolder

    @property
    def _results(self) -> Results:
        return read_results(self.folder)

    @property
    def ref(self) -> RunRef:
        """The run as commands refer to it."""
        storage = self.folder.storage
        return RunRef(self.name, self.folder.root.parent, storage.url if storage else None)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name

    @property
    def best(self) -> Promotion | TrialRecord | None:
        """The best full run by validation (of several seeds, the first); if there is none yet, the best trial."""
        runs = winner(finished(self.folder))
        return runs[0] if runs else next(iter(self._results.complete), None)

    @property
    def promotions(self) -> list[Promotion]:
        """The finished full runs: the longest first; if they are equally long, the best on validation first."""
        return finished(self.folder)

    @property
    def trials(self) -> list[TrialRecord]:
        """The trials that count, by number."""
        return list(self._results.trials)

    def trials_dataframe(self) -> "pd.DataFrame":
        """A row for each trial that counts and has ended, by number: the table of `search trials --csv`.

        Raises:
            RunError: pandas is not installed.

        """
        return _dataframe(trial_rows(self.trials))

    def curves_dataframe(self) -> "pd.DataFrame":
        """A row for each epoch of each short run and each full run: the table of `search trials --curves --csv`.

        Raises:
            RunError: pandas is not installed.

        """
        return _dataframe(curve_rows(self.trials, self.promotions, self._results.spec.scored_by))

    def full_runs_dataframe(self) -> "pd.DataFrame":
        """A row for each finished full run, with its metrics: the table of `search trials --full-runs --csv`.

        Raises:
            RunError: pandas is not installed.

        """
        return _dataframe(full_run_rows(self.promotions))

    def report(self) -> Path:
        """Write the report and return its path."""
        from search.report import write_report

        return write_report(self.folder)

    def export(
        self,
        *,
        trial: int | None = None,
        format: str | None = None,  # noqa: A002  # as on the command line
        data: str | None = None,
        calibration: int | None = None,
    ) -> Path:
        """Write the best model, or that of a trial, as one file, with its card beside it; return the file's path.

        `format` is by default the study's; `data` is where the images of the run are now, if they were moved;
        `calibration` is the number of images that an int8 file is calibrated on.

        Raises:
            UserError: the user can fix it (for example a missing package); the message says how.

        """
        return api.export(self.ref, trial=trial, fmt=format, data=data, calibration=calibration).file

    @property
    def model(self) -> Path | None:
        """The file of the best network that `auto` or `export` wrote; None: it was not exported."""
        return model_of(self.folder)

    def __str__(self) -> str:
        """The result in a sentence or two, as at the top of the report."""
        results = self._results
        return f"{headline(results)} {progress(results)}"

    def _repr_html_(self) -> str:
        """The result, and a table of the best five networks: by full runs, or if there are none, by short runs."""
        results = self._results
        words = f"<b>{escape(self.name)}</b>: {escape(headline(results))}", escape(progress(results))
        return "".join(f"<p>{each}</p>" for each in words) + _best_as_html(results)


BEST = 5  # networks in the table of a result


def _best_as_html(results: Results) -> str:
    """The best networks in a table; empty if there is none yet."""
    score = results.spec.scored_by
    rows: list[list[Any]] = []
    if rivals := finalists(results.promotions)[:BEST]:
        headings = ["Trial", named(score, "validation accuracy"), named(score, "test accuracy"), "Seeds"]
        for runs in rivals:
            reached = [[each for each in shares if each is not None] for shares in _scores(runs)]
            means = [mean_and_deviation(each) if each else "" for each in reached]
            rows.append([runs[0].trial, *means, len(runs), str(runs[0].network), f"{runs[0].parameters:,}"])
    else:
        headings = ["Trial", f"{named(score, 'validation accuracy')} of the short run"]
        rows = [
            [trial.number, percent(score_of(trial)), trial.network_words, f"{trial.parameters:,}"]
            for trial in results.complete[:BEST]
        ]
    if not rows:
        return ""
    cells = [[*headings, "Network", "Parameters"], *rows]
    html = [f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in cells]
    head = html[0].replace("td>", "th>")
    return f"<table><thead>{head}</thead><tbody>{''.join(html[1:])}</tbody></table>"


def _scores(runs: Sequence[Promotion]) -> tuple[list[float | None], list[float | None]]:
    """The scores of a network's seeds on validation and on test."""
    return [run.val_score for run in runs], [run.test_score for run in runs]


def open_run(name: str | None = None, *, runs: str | Path | None = None, storage: str | None = None) -> SearchResult:
    """An existing run, to look at: nothing is measured, trained or printed.

    `name` is the run's name (None: the last one used), `runs` the folder of all runs (None: `runs`), `storage` the
    address of the storage that contains the run's study, if there is one.

    Raises:
        UserError: there is no such run, or its study cannot be opened.

    """
    folder = RunRef(name, Path(runs or RUNS), storage).find_to_read()
    open_study(folder)
    return SearchResult(folder)


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
    """Search, as `search run`: a study by name or path, with values that override its own.

    `budget` is a number or text as on the command line ("5M"); `flags` are any other keys of a study file (trials,
    epochs, data, seed, sampler, max_madds, space, promote, ...), or name, runs and storage of the run, or device,
    workers, gpus_per_worker, ray_address and log for the training. `ref` and `placement` give these as objects.

    Raises:
        UserError: the user can fix it; the message says how.

    """
    ref = ref or _ref_from(flags)
    placement = placement or _placement_from(flags)
    if budget is not None:
        flags["budget"] = budget
    return SearchResult(api.run(study, flags, ref, placement, hours=hours, control=control))


def auto(
    study: str = "cifar10",
    *,
    hours: float | None = None,
    minutes: float | None = None,
    until: str | None = None,
    budget: int | float | str | None = None,
    **flags: Any,
) -> SearchResult:
    """Search, train the best in full runs and export the model before the time is over, as `search auto`.

    Give one of `hours`, `minutes` and `until` ("08:00", or "2026-12-24 08:00"). `budget` and `flags` are those of
    `run`; without `workers`, there is one for each GPU. The same call continues after an interruption, with the
    remaining time.

    Raises:
        UserError: the user can fix it; the message says how.

    """
    flags.setdefault("workers", 0)
    ref, placement = _ref_from(flags), _placement_from(flags)
    if budget is not None:
        flags["budget"] = budget
    time = Time(hours=hours, minutes=minutes, until=until)
    return SearchResult(overnight.auto(study, flags, ref, placement, time))


def promote(run: SearchResult | str | None = None, **options: Any) -> SearchResult:
    """Train the best trials of a run in full runs, then test them, as `search promote`.

    `run` is what `run` returned, or a run's name (None: the last one used); `options` are runs, storage, device,
    workers, gpus_per_worker, data (where the images are now, if they were moved), and those of
    `full_runs.PromoteFlags`: top, front, epochs, ladder, seeds, refit, mirrored, asam.

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


def _dataframe(rows: Rows) -> "pd.DataFrame":
    try:
        import pandas as pd
    except ImportError as error:
        raise RunError("tables in Python need pandas: pip install '.[notebook]' in the checkout") from error
    return pd.DataFrame(rows.rows, columns=list(rows.columns))


def _ref_from(options: dict[str, Any]) -> RunRef:
    """The run, taken out of the options."""
    name, runs, storage = (options.pop(key, None) for key in ("name", "runs", "storage"))
    return RunRef(name, Path(runs or RUNS), storage)


def _placement_from(options: dict[str, Any]) -> Placement:
    """The placement, taken out of the options."""
    names = [field.name for field in fields(Placement) if field.name in options]
    if "log" in options:
        options["log"] = (options["log"],) if isinstance(options["log"], str) else tuple(options["log"])
    return Placement(**{name: options.pop(name) for name in names})
