"""The commands that train full runs, as functions: promote, fidelity, reproduce."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import TrialState
from rich.console import RenderableType

from search.between import Watcher
from search.checkpoints import save_checkpoint
from search.completion import shipped_studies
from search.console import epoch_bar, fidelity_table, loading_bars, logged_to, say_full_runs_time, say_winner
from search.data_shape import with_data_shape
from search.errors import CheckpointError, ModelError, RunError, SpecError, UserError
from search.fidelity import MIN_PAIRS, Fidelity, advice, measured_on, pick
from search.forecast import epoch_seconds
from search.formatting import are
from search.formatting import count as count_of
from search.front import front_of, points_of_trials, spread
from search.front_section import front_table
from search.full_front import check_front
from search.identity import check, open_study, spec_of
from search.interrupt import stop_requested
from search.ladder import climb, parse_ladder
from search.live_report import FULL_RUNS, LiveReport
from search.loggers import Loggers, check_loggers, logging_to, outcome_of
from search.notes import publish
from search.promoter import Promoter
from search.promotions import Promotion, best_run, finished, winner
from search.published import PROTOCOLS, Published, Reproduction
from search.published_view import published_table, reproduction_notes, reproduction_table
from search.ray_workers import run_workers
from search.report import write_report
from search.reproducer import Reproducer
from search.results import fidelity_of, read_results
from search.run_folder import RunFolder, RunRef, check_trainable, note_promoted, reproduction_folder
from search.scores import named
from search.session import Placement, Session, open_session, test_of, with_images_at
from search.spec import PromoteSpec, StudySpec, load_study
from search.study import all_diverged, lower_rates
from search.tables import promotion_table
from search.terminal import console, draw, is_live, log, program, say
from search.trials import TrialRecord, finished_trials, records, score_of
from train_core.device import describe, gpu_index, release_memory
from train_core.results import EpochResult

FullRun = tuple[TrialRecord, int, int]  # trial, epochs, seed


@dataclass(frozen=True, kw_only=True)
class PromoteFlags:
    """Flags of a command that override the study's promotion plan; None: as in the study."""

    top: int | None = None
    front: int | None = None
    epochs: int | None = None
    ladder: str | None = None
    seeds: int | None = None
    refit: bool | None = None
    mirrored: bool | None = None
    asam: float | None = None

    def over(self, plan: PromoteSpec) -> PromoteSpec:
        """The plan with these flags applied.

        Raises:
            SpecError: they contradict each other, or the ladder cannot be read.

        """
        if self.front is not None and (self.top or self.ladder is not None):
            raise SpecError("--front says which trials, and how many: leave out --top and --ladder")
        if self.front is not None and self.front < 2:
            raise SpecError(f"--front {self.front} is no front: give the number of networks along it, 2 or more")
        if self.ladder is not None and (self.top or self.epochs):
            raise SpecError("--ladder says how many trials and epochs: leave out --top and --epochs")
        plain = {"seeds": self.seeds, "refit": self.refit, "mirrored": self.mirrored, "asam": self.asam}
        changes: dict[str, Any] = {name: value for name, value in plain.items() if value is not None}
        if self.ladder is not None:
            parse_ladder(self.ladder, "--ladder")
            changes |= {"ladder": self.ladder, "front": 0}
        elif self.top or self.epochs or self.front:
            last = plan.rungs[-1]
            changes |= {"ladder": "", "top": self.top or last.top, "epochs": self.epochs or last.epochs}
            changes |= {"front": self.front or (0 if self.top else plan.front)}
        return plan.model_copy(update=changes)


