"""Writes notes for Optuna's dashboard: one for each trial and for the study, and pictures of the promoted trials.

Nothing is read back from them: if one cannot be written, the work continues. The dashboard takes seconds to import, so
it is imported when the first note is written.
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

from search.cautions import cautions
from search.diagram import curve, diagram
from search.formatting import count, duration, percent
from search.identity import identity
from search.optuna_access import storage_of, study_id, trial_id
from search.promotions import Promotion, winner
from search.results import Results, headline, is_complete, progress, remarks, verdict_of
from search.run_folder import RunFolder
from search.scores import named, scored
from search.storage import reason_of
from search.study import Events
from search.trials import Attempts, TrialRecord, by_first_attempt, records, score_of
from train_core.results import EpochResult, Score
from train_core.specs import ResNetSpec, TrainSpec

MAX_NOTES = 1000  # trials with a note, besides the promoted ones: the dashboard's start-up time grows with their square
OURS = "[//]: # (Written by search, which replaces what stands below this line, and nothing above it.)"

log = logging.getLogger(__name__)


class NotedEvents:
    """Passes events on, and gives each trial a note when it has a verdict."""

    def __init__(self, study: optuna.Study, budget: int, events: Events) -> None:
        self.study = study
        self.budget = budget
        self.max_madds: int | None = identity(study).get("max_madds")
        self.score: Score = identity(study).get("score", "accuracy")
        self.events = events
        self._works = True  # otherwise `publish` writes the notes when the search has ended

    def trial_started(self, number: int, network: ResNetSpec, recipe: TrainSpec) -> None:
        """Pass it on."""
        self.events.trial_started(number, network, recipe)

    def epoch_ended(self, number: int, result: EpochResult) -> None:
        """Pass it on."""
        self.events.epoch_ended(number, result)

    def trial_ended(self, trial: TrialRecord, finished: list[TrialRecord]) -> None:
        """Write the trial's note, and pass it on."""
        if self._works and trial.number < MAX_NOTES:
            noted = _Trial(_Storage(self.study, {}), self.study, trial_id(trial))

            def write() -> None:
                _write(noted, trial_note(trial, self.budget, self.max_madds, self.score))
                if trial.first_attempt != trial.number:
                    _write_uncounted(_read(self.study), self.study, trial.first_attempt)

            self._works = _attempted("a trial's note", write)
        self.events.trial_ended(trial, finished)


def publish(folder: RunFolder, results: Results, size: tuple[int, int]) -> None:
    """Write the study's note, the missing notes of trials, and notes and pictures of the promoted trials.

    Existing ones are not written again. `size` is the images' height and width in pixels.
    """

    def do() -> None:
        with folder.alone():  # several searches of this run may end at the same time
            _publish(folder, results, size)

    _attempted("the dashboard's notes and pictures", do)


def _publish(folder: RunFolder, results: Results, size: tuple[int, int]) -> None:
    from optuna_dashboard import get_note

    study = results.study
    storage = _read(study)
    by_trial = groupby(sorted(results.promotions, key=lambda run: run.trial), key=lambda run: run.trial)
    full_runs = {trial: list(runs) for trial, runs in by_trial}
    for trial in results.trials:
        noted, runs = _Trial(storage, study, trial_id(trial)), full_runs.get(trial.number, [])
        if runs or (trial.number < MAX_NOTES and not get_note(noted)):
            pictures = _uploaded(folder, noted, runs, size) if runs else {}
            spec = results.spec
            _write(noted, trial_note(trial, spec.budget, spec.max_madds, spec.scored_by, runs, pictures))
    _write_uncounted(storage, study)
    _write(study, study_note(folder, results))


def _write_uncounted(storage: "_Storage", study: optuna.Study, first_attempt: int | None = None) -> None:
    """Write the notes of trials that do not count; `first_attempt`: only for the attempts at this trial."""
    trials = by_first_attempt(records(study))
    for attempts in trials.values() if first_attempt is None else [trials[first_attempt]]:
        for attempt in attempts.attempts:
            if attempt.number < MAX_NOTES and (note := uncounted_note(attempt, attempts)):
                _write(_Trial(storage, study, trial_id(attempt)), note)


