"""The commands as functions. The command line parses, calls these, and prints."""

import math
import platform
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState
from rich.console import RenderableType

from search import study as studies
from search.card import Exported
from search.console import (
    EpochBar,
    StudyProgress,
    epoch_bar,
    fidelity_table,
    loading_bars,
    logged_to,
    say_outcome,
    say_plan,
    say_winner,
)
from search.dashboard import listening, open_browser
from search.errors import CheckpointError, ModelError, RunError, SpecError, UserError
from search.export import chosen, export_model
from search.fidelity import FEWEST, Fidelity, advice, pick
from search.interrupt import stop_requested
from search.ladder import climb, parse_ladder
from search.names import shipped_studies
from search.notes import NotedEvents, publish
from search.plan import SAMPLES, estimate, survey
from search.predict import Prediction, classify
from search.promoter import Promoter
from search.promotions import Promotion, finished, winner
from search.published import PROTOCOLS, Published, Reproduction
from search.report import fidelity_of, read_results, write_report
from search.reproducer import Reproducer
from search.run_folder import (
    RunFolder,
    control_name,
    find_run,
    new_run,
    read_facts,
    reproduction_folder,
    write_json,
)
from search.spec import CONTROLS, PromoteSpec, StudySpec, load_study, short_count
from search.storage import Address, is_loopback, parse_address, serve, write_patiently
from search.study import NAMED_TASKS, Task, fitted, task_of
from search.tables import promotion_table, published_table, reproduction_notes, reproduction_table
from search.terminal import console, draw, log, say
from search.trials import ended, root_of
from search.words import count as count_of
from search.worker import Worker
from search.workers import run_workers
from train_core import checkpoint
from train_core.data import NAMED, Split, TrainingData, default_cache, load_test, load_training
from train_core.deploy import FORMATS, check_installed
from train_core.device import describe, pick_device, pick_precision, release_memory, set_up
from train_core.loop import train
from train_core.results import EpochResult
from train_core.specs import Precision, ResNetSpec, TrainSpec, num_madds, num_params
from train_core.state import TrainState

CHECKPOINT_SHARE = 0.01  # of a short run's time, for checkpoints; what a kill can cost is what lies between two, ...
CHECKPOINT_S = 1.0  # ... at least this, and an epoch


def run(
    study: str,
    flags: Mapping[str, Any],
    *,
    runs: Path,
    name: str | None = None,
    hours: float | None = None,
    device: str = "auto",
    workers: int = 1,
    gpus_per_worker: float | None = None,
    ray_address: str | None = None,
    control: str | None = None,
    storage: str | None = None,
) -> RunFolder:
    """Run a study, or continue or join it, until it has its number of trials.

    `flags` override the study file's values; `runs` is the folder of all runs; `hours` stops in time, to be
    continued; `workers` is the number of processes on this machine or on the Ray cluster at `ray_address`, each with
    `gpus_per_worker` of a GPU (none: an equal share); `control` makes it one of `CONTROLS`, under a name of its own;
    `storage` is the address of one that several machines share. Returns the run's folder.

    Raises:
        UserError: whatever the user can put right.

    """
    started = time.time()
    spec = load_study(study, flags)
    name = name or _default_name(study, spec, flags)
    if control is not None:
        if control not in CONTROLS:
            raise SpecError(f"unknown control {control!r}: give one of {', '.join(CONTROLS)}")
        spec, name = load_study(study, {**flags, **CONTROLS[control]}), control_name(name, control)
    if spec.data not in NAMED and Path(spec.data).exists():
        spec = spec.model_copy(update={"data": str(Path(spec.data).absolute())})  # to be found from any folder
    folder = new_run(runs.absolute() if ray_address else runs, name, _address(storage))
    if ray_address and not folder.address.is_shared:
        raise SpecError("--ray-address places workers on several machines: give a --storage that they share")
    # On a cluster it is for each worker to find its device: this machine may have none.
    where, precision, data = _prepare(spec, device if ray_address is None or device == "cpu" else "auto")
    found = survey(spec, task_of(data))

    folder.create()
    with logged_to(folder):
        optuna_study, baselines = studies.join(folder, spec, task_of(data))
        facts = _facts(spec, data, where, precision, folder)
        write_json(folder.facts, facts | {"promoted": _promoted(folder)})
        with Worker(folder, optuna_study) as worker:
            done = ended(optuna_study)
            _tidy(folder, done)
            expected = estimate(spec, found, data, precision) if len(done) < spec.trials else None
            others = len(worker.others())
            say_plan(folder, spec, data, where, precision, found, baselines, len(done), expected, workers, others)
            until = started + hours * 3600 if hours is not None else float("inf")
            placed = workers > 1 or ray_address is not None
            if len(done) < spec.trials:
                with StudyProgress(done, spec.trials, logs=not placed) as progress, stop_requested() as stop:
                    if placed:
                        release_memory(where)  # of the estimate
                        theirs = where.type if ray_address is None else device.partition(":")[0]
                        studies.be_patient_until(optuna_study, stop)
                        run_workers(
                            workers,
                            partial(_work, folder.absolute(), spec, theirs, until),
                            gpus_each=gpus_per_worker if theirs in {"cuda", "auto"} else 0,
                            poll=partial(progress.catch_up, optuna_study),
                            stop=stop,
                            address=ray_address,
                        )
                    else:
                        _search(folder, spec, data, where, precision, optuna_study, worker, progress, until, stop)
                    if stop() and len(ended(optuna_study)) < spec.trials:
                        raise KeyboardInterrupt
        _tidy(folder, ended(optuna_study))
        say_outcome(folder, spec, optuna_study)
        results = read_results(folder)
        write_report(folder, results)
        publish(folder, results, data.size)
    return folder


