"""The commands as functions: `run`, `promote`, `report`, `count`. The command line parses, calls these, and prints."""

import gc
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import TrialState

from search import promote as promotion
from search import study as studies
from search.console import StudyProgress, console, duration, epoch_bar, log, logged_to, percent, promotion_table, say
from search.plan import Survey, estimate, survey
from search.report import write_report
from search.run_folder import RunFolder, find_run, write_json, write_text
from search.spec import StudySpec, load_study, short_count
from search.study import NAMED_TASKS, Task, fitted, task_of
from train_core.data import TrainingData, default_cache, load_test, load_training
from train_core.device import describe, keep_freed_memory, pick_device, pick_precision
from train_core.loop import EpochResult, TrainState, train
from train_core.specs import Precision, ResNetSpec, TrainSpec, num_madds, num_params

TOO_LONG_S = 24 * 3600  # an estimate above this comes with advice


def run(
    study: str,
    flags: Mapping[str, Any],
    *,
    runs: Path,
    name: str | None = None,
    hours: float | None = None,
    device: str = "auto",
) -> RunFolder:
    """Run a study, or continue it, until it has its number of trials.

    `flags` override the study file's values; `runs` is the folder of all runs; `hours` stops in time, to be
    continued. Returns the run's folder.

    Raises:
        UserError: whatever the user can put right.

    """
    started = time.monotonic()
    spec = load_study(study, flags)
    folder = RunFolder(runs / (name or _default_name(study, spec, flags)))
    where, precision, data = _prepare(spec, device)
    task = task_of(data)
    found = survey(spec, task)

    folder.create()
    with folder.locked(), logged_to(folder):
        optuna_study = studies.open_study(folder, create=True)
        studies.claim(optuna_study, spec, task, folder)
        studies.retry_interrupted(optuna_study)
        baselines = studies.enqueue_baselines(optuna_study, spec, task)
        write_text(folder.study_file, spec.as_toml())
        write_json(folder.facts, _facts(spec, data, where, precision))

        done = studies.ended(optuna_study)
        _say_plan(folder, spec, data, where, precision, found, baselines, len(done))
        if len(done) < spec.trials:
            with StudyProgress(done, spec.trials) as progress:
                studies.run(
                    optuna_study,
                    spec,
                    task,
                    _Trainer(data, where),
                    progress,
                    precision=precision,
                    deadline=started + hours * 3600 if hours is not None else float("inf"),
                )
        _say_outcome(folder, spec, optuna_study)
        write_report(folder)
    return folder


