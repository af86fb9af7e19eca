"""The commands that train whole networks at length, as functions: promote, fidelity, reproduce."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState
from rich.console import RenderableType

from search import study as studies
from search.checkpoints import save_checkpoint
from search.completion import shipped_studies
from search.console import EpochBar, epoch_bar, fidelity_table, logged_to, say_winner
from search.errors import CheckpointError, ModelError, RunError, SpecError, UserError
from search.fidelity import MIN_PAIRS, Fidelity, advice, pick
from search.formatting import count as count_of
from search.interrupt import stop_requested
from search.ladder import climb, parse_ladder
from search.notes import publish
from search.promoter import Promoter
from search.promotions import Promotion, finished, winner
from search.published import PROTOCOLS, Published, Reproduction
from search.ray_workers import run_workers
from search.report import fidelity_of, read_results, write_report
from search.reproducer import Reproducer
from search.run_folder import RunFolder, find_run, note_promoted, reproduction_folder
from search.session import prepare, test_of
from search.spec import PromoteSpec, StudySpec, load_study
from search.storage import address_of
from search.study import data_shape_of, fitted
from search.tables import promotion_table, published_table, reproduction_notes, reproduction_table
from search.terminal import console, draw, log, say
from train_core.data import TrainingData
from train_core.device import describe, gpu_index, release_memory
from train_core.results import EpochResult


def promote(
    name: str | None,
    *,
    runs: Path,
    top: int | None = None,
    epochs: int | None = None,
    ladder: str | None = None,
    seeds: int | None = None,
    refit: bool | None = None,
    mirrored: bool | None = None,
    workers: int = 1,
    gpus_per_worker: float | None = None,
    device: str = "auto",
    storage: str | None = None,
) -> list[Promotion]:
    """Train the best trials of a run for longer, rung by rung, and read the test split for those of the last rung.

    The flags override the study's. `workers` trains so many candidates at a time, each with `gpus_per_worker` of a GPU
    (none: an equal share, at most one), all of them on one GPU where the `device` is one of several (`cuda:1`). What is
    finished is not done again. Returns the runs of the last rung, and the refit where there is one.

    Raises:
        UserError: whatever the user can put right.

    """
    folder = find_run(runs, name, address_of(storage))
    spec = load_study(str(folder.study_file), {})
    plan = _with_flags(spec.promote, top, epochs, ladder, seeds=seeds, refit=refit, mirrored=mirrored)
    with folder.promoting(), logged_to(folder):
        study = studies.open_study(folder)
        _check_complete(study, plan.rungs[0].top)
        where, _, data = prepare(spec, device)
        studies.check(study, spec, data_shape_of(data), folder)
        with _promoter(folder, spec, data, where, mirrored=plan.mirrored) as (train, stop):
            say(f"{folder.name}: {_in_words(plan)}, on {describe(where)}{_shared_by(workers, where)}")
            ahead = partial(_train_ahead, folder, spec, where, workers, gpus_per_worker, stop)

            def rung(trials: Sequence[FrozenTrial], epochs: int) -> list[float]:
                ahead([(trial, epochs, spec.seed) for trial in trials])
                return [train(trial, epochs, spec.seed, tests=False).val_accuracy or 0.0 for trial in trials]

            finalists = climb(study.get_trials(deepcopy=False), plan.rungs, plan.families, rung)
            length, all_seeds = plan.rungs[-1].epochs, range(spec.seed, spec.seed + plan.seeds)
            last = [(trial, length, seed) for seed in all_seeds for trial in finalists]
            ahead(last)
            done = [train(*each) for each in last]
            best = winner(done)
            if plan.refit and best:
                chosen = next(trial for trial in finalists if trial.number == best[0].trial)
                done.append(train(chosen, length, spec.seed, refit=True))
        note_promoted(folder, _as_command(folder, plan))
        draw(promotion_table(finished(folder)))
        say_winner(done)
        for result in done:
            log.info("%s", result.model_dump_json(exclude={"history"}))
        if not data.has_test:
            say(f"{spec.data} has no test split: the validation accuracies are those that the choice was made by.")
        results = read_results(folder)
        write_report(folder, results)
        publish(folder, results, data.size)
        if best:
            say(f"next: search export {folder.name}")
        say(f"report: {folder.report}")
    return done


def fidelity(
    name: str | None,
    *,
    runs: Path,
    trials: int = 12,
    epochs: int | None = None,
    workers: int = 1,
    gpus_per_worker: float | None = None,
    device: str = "auto",
    storage: str | None = None,
) -> Fidelity:
    """Measure how far the short runs' ranking can be trusted: train some trials of every score at length, and compare.

    `trials` are spread over scores and families; with 0, the answer comes from the longer runs that are there. No test
    split is read. `epochs` is that of a full run unless given; `workers` and `gpus_per_worker` as in `promote`.

    Raises:
        UserError: whatever the user can put right.

    """
    folder = find_run(runs, name, address_of(storage))
    spec = load_study(str(folder.study_file), {})
    length = epochs or spec.promote.rungs[-1].epochs
    if 0 < trials < MIN_PAIRS:
        raise SpecError(f"{trials} trials are too few to compare ranks: give at least --trials {MIN_PAIRS}, or 0")
    if trials and length <= spec.epochs:
        raise SpecError(f"{length} epochs are no more than a short run's {spec.epochs}: give a larger --epochs")
    with folder.promoting(), logged_to(folder):
        study = studies.open_study(folder)
        if trials:
            _check_complete(study, MIN_PAIRS)
            where, _, data = prepare(spec, device)
            studies.check(study, spec, data_shape_of(data), folder)
            picked = pick(study.get_trials(deepcopy=False), trials, spec.promote.families)
            say(
                f"{folder.name}: {len(picked)} trials of every score for {length} epochs, on {describe(where)}"
                f"{_shared_by(workers, where)}; the test split is not read"
            )
            with _promoter(folder, spec, data, where, mirrored=False) as (train, stop):
                long_runs = [(trial, length, spec.seed) for trial in picked]
                _train_ahead(folder, spec, where, workers, gpus_per_worker, stop, long_runs)
                for trial in picked:
                    train(trial, length, spec.seed, tests=False)
            note_promoted(folder, f"search fidelity {shlex.quote(folder.name)} --trials {trials} --epochs {length}")
            publish(folder, read_results(folder), data.size)
        found = fidelity_of(folder, spec, study)
        if found is None:
            raise RunError(
                f"run {folder.name!r} has fewer than {MIN_PAIRS} trials with longer runs of one length: "
                "give --trials 12"
            )
        draw(fidelity_table(found))
        say(advice(found))
        write_report(folder)
        say(f"report: {folder.report}")
    return found


def _shared_by(workers: int, where: torch.device) -> str:
    """How many longer runs go on at a time, or could."""
    if workers > 1:
        return f", {workers} at a time"
    gpus = torch.cuda.device_count() if where.type == "cuda" and gpu_index(where) is None else 1
    return f" (one of {gpus}: --workers {gpus} trains on all)" if gpus > 1 else ""


LongRun = tuple[FrozenTrial, int, int]  # trial, epochs, seed


def _train_ahead(
    folder: RunFolder,
    spec: StudySpec,
    where: torch.device,
    workers: int,
    gpus_per_worker: float | None,
    stop: Callable[[], bool],
    long_runs: Sequence[LongRun],
) -> None:
    """Train these runs several at a time, so that they are finished when they are asked for one by one."""
    if workers == 1:
        return
    release_memory(where)
    told = {result.root for result in folder.promotions() if result.result.exists()}

    def tell() -> None:
        for each in folder.promotions():
            if each.result.exists() and each.root not in told:
                told.add(each.root)
                say(f"{each.root.name} is trained")

    run_workers(
        min(workers, len(long_runs)),
        partial(_train_some, folder.absolute(), spec, where.type, long_runs),
        gpus_each=gpus_per_worker if where.type == "cuda" else 0,
        poll=tell,
        stop=stop,
        gpu=gpu_index(where),
    )
    if stop():
        raise KeyboardInterrupt


def _train_some(folder: RunFolder, spec: StudySpec, device: str, long_runs: Sequence[LongRun]) -> None:
    """What one of several workers does: train what no other worker has."""
    console.quiet = True
    where, _, data = prepare(spec, device)
    with logged_to(folder), _promoter(folder, spec, data, where, mirrored=False) as (train, _):
        for trial, epochs, seed in long_runs:
            with folder.promotion(trial.number, epochs, seed).taken() as is_ours:
                if is_ours:
                    train(trial, epochs, seed, tests=False)


def _with_flags(
    plan: PromoteSpec, top: int | None, epochs: int | None, ladder: str | None, **others: Any
) -> PromoteSpec:
    """The study's plan with the flags that were given over it."""
    if ladder is not None and (top or epochs):
        raise SpecError("--ladder says how many and how long: leave out --top and --epochs")
    flags: dict[str, Any] = {key: value for key, value in others.items() if value is not None}
    if ladder is not None:
        parse_ladder(ladder)
        flags["ladder"] = ladder
    elif top or epochs:
        flags |= {"ladder": "", "top": top or plan.rungs[-1].top, "epochs": epochs or plan.rungs[-1].epochs}
    return plan.model_copy(update=flags)