def promote(ref: RunRef, placement: Placement, flags: PromoteFlags, *, data: str | None = None) -> list[Promotion]:
    """Train the best trials of a run in full runs, rung by rung, and read the test split for those of the last rung.

    `placement.workers` candidates are trained at a time, each with its share of a GPU. Finished work is not repeated.
    `data` is where the images of the run are now, if they were moved. Returns the full runs of the last rung, and the
    refit if there is one.

    Raises:
        UserError: the user can fix it; the message says how.

    """
    check_loggers(placement.log)
    folder = ref.find()
    check_trainable(folder)
    spec = spec_of(folder)
    plan = flags.over(spec.promote)
    image = check_front(folder, spec) if plan.front else None
    with folder.promoting(), logged_to(folder):
        study = open_study(folder)
        _check_complete(study, plan.rungs[0].top)
        _check_asam(folder, plan.asam, records(study))
        spec = with_images_at(spec, data)
        session = _session_of(folder, spec, study, placement)
        with (
            LiveReport(folder, study, FULL_RUNS) as report,
            full_trainer(
                folder, spec, session, placement, mirrored=plan.mirrored, asam=plan.asam, report=report
            ) as full_runs,
        ):
            say(f"{folder.name}: {_in_words(plan)}, on {describe(session.device)}{_shared_by(placement, session)}")
            trials = _along(records(study), plan, spec, image)
            say_full_runs_time(_planned(folder, plan, spec, trials), placement.speedup(session))
            done = _climb(full_runs, plan, spec, trials)
            if best := best_run(finished(folder)):
                full_runs.promoter.draw_batch(best)
        note_promoted(folder, _as_command(folder, plan))
        draw(promotion_table(finished(folder)))
        say_winner(done, measured_on(folder, spec.scored_by))
        for result in done:
            log.info("%s", result)
        if not session.data.has_test:
            say(
                f"{spec.data} has no test split: the {named(spec.scored_by, 'validation accuracies')} are those that "
                "the choice was made by, and flatter it."
            )
        results = read_results(folder)
        if image is not None:
            draw(front_table(results, image))
        write_report(folder, results)
        publish(folder, results, session.data.size)
        if winner(done):
            front = " --front" if plan.front else ""
            say(f"next: {program()} errors {folder.name}   or: {program()} export {folder.name}{front}")
        say(f"report: {folder.report}")
    return done


def _along(
    trials: Sequence[TrialRecord], plan: PromoteSpec, spec: StudySpec, image: tuple[int, int] | None
) -> Sequence[TrialRecord]:
    """The trials that a plan chooses from: along a front, those that it promotes; otherwise all.

    Raises:
        RunError: the front has fewer networks.

    """
    if image is None:
        return trials
    return [each.of for each in spread(front_of(points_of_trials(spec, image, trials)), plan.front)]


def _climb(
    full_runs: "FullTrainer", plan: PromoteSpec, spec: StudySpec, trials: Sequence[TrialRecord]
) -> list[Promotion]:
    """Train the rungs of a plan; returns the full runs of the last rung, and the refit if there is one."""

    def rung(chosen: Sequence[TrialRecord], epochs: int) -> list[float]:
        full_runs.train_ahead([(trial, epochs, spec.seed) for trial in chosen])
        trained = [full_runs.train(trial, epochs, spec.seed, tests=False) for trial in chosen]
        return [result.ranking_score for result in trained]

    finalists = climb(trials, plan.rungs, plan.families, rung)
    epochs = plan.rungs[-1].epochs
    last = [(trial, epochs, seed) for seed in range(spec.seed, spec.seed + plan.seeds) for trial in finalists]
    full_runs.train_ahead(last)
    done = [full_runs.train(*each) for each in last]
    best = winner(done)
    if plan.refit and best:
        chosen = next(trial for trial in finalists if trial.number == best[0].trial)
        done.append(full_runs.train(chosen, epochs, spec.seed, refit=True))
    return done


