"""The commands as functions: `run`, `promote`, `report`, `count`. The command line parses, calls these, and prints."""

import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import torch

from search import promote as promotion
from search import study as studies
from search.console import (
    EpochBar,
    StudyProgress,
    console,
    epoch_bar,
    loading_bars,
    log,
    logged_to,
    promotion_table,
    say,
    say_outcome,
    say_plan,
)
from search.interrupt import stop_requested
from search.plan import SAMPLES, estimate, survey
from search.report import write_report
from search.run_folder import RunFolder, find_run, new_run, write_json, write_text
from search.spec import StudySpec, load_study, short_count
from search.study import NAMED_TASKS, Task, fitted, task_of
from search.workers import run_workers
from train_core.data import NAMED, TrainingData, default_cache, load_test, load_training
from train_core.device import describe, pick_device, pick_precision, release_memory, set_up
from train_core.loop import train
from train_core.specs import Precision, ResNetSpec, TrainSpec, num_madds, num_params
from train_core.state import EpochResult, TrainState


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
) -> RunFolder:
    """Run a study, or continue or join it, until it has its number of trials.

    `flags` override the study file's values; `runs` is the folder of all runs; `hours` stops in time, to be
    continued; `workers` is the number of processes on this machine, each with `gpus_per_worker` of a GPU (none: an
    equal share). Returns the run's folder.

    Raises:
        UserError: whatever the user can put right.

    """
    started = time.monotonic()
    spec = load_study(study, flags)
    if spec.data not in NAMED and Path(spec.data).exists():
        spec = spec.model_copy(update={"data": str(Path(spec.data).absolute())})  # to be found from any folder
    folder = new_run(runs, name or _default_name(study, spec, flags))
    where, precision, data = _prepare(spec, device)
    task = task_of(data)
    found = survey(spec, task)

    folder.create()
    with folder.worker() as worker, logged_to(folder):
        with worker.alone():
            optuna_study = studies.open_study(folder, create=True)
            studies.claim(optuna_study, spec, task, folder)
            baselines = studies.enqueue_baselines(optuna_study, spec, task)
            write_text(folder.study_file, spec.as_toml())
            write_json(folder.facts, _facts(spec, data, where, precision))

        done = studies.ended(optuna_study)
        expected = estimate(spec, found, data, precision) if len(done) < spec.trials else None
        say_plan(folder, spec, data, where, precision, found, baselines, len(done), expected, workers)
        deadline = started + hours * 3600 if hours is not None else float("inf")
        if len(done) < spec.trials:
            alone = workers == 1
            with StudyProgress(done, spec.trials, logs=alone) as progress, stop_requested() as stop:
                if alone:
                    trainer = _Trainer(data, where)
                    studies.run(
                        optuna_study,
                        spec,
                        task,
                        trainer,
                        progress,
                        worker=worker,
                        precision=precision,
                        deadline=deadline,
                        stop=stop,
                    )
                else:
                    # Nothing of this process is handed on: what it holds of a GPU is the estimate's.
                    release_memory(where)
                    run_workers(
                        workers,
                        partial(_work, RunFolder(folder.root.absolute()), spec, device, deadline),
                        gpus_each=gpus_per_worker if where.type == "cuda" else 0,
                        poll=lambda: progress.catch_up(studies.ended(optuna_study)),
                        stop=stop,
                    )
                if stop():
                    raise KeyboardInterrupt
        say_outcome(folder, spec, optuna_study)
        write_report(folder)
    return folder


def _work(folder: RunFolder, spec: StudySpec, device: str, deadline: float) -> None:
    """What one of several workers does. It only writes to the log: the command that started it tells."""
    console.quiet = True
    where, precision, data = _prepare(spec, device)
    with folder.worker() as worker, logged_to(folder), stop_requested() as stop:
        study = studies.open_study(folder)
        progress = StudyProgress(studies.ended(study), spec.trials)
        studies.run(
            study,
            spec,
            task_of(data),
            _Trainer(data, where),
            progress,
            worker=worker,
            precision=precision,
            deadline=deadline,
            stop=stop,
        )