def _check_complete(study: optuna.Study, top: int) -> None:
    """Refuse before any data is loaded what could only be refused after."""
    complete = len(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]))
    if complete == 0:
        raise RunError(f"run {study.study_name!r} has no complete trial yet: continue it with `search run`")
    if complete < top:
        raise RunError(
            f"{top} trials are wanted, but {complete} {'is' if complete == 1 else 'are'} complete: "
            "continue the search with `search run`, or ask for fewer"
        )


def _as_command(folder: RunFolder, plan: PromoteSpec) -> str:
    ladder = ",".join(f"{rung.top}x{rung.epochs}" for rung in plan.rungs)
    also = (f" --seeds {plan.seeds}" if plan.seeds > 1 else "") + (" --refit" if plan.refit else "")
    return f"search promote {shlex.quote(folder.name)} --ladder {ladder}{also}{' --mirrored' if plan.mirrored else ''}"


def _in_words(plan: PromoteSpec) -> str:
    """As in: the top 8 for 60 epochs, the best 3 of those for 200, each with 3 seeds, then a refit."""
    first, *others = plan.rungs
    steps = [f"the top {first.top} for {first.epochs} epochs"]
    steps += [f"the best {rung.top} of those for {rung.epochs}" for rung in others]
    steps.append("once each" if plan.seeds == 1 else f"with {plan.seeds} seeds each")
    return ", ".join(steps + (["then the winner on validation images, too"] if plan.refit else []))