def _tidy(folder: RunFolder, done: Sequence[FrozenTrial]) -> None:
    """Delete checkpoints of trials that have their verdict: of one killed just after it, or given up."""
    for root in folder.trials_with_checkpoints() & set(map(root_of, done)):
        checkpoint.delete(folder.trial_checkpoint(root))


def _address(storage: str | None) -> Address | None:
    return parse_address(storage) if storage else None


def _search(
    folder: RunFolder,
    spec: StudySpec,
    data: TrainingData,
    where: torch.device,
    precision: Precision,
    study: optuna.Study,
    worker: Worker,
    progress: StudyProgress,
    until: float,
    stop: Callable[[], bool],
) -> None:
    """Run trials, until a time in seconds since the epoch at the latest."""
    studies.run(
        study,
        spec,
        task_of(data),
        _Trainer(folder, data, where, stop),
        NotedEvents(study, spec.budget, progress),
        worker=worker,
        precision=precision,
        deadline=time.monotonic() + until - time.time(),
        stop=stop,
    )


def _work(folder: RunFolder, spec: StudySpec, device: str, until: float) -> None:
    """What one of several workers does. It only writes to the log: the command that started it tells."""
    console.quiet = True
    where, precision, data = _prepare(spec, device)
    folder.create()
    with logged_to(folder), stop_requested() as stop:
        study = studies.open_study(folder)
        progress = StudyProgress(ended(study), spec.trials)
        with Worker(folder, study) as worker:
            _search(folder, spec, data, where, precision, study, worker, progress, until, stop)


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
    device: str = "auto",
    storage: str | None = None,
) -> list[Promotion]:
    """Train the best trials of a run for longer, rung by rung, and read the test split for those of the last rung.

    The flags override the study's. `workers` trains so many candidates at a time, each on a GPU of its own where there
    are any. What is finished is not done again. Returns the runs of the last rung, and the refit where there is one.

    Raises:
        UserError: whatever the user can put right.

    """
    folder = find_run(runs, name, _address(storage))
    spec = load_study(str(folder.study_file), {})
    plan = _with_flags(spec.promote, top, epochs, ladder, seeds=seeds, refit=refit, mirrored=mirrored)
    with folder.promoting(), logged_to(folder):
        study = studies.open_study(folder)
        _check_complete(study, plan.rungs[0].top)
        where, _, data = _prepare(spec, device)
        studies.check(study, spec, task_of(data), folder)
        with _promoter(folder, spec, data, where, mirrored=plan.mirrored) as (train, stop):
            say(f"{folder.name}: {_in_words(plan)}, on {describe(where)}{_shared_by(workers, where)}")
            ahead = partial(_train_ahead, folder, spec, where, workers, stop)

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
        _note_promoted(folder, _as_command(folder, plan))
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
    device: str = "auto",
    storage: str | None = None,
) -> Fidelity:
    """Measure how far the short runs' ranking can be trusted: train some trials of every score at length, and compare.

    `trials` are spread over scores and families; with 0, the answer comes from the longer runs that are there. No test
    split is read. `epochs` is that of a full run unless given; `workers` as in `promote`.

    Raises:
        UserError: whatever the user can put right.

    """
    folder = find_run(runs, name, _address(storage))
    spec = load_study(str(folder.study_file), {})
    length = epochs or spec.promote.rungs[-1].epochs
    if 0 < trials < FEWEST:
        raise SpecError(f"{trials} trials are too few to compare ranks: give at least --trials {FEWEST}, or 0")
    if trials and length <= spec.epochs:
        raise SpecError(f"{length} epochs are no more than a short run's {spec.epochs}: give a larger --epochs")
    with folder.promoting(), logged_to(folder):
        study = studies.open_study(folder)
        if trials:
            _check_complete(study, FEWEST)
            where, _, data = _prepare(spec, device)
            studies.check(study, spec, task_of(data), folder)
            picked = pick(study.get_trials(deepcopy=False), trials, spec.promote.families)
            say(
                f"{folder.name}: {len(picked)} trials of every score for {length} epochs, on {describe(where)}"
                f"{_shared_by(workers, where)}; the test split is not read"
            )
            with _promoter(folder, spec, data, where, mirrored=False) as (train, stop):
                _train_ahead(folder, spec, where, workers, stop, [(trial, length, spec.seed) for trial in picked])
                for trial in picked:
                    train(trial, length, spec.seed, tests=False)
            _note_promoted(folder, f"search fidelity {shlex.quote(folder.name)} --trials {trials} --epochs {length}")
            publish(folder, read_results(folder), data.size)
        found = fidelity_of(folder, spec, study)
        if found is None:
            raise RunError(
                f"run {folder.name!r} has fewer than {FEWEST} trials with longer runs of one length: give --trials 12"
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
    gpus = torch.cuda.device_count() if where.type == "cuda" else 1
    return f" (one of {gpus}: --workers {gpus} trains on all)" if gpus > 1 else ""


LongRun = tuple[FrozenTrial, int, int]  # trial, epochs, seed


def _train_ahead(
    folder: RunFolder,
    spec: StudySpec,
    where: torch.device,
    workers: int,
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
        gpus_each=1 if where.type == "cuda" else 0,
        poll=tell,
        stop=stop,
    )
    if stop():
        raise KeyboardInterrupt


def _train_some(folder: RunFolder, spec: StudySpec, device: str, long_runs: Sequence[LongRun]) -> None:
    """What one of several workers does: train what no other worker has."""
    console.quiet = True
    where, _, data = _prepare(spec, device)
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


def _promoted(folder: RunFolder) -> list[str]:
    """The commands that have trained trials of the run for longer, in order."""
    known = read_facts(folder).get("promoted", [])
    return [known] if isinstance(known, str) else known  # as older runs have the last of them


def _note_promoted(folder: RunFolder, command: str) -> None:
    """Write down, once, that this command is done."""
    commands = list(dict.fromkeys([*_promoted(folder), command]))
    write_json(folder.facts, read_facts(folder) | {"promoted": commands})


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
            load_test=_test_of(spec, data),
            device_name=describe(where),
            mirrored=mirrored,
            save=partial(_save, stop=stop),
            stop=stop,
        )

        def train(trial: FrozenTrial, epochs: int, seed: int, **how: bool) -> Promotion:
            what = f"trial {trial.number}, seed {seed}{', refit' if how.get('refit') else ''}"
            with epoch_bar(what, epochs) as bar:
                return promoter.train(trial, epochs, seed, partial(_epoch_ended, bar, stop), **how)

        yield train, stop