def promote(
    name: str | None,
    *,
    runs: Path,
    top: int | None = None,
    epochs: int | None = None,
    seeds: int | None = None,
    mirrored: bool | None = None,
    device: str = "auto",
) -> list[promotion.Promotion]:
    """Train the best trials of a run at full length, then read the test split; what is finished is not done again.

    Raises:
        UserError: whatever the user can put right.

    """
    folder = find_run(runs, name)
    spec = load_study(str(folder.study_file), {})
    top, epochs, seeds = top or spec.promote.top, epochs or spec.promote.epochs, seeds or spec.promote.seeds
    with folder.promoting(), logged_to(folder):
        study = studies.open_study(folder)
        chosen = promotion.choose(study, top)
        where, _, data = _prepare(spec, device)
        studies.claim(study, spec, task_of(data), folder)
        times = "once" if seeds == 1 else f"with {seeds} seeds"
        say(f"{folder.name}: the top {top} for {epochs} epochs, {times} each, on {describe(where)}")
        done = []
        with stop_requested() as stop:
            for seed in range(spec.seed, spec.seed + seeds):
                for trial in chosen:
                    with epoch_bar(f"trial {trial.number}, seed {seed}", epochs) as bar:
                        done.append(
                            promotion.promote(
                                trial,
                                folder.promotion(trial.number, epochs, seed),
                                epochs=epochs,
                                seed=seed,
                                data=data,
                                load_test=partial(
                                    load_test, spec.data, fingerprint=data.fingerprint, cache=default_cache()
                                ),
                                device_name=describe(where),
                                on_epoch=partial(_epoch_ended, bar, stop),
                                mirrored=spec.promote.mirrored if mirrored is None else mirrored,
                            )
                        )
        done.sort(key=lambda result: result.val_accuracy or 0, reverse=True)
        console.print(promotion_table(done))
        if best := promotion.winner(done):
            say(f"best on validation: trial {best[0].trial}, {best[0].network}; {best[0].recipe}")
        for result in done:
            log.info("%s", result.model_dump_json(exclude={"history"}))
        if not data.has_test:
            say(f"{spec.data} has no test split: the validation accuracies are those that the choice was made by.")
        write_report(folder)
        say(f"report: {folder.report}")
    return done


def _epoch_ended(bar: EpochBar, stop: Callable[[], bool], result: EpochResult) -> None:
    bar.epoch_ended(result)
    if stop():
        raise KeyboardInterrupt


def report(name: str | None, *, runs: Path) -> Path:
    """Write a run's report; returns its path.

    Raises:
        UserError: whatever the user can put right.

    """
    return write_report(find_run(runs, name))


def count(study: str, flags: Mapping[str, Any]) -> list[str]:
    """Parameters and multiply-adds, a line for each of a study's known networks and of what its space holds.

    Raises:
        UserError: whatever the user can put right.

    """
    spec = load_study(study, flags)
    task = NAMED_TASKS.get(spec.data) or task_of(_load(spec))
    found = survey(spec, task)
    lines = [f"{study}: {spec.data}, budget {spec.budget:,}"]
    lines += [_counted(name, fitted(network, task), task) for name, network in spec.baselines.items()]
    lines.append(_counted("smallest of the space", found.smallest, task))
    lines.append(_counted(f"largest of {SAMPLES} draws", found.largest, task))
    return lines


def _counted(name: str, network: ResNetSpec, task: Task) -> str:
    madds = num_madds(network, task.size)
    return f"{name:<22} {num_params(network):>12,} parameters {madds:>14,} multiply-adds  {network}"


class _Trainer:
    """Trains a network on the data from its first weights, on a clean device."""

    def __init__(self, data: TrainingData, device: torch.device) -> None:
        self.data = data
        self.device = device

    def __call__(self, network: ResNetSpec, recipe: TrainSpec) -> Iterator[EpochResult]:
        release_memory(self.device)  # of the trial before, however it ended
        yield from train(TrainState.new(network, recipe, self.device), self.data)


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
    """The study (or the data, where a flag names other data) and the budget: `cifar10-5M`."""
    stem = Path(spec.data if "data" in flags else study).stem
    plain = re.sub(r"[^\w.+-]+", "-", stem).strip(".-")
    return f"{plain}-{short_count(spec.budget)}"


def _facts(spec: StudySpec, data: TrainingData, where: torch.device, precision: Precision) -> dict[str, Any]:
    """What somebody needs to know to run it again, apart from the spec."""
    return {
        "versions": {
            "python": platform.python_version(),
            "budget-search": version("budget-search"),
            "torch": str(torch.__version__),  # with the build: CPU or CUDA
            "optuna": optuna.__version__,
        },
        "commit": _commit(),
        "device": describe(where),
        "precision": precision,
        "data": {
            "source": spec.data,
            "fingerprint": data.fingerprint,
            "training images": len(data.train),
            "validation images": len(data.val),
            "test split": data.has_test,
            "classes": list(data.classes),
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