def promote(
    name: str | None,
    *,
    runs: Path,
    top: int | None = None,
    epochs: int | None = None,
    seeds: int | None = None,
    device: str = "auto",
) -> list[promotion.Promotion]:
    """Train the best trials of a run at full length, then read the test split; what is finished is not done again.

    Raises:
        UserError: whatever the user can put right.

    """
    folder = find_run(runs, name)
    spec = load_study(str(folder.study_file), {})
    top, epochs, seeds = top or spec.promote.top, epochs or spec.promote.epochs, seeds or spec.promote.seeds
    with folder.locked(), logged_to(folder):
        study = studies.open_study(folder)
        chosen = promotion.choose(study, top)
        where, _, data = _prepare(spec, device)
        studies.claim(study, spec, task_of(data), folder)
        times = "once" if seeds == 1 else f"with {seeds} seeds"
        say(f"{folder.name}: the top {top} for {epochs} epochs, {times} each, on {describe(where)}")
        done = []
        for seed in range(spec.seed, spec.seed + seeds):
            for trial in chosen:
                with epoch_bar(f"trial {trial.number}, seed {seed}", 0, epochs) as bar:
                    done.append(
                        promotion.promote(
                            trial,
                            folder.promotion(trial.number, epochs, seed),
                            epochs=epochs,
                            seed=seed,
                            data=data,
                            load_test=lambda: load_test(spec.data, cache=default_cache()),
                            device_name=describe(where),
                            on_epoch=bar.epoch_ended,
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
    lines += [_counted(f"{what} of the space", getattr(found, what), task) for what in ("smallest", "largest")]
    return lines


def _counted(name: str, network: ResNetSpec, task: Task) -> str:
    madds = num_madds(network, task.size)
    return f"{name:<22} {num_params(network):>12,} parameters {madds:>14,} multiply-adds  {network}"


class _Trainer:
    """Trains a network on the data from its first weights, and leaves the device clean."""

    def __init__(self, data: TrainingData, device: torch.device) -> None:
        self.data = data
        self.device = device

    def __call__(self, network: ResNetSpec, recipe: TrainSpec) -> Iterator[EpochResult]:
        try:
            yield from train(TrainState.new(network, recipe, self.device), self.data)
        finally:
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()


def _prepare(spec: StudySpec, device: str) -> tuple[torch.device, Precision, TrainingData]:
    where = pick_device(device)
    keep_freed_memory()
    precision: Precision = pick_precision(where) if spec.precision == "auto" else spec.precision
    return where, precision, _load(spec).to(where)


def _load(spec: StudySpec) -> TrainingData:
    return load_training(spec.data, val_fraction=spec.val_fraction, seed=spec.seed, cache=default_cache())


def _default_name(study: str, spec: StudySpec, flags: Mapping[str, Any]) -> str:
    """The study (or the data, where a flag names other data) and the budget: `cifar10-5M`."""
    return f"{Path(spec.data if 'data' in flags else study).stem}-{short_count(spec.budget)}"


def _facts(spec: StudySpec, data: TrainingData, where: torch.device, precision: Precision) -> dict[str, Any]:
    """What somebody needs to know to run it again, apart from the spec."""
    packages = ("budget-search", "torch", "torchvision", "optuna")
    return {
        "versions": {"python": platform.python_version()} | {package: version(package) for package in packages},
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


def _say_plan(
    folder: RunFolder,
    spec: StudySpec,
    data: TrainingData,
    where: torch.device,
    precision: Precision,
    found: Survey,
    baselines: list[str],
    done: int,
) -> None:
    """Say what is about to happen, and what to do instead where it would take days."""
    height, width = data.size
    colours = "RGB" if data.in_channels == 3 else "grey"
    test = "a test split that only `promote` reads" if data.has_test else "no test split"
    first = f", first {len(baselines)} known networks ({', '.join(baselines)})" if baselines else ""
    say(f"{folder.root}: {'continuing' if done else 'new study'}")
    say(
        f"data     {spec.data}: {len(data.train):,} training and {len(data.val):,} validation images, {height}x{width} "
        f"{colours}, {data.num_classes} classes, {test}"
    )
    note = "" if precision == "bf16" else " (no native bf16 here)" if spec.precision == "auto" else ""
    say(f"device   {describe(where)}, {precision}{note}")
    say(f"budget   {spec.budget:,} parameters")
    for what, network in (("smallest", found.smallest), ("largest", found.largest)):
        madds = num_madds(network, data.size) / 1e6
        say(f"  {what:<8} {num_params(network):,} parameters, {madds:,.1f} M multiply-adds: {network}")
    say(f"trials   {spec.trials} of {spec.epochs} epochs{f', {done} done' if done else ''}{first}")
    if done >= spec.trials:
        return
    expected = estimate(spec, found, data, precision)
    left = expected.seconds * (spec.trials - done) / spec.trials
    say(
        f"time     at most {duration(left)}, less what pruning saves ({expected.images_per_second:,.0f} images/s "
        f"measured on {found.typical})"
    )
    if left > TOO_LONG_S:
        say(
            "         That is long. A GPU is 50 to 500 times as fast; on this device, try `search run digits`, or a "
            "smaller search: --budget 200k --trials 30 --epochs 8 on part of the data; --hours 8 stops in time."
        )


def _say_outcome(folder: RunFolder, spec: StudySpec, study: optuna.Study) -> None:
    """Say how far the study came, its best trials, and what to do next."""
    done = studies.ended(study)
    complete = sorted(study.get_trials(states=[TrialState.COMPLETE]), key=lambda t: t.value or 0, reverse=True)
    pruned = sum(trial.state == TrialState.PRUNED for trial in done)
    say(
        f"{len(done)} of {spec.trials} trials: {len(complete)} complete, {pruned} pruned, "
        f"{len(done) - len(complete) - pruned} failed"
    )
    for trial in complete[:3]:
        say(
            f"  {percent(trial.value or 0)}  trial {trial.number}  {trial.user_attrs['parameters']:,} parameters  "
            f"{promotion.network_of(trial)}  {promotion.recipe_of(trial)}"
        )
    if len(done) < spec.trials:
        say(f"stopped in time; the same command continues {folder.name}")
    elif complete:
        say(f"next: search promote {folder.name}   or: optuna-dashboard {folder.storage}")
    say(f"report: {folder.report}")