@contextmanager
def _promoter(
    folder: RunFolder, spec: StudySpec, data: TrainingData, where: torch.device, *, mirrored: bool
) -> Iterator[tuple[Callable[..., Promotion], Callable[[], bool]]]:
    """A function that trains a trial for longer, with a bar, and stops after an epoch when asked to; and whether so."""
    with stop_requested() as stop:
        promoter = Promoter(
            folder=folder,
            data=data,
            load_test=test_of(spec, data),
            device_name=describe(where),
            mirrored=mirrored,
            save=partial(save_checkpoint, stop=stop),
            stop=stop,
        )

        def train(trial: FrozenTrial, epochs: int, seed: int, **how: bool) -> Promotion:
            what = f"trial {trial.number}, seed {seed}{', refit' if how.get('refit') else ''}"
            with epoch_bar(what, epochs) as bar:
                return promoter.train(trial, epochs, seed, partial(_epoch_ended, bar, stop), **how)

        yield train, stop


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
    """Train rows of the report that a study file holds, as they stand, and compare with what was printed.

    `rows` are names or patterns (`A5*`), none: all; `flags` override the study's values (data, seed, precision);
    `epochs` makes every row so long. Done again, what is finished is not trained.

    Raises:
        UserError: whatever the user can put right.

    """
    spec, published = _report_of(study, flags)
    chosen = published.chosen(rows)
    wanted = next((known for known in PROTOCOLS if known == protocol), None)
    if wanted is None:
        raise SpecError(f"unknown protocol {protocol!r}: give one of {', '.join(PROTOCOLS)}")
    where, precision, data = prepare(spec, device)
    folder = reproduction_folder(runs, study)
    folder.create()
    with logged_to(folder), stop_requested() as stop:
        say(f"{published.title}: {count_of(len(chosen), 'row')}, on {describe(where)}")
        reproducer = Reproducer(
            folder=folder,
            data=data,
            load_test=test_of(spec, data),
            protocol="held-out" if published.validates else wanted,
            device_name=describe(where),
            save=partial(save_checkpoint, stop=stop),
            stop=stop,
        )
        done: list[Reproduction] = []
        failed: list[UserError] = []
        for row in chosen:
            recipe = published.recipe_of(row, epochs=epochs, seed=spec.seed, precision=precision)
            network = fitted(spec.baselines[published.rows[row].network], data_shape_of(data))
            try:
                with epoch_bar(row, recipe.epochs) as bar:
                    done.append(reproducer.train(row, network, recipe, partial(_epoch_ended, bar, stop)))
            except (CheckpointError, ModelError, RunError) as error:  # the other rows can be trained
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
    """The rows of the report that a study file holds, as they were printed.

    Raises:
        UserError: whatever the user can put right.

    """
    spec, published = _report_of(study, {})
    return published_table(published, published.chosen(rows), spec.baselines)


def _report_of(study: str, flags: Mapping[str, Any]) -> tuple[StudySpec, Published]:
    spec = load_study(study, flags)
    if spec.published is None or not spec.published.rows:
        reports = ", ".join(name for name in shipped_studies() if load_study(name, {}).published)
        raise SpecError(f"study {study} holds no report to reproduce: give one of {reports}")
    return spec, spec.published


def _epoch_ended(bar: EpochBar, stop: Callable[[], bool], result: EpochResult) -> None:
    bar.epoch_ended(result)
    if stop():
        raise KeyboardInterrupt
