"""The commands as functions; those that train full runs are in `full_runs`."""

import math
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import torch

from search import scores
from search import study as studies
from search.between import Watcher
from search.card import Exported
from search.completion import run_folders, shipped_studies
from search.console import Plan, StudyProgress, loading_bars, logged_to, say_outcome, say_plan
from search.dashboard import listening, open_browser
from search.data_shape import DataShape, data_shape_of, shape_of_named, with_data_shape
from search.drawing import Setting
from search.errors import DataError, RunError, SpecError
from search.export import chosen, export_model
from search.forecast import Span, Speedup
from search.heartbeat import Worker
from search.identity import agreed_precision, check, join, open_study
from search.interrupt import stop_requested
from search.learning import learned, runs_to_learn_from
from search.listing import Listing, is_missing, keep_listing, moved, read_listing
from search.live_report import FULL_RUNS, LiveReport, ReportedEvents
from search.loggers import LoggedEvents, check_loggers, logging_to
from search.notes import NotedEvents, publish
from search.plan import SAMPLES, Estimate, Survey, estimate, fastest_precision, survey
from search.predict import Predictions, classify
from search.quantisation import CALIBRATION, check_calibration
from search.ray_workers import run_workers
from search.report import write_report
from search.results import read_results
from search.run_folder import (
    DataFacts,
    RunFacts,
    RunFolder,
    RunRef,
    check_trainable,
    control_name,
    new_run,
    read_facts,
    write_facts,
)
from search.session import Placement, Session, census_of, load, open_session, with_images_at
from search.spec import CONTROLS, StudySpec, load_study, short_count
from search.storage import address_of, is_loopback, serve
from search.terminal import console, is_live, say
from search.trainer import Trainer
from search.trials import TrialRecord, finished_trials, has_begun
from search.version import version
from space import Space, dimensions_in_words
from train_core import checkpoint
from train_core.census import Census
from train_core.classes import images_of_classes
from train_core.data import NAMED, Split, TrainingData
from train_core.device import describe, gpu_index, release_memory
from train_core.formats import FORMATS, check_installed
from train_core.specs import Precision, ResNetSpec, num_madds, num_params


def run(
    study: str,
    flags: Mapping[str, Any],
    ref: RunRef,
    placement: Placement,
    *,
    hours: float | None = None,
    control: str | None = None,
) -> RunFolder:
    """Run a study, or continue or join it, until it has its number of trials.

    `flags` override the study file's values; `ref` names the run (without a name: after study and budget) and says
    where it is kept; `placement` says where it trains; `hours` stops in time, to be continued; `control` makes it one
    of `CONTROLS`, under a name of its own. Returns the run's folder.

    Raises:
        UserError: the user can fix it; the message says how.

    """
    until = time.time() + hours * 3600 if hours is not None else float("inf")
    with opened(study, flags, ref, placement, control=control) as run, run.working(until) as search:
        finished = finished_trials(run.study)
        _tidy(run.folder, finished)
        is_complete = len(finished) >= run.spec.trials
        expected = None if is_complete else estimate(run.spec, run.survey, run.session.data, run.session.precision)
        others = len(search.setting.worker.others())
        plan = run.plan(placement.speedup(run.session), expected=expected, hours=hours, others=others)
        say_plan(plan)
        if not is_complete:
            search_on(search, run.session, placement, finished, plan.span)
        _conclude(run)
    return run.folder


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A run whose study is open: made now, or continued."""

    folder: RunFolder
    spec: StudySpec
    session: Session
    survey: Survey
    study: optuna.Study
    baselines: Mapping[str, bool]  # by name: whether budget and space allow it
    starts: Sequence[str]  # where each configuration that did best on other images comes from
    follows_size: Mapping[str, Any]  # dimensions that the study leaves to the size of the images, with their values
    why_score: str  # why its networks are compared by this score; empty: nothing to say
    relative: str  # what a new run has to do with one that exists; empty: nothing to say
    precision_seconds: Mapping[Precision, float]  # of a step in each precision that was measured

    @contextmanager
    def working(self, until: float = float("inf")) -> Iterator["Search"]:
        """Be one of the run's workers; `until`, in seconds since the epoch, ends the search."""
        with Worker(self.folder, self.study) as worker:
            setting = Setting(self.study, self.spec, self.session.shape, self.session.precision, worker)
            yield Search(self.folder, setting, until)

    def plan(
        self, speedup: Speedup, *, expected: Estimate | None = None, hours: float | None = None, others: int = 0
    ) -> Plan:
        """What the search is about to do, beside `others`; without `expected`, its time is said elsewhere."""
        return Plan(
            folder=self.folder,
            spec=self.spec,
            session=self.session,
            follows_size=self.follows_size,
            survey=self.survey,
            baselines=self.baselines,
            starts=self.starts,
            begun=has_begun(self.study),
            done=len(finished_trials(self.study)),
            expected=expected,
            speedup=speedup,
            hours=hours,
            others=others,
            precision_seconds=self.precision_seconds,
            relative=self.relative,
            why_score=self.why_score,
        )


