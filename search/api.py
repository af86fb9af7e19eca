"""The commands as functions: those that train at length are in `full_runs`."""

import math
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial

from search import study as studies
from search.card import Exported
from search.console import StudyProgress, logged_to, say_outcome, say_plan
from search.dashboard import listening, open_browser
from search.errors import SpecError
from search.export import chosen, export_model
from search.heartbeat import Worker
from search.interrupt import stop_requested
from search.notes import NotedEvents, publish
from search.plan import SAMPLES, estimate, survey
from search.predict import Prediction, classify
from search.ray_workers import run_workers
from search.report import read_results, write_report
from search.run_folder import RunFolder, control_name, find_run, new_run, promoted, write_json
from search.session import load, prepare
from search.spec import CONTROLS, StudySpec, load_study, short_count
from search.storage import address_of, is_loopback, serve
from search.study import NAMED_SHAPES, DataShape, data_shape_of, fitted
from search.terminal import console, say
from search.trainer import Trainer
from search.trials import ended, root_of
from search.version import version
from train_core import checkpoint
from train_core.data import NAMED, TrainingData
from train_core.device import describe, gpu_index, release_memory
from train_core.formats import FORMATS, check_installed
from train_core.specs import Precision, ResNetSpec, num_madds, num_params


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
    `gpus_per_worker` of a GPU (none: an equal share); where the `device` is one GPU of several (`cuda:1`), all of them
    train on that one; `control` makes it one of `CONTROLS`, under a name of its own; `storage` is the address of one
    that several machines share. Returns the run's folder.

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
    kind, _, index = device.partition(":")
    if ray_address and index:
        raise SpecError(
            f"--device {device} is a device of one machine, and --ray-address places workers on several: "
            f"give --device {kind}"
        )
    if spec.data not in NAMED and Path(spec.data).exists():
        spec = spec.model_copy(update={"data": str(Path(spec.data).absolute())})  # to be found from any folder
    folder = new_run(runs.absolute() if ray_address else runs, name, address_of(storage))
    if ray_address and not folder.address.is_shared:
        raise SpecError("--ray-address places workers on several machines: give a --storage that they share")
    # On a cluster it is for each worker to find its device: this machine may have none.
    where, precision, data = prepare(spec, device if ray_address is None or device == "cpu" else "auto")
    found = survey(spec, data_shape_of(data))

    folder.create()
    with logged_to(folder):
        optuna_study, baselines = studies.join(folder, spec, data_shape_of(data))
        facts = _facts(spec, data, where, precision, folder)
        write_json(folder.facts, facts | {"promoted": promoted(folder)})
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
                        theirs = where.type if ray_address is None else device
                        studies.stop_retrying_when(optuna_study, stop)
                        run_workers(
                            workers,
                            partial(_work, folder.absolute(), spec, theirs, until),
                            gpus_each=gpus_per_worker if theirs in {"cuda", "auto"} else 0,
                            poll=partial(progress.catch_up, optuna_study),
                            stop=stop,
                            gpu=gpu_index(where),
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
        data_shape_of(data),
        Trainer(folder, data, where, stop),
        NotedEvents(study, spec.budget, progress),
        worker=worker,
        precision=precision,
        deadline=time.monotonic() + until - time.time(),
        stop=stop,
    )


def _work(folder: RunFolder, spec: StudySpec, device: str, until: float) -> None:
    """What one of several workers does. It only writes to the log: the command that started it tells."""
    console.quiet = True
    where, precision, data = prepare(spec, device)
    folder.create()
    with logged_to(folder), stop_requested() as stop:
        study = studies.open_study(folder)
        progress = StudyProgress(ended(study), spec.trials)
        with Worker(folder, study) as worker:
            _search(folder, spec, data, where, precision, study, worker, progress, until, stop)


def find(name: str | None, *, runs: Path, storage: str | None = None) -> RunFolder:
    """The folder of a run; without a name, of the one worked on last.

    Raises:
        UserError: there is none, or it is kept elsewhere.

    """
    return find_run(runs, name, address_of(storage))


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
    known = next((name for name in FORMATS if name == fmt), None)
    if known is None:
        raise SpecError(f"unknown format {fmt!r}: give one of {', '.join(FORMATS)}")
    check_installed(known)
    folder = find(name, runs=runs, storage=storage)
    spec = load_study(str(folder.study_file), {})
    run = chosen(folder, trial)
    study = studies.open_study(folder)
    data = load(spec)
    studies.check(study, spec, data_shape_of(data), folder)
    return export_model(folder, run, spec, data, known, trials=len(ended(study)))


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
    address = address_of(storage)
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
    task = NAMED_SHAPES.get(spec.data) or data_shape_of(load(spec))
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


def _counted(name: str, network: ResNetSpec, task: DataShape) -> str:
    madds = num_madds(network, task.size)
    return f"{name:<22} {num_params(network):>12,} parameters {madds:>14,} multiply-adds  {network}"


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
            "budget-search": version(),
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