def _test_of(spec: StudySpec, data: TrainingData) -> Callable[[], Split | None]:
    """What reads the test split, when a model is finished."""
    return partial(load_test, spec.data, fingerprint=data.fingerprint, cache=default_cache())


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
    if protocol not in PROTOCOLS:
        raise SpecError(f"unknown protocol {protocol!r}: give one of {', '.join(PROTOCOLS)}")
    where, precision, data = _prepare(spec, device)
    folder = reproduction_folder(runs, study)
    folder.create()
    with logged_to(folder), stop_requested() as stop:
        say(f"{published.title}: {count_of(len(chosen), 'row')}, on {describe(where)}")
        reproducer = Reproducer(
            folder=folder,
            data=data,
            load_test=_test_of(spec, data),
            protocol="held-out" if published.validates else PROTOCOLS[protocol],
            device_name=describe(where),
            save=partial(_save, stop=stop),
            stop=stop,
        )
        done: list[Reproduction] = []
        failed: list[UserError] = []
        for row in chosen:
            recipe = published.recipe_of(row, epochs=epochs, seed=spec.seed, precision=precision)
            network = fitted(spec.baselines[published.rows[row].network], task_of(data))
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


def _save(state: TrainState, path: Path, stop: Callable[[], bool]) -> None:
    """Save a checkpoint; where the disk is full, again and again until it is not."""
    write_patiently(lambda: checkpoint.save(state, path), path, stop)


