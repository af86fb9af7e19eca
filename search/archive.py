"""Packs a run into one .zip to publish beside a paper, and opens such a file again as a run that can be read.

An archive contains what the numbers of a paper are computed from: the study, the results, the predictions. It has no
images, checkpoints or models, and no absolute paths of the machine. Imports no torch.
"""

import json
import re
import tempfile
import warnings
import zipfile
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.errors import RunError, SpecError
from search.identity import open_study
from search.inspection import Reader, TableName, rows_of, trials_of
from search.report import write_report
from search.run_folder import PromotionFolder, RunFacts, RunFolder, SplitName, new_run, read_facts, write_text
from search.trials import INTERRUPTED, REASON, WORKER, TrialRecord
from train_core.files import written_whole
from train_core.predictions import Predictions

TABLES: dict[str, TableName] = {"trials": "trials", "curves": "curves", "full_runs": "full runs"}
"""The tables of an archive by their files' names."""
SPLITS: tuple[SplitName, ...] = ("val", "test")
MEMBER = re.compile(
    r"(?P<run>[\w+][\w.+-]*)/(?:study\.toml|study\.db|run\.json|report\.html|README\.txt|tables/\w+\.(?:csv|json)"
    r"|promoted/trial-[\w-]+/(?:result\.json|predictions-(?:val|test)\.npz)|exported/[\w+-][\w.+-]*\.md)"
)
"""The files that an archive may contain; others are not unpacked."""
NEEDED = ("study.toml", "study.db", "run.json")
README = """\
The results of the search {name}, as budget-search {version} has packed them on {day}.

study.toml       the study: data, budget, space, seeds
run.json         versions, device, and which data
study.db         the Optuna study: an SQLite database with all trials
tables/          trials, learning curves and full runs, as CSV and JSON
promoted/        for each full run its result and, where stored, its outputs for each image (predictions-*.npz)
exported/        the model cards, if models were exported
report.html      all of it as one page

There are no images, no checkpoints and no models here. Open it with: search archive --open {name}.zip
"""


def write_archive(folder: RunFolder, out: Path | None = None) -> Path:
    """Pack a run into `out` (None: NAME.zip in the current folder) and return the file's path.

    Trials that are running or waiting are packed as interrupted ones.

    Raises:
        SpecError: `out` is not the name of a .zip file in an existing folder.
        UserError: the study, its file or a full run's result cannot be read.

    """
    out = out or Path(f"{folder.name}.zip")
    if out.suffix.lower() != ".zip" or not out.absolute().parent.is_dir():
        raise SpecError(f"--out {out}: an archive is a .zip file: give such a name, in a folder that is there")
    run = Reader(folder)
    facts = read_facts(folder) or RunFacts()
    hidden = _Hidden(folder, run.spec.data)
    with tempfile.TemporaryDirectory() as temporary:
        packed = RunFolder(Path(temporary) / folder.name)
        packed.create()
        data = hidden.name_of(run.spec.data)
        write_text(packed.study_file, run.spec.model_copy(update={"data": data}).as_toml())
        today = date.today().isoformat()
        clean = hidden.cleaned(facts.model_dump(mode="json")) | {"archived": today, "storage": "sqlite"}
        write_text(packed.facts, json.dumps(clean, indent=2) + "\n")
        _copy_study(run.study, packed, hidden)
        for each in folder.promotions():
            if each.result.exists():
                _copy_full_run(each, PromotionFolder(packed.root / "promoted" / each.root.name), hidden)
        for card in sorted((folder.root / "exported").glob("*.md")):
            write_text(packed.root / "exported" / card.name, hidden.text(card.read_text(encoding="utf-8")))
        _write_tables(packed)
        write_report(packed)
        versions = facts.versions.get("budget-search", "of a version that is not known")
        write_text(packed.root / "README.txt", README.format(name=folder.name, version=versions, day=today))
        with written_whole(out) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(packed.root.rglob("*")):
                if path.is_file() and MEMBER.fullmatch(member := path.relative_to(temporary).as_posix()):
                    archive.write(path, member)
    return out


def open_archive(file: Path, runs: Path, name: str | None = None) -> RunFolder:
    """Unpack an archive into the folder `runs`, as a run called `name` (None: its own name), and return its folder.

    Nothing is written outside that folder, and nothing is left behind if the archive is damaged.

    Raises:
        RunError: the file is not an archive of a run, or there is a run of this name.

    """
    no_archive = f"{file} is no archive that `search archive` has written"
    try:
        with zipfile.ZipFile(file) as archive:
            members = {each: MEMBER.fullmatch(each) for each in archive.namelist() if not each.endswith("/")}
            packed = {found["run"] if found else None for found in members.values()}
            as_named = next(iter(packed), None)
            if as_named is None or len(packed) > 1 or not {f"{as_named}/{each}" for each in NEEDED} <= members.keys():
                raise RunError(f"{no_archive}: give another file")
            folder = new_run(runs, name or as_named)
            if folder.root.exists():
                raise RunError(f"there is a run {folder.name!r} in {runs} already: give another --name")
            runs.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=runs, prefix=f".{folder.name}.") as temporary:
                archive.extractall(temporary)
                facts = read_facts(RunFolder(Path(temporary) / as_named))
                if facts is None or not facts.archived:
                    raise RunError(f"{no_archive}: give another file")
                (Path(temporary) / as_named).rename(folder.root)
    except FileNotFoundError as error:
        raise RunError(f"there is no file {file}: check the path") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise RunError(f"{no_archive}, or it is damaged: get it again") from error
    return folder


