"""What a study tells Optuna's dashboard: a note for each trial and for the study, and pictures of the promoted ones.

They are for readers alone, and nothing is read back from them: where one cannot be written, the work goes on.
"""

import json
import logging
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import groupby
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import optuna
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.trial import FrozenTrial
from optuna_dashboard import get_note, save_note
from optuna_dashboard.artifact import get_artifact_path

from search.charts import Results, parameters_of, score_of, validation_of, verdict_of
from search.diagram import curve, diagram
from search.formatting import count, duration, percent
from search.ladder import recipe_of
from search.promotions import Promotion, winner
from search.report import answer, progress
from search.run_folder import RunFolder
from search.storage import reason_of
from search.study import Events
from search.trials import seconds_of
from train_core.results import EpochResult
from train_core.specs import ResNetSpec, TrainSpec

MAX_NOTES = 1000  # trials with a note, besides the promoted: the dashboard's time to open grows with their square
OURS = "[//]: # (Written by search, which replaces what stands below this line, and nothing above it.)"

log = logging.getLogger(__name__)


class NotedEvents:
    """Passes events on to others, and gives each trial its note when it has its verdict."""

    def __init__(self, study: optuna.Study, budget: int, events: Events) -> None:
        self.study = study
        self.budget = budget
        self.max_madds: int | None = study.user_attrs.get("identity", {}).get("max_madds")
        self.events = events
        self._works = True  # else the notes are left to `publish`, when the search has ended

    def trial_started(self, number: int, network: ResNetSpec, recipe: TrainSpec) -> None:
        """Pass it on."""
        self.events.trial_started(number, network, recipe)

    def epoch_ended(self, number: int, result: EpochResult) -> None:
        """Pass it on."""
        self.events.epoch_ended(number, result)

    def trial_ended(self, trial: FrozenTrial, ended: list[FrozenTrial]) -> None:
        """Write the trial's note, and pass it on."""
        if self._works and trial.number < MAX_NOTES:
            noted = _Trial(_Storage(self.study, {}), self.study, trial._trial_id)
            self._works = _attempted(
                "a trial's note", lambda: _write(noted, trial_note(trial, self.budget, self.max_madds))
            )
        self.events.trial_ended(trial, ended)


def publish(folder: RunFolder, results: Results, size: tuple[int, int]) -> None:
    """Write the study's note, the trials' that have none, and all there is of the promoted ones, pictures too.

    Done again, what is there is not written again. `size` is the images' height and width in pixels.
    """

    def do() -> None:
        with folder.alone():  # several searches of this run may end at the same time
            _publish(folder, results, size)

    _attempted("the dashboard's notes and pictures", do)


def _publish(folder: RunFolder, results: Results, size: tuple[int, int]) -> None:
    study = results.study
    storage = _Storage(study, study._storage.get_study_system_attrs(study._study_id))
    by_trial = groupby(sorted(results.promotions, key=lambda run: run.trial), key=lambda run: run.trial)
    longer = {trial: list(runs) for trial, runs in by_trial}
    for trial in results.trials:
        noted, runs = _Trial(storage, study, trial._trial_id), longer.get(trial.number, [])
        if runs or (trial.number < MAX_NOTES and not get_note(noted)):
            pictures = _uploaded(folder, noted, runs, size) if runs else {}
            _write(noted, trial_note(trial, results.spec.budget, results.spec.max_madds, runs, pictures))
    _write(study, study_note(folder, results))


def trial_note(
    trial: FrozenTrial,
    budget: int,
    max_madds: int | None = None,
    longer: Sequence[Promotion] = (),
    pictures: Mapping[str, str] | None = None,
) -> str:
    """What a trial was and came to, in Markdown; with its `longer` runs, and `pictures` by their names."""
    known, verdict = trial.user_attrs, verdict_of(trial)
    lines = []
    if "network" in known:
        lines += [f"**{known['in words']}**", str(recipe_of(trial))]
    facts = [f"known network: {_plain(known['baseline'])}"] if "baseline" in known else []
    score = f", {percent(score_of(trial))} on validation" if verdict != "failed or diverged" else ""
    reason = f": {_quoted(known['reason'])}" if "reason" in known else ""
    facts.append(f"verdict: {verdict}{score}{reason}")
    if "parameters" in known:
        size = parameters_of(trial)
        facts.append(f"parameters: {size:,}, {percent(size / budget)} of the budget of {budget:,}")
        madds = known["multiply-adds"]
        share = f", {percent(madds / max_madds)} of the limit of {max_madds:,}" if max_madds is not None else ""
        facts.append(f"multiply-adds for an image: {madds:,}{share}")
    if (seconds := seconds_of(trial)) is not None:
        facts.append(f"training: {duration(seconds)}, {count(len(trial.intermediate_values), 'epoch')}")
    lines.append("\n".join(f"- {fact}" for fact in facts))
    if longer:
        lines += ["#### Trained for longer", "\n".join(f"- {_outcome(run)}" for run in longer)]
    lines += [f"![{name}]({path})" for name, path in (pictures or {}).items()]
    return "\n\n".join(lines)


