"""The commands as functions. Each states here what a command does; other modules do the work.

The commands that train full runs are in `full_runs`, and `search auto` is in `overnight`.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import optuna

from search.archive import open_archive
from search.card import Exported
from search.completion import shipped_studies
from search.console import loading_bars, say_outcome, say_plan
from search.dashboard import listening, open_browser
from search.data_shape import DataShape, data_shape_of, shape_of_named, with_data_shape
from search.errors import DataError, RunError, SpecError
from search.export import chosen, export_model
from search.front import with_sizes
from search.full_front import runs_of_front
from search.identity import check, open_study, spec_of
from search.listing import Listing, read_listing
from search.live_report import FULL_RUNS
from search.notes import publish
from search.opening import Opened, opened
from search.plan import SAMPLES, survey
from search.predict import Predictions, classify
from search.promotions import Promotion
from search.quantisation import CALIBRATION, check_calibration
from search.report import write_report
from search.results import read_results
from search.run_folder import RunFolder, RunRef, check_trainable, write_text
from search.searching import expected, search_on, working
from search.session import Placement, census_of, load, test_of, with_images_at
from search.spec import StudySpec, load_study
from search.storage import address_of, is_loopback, serve
from search.terminal import say
from search.trials import TrialRecord, finished_trials
from space import dimensions_in_words
from train_core import checkpoint
from train_core.census import Census
from train_core.data import Split, TrainingData
from train_core.formats import FORMATS, check_installed
from train_core.limits import Limits
from train_core.specs import ResNetSpec, num_madds, num_params


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

    `flags` override the study file's values; `ref` names the run (default: after study and budget) and its place;
    `placement` is where it trains; after `hours` it stops, to be continued later; `control` makes it one of `CONTROLS`,
    under a name of its own. Returns the run's folder.

    Raises:
        UserError: the user can fix it; the message says how.

    """
    until = time.time() + hours * 3600 if hours is not None else float("inf")
    with opened(study, flags, ref, placement, control=control) as run, working(run, until) as search:
        finished = finished_trials(run.study)
        _tidy(run.folder, finished)
        is_complete = len(finished) >= run.spec.trials
        estimate = None if is_complete else expected(run.spec, run.survey, run.session)
        others = len(search.setting.worker.others())
        plan = run.plan(placement.speedup(run.session), expected=estimate, hours=hours, others=others)
        say_plan(plan)
        if not is_complete:
            search_on(search, run.session, placement, finished, plan.span)
        _conclude(run)
    return run.folder


def _conclude(run: Opened) -> None:
    """Print the progress of the study, and write its report and its notes for the dashboard."""
    _tidy(run.folder, finished_trials(run.study))
    say_outcome(run.folder, run.spec, run.study)
    results = read_results(run.folder)
    write_report(run.folder, results)
    publish(run.folder, results, run.session.data.size)


def _tidy(folder: RunFolder, finished: Sequence[TrialRecord]) -> None:
    """Delete checkpoints of trials that have a verdict: left by a process that was killed, or by a trial given up."""
    for number in folder.trials_with_checkpoints() & {trial.first_attempt for trial in finished}:
        checkpoint.delete(folder.trial_checkpoint(number))


def report(ref: RunRef) -> Path:
    """Write a run's report and return its path. For an archive, the report is written beside it.

    Raises:
        UserError: the user can fix it; the message says how.

    """
    if ref.name is not None and ref.name.endswith(".zip"):
        return _report_of_archive(Path(ref.name))
    folder = ref.find()
    return write_report(folder, going_on=FULL_RUNS if folder.is_promoting else "")


def _report_of_archive(archive: Path) -> Path:
    """Write the report of an archive, `NAME.html` beside `NAME.zip`, from a temporary copy."""
    page = archive.with_suffix(".html")
    with tempfile.TemporaryDirectory() as runs:
        written = write_report(open_archive(archive, Path(runs)))
        write_text(page, written.read_text(encoding="utf-8"))
    return page


def export(
    ref: RunRef,
    *,
    trial: int | None = None,
    fmt: str | None = None,
    data: str | None = None,
    calibration: int | None = None,
) -> Exported:
    """Write the model of a run as one file of the format `fmt` (default: the study's), and its card beside it.

    The model is that of the best full run (the refit if there is one), or that of the longest full run of `trial`.
    `data` is where the images of the run are now, if they were moved. They are needed only to test the file; if they
    are gone or have changed, it is tested on random pixels. An int8 file is made from about `calibration` training
    images, and needs the images.

    Raises:
        UserError: the user can fix it; the message says how.

    """
    return _export(ref, lambda folder, _spec: [chosen(folder, trial)], fmt, data, calibration)[0]