def _copy_study(study: optuna.Study, packed: RunFolder, hidden: "_Hidden") -> None:
    """Copy a study with all its trials, without the dashboard's notes and the names of the machines."""
    copy = open_study(packed, create=True)
    if study.metric_names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # it labels the dashboard's axis
            copy.set_metric_names(study.metric_names)
    for key, value in study.user_attrs.items():
        copy.set_user_attr(key, hidden.cleaned(value))
    workers = dict.fromkeys(
        trial.user_attrs[WORKER] for trial in study.get_trials(deepcopy=False) if WORKER in trial.user_attrs
    )
    numbers = {worker: f"worker-{number}" for number, worker in enumerate(workers, start=1)}
    copy.add_trials([_copy_of(trial, numbers, hidden) for trial in study.get_trials(deepcopy=False)])


def _copy_of(trial: FrozenTrial, workers: dict[str, str], hidden: "_Hidden") -> FrozenTrial:
    copy = deepcopy(trial)
    if not copy.state.is_finished():
        copy.datetime_start = copy.datetime_start or datetime.now()
        copy.datetime_complete = datetime.now()
        copy.state, copy.user_attrs[REASON] = TrialState.FAIL, INTERRUPTED
    copy.user_attrs = hidden.cleaned(copy.user_attrs)
    if WORKER in copy.user_attrs:
        copy.user_attrs[WORKER] = workers[trial.user_attrs[WORKER]]
    copy.system_attrs = {key: value for key, value in copy.system_attrs.items() if key == "fixed_params"}
    return copy


def _copy_full_run(run: PromotionFolder, packed: PromotionFolder, hidden: "_Hidden") -> None:
    """Copy the result of a full run, and its predictions without the pictures of the mistakes."""
    result = json.loads(run.result.read_text(encoding="utf-8"))
    write_text(packed.result, json.dumps(hidden.cleaned(result)) + "\n")
    for split in SPLITS:
        if run.predictions(split).exists():
            try:
                predictions = Predictions.read(run.predictions(split))
            except (ValueError, OSError):
                continue  # this file does not exist for this run
            replace(predictions, pictured=predictions.pictured[:0], pictures=predictions.pictures[:0]).write(
                packed.predictions(split)
            )


def _write_tables(packed: RunFolder) -> None:
    run = Reader(packed)
    trials: Sequence[TrialRecord] = trials_of(run)
    for name, table in TABLES.items():
        rows = rows_of(run, trials, table)
        write_text(packed.root / "tables" / f"{name}.csv", rows.csv())
        write_text(packed.root / "tables" / f"{name}.json", json.dumps(rows.rows, indent=2) + "\n")


class _Hidden:
    """Removes the absolute paths of this machine from texts; the last part of each path stays."""

    _STOP = r"\s/\\'\"`,;:()\[\]{}<>|"
    _PATHS = re.compile(rf"(?<![\w.~/\\-])(?:/[^{_STOP}]+){{2,}}/?|\b[A-Za-z]:(?:[/\\]+[^{_STOP}]+)+[/\\]?")

    def __init__(self, folder: RunFolder, data: str) -> None:
        places = {data, str(Path.home()), str(Path.cwd()), str(folder.root.parent.absolute())}
        # Known paths first, the longest first: in a text, the end of a path with a blank cannot be seen.
        absolute = (each for each in places if Path(each).is_absolute() and len(Path(each).parts) > 1)
        self._known = sorted(absolute, key=len, reverse=True)

    @staticmethod
    def name_of(path: str) -> str:
        """The last part of a path."""
        return re.split(r"[/\\]", path.rstrip("/\\"))[-1]

    def text(self, text: str) -> str:
        """The text, with each absolute path replaced by its last part."""
        for place in self._known:
            text = text.replace(place, self.name_of(place))
        return self._PATHS.sub(lambda found: self.name_of(found[0]), text)

    def cleaned(self, value: Any) -> Any:
        """A JSON value, with all its texts changed in this way."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.cleaned(inner) for key, inner in value.items()}
        return [self.cleaned(inner) for inner in value] if isinstance(value, list | tuple) else value