def as_it_is(spec: StudySpec, _folder: RunFolder, _session: Session, _survey: Survey) -> StudySpec:
    """The spec of a study, not changed."""
    return spec


@contextmanager
def opened(
    study: str,
    flags: Mapping[str, Any],
    ref: RunRef,
    placement: Placement,
    *,
    control: str | None = None,
    adapt: Callable[[StudySpec, RunFolder, Session, Survey], StudySpec] = as_it_is,
) -> Iterator[Opened]:
    """Open the run of a study, made if there is none; what is printed meanwhile is also written to its log.

    `adapt` may change the spec before the study is made or continued.

    Raises:
        UserError: the user can fix it; the message says how.

    """
    placement.check()
    check_loggers(placement.log)
    spec, folder = _named(study, flags, ref, placement, control)
    with loading_bars() as progress:
        session = open_session(spec, placement.device_here, progress)
    relative = ""
    if ref.name is None and "data" in flags and not folder.study_file.exists():
        relative = _relative(folder, study, spec, flags, session.data)
        if same := _with_same_images(folder, study, spec, flags, session.data.fingerprint):
            folder, relative = same, ""
    sized = spec.for_size(session.shape.size)
    follows_size = _changed(spec, sized)
    spec, why_score = _with_score(sized, session)
    space_survey = survey(spec, session.shape)
    spec = adapt(spec, folder, session, space_survey)
    folder.create()
    with logged_to(folder):
        optuna_study, baselines, starts = join(
            folder, spec, session.shape, partial(learned, spec, folder), session.listing
        )
        keep_listing(folder, session.data)
        session, seconds = _in_agreed_precision(optuna_study, spec, session, space_survey)
        write_facts(folder, _facts(spec, session, folder))
        yield Opened(
            folder=folder,
            spec=spec,
            session=session,
            survey=space_survey,
            study=optuna_study,
            baselines=baselines,
            starts=starts,
            follows_size=follows_size,
            why_score=why_score,
            relative=relative,
            precision_seconds=seconds,
        )


@dataclass(frozen=True)
class Search:
    """A search that goes on: where it is kept, what its trials depend on, and until when it may run."""

    folder: RunFolder
    setting: Setting
    until: float  # seconds since the epoch
    left: Callable[[], float] | None = None  # seconds that a search in this process has; none: those until the end

    def run(self, session: Session, events: studies.Events, watcher: Watcher, stop: Callable[[], bool]) -> None:
        """Run trials in this process."""
        studies.run(
            self.setting,
            Trainer(self.folder, session.data, session.device, watcher),
            NotedEvents(self.setting.study, self.setting.spec.budget, events),
            left=self.left or (lambda: self.until - time.time()),
            stop=stop,
        )