def _epoch_ended(bar: EpochBar, stop: Callable[[], bool], result: EpochResult) -> None:
    bar.epoch_ended(result)
    if stop():
        raise KeyboardInterrupt


def find(name: str | None, *, runs: Path, storage: str | None = None) -> RunFolder:
    """The folder of a run; without a name, of the one worked on last.

    Raises:
        UserError: there is none, or it is kept elsewhere.

    """
    return find_run(runs, name, _address(storage))


def report(name: str | None, *, runs: Path, storage: str | None = None) -> Path:
    """Write a run's report; returns its path.

    Raises:
        UserError: whatever the user can put right.

    """
    return write_report(find(name, runs=runs, storage=storage))


def export(name: str | None, *, runs: Path, trial: int | None = None, fmt: str, storage: str | None = None) -> Exported:
    """Write the model of a run as one file of the format `fmt`, and its card beside it.

    The model is that of the best full run, the refit where there is one, or of the longest of `trial`.

    Raises:
        UserError: whatever the user can put right.

    """
    if fmt not in FORMATS:
        raise SpecError(f"unknown format {fmt!r}: give one of {', '.join(FORMATS)}")
    check_installed(fmt)
    folder = find(name, runs=runs, storage=storage)
    spec = load_study(str(folder.study_file), {})
    run = chosen(folder, trial)
    study = studies.open_study(folder)
    data = _load(spec)
    studies.check(study, spec, task_of(data), folder)
    return export_model(folder, run, spec, data, fmt, trials=len(ended(study)))


def predict(model: Path, images: Sequence[Path], *, top: int = 3) -> list[Prediction]:
    """The `top` classes that an exported model gives each image.

    Raises:
        UserError: whatever the user can put right.

    """
    return classify(model, images, top)


def dashboard(
    name: str | None, *, runs: Path, storage: str | None = None, host: str, port: int = 0, browser: bool = True
) -> None:
    """Serve Optuna's dashboard on a run, until interrupted; `port` 0 is a free one; `browser` opens the study's page.

    Raises:
        UserError: whatever the user can put right.

    """
    folder = find(name, runs=runs, storage=storage)
    with listening(studies.open_study(folder), folder, host, port) as (server, url), suppress(KeyboardInterrupt):
        say(f"{folder.name}: {url}; Ctrl-C ends it")
        if not is_loopback(host):
            say("warning: whoever can reach this port can change and delete all studies: keep it in a private network")
        if browser:
            open_browser(url)
        server.serve_forever()


def serve_storage(storage: str | None, *, host: str, port: int) -> None:
    """Serve a storage to workers that cannot reach it themselves, until interrupted.

    Raises:
        UserError: whatever the user can put right.

    """
    address = _address(storage)
    if address is None:
        raise SpecError("what is to be served? give --storage, or set SEARCH_STORAGE")
    say(f"serving {address} at grpc://{host}:{port}; Ctrl-C ends it")
    if not is_loopback(host):
        say(
            "warning: whoever can reach this port can read, change and delete all studies: keep it in a private network"
        )
    serve(address, host, port)


def count(study: str, flags: Mapping[str, Any]) -> list[str]:
    """Parameters and multiply-adds, a line for each of a study's known networks and of what its space holds.

    Raises:
        UserError: whatever the user can put right.

    """
    spec = load_study(study, flags)
    task = NAMED_TASKS.get(spec.data) or task_of(_load(spec))
    found = survey(spec, task)
    limit = f", at most {spec.max_madds:,} multiply-adds" if spec.max_madds is not None else ""
    lines = [f"{study}: {spec.data}, budget {spec.budget:,}{limit}"]
    for name, network in spec.baselines.items():
        known = fitted(network, task)
        within = num_params(known) <= spec.budget and num_madds(known, task.size) <= (spec.max_madds or math.inf)
        lines.append(_counted(name, known, task) + ("" if within else "  (more than that)"))
    lines.append(_counted("smallest of the space", found.smallest, task))
    lines.append(_counted(f"largest of {SAMPLES} draws", found.largest, task))
    return lines