def _outcome(run: Promotion) -> str:
    """What a longer run came to, in a line."""
    how = "diverged" if run.diverged else "validation images trained on, too" if run.refit else ""
    how = how or f"{percent(validation_of(run))} on validation"
    test = f", {percent(run.test_accuracy)} on test" if run.test_accuracy is not None else ""
    return f"{count(run.recipe.epochs, 'epoch')}, seed {run.seed}: {how}{test}; {duration(run.seconds)} of training"


def study_note(folder: RunFolder, results: Results) -> str:
    """What the search found, how far it came and how it goes on, in Markdown."""
    name = shlex.quote(results.name)
    is_over = len(results.trials) >= results.spec.trials or results.study.user_attrs.get("used up")
    goes_on = f"search promote {name}" if is_over else f"search run {shlex.quote(str(folder.study_file))} --name {name}"
    if is_over and any(run.tested for run in winner(results.promotions)):
        goes_on = f"search export {name}"
    lines = [f"**{_plain(answer(results))}**", _plain(progress(results)), f"It goes on with `{goes_on}`."]
    if results.promotions:
        page = f"/dashboard/studies/{results.study._study_id}/trials?numbers="
        trials = sorted({run.trial for run in results.promotions})
        links = ", ".join(f"[trial {trial}]({page}{trial})" for trial in trials)
        lines.append(f"Trained for longer, with pictures of networks and learning curves: {links}.")
    return "\n\n".join([*lines, f"More is in `{folder.report}`."])


def _plain(text: str) -> str:
    """The text with nothing in it that Markdown takes for more than text."""
    return "".join(f"\\{letter}" if letter in "\\*_<[#|`" else letter for letter in text)


def _quoted(text: str) -> str:
    """The text as Markdown shows code, whatever is in it."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"


def _uploaded(folder: RunFolder, trial: "_Trial", runs: Sequence[Promotion], size: tuple[int, int]) -> dict[str, str]:
    """The trial's pictures: by their file names, where the dashboard has them. What it has already stays."""
    folder.artifacts.mkdir(parents=True, exist_ok=True)
    store, found = FileSystemArtifactStore(folder.artifacts), {}
    for name, draw in _pictures(runs, size):
        # An id that follows from the name, so that nothing is there twice.
        artifact = str(uuid5(NAMESPACE_URL, name))
        # Optuna takes no artifact for a trial that has ended; the dashboard also looks here, and this is where it
        # notes what somebody has deleted, which stays so.
        key = f"dashboard:artifacts:{trial._trial_id}:{artifact}"
        listed = json.loads(trial.storage.known.get(key, "{}"))
        if listed is None:
            continue
        if not _is_there(store, artifact):
            store.write(artifact, BytesIO(draw().encode()))
        if not listed:
            about = {"artifact_id": artifact, "filename": name, "mimetype": "image/svg+xml", "encoding": None}
            trial.storage.set_study_system_attr(trial.study._study_id, key, json.dumps(about))
        found[name] = get_artifact_path(trial, artifact)
    return found


def _pictures(runs: Sequence[Promotion], size: tuple[int, int]) -> Iterator[tuple[str, Callable[[], str]]]:
    """What there is to see of a trial's longer runs: file names, and how to draw it."""
    for run in runs:
        # A refit has no validation images left, and one that diverged at once no epochs.
        if run.history and not run.refit:
            name = f"trial-{run.trial}-epochs-{run.recipe.epochs}-seed-{run.seed}-learning-curve.svg"
            points = [(each.epoch, each.val_accuracy) for each in run.history]
            yield name, partial(curve, points, f"Trial {run.trial}, seed {run.seed}", standalone=True)
    yield f"trial-{runs[0].trial}-network.svg", partial(diagram, runs[0].network, size, standalone=True)


def _is_there(store: FileSystemArtifactStore, artifact: str) -> bool:
    with suppress(ArtifactNotFound):
        store.open_reader(artifact).close()
        return True
    return False


@dataclass(frozen=True)
class _Storage:
    """A study's storage as the dashboard's functions use it, with the study's attributes read before.

    Each of these functions reads them all, and every note is one of them: that takes longer with every trial.
    """

    study: optuna.Study
    known: Mapping[str, Any]  # all of them, or those of a trial that has no note yet: none

    def get_study_system_attrs(self, _: int) -> Mapping[str, Any]:
        return self.known

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self.study._storage.set_study_system_attr(study_id, key, value)


@dataclass(frozen=True)
class _Trial:
    """A trial as the dashboard's functions use it: Optuna's own has no storage once it has ended."""

    storage: _Storage
    study: optuna.Study
    _trial_id: int


def _write(noted: optuna.Study | _Trial, body: str) -> None:
    """Write a note, below what somebody else has written into it; not where it would be the same."""
    there = get_note(noted)
    theirs = there.partition(OURS)[0].strip()
    note = "\n\n".join([*([theirs] if theirs else []), OURS, body])
    if note != there:
        save_note(noted, note)


def _attempted(what: str, do: Callable[[], None]) -> bool:
    """Do what nothing depends on; says whether it worked, and the log why not."""
    try:
        do()
    except Exception as error:
        log.warning("%s could not be written (%s): all else goes on", what, reason_of(error), exc_info=True)
        return False
    return True