def _named(
    study: str, flags: Mapping[str, Any], ref: RunRef, placement: Placement, control: str | None
) -> tuple[StudySpec, RunFolder]:
    """The spec of the study with the flags, and the folder of its run."""
    spec = load_study(study, flags)
    name = _default_name(study, spec, flags) if ref.name is None else ref.name
    if control is not None:
        if control not in CONTROLS:
            raise SpecError(f"--control {control!r} is unknown: give one of {', '.join(CONTROLS)}")
        spec = load_study(study, {**flags, **CONTROLS[control], "control": control})
        name = control_name(name, control)
    if spec.data not in NAMED and Path(spec.data).exists():
        spec = spec.model_copy(update={"data": str(Path(spec.data).absolute())})  # to be found from any folder
    folder = new_run(ref.runs.absolute() if placement.ray_address else ref.runs, name, address_of(ref.storage))
    check_trainable(folder)
    if spec.data not in NAMED and is_missing(spec.data) and folder.study_file.exists():
        facts = read_facts(folder)
        last = facts.data.source if facts and facts.data.source else spec.data
        if is_missing(last):
            raise DataError(moved(last))
        spec = spec.model_copy(update={"data": last})  # where a command with --data has found them
    spec = spec.model_copy(update={"learn_from": runs_to_learn_from(spec, folder)})
    if placement.ray_address and not folder.address.is_shared:
        raise SpecError("--ray-address places workers on several machines: give a --storage that they share")
    return spec, folder


def _changed(asked: StudySpec, spec: StudySpec) -> dict[str, Any]:
    """The dimensions of a study that follow the size of its images, with their values."""
    held = {name: getattr(spec.space, name) for name in Space.model_fields}
    return {name: value for name, value in held.items() if value != getattr(asked.space, name)}


def _with_score(spec: StudySpec, session: Session) -> tuple[StudySpec, str]:
    """The spec with the score that its networks are compared by, and why it is this one; empty: nothing to say.

    `auto` follows from the training images alone, so a study that is continued keeps its score.
    """
    if spec.score != "auto":
        return spec.for_score(spec.score), ""
    images = _images_of_classes(session.data.train, session)
    return spec.for_score(scores.chosen(images)), scores.reason(images, session.data.classes)


def _images_of_classes(split: Split, session: Session) -> tuple[int, ...]:
    return tuple(int(count) for count in images_of_classes(split.labels, session.data.num_classes).tolist())


def _in_agreed_precision(
    study: optuna.Study, spec: StudySpec, session: Session, space_survey: Survey
) -> tuple[Session, Mapping[Precision, float]]:
    """The session in the study's precision, and the seconds of a step in each that was measured for it."""
    if spec.precision != "auto":
        return session, {}
    seconds: dict[Precision, float] = {}

    def measure() -> Precision:
        fastest, measured = fastest_precision(space_survey, session.data)
        seconds.update(measured)
        return fastest

    return session.with_precision(agreed_precision(study, measure)), seconds


def search_on(
    search: Search,
    session: Session,
    placement: Placement,
    finished: Sequence[TrialRecord],
    planned: Span | None = None,
) -> None:
    """Run trials here, or in the processes that Ray places, until the study is complete or stopped."""
    study, spec = search.setting.study, search.setting.spec
    with (
        stop_requested(is_live) as stop,
        StudyProgress(
            finished, spec.trials, score=spec.scored_by, logs=not placement.uses_ray, stop=stop, planned=planned
        ) as progress,
        LiveReport(search.folder, study) as report,
    ):
        events = ReportedEvents(report, progress)
        if placement.uses_ray:
            _search_on_ray(search, session, placement, partial(_catch_up, progress, report, study, stop), stop)
        else:
            watcher = Watcher(stop=stop, moved=progress.moved, say=say)
            with logging_to(placement.log, search.folder) as loggers:
                search.run(session, LoggedEvents(loggers, events), watcher, stop)
        if stop() and len(finished_trials(study)) < spec.trials:
            report.write_last()
            raise KeyboardInterrupt


def _catch_up(progress: StudyProgress, report: LiveReport, study: optuna.Study, stop: Callable[[], bool]) -> None:
    """Show what the workers have done since, in the terminal and in the report: they write none."""
    if stop():
        progress.workers_stop()
    before = progress.count
    progress.catch_up(study)
    if progress.count > before:
        report.something_ended()