def _planned(
    folder: RunFolder, plan: PromoteSpec, spec: StudySpec, trials: Sequence[TrialRecord]
) -> list[tuple[float, int]]:
    """For each full run that a plan has yet to train: seconds per epoch, and epochs; empty: not known.

    The trials of later rungs are known only for finished full runs; for the others, short runs are used to guess.
    """
    ahead: list[tuple[float | None, int]] = []

    def add(chosen: Sequence[TrialRecord], epochs: int, seed: int, **how: bool) -> None:
        for trial in chosen:
            if not folder.promotion(trial.number, epochs, seed, **how).result.exists():
                seconds = epoch_seconds(trial)
                # A sharpness-aware step computes its gradients twice.
                ahead.append((seconds and seconds * (2 if plan.asam else 1), epochs))

    def rung(chosen: Sequence[TrialRecord], epochs: int) -> list[float]:
        add(chosen, epochs, spec.seed)
        done = {(run.trial, run.recipe.epochs, run.seed): run.ranking_score for run in finished(folder)}
        return [done.get((trial.number, epochs, spec.seed), score_of(trial)) for trial in chosen]

    finalists = climb(trials, plan.rungs, plan.families, rung)
    epochs = plan.rungs[-1].epochs
    for seed in range(spec.seed, spec.seed + plan.seeds):
        add(finalists, epochs, seed)
    if plan.refit:
        add(finalists[:1], epochs, spec.seed, refit=True)
    return _known(ahead)


def _known(ahead: Sequence[tuple[float | None, int]]) -> list[tuple[float, int]]:
    """The full runs, if the seconds of all are known; otherwise nothing."""
    known = [(seconds, epochs) for seconds, epochs in ahead if seconds is not None]
    return known if len(known) == len(ahead) else []


def fidelity(
    ref: RunRef, placement: Placement, *, trials: int = 12, epochs: int | None = None, data: str | None = None
) -> Fidelity:
    """Measure how far the short runs' ranking can be trusted: train trials of every score in full, and compare.

    `trials` are spread over scores and families; with 0, existing full runs are compared. The test split is not read.
    `epochs` is by default the length of a full run; `placement` and `data` as in `promote`.

    Raises:
        UserError: the user can fix it; the message says how.

    """
    folder = ref.find()
    check_trainable(folder)
    spec = spec_of(folder)
    full_epochs = epochs or spec.promote.rungs[-1].epochs
    if 0 < trials < MIN_PAIRS:
        raise SpecError(f"--trials {trials} is too few to compare ranks: give at least --trials {MIN_PAIRS}, or 0")
    if trials and full_epochs <= spec.epochs:
        raise SpecError(
            f"a full run of {count_of(full_epochs, 'epoch')} is no longer than a short run of {spec.epochs}: give a "
            "larger --epochs"
        )
    with folder.promoting(), logged_to(folder):
        study = open_study(folder)
        if trials:
            _train_every_score(folder, with_images_at(spec, data), study, placement, trials, full_epochs)
        measured = fidelity_of(folder, spec, study)
        if measured is None:
            raise RunError(
                f"run {folder.name!r} has fewer than {MIN_PAIRS} trials with full runs of one length: give --trials 12"
            )
        draw(fidelity_table(measured))
        say(advice(measured))
        write_report(folder)
        say(f"report: {folder.report}")
    return measured


def _train_every_score(
    folder: RunFolder, spec: StudySpec, study: optuna.Study, placement: Placement, trials: int, epochs: int
) -> None:
    """Train `trials` trials in full, spread over all scores and families."""
    _check_complete(study, MIN_PAIRS)
    trained = finished(folder)
    asam = trained[0].recipe.asam if trained else spec.promote.asam
    _check_asam(folder, asam, records(study))
    session = _session_of(folder, spec, study, placement)
    picked = pick(records(study), trials, spec.promote.families)
    all_there_are = f" (not {trials}: no more are complete)" if len(picked) < trials else ""
    say(
        f"{folder.name}: {len(picked)} trials of every score{all_there_are} for {count_of(epochs, 'epoch')}"
        f"{_asam_in_words(asam)}, on {describe(session.device)}{_shared_by(placement, session)}; "
        "the test split is not read"
    )
    new = [trial for trial in picked if not folder.promotion(trial.number, epochs, spec.seed).result.exists()]
    pace = [(epoch_seconds(trial), epochs) for trial in new]
    say_full_runs_time(_known(pace), placement.speedup(session))
    with (
        LiveReport(folder, study, FULL_RUNS) as report,
        full_trainer(folder, spec, session, placement, mirrored=False, asam=asam, report=report) as full_runs,
    ):
        full_runs.train_ahead([(trial, epochs, spec.seed) for trial in picked])
        for trial in picked:
            full_runs.train(trial, epochs, spec.seed, tests=False)
    note_promoted(folder, f"search fidelity {shlex.quote(folder.name)} --trials {trials} --epochs {epochs}")
    publish(folder, read_results(folder), session.data.size)