def uncounted_note(trial: TrialRecord, attempts: Attempts) -> str:
    """Why an ended trial does not count, in Markdown; empty for one that counts or has not ended.

    Optuna can only call such a trial failed, and does not let anybody change an ended trial.
    """
    if trial.is_counted:
        return ""
    if trial.was_interrupted:
        after = f" after {count(trial.last_epoch, 'epoch')}" if trial.last_epoch else ""
        next_one = next((each.number for each in attempts.attempts if each.number > trial.number), None)
        then = "`search run` runs it again" if trial.retry_draw else "another trial is drawn in its place"
        then = f"it is continued as trial {next_one}" if next_one is not None else then
        what = f"This attempt was cut off{after}: {_quoted(trial.reason or '')}; {then}."
    else:
        what = f"This trial was not trained: {_quoted(trial.reason or '')}."
    return f"{what} Optuna shows it as failed; it does not count, and says nothing about its network."


def trial_note(
    trial: TrialRecord,
    budget: int,
    max_madds: int | None = None,
    score: Score = "accuracy",
    full_runs: Sequence[Promotion] = (),
    pictures: Mapping[str, str] | None = None,
) -> str:
    """A trial and its outcome, in Markdown; with its `full_runs`, and `pictures` by their names."""
    verdict = verdict_of(trial)
    reached = trial.last_score if verdict != "failed or diverged" else None
    lines = []
    if trial.is_decided:
        lines += [f"**{trial.network_words}**", str(trial.recipe)]
    facts = [f"baseline: {_plain(trial.baseline)}"] if trial.baseline else []
    facts += [f"first tried elsewhere: {_plain(trial.start)}"] if trial.start else []
    figure = f", {scored(percent(reached), score)} on validation" if reached is not None else ""
    reason = f": {_quoted(trial.reason)}" if trial.reason else ""
    facts.append(f"verdict: {verdict}{figure}{reason}")
    if trial.first_attempt != trial.number:
        facts.append(f"continues trial {trial.first_attempt}, which was cut off")
    if trial.is_decided:
        size, madds = trial.parameters, trial.multiply_adds
        facts.append(f"parameters: {size:,}, {percent(size / budget)} of the budget of {budget:,}")
        share = f", {percent(madds / max_madds)} of the limit of {max_madds:,}" if max_madds is not None else ""
        facts.append(f"multiply-adds for an image: {madds:,}{share}")
    if trial.seconds is not None:
        facts.append(f"training: {duration(trial.seconds)}, {count(len(trial.curve), 'epoch')}")
    lines.append("\n".join(f"- {fact}" for fact in facts))
    if full_runs:
        lines += ["#### Full runs", "\n".join(f"- {_outcome(run)}" for run in full_runs)]
    lines += [f"![{name}]({path})" for name, path in (pictures or {}).items()]
    return "\n\n".join(lines)


def _titled(run: Promotion) -> str:
    """The title of a full run's learning curve: a trial can have several full runs, of other lengths or seeds."""
    return f"Trial {run.trial}, seed {run.seed}, {count(run.recipe.epochs, 'epoch')}"


def _outcome(run: Promotion) -> str:
    """A full run's outcome, in one line."""
    how = "diverged"
    if run.val_score is not None and not run.diverged:
        how = f"{scored(percent(run.val_score), run.score)} on validation"
    how = "trained also on the validation images" if run.refit else how
    test = f", {scored(percent(run.test_score), run.score)} on test" if run.test_score is not None else ""
    asam = f", asam {run.recipe.asam:g}" if run.recipe.asam else ""
    return (
        f"{count(run.recipe.epochs, 'epoch')}, seed {run.seed}{asam}: {how}{test}; {duration(run.seconds)} of training"
    )


def study_note(folder: RunFolder, results: Results) -> str:
    """The outcome of the search so far and its next command, in Markdown."""
    name = shlex.quote(results.name)
    is_over = is_complete(results)
    goes_on = f"search promote {name}" if is_over else f"search run {shlex.quote(str(folder.study_file))} --name {name}"
    if is_over and any(run.tested for run in winner(results.promotions)):
        goes_on = f"search export {name}"
    lines = [f"**{_plain(headline(results))}**"]
    lines += [_plain(" ".join(said)) for said in (remarks(results), cautions(results)) if said]
    lines.append(_plain(progress(results)))
    lines += [each for each in (_why_another(results),) if each]
    lines.append(f"Next: `{goes_on}`.")
    if results.promotions:
        page = f"/dashboard/studies/{study_id(results.study)}/trials?numbers="
        trials = sorted({run.trial for run in results.promotions})
        links = ", ".join(f"[trial {trial}]({page}{trial})" for trial in trials)
        lines.append(f"Full runs, with pictures of networks and learning curves: {links}.")
    return "\n\n".join([*lines, f"More is in `{folder.report}`."])