def _search_on_ray(
    search: Search, session: Session, placement: Placement, poll: Callable[[], None], stop: Callable[[], bool]
) -> None:
    """Run trials in several processes, on this machine or a cluster."""
    release_memory(session.device)  # of the estimate
    device = placement.device_of_workers(session)
    study = search.setting.study
    studies.stop_retrying_when(study, stop)
    run_workers(
        placement.workers,
        partial(_work, search.folder.absolute(), search.setting.spec, device, search.until, placement.log),
        gpus_each=placement.gpus_per_worker if device in {"cuda", "auto"} else 0,
        poll=poll,
        stop=stop,
        gpu=gpu_index(session.device),
        address=placement.ray_address,
    )


def _work(folder: RunFolder, spec: StudySpec, device: str, until: float, log: Sequence[str]) -> None:
    """What one of several workers does. It writes to the log alone: the command that started it prints."""
    console.quiet = True
    session = open_session(spec, device)
    folder.create()
    with logged_to(folder), stop_requested() as stop:
        study = open_study(folder)
        if spec.precision == "auto":
            session = session.with_precision(agreed_precision(study, lambda: session.precision))
        progress = StudyProgress(finished_trials(study), spec.trials, score=spec.scored_by)
        with Worker(folder, study) as worker, logging_to(log, folder) as loggers:
            setting = Setting(study, spec, session.shape, session.precision, worker)
            Search(folder, setting, until).run(
                session, LoggedEvents(loggers, progress), Watcher(stop=stop, moved=progress.moved, say=say), stop
            )


def _conclude(run: Opened) -> None:
    """Say how far the study came, and write its report and its notes for the dashboard."""
    _tidy(run.folder, finished_trials(run.study))
    say_outcome(run.folder, run.spec, run.study)
    results = read_results(run.folder)
    write_report(run.folder, results)
    publish(run.folder, results, run.session.data.size)


def _tidy(folder: RunFolder, finished: Sequence[TrialRecord]) -> None:
    """Delete checkpoints of trials that have their verdict: of one killed just after it, or given up."""
    for number in folder.trials_with_checkpoints() & {trial.first_attempt for trial in finished}:
        checkpoint.delete(folder.trial_checkpoint(number))


def report(ref: RunRef) -> Path:
    """Write a run's report; returns its path.

    Raises:
        UserError: the user can fix it; the message says how.

    """
    folder = ref.find()
    return write_report(folder, going_on=FULL_RUNS if folder.is_promoting else "")


def export(
    ref: RunRef, *, trial: int | None = None, fmt: str, data: str | None = None, calibration: int | None = None
) -> Exported:
    """Write the model of a run as one file of the format `fmt`, and its card beside it.

    The model is that of the best full run, the refit if there is one, or of the longest full run of `trial`. `data` is
    where the images of the run are now, if they were moved. They are only needed to try the file on; if they are gone
    or have changed, it is tried on random pixels. A file in int8 is made from about `calibration` training images, and
    needs the images.

    Raises:
        UserError: the user can fix it; the message says how.

    """
    known = next((name for name in FORMATS if name == fmt), None)
    if known is None:
        raise SpecError(f"--format {fmt!r} is unknown: give one of {', '.join(FORMATS)}")
    check_calibration(known, calibration)
    check_installed(known)
    folder = ref.find()
    check_trainable(folder)
    spec = load_study(str(folder.study_file), {})
    full_run = chosen(folder, trial)
    study = open_study(folder)
    listing = read_listing(folder)
    images: TrainingData | Listing
    try:
        images = _images_of(folder, spec, study, data)
    except (DataError, RunError) as error:
        if listing is None or data is not None or FORMATS[known].int8 is not None:
            raise
        check(study, spec, listing.shape, folder)  # all but the images
        say(f"the file is tried on random pixels, not on validation images: {error}")
        images = listing
    trials, number = len(finished_trials(study)), CALIBRATION if calibration is None else calibration
    exported = export_model(folder, full_run, spec, images, known, trials=trials, calibration=number)
    if exported.quantised is not None and exported.quantised.warning:
        say(f"warning: {exported.quantised.warning}")
    return exported


def _images_of(folder: RunFolder, spec: StudySpec, study: optuna.Study, data: str | None) -> TrainingData:
    """The images that the run was made with."""
    spec = with_images_at(spec, data)
    with loading_bars() as progress:
        images = load(spec, progress)
    check(study, spec, data_shape_of(images), folder, partial(Listing.of, images))
    return images