def _session_of(folder: RunFolder, spec: StudySpec, study: optuna.Study, placement: Placement) -> Session:
    """The session in which the run's full runs train."""
    with loading_bars() as progress:
        session = open_session(spec, placement.device, progress)
    check(study, spec, session.shape, folder, session.listing)
    return session


def _shared_by(placement: Placement, session: Session) -> str:
    """How many full runs train, or could train, at a time."""
    if placement.workers > 1:
        return f", {placement.workers} at a time"
    gpus = torch.cuda.device_count() if session.device.type == "cuda" and gpu_index(session.device) is None else 1
    return f" (one of {gpus}: --workers {gpus} trains on all)" if gpus > 1 else ""


def _check_complete(study: optuna.Study, top: int) -> None:
    """Refuse before any data is loaded what would otherwise be refused after loading."""
    complete = len(records(study, TrialState.COMPLETE))
    if complete == 0:
        ended = finished_trials(study)
        if all_diverged(ended):
            whose = f"all {len(ended):,} trials" if len(ended) > 1 else "the only trial"
            raise RunError(f"{whose} of run {study.study_name!r} diverged: {lower_rates(ended)} for `search run`")
        raise RunError(f"run {study.study_name!r} has no complete trial yet: continue it with `search run`")
    if complete < top:
        raise RunError(
            f"{top} trials are wanted, but {complete} {are(complete)} complete: "
            f"continue the search with `search run`, or ask for at most {complete}"
        )


def _check_asam(folder: RunFolder, asam: float, trials: Sequence[TrialRecord]) -> None:
    """Refuse full runs that could not be compared with finished ones, or whose precision does not allow it.

    So all full runs of a run have the same `asam`, and none can be mistaken for another.
    """
    other = next((run.recipe.asam for run in finished(folder) if run.recipe.asam != asam), None)
    if other is not None:
        raise SpecError(
            f"the full runs of {folder.name!r} were trained with asam {other:g}, not {asam:g}: give --asam {other:g}, "
            f"or delete {folder.root / 'promoted'} to train all of them again"
        )
    if asam and any(trial.recipe.precision == "fp16" for trial in trials if trial.is_complete):
        raise SpecError(
            f"asam does not work in fp16, in which {folder.name!r} trains: give --asam 0, or search with --precision "
            "bf16 and another --name"
        )


def _asam_in_words(asam: float) -> str:
    return f", asam {asam:g}" if asam else ""


def _as_command(folder: RunFolder, plan: PromoteSpec) -> str:
    ladder = "--ladder " + ",".join(f"{rung.top}x{rung.epochs}" for rung in plan.rungs)
    if plan.front:
        ladder = f"--front {plan.front} --epochs {plan.rungs[-1].epochs}"
    also = (f" --seeds {plan.seeds}" if plan.seeds > 1 else "") + (" --refit" if plan.refit else "")
    also += (" --mirrored" if plan.mirrored else "") + (f" --asam {plan.asam:g}" if plan.asam else "")
    return f"search promote {shlex.quote(folder.name)} {ladder}{also}"