def export_front(
    ref: RunRef, *, fmt: str | None = None, data: str | None = None, calibration: int | None = None
) -> list[Exported]:
    """Write the model of each network on the front of the full runs, the smallest first; otherwise as `export`.

    Raises:
        UserError: the user can fix it; the message says how.

    """
    return _export(ref, runs_of_front, fmt, data, calibration)


def _export(
    ref: RunRef,
    choose: Callable[[RunFolder, StudySpec], Sequence[Promotion]],
    fmt: str | None,
    data: str | None,
    calibration: int | None,
) -> list[Exported]:
    if fmt not in (None, *FORMATS):
        raise SpecError(f"--format {fmt!r} is unknown: give one of {', '.join(FORMATS)}")
    folder = ref.find()
    check_trainable(folder)
    spec = spec_of(folder)
    known = next((name for name in FORMATS if name == fmt), spec.format)
    check_calibration(known, calibration)
    check_installed(known)
    full_runs = choose(folder, spec)
    study = open_study(folder)
    listing = read_listing(folder)
    images: TrainingData | Listing
    try:
        images = _images_of(folder, spec, study, data)
    except (DataError, RunError) as error:
        if listing is None or data is not None or FORMATS[known].int8 is not None:
            raise
        check(study, spec, listing.shape, folder)  # everything except the images
        say(f"the file is tried on random pixels, not on validation images: {error}")
        images = listing
    trials, number = len(finished_trials(study)), CALIBRATION if calibration is None else calibration
    exported, load_test = [], _test_split(spec, images, data)
    for run in full_runs:
        exported.append(
            export_model(folder, run, spec, images, known, trials=trials, calibration=number, load_test=load_test)
        )
        if exported[-1].quantised is not None and exported[-1].quantised.warning:
            say(f"warning: {exported[-1].quantised.warning}")
        if exported[-1].over_limit:
            say(f"warning: {exported[-1].over_limit}")
    if folder.report.exists():
        write_report(folder)  # it links to the files
    return exported


def _test_split(spec: StudySpec, images: TrainingData | Listing, data: str | None) -> Callable[[], Split | None]:
    """A function that reads the test images, to measure what int8 loses on them; it returns None without images."""
    return test_of(with_images_at(spec, data), images) if isinstance(images, TrainingData) else lambda: None


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
    """Parameters and multiply-adds, one line for each baseline of a study and for what its space contains.

    Then the dimensions of the space: those that trials draw, and those that are fixed, with their values.

    Raises:
        UserError: the user can fix it; the message says how.

    """
    spec = load_study(study, flags)
    if spec.max_latency is not None and spec.timed is None:
        raise SpecError("a limit on latency needs networks that are timed, which `search run` does: leave it out here")
    shape = shape_of_named(spec.data, spec.reading)
    if shape is None:
        with loading_bars() as progress:
            shape = data_shape_of(load(spec, progress))
    spec = with_sizes(spec.for_size(shape.size), shape)
    space_survey = survey(spec, shape)
    lines = [f"{study}: {spec.data} ({shape}), budget {spec.limits}"]
    for name, network in spec.baselines.items():
        shaped = with_data_shape(network, shape)
        within = spec.limits.fits(shaped, shape.size)
        lines.append(_counted(name, shaped, shape, spec.limits) + ("" if within else "  (over the limit)"))
    lines.append(_counted("smallest of the space", space_survey.smallest, shape, spec.limits))
    lines.append(_counted(f"largest of {SAMPLES} draws", space_survey.largest, shape, spec.limits))
    drawn, fixed = dimensions_in_words(spec.space)
    return [*lines, f"drawn: {', '.join(drawn)}", f"fixed: {', '.join(fixed)}"]


def look(source: str, flags: Mapping[str, Any], *, sheet: Path | None = None) -> Census:
    """The contents of a source of images, as a search would read and split it. Trains nothing.

    `source` is a named data set or a path, as for `run`, or a study, by name or as a file: then its data and settings
    are used. `flags` override the settings. `sheet` is a PNG file to draw training images of each class in.

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
    """Check the path of the sheet before anything is read."""
    if sheet.suffix.lower() != ".png":
        raise SpecError(f"--sheet {sheet}: the sheet is a PNG file: give a name that ends in .png")
    if not sheet.absolute().parent.is_dir():
        raise SpecError(f"--sheet {sheet}: there is no folder {sheet.parent}: make it, or give another")


def _counted(name: str, network: ResNetSpec, shape: DataShape, limits: Limits) -> str:
    madds, others = num_madds(network, shape.size), limits.others_in_words(network, shape.size)
    return f"{name:<22} {num_params(network):>12,} parameters {madds:>14,} multiply-adds{others}  {network}"