def predict(model: Path, images: Iterable[str | Path], *, top: int = 3) -> Predictions:
    """The `top` classes that an exported model gives each image, computed while you iterate over them.

    `images` are files, folders, patterns and `-`, as `search.predict.classify` takes them.

    Raises:
        UserError: the user can fix it; the message says how.

    """
    return classify(model, images, top)


def dashboard(ref: RunRef, *, host: str, port: int = 0, browser: bool = True) -> None:
    """Serve Optuna's dashboard on a run, until interrupted; `port` 0 is a free one; `browser` opens the study's page.

    Raises:
        UserError: the user can fix it; the message says how.

    """
    folder = ref.find()
    with listening(open_study(folder), folder, host, port) as (server, url), suppress(KeyboardInterrupt):
        say(f"{folder.name}: {url}; Ctrl-C ends it")
        if not is_loopback(host):
            say("warning: anyone who can reach this port can change and delete all studies: use a private network")
        if browser:
            open_browser(url)
        server.serve_forever()


def serve_storage(storage: str | None, *, host: str, port: int) -> None:
    """Serve a storage to workers that cannot reach it themselves, until interrupted.

    Raises:
        UserError: the user can fix it; the message says how.

    """
    address = address_of(storage)
    if address is None:
        raise SpecError("no storage to serve: give --storage, or set SEARCH_STORAGE")
    say(f"serving {address} at grpc://{host}:{port}; Ctrl-C ends it")
    if not is_loopback(host):
        say("warning: anyone who can reach this port can read, change and delete all studies: use a private network")
    serve(address, host, port)


def count(study: str, flags: Mapping[str, Any]) -> list[str]:
    """Parameters and multiply-adds, a line for each of a study's baselines and for what its space holds.

    Then the dimensions of the space: those that trials draw, and those that are fixed, with their values.

    Raises:
        UserError: the user can fix it; the message says how.

    """
    spec = load_study(study, flags)
    shape = shape_of_named(spec.data, spec.reading)
    if shape is None:
        with loading_bars() as progress:
            shape = data_shape_of(load(spec, progress))
    spec = spec.for_size(shape.size)
    space_survey = survey(spec, shape)
    limit = f", at most {spec.max_madds:,} multiply-adds" if spec.max_madds is not None else ""
    lines = [f"{study}: {spec.data} ({shape}), budget {spec.budget:,} parameters{limit}"]
    for name, network in spec.baselines.items():
        shaped = with_data_shape(network, shape)
        within = num_params(shaped) <= spec.budget and num_madds(shaped, shape.size) <= (spec.max_madds or math.inf)
        lines.append(_counted(name, shaped, shape) + ("" if within else "  (over the limit)"))
    lines.append(_counted("smallest of the space", space_survey.smallest, shape))
    lines.append(_counted(f"largest of {SAMPLES} draws", space_survey.largest, shape))
    drawn, fixed = dimensions_in_words(spec.space)
    return [*lines, f"drawn: {', '.join(drawn)}", f"fixed: {', '.join(fixed)}"]


def look(source: str, flags: Mapping[str, Any], *, sheet: Path | None = None) -> Census:
    """What a source of images holds, as a search would read and cut it. Trains nothing.

    `source` is a named data set or a path, as for `run`, or a study, by name or as a file: then its data, with its
    settings. `flags` override these. `sheet` is a PNG file to draw training images of each class in.

    Raises:
        UserError: the user can fix it; the message says how.

    """
    if sheet is not None:
        _check_sheet(sheet)
    is_study = source.endswith(".toml") or source in shipped_studies()
    spec = load_study(source, flags) if is_study else load_study("cifar10", {"data": source, **flags})
    with loading_bars() as progress:
        return census_of(spec, sheet, progress)


def _check_sheet(sheet: Path) -> None:
    """Before anything is read."""
    if sheet.suffix.lower() != ".png":
        raise SpecError(f"--sheet {sheet}: the sheet is a PNG file: give a name that ends in .png")
    if not sheet.absolute().parent.is_dir():
        raise SpecError(f"--sheet {sheet}: there is no folder {sheet.parent}: make it, or give another")