def _counted(name: str, network: ResNetSpec, task: Task) -> str:
    madds = num_madds(network, task.size)
    return f"{name:<22} {num_params(network):>12,} parameters {madds:>14,} multiply-adds  {network}"


class _Trainer:
    """Trains networks on the data, each on a clean device, from where an interrupted attempt stopped."""

    def __init__(self, folder: RunFolder, data: TrainingData, device: torch.device, stop: Callable[[], bool]) -> None:
        self.folder = folder
        self.data = data
        self.device = device
        self.stop = stop  # whether to be impatient with a full disk

    def __call__(self, network: ResNetSpec, recipe: TrainSpec, root: int) -> Generator[EpochResult]:
        release_memory(self.device)  # of the trial before, however it ended
        path = self.folder.trial_checkpoint(root)
        path.parent.mkdir(exist_ok=True)
        state = self._resumed(path, network, recipe) or TrainState.new(network, recipe, self.device)
        if state.history:
            log.info("trial %d, tried again, goes on after epoch %d", root, len(state.history))
        yield from tuple(state.history)
        # One that was interrupted gets on by an epoch at least, however soon it is interrupted again.
        due = time.monotonic() + (0 if state.history else CHECKPOINT_S)
        for result in train(state, self.data):
            try:
                yield result  # first: another error than this one tells that the trial is somebody else's by now
            except GeneratorExit:  # stopped here, to go on from here
                _save(state, path, self.stop)
                raise
            if (started := time.monotonic()) > due and result.epoch < recipe.epochs:
                _save(state, path, self.stop)
                due = time.monotonic() + max(CHECKPOINT_S, (time.monotonic() - started) / CHECKPOINT_SHARE)

    def _resumed(self, path: Path, network: ResNetSpec, recipe: TrainSpec) -> TrainState | None:
        """The state of an earlier attempt; none where it cannot be used: the trial then begins anew."""
        if not checkpoint.exists(path):
            return None
        try:
            state = checkpoint.load(path, self.device)
        except CheckpointError as error:
            log.warning("%s", error)
            return None
        return state if (state.network, state.recipe) == (network, recipe) else None

    def forget(self, root: int) -> None:
        """Delete the trial's checkpoints."""
        checkpoint.delete(self.folder.trial_checkpoint(root))


def _prepare(spec: StudySpec, device: str) -> tuple[torch.device, Precision, TrainingData]:
    where = pick_device(device)
    set_up(where)
    precision: Precision = pick_precision(where) if spec.precision == "auto" else spec.precision
    return where, precision, _load(spec).to(where)


def _load(spec: StudySpec) -> TrainingData:
    with loading_bars() as progress:
        return load_training(
            spec.data, val_fraction=spec.val_fraction, seed=spec.seed, cache=default_cache(), progress=progress
        )


def _default_name(study: str, spec: StudySpec, flags: Mapping[str, Any]) -> str:
    """The study (or the data, where a flag names other data), the budget and a limit: `cifar10-5M`."""
    stem = Path(spec.data if "data" in flags else study).stem
    plain = re.sub(r"[^\w.+-]+", "-", stem).strip(".-")
    limit = f"-{short_count(spec.max_madds)}-madds" if spec.max_madds is not None else ""
    return f"{plain}-{short_count(spec.budget)}{limit}"


def _facts(
    spec: StudySpec, data: TrainingData, where: torch.device, precision: Precision, folder: RunFolder
) -> dict[str, Any]:
    """What somebody needs to know to run it again, apart from the spec."""
    return {
        "versions": {
            "python": platform.python_version(),
            "budget-search": version("budget-search"),
            "torch": str(torch.__version__),  # with the build: CPU or CUDA
            "optuna": optuna.__version__,
        },
        "commit": _commit(),
        "storage": folder.address.kind,
        "device": describe(where),
        "precision": precision,
        "data": {
            "source": spec.data,
            "fingerprint": data.fingerprint,
            "training images": len(data.train),
            "validation images": len(data.val),
            "test split": data.has_test,
            "classes": list(data.classes),
            "size": list(data.size),
        },
    }


def _commit() -> str | None:
    """The commit of this tool's checkout; none where it was installed from a package, or where there is no git."""
    here = Path(__file__).parents[1]
    git = shutil.which("git")
    if git is None or not (here / ".git").exists():
        return None
    answer = subprocess.run([git, "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None