def _in_words(plan: PromoteSpec) -> str:
    """Example: the top 8 for 60 epochs, the best 3 of those for 200, with 3 seeds each, then the winner as a refit."""
    first, *others = plan.rungs
    which = f"{first.top} networks along the front" if plan.front else f"the top {first.top}"
    steps = [f"{which} for {count_of(first.epochs, 'epoch')}"]
    steps += [f"the best {rung.top} of those for {rung.epochs}" for rung in others]
    steps.append("once each" if plan.seeds == 1 else f"with {plan.seeds} seeds each")
    refit = ["then the winner with the validation images in training"] if plan.refit else []
    return ", ".join(steps + refit) + _asam_in_words(plan.asam)


def _nothing(_result: EpochResult) -> None:
    """Nobody watches the epochs."""


@dataclass(frozen=True, kw_only=True)
class FullTrainer:
    """Trains full runs of a run's trials: in this process with a bar, or in advance in several processes."""

    promoter: Promoter
    spec: StudySpec
    session: Session
    placement: Placement
    stop: Callable[[], bool]
    loggers: Loggers
    report: LiveReport | None = None  # None: another process writes it
    say: Callable[[str], None] = say  # prints how a request to stop is handled
    epoch_ended: Callable[[EpochResult], None] = _nothing  # is called after each epoch in this process

    def train(self, trial: TrialRecord, epochs: int, seed: int, **how: bool) -> Promotion:
        """Train a trial's network; stops when asked to."""
        what = f"trial {trial.number}, seed {seed}{', refit' if how.get('refit') else ''}"
        name = self.promoter.folder.promotion(trial.number, epochs, seed, refit=how.get("refit", False)).root.name
        recipe = trial.recipe.model_copy(update={"epochs": epochs, "seed": seed})
        logged = self.loggers.full_run(name, trial.network, recipe)
        held_out = not how.get("refit")
        with epoch_bar(what, epochs, self.promoter.score, self.stop, held_out=held_out) as bar:

            def epoch_ended(result: EpochResult) -> None:
                bar.epoch_ended(result)
                logged(result)
                self.epoch_ended(result)

            watcher = Watcher(stop=self.stop, moved=bar.moved, say=self.say)
            run = self.promoter.train(trial, epochs, seed, epoch_ended, watcher, **how)
        self.loggers.end(name, outcome_of(run))
        self._has_ended()
        return run

    def _has_ended(self) -> None:
        if self.report is not None:
            self.report.something_ended()

    def train_ahead(self, full_runs: Sequence[FullRun]) -> None:
        """With several workers, train these in parallel, so that they are finished when they are needed one by one."""
        placement, device, folder = self.placement, self.session.device, self.promoter.folder
        if placement.workers == 1:
            return
        release_memory(device)
        trained = {each.root for each in folder.promotions() if each.result.exists()}

        def say_trained() -> None:
            for each in folder.promotions():
                if each.result.exists() and each.root not in trained:
                    trained.add(each.root)
                    say(f"{each.root.name} is trained")
                    self._has_ended()

        run_workers(
            min(placement.workers, len(full_runs)),
            partial(
                _train_some, folder.absolute(), self.spec, device.type, full_runs, self.promoter.asam, placement.log
            ),
            gpus_each=placement.gpus_per_worker if device.type == "cuda" else 0,
            poll=say_trained,
            stop=self.stop,
            gpu=gpu_index(device),
        )
        if self.stop():
            raise KeyboardInterrupt


def _train_some(
    folder: RunFolder, spec: StudySpec, device: str, full_runs: Sequence[FullRun], asam: float, log: tuple[str, ...]
) -> None:
    """The work of one of several workers: train the full runs that no other worker trains."""
    console.quiet = True
    session = open_session(spec, device)
    with (
        logged_to(folder),
        full_trainer(folder, spec, session, Placement(log=log), mirrored=False, asam=asam) as trainer,
    ):
        for trial, epochs, seed in full_runs:
            with folder.promotion(trial.number, epochs, seed).taken() as is_ours:
                if is_ours:
                    trainer.train(trial, epochs, seed, tests=False)