def _counted(name: str, network: ResNetSpec, shape: DataShape) -> str:
    madds = num_madds(network, shape.size)
    return f"{name:<22} {num_params(network):>12,} parameters {madds:>14,} multiply-adds  {network}"


def _default_name(study: str, spec: StudySpec, flags: Mapping[str, Any]) -> str:
    """The study (or the data, where a flag names other data), the budget and a limit: `cifar10-5M`."""
    return _named_after(spec.data if "data" in flags else study, spec, _usual_madds(study))


def _usual_madds(study: str) -> int | None:
    """The limit on multiply-adds that a shipped study has by itself, which no name repeats."""
    return load_study(study, {}).max_madds if study in shipped_studies() else None


def _named_after(source: str, spec: StudySpec, usual_madds: int | None) -> str:
    plain = re.sub(r"[^\w.+-]+", "-", Path(source).stem).strip(".-")
    limit = f"-{short_count(spec.max_madds)}-madds" if spec.max_madds not in (None, usual_madds) else ""
    return f"{plain}-{short_count(spec.budget)}{limit}"


def _with_same_images(
    folder: RunFolder, study: str, spec: StudySpec, flags: Mapping[str, Any], fingerprint: str
) -> RunFolder | None:
    """The run that this command means if its images were moved: it has the name that their old place gave it."""
    for name, facts in _named_alike(folder, study, spec, flags):
        source = facts.source
        if facts.fingerprint == fingerprint and source and source not in NAMED and is_missing(source):
            return new_run(folder.root.parent, name, folder.storage)
    return None


def _relative(folder: RunFolder, study: str, spec: StudySpec, flags: Mapping[str, Any], data: TrainingData) -> str:
    """Why this command begins a run though one of the study exists, in a sentence without an end; empty: none exists.

    A run that is named after its own images is one of these if its classes are the same.
    """
    others = []
    for name, facts in _named_alike(folder, study, spec, flags):
        if facts.fingerprint == data.fingerprint:
            return f"a new run, though run {name} has the same images: --name {name} continues it"
        if name.startswith(_default_name(study, spec, {})) or facts.classes == data.classes:
            others.append(name)
    if not others:
        return ""
    return f"a new run, because its images are others than those of run {others[0]}; --name gives it another name"


def _named_alike(
    folder: RunFolder, study: str, spec: StudySpec, flags: Mapping[str, Any]
) -> Iterator[tuple[str, DataFacts]]:
    """The runs beside `folder`, with their images, that are named as the study or their images would name them."""
    control = folder.name.removeprefix(_default_name(study, spec, flags))
    for root in run_folders(folder.root.parent).values():
        facts = read_facts(RunFolder(root))
        if facts is not None and facts.data.fingerprint:
            names = {_named_after(each, spec, _usual_madds(study)) for each in (study, facts.data.source) if each}
            if root.name in {f"{name}{control}" for name in names}:
                yield root.name, facts.data


def _facts(spec: StudySpec, session: Session, folder: RunFolder) -> RunFacts:
    """What is needed to run it again, besides the spec."""
    data = session.data
    return RunFacts(
        versions={
            "python": platform.python_version(),
            "budget-search": version(),
            "torch": str(torch.__version__),  # with the build: CPU or CUDA
            "optuna": optuna.__version__,
        },
        commit=_commit(),
        storage=folder.address.kind,
        device=describe(session.device),
        precision=session.precision,
        data=DataFacts(
            source=spec.data,
            fingerprint=data.fingerprint,
            training_images=len(data.train),
            validation_images=len(data.val),
            validation_images_of_classes=_images_of_classes(data.val, session),
            test_split=data.has_test,
            classes=data.classes,
            size=data.size,
        ),
    )


def _commit() -> str | None:
    """The commit of this tool's checkout; none where it was installed from a package, or where there is no git."""
    here = Path(__file__).parents[1]
    git = shutil.which("git")
    if git is None or not (here / ".git").exists():
        return None
    answer = subprocess.run([git, "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None