def _why_another(results: Results) -> str:
    """Why the network above is not the dashboard's best trial; empty if it is."""
    chosen, short = winner(results.promotions), results.complete[:1]
    if not chosen or not short or chosen[0].trial == short[0].number:
        return ""
    reached = scored(percent(score_of(short[0])), results.spec.scored_by)
    return (
        f"Optuna's best trial is trial {short[0].number}: it has the best short run ({reached}). The full runs put "
        f"trial {chosen[0].trial} first, and full runs decide."
    )


def _plain(text: str) -> str:
    """The text with Markdown's special characters escaped."""
    return "".join(f"\\{letter}" if letter in "\\*_<[#|`" else letter for letter in text)


def _quoted(text: str) -> str:
    """The text as code in Markdown, whatever it contains."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"


def _uploaded(folder: RunFolder, trial: "_Trial", runs: Sequence[Promotion], size: tuple[int, int]) -> dict[str, str]:
    """Give the dashboard the trial's pictures that it lacks; returns the paths of all, by their file names."""
    from optuna_dashboard.artifact import get_artifact_path

    folder.artifacts.mkdir(parents=True, exist_ok=True)
    store, paths = FileSystemArtifactStore(folder.artifacts), {}
    for name, draw in _pictures(runs, size):
        # An id derived from the name, so nothing exists twice.
        artifact = str(uuid5(NAMESPACE_URL, name))
        # Optuna accepts no artifact for an ended trial, but the dashboard also looks here. It also records here
        # what was deleted, which stays deleted.
        key = f"dashboard:artifacts:{trial.id}:{artifact}"
        listed = json.loads(trial.storage.known.get(key, "{}"))
        if listed is None:
            continue
        if not _is_there(store, artifact):
            store.write(artifact, BytesIO(draw().encode()))
        if not listed:
            about = {"artifact_id": artifact, "filename": name, "mimetype": "image/svg+xml", "encoding": None}
            trial.storage.set_study_system_attr(study_id(trial.study), key, json.dumps(about))
        paths[name] = get_artifact_path(trial, artifact)
    return paths


def _pictures(runs: Sequence[Promotion], size: tuple[int, int]) -> Iterator[tuple[str, Callable[[], str]]]:
    """The pictures of a trial's full runs: file names, and how to draw them."""
    for run in runs:
        # A refit has no validation images left, and a run that diverged at once has no epochs.
        if run.history and not run.refit:
            name = f"trial-{run.trial}-epochs-{run.recipe.epochs}-seed-{run.seed}-learning-curve.svg"
            points = list(enumerate(run.curve, start=1))
            measure = named(run.score, "validation accuracy")
            yield name, partial(curve, points, _titled(run), measure, standalone=True)
    yield f"trial-{runs[0].trial}-network.svg", partial(diagram, runs[0].network, size, standalone=True)


def _is_there(store: FileSystemArtifactStore, artifact: str) -> bool:
    with suppress(ArtifactNotFound):
        store.open_reader(artifact).close()
        return True
    return False


@dataclass(frozen=True)
class _Storage:
    """A study's storage as the dashboard's functions use it, with the study's attributes read in advance.

    Each of these functions reads all attributes, and every note is one: this takes longer with every trial.
    """

    study: optuna.Study
    known: Mapping[str, Any]  # all attributes, or those of a trial without a note: none

    def get_study_system_attrs(self, _: int) -> Mapping[str, Any]:
        return self.known

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        storage_of(self.study).set_study_system_attr(study_id, key, value)


def _read(study: optuna.Study) -> _Storage:
    """The storage, with all attributes of the study as they are now."""
    return _Storage(study, storage_of(study).get_study_system_attrs(study_id(study)))


@dataclass(frozen=True)
class _Trial:
    """A trial as the dashboard's functions use it: Optuna's own has no storage once it has ended."""

    storage: _Storage
    study: optuna.Study
    _trial_id: int  # as the dashboard's functions read it

    @property
    def id(self) -> int:
        """The trial's id in the storage."""
        return self._trial_id


def _write(noted: optuna.Study | _Trial, body: str) -> None:
    """Write a note below any text that people have added, unless it is unchanged."""
    from optuna_dashboard import get_note, save_note

    old = get_note(noted)
    by_hand = old.partition(OURS)[0].strip()
    note = "\n\n".join([*([by_hand] if by_hand else []), OURS, body])
    if note != old:
        save_note(noted, note)


def _attempted(what: str, do: Callable[[], None]) -> bool:
    """Do something optional. Returns whether it worked; if not, the reason is logged."""
    try:
        do()
    except Exception as error:
        log.warning("%s could not be written (%s): all else goes on", what, reason_of(error), exc_info=True)
        return False
    return True