@contextmanager
def full_trainer(
    folder: RunFolder,
    spec: StudySpec,
    session: Session,
    placement: Placement,
    *,
    mirrored: bool,
    asam: float,
    report: LiveReport | None = None,
) -> Iterator[FullTrainer]:
    """The trainer of full runs; it trains until it is asked to stop."""
    with stop_requested(is_live) as stop, logging_to(placement.log, folder) as loggers:
        promoter = Promoter(
            folder=folder,
            data=session.data,
            load_test=test_of(spec, session.data),
            device_name=describe(session.device),
            mirrored=mirrored,
            asam=asam,
            score=spec.scored_by,
            save=partial(save_checkpoint, stop=stop),
            stop=stop,
        )
        yield FullTrainer(
            promoter=promoter,
            spec=spec,
            session=session,
            placement=placement,
            stop=stop,
            loggers=loggers,
            report=report,
        )


def reproduce(
    study: str,
    rows: Sequence[str] = (),
    *,
    flags: Mapping[str, Any],
    runs: Path,
    epochs: int | None = None,
    protocol: str = "held-out",
    device: str = "auto",
) -> list[Reproduction]:
    """Train rows of the report in a study file exactly as published, and compare with the printed results.

    `rows` are names or patterns (`A5*`); empty: all. `flags` override the study's values (data, seed, precision);
    `epochs` is the length of every row. Finished rows are not trained again.

    Raises:
        UserError: the user can fix it; the message says how.

    """
    spec, published = _report_of(study, flags)
    chosen = published.chosen(rows)
    wanted = next((known for known in PROTOCOLS if known == protocol), None)
    if wanted is None:
        raise SpecError(f"--protocol {protocol!r} is unknown: give one of {', '.join(PROTOCOLS)}")
    with loading_bars() as progress:
        session = open_session(spec, device, progress)
    folder = reproduction_folder(runs, study)
    folder.create()
    with logged_to(folder), stop_requested(is_live) as stop:
        say(f"{published.title}: {count_of(len(chosen), 'row')}, on {describe(session.device)}")
        reproducer = Reproducer(
            folder=folder,
            data=session.data,
            load_test=test_of(spec, session.data),
            protocol="held-out" if published.validates and wanted == "published" else wanted,
            device_name=describe(session.device),
            save=partial(save_checkpoint, stop=stop),
            stop=stop,
        )
        done: list[Reproduction] = []
        failed: list[UserError] = []
        for row in chosen:
            recipe = published.recipe_of(row, epochs=epochs, seed=spec.seed, precision=session.precision)
            network = with_data_shape(spec.baselines[published.rows[row].network], session.shape)
            try:
                with epoch_bar(row, recipe.epochs, stop=stop, held_out=reproducer.protocol != "all-images") as bar:
                    watcher = Watcher(stop=stop, moved=bar.moved, say=say)
                    done.append(reproducer.train(row, network, recipe, bar.epoch_ended, watcher))
            except (CheckpointError, ModelError, RunError) as error:  # the other rows can still be trained
                failed.append(type(error)(f"{row}: {error}"))
        draw(reproduction_table(published, done))
        for note in reproduction_notes(published, spec.data_name, done):
            say(note)
        for problem in failed[1:]:
            say(str(problem))
        if failed:
            raise failed[0]
    return done


def rows_of(study: str, rows: Sequence[str] = ()) -> RenderableType:
    """The rows of the report in a study file, as printed.

    Raises:
        UserError: the user can fix it; the message says how.

    """
    spec, published = _report_of(study, {})
    return published_table(published, published.chosen(rows), spec.baselines)


def _report_of(study: str, flags: Mapping[str, Any]) -> tuple[StudySpec, Published]:
    spec = load_study(study, flags)
    if spec.published is None or not spec.published.rows:
        reports = ", ".join(name for name in shipped_studies() if load_study(name, {}).published)
        raise SpecError(f"study {study} holds no report to reproduce: give one of {reports}")
    return spec, spec.published
