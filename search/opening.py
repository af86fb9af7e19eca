"""Opens the run of a study for a command that searches: its name, its images, its Optuna study, made or continued.

Decisions before the first trial belong here, and nothing that trains.
"""

import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import torch

from search import scores
from search.completion import run_folders, shipped_studies
from search.console import Plan, loading_bars, logged_to
from search.errors import DataError, SpecError
from search.forecast import Speedup
from search.front import with_sizes
from search.identity import agreed_precision, join
from search.learning import learned, runs_to_learn_from
from search.listing import is_missing, keep_listing, moved
from search.loggers import check_loggers
from search.plan import Estimate, Survey, fastest_precision, survey
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
from search.session import Placement, Session, open_session
from search.spec import CONTROLS, StudySpec, load_study
from search.storage import address_of
from search.terminal import say
from search.timing import with_timing
from search.trials import finished_trials, has_begun
from search.version import version
from space import Space
from train_core.classes import images_of_classes
from train_core.data import NAMED, Split, TrainingData
from train_core.device import describe
from train_core.limits import LIMITS, short_count
from train_core.specs import Precision


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A run whose study is open: newly made, or continued."""

    folder: RunFolder
    spec: StudySpec
    session: Session
    survey: Survey
    study: optuna.Study
    baselines: Mapping[str, bool]  # by name: whether budget and space allow it
    starts: Sequence[str]  # the source of each configuration that did best on other images
    follows_size: Mapping[str, Any]  # dimensions that follow the size of the images, with their values
    why_score: str  # why its networks are compared by this score; empty: no remark
    relative: str  # how a new run relates to an existing one; empty: no remark
    precision_seconds: Mapping[Precision, float]  # per step, for each precision that was measured

    def plan(
        self, speedup: Speedup, *, expected: Estimate | None = None, hours: float | None = None, others: int = 0
    ) -> Plan:
        """The plan of the search; `others` workers are already searching. Without `expected`, it has no time."""
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
    """The spec of a study, unchanged."""
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
    """Open the run of a study, made if there is none; what is printed meanwhile also goes to its log.

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
    spec = with_sizes(with_timing(spec, folder, session.shape, session.device, say), session.shape)
    space_survey = survey(spec, session.shape)
    spec = adapt(spec, folder, session, space_survey)
    folder.create()
    with logged_to(folder):
        optuna_study, spec, baselines, starts = join(
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
        spec = spec.model_copy(update={"data": str(Path(spec.data).absolute())})  # so that it is found from any folder
    folder = new_run(ref.runs.absolute() if placement.ray_address else ref.runs, name, address_of(ref.storage))
    check_trainable(folder)
    if spec.data not in NAMED and is_missing(spec.data) and folder.study_file.exists():
        facts = read_facts(folder)
        last = facts.data.source if facts and facts.data.source else spec.data
        if is_missing(last):
            raise DataError(moved(last))
        spec = spec.model_copy(update={"data": last})  # where a command with --data has found the images
    spec = spec.model_copy(update={"learn_from": runs_to_learn_from(spec, folder)})
    if placement.ray_address and not folder.address.is_shared:
        raise SpecError("--ray-address places workers on several machines: give a --storage that they share")
    return spec, folder


def _changed(asked: StudySpec, spec: StudySpec) -> dict[str, Any]:
    """The dimensions of a study that follow the size of its images, with their values."""
    held = {name: getattr(spec.space, name) for name in Space.model_fields}
    return {name: value for name, value in held.items() if value != getattr(asked.space, name)}


def _with_score(spec: StudySpec, session: Session) -> tuple[StudySpec, str]:
    """The spec with the score that its networks are compared by, and the reason for it; empty: no remark.

    `auto` depends only on the training images, so a continued study keeps its score.
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
    """The session in the study's precision, and the seconds per step in each precision that was measured for it."""
    if spec.precision != "auto":
        return session, {}
    seconds: dict[Precision, float] = {}

    def measure() -> Precision:
        fastest, measured = fastest_precision(space_survey, session.data)
        seconds.update(measured)
        return fastest

    return session.with_precision(agreed_precision(study, measure)), seconds


def _default_name(study: str, spec: StudySpec, flags: Mapping[str, Any]) -> str:
    """The name of a run: the study (or the data, if a flag names other data), the budget, a limit: `cifar10-5M`."""
    return _named_after(spec.data if "data" in flags else study, spec, _usual(study))


def _usual(study: str) -> StudySpec | None:
    """A shipped study without flags: its own limits are not part of a name."""
    return load_study(study, {}) if study in shipped_studies() else None


def _named_after(source: str, spec: StudySpec, usual: StudySpec | None) -> str:
    plain = re.sub(r"[^\w.+-]+", "-", Path(source).stem).strip(".-")
    given = {name: (limit, getattr(spec, limit.key)) for name, limit in LIMITS.items() if name != "parameters"}
    own = (
        f"-{limit.short(most)}"
        for limit, most in given.values()
        if most is not None and (usual is None or most != getattr(usual, limit.key))
    )
    counts_by_format = any(limit.by_format and most is not None for limit, most in given.values())
    fmt = f"-{spec.format}" if counts_by_format and spec.format != "onnx" else ""
    along = "".join(f"-{name}" for name in spec.front if spec.front != ("parameters",))
    return f"{plain}-{short_count(spec.budget)}{''.join(own)}{fmt}{f'-front{along}' if spec.front else ''}"


def _with_same_images(
    folder: RunFolder, study: str, spec: StudySpec, flags: Mapping[str, Any], fingerprint: str
) -> RunFolder | None:
    """The run that this command means if its images were moved: it has the name from their old place."""
    for name, facts in _named_alike(folder, study, spec, flags):
        source = facts.source
        if facts.fingerprint == fingerprint and source and source not in NAMED and is_missing(source):
            return new_run(folder.root.parent, name, folder.storage)
    return None


def _relative(folder: RunFolder, study: str, spec: StudySpec, flags: Mapping[str, Any], data: TrainingData) -> str:
    """Why this command starts a run although the study has one, in a sentence without a full stop; empty: it has none.

    A run that is named after its own images is included if its classes are the same.
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
    """The runs beside `folder`, with their images, whose names come from the same study or from their images."""
    control = folder.name.removeprefix(_default_name(study, spec, flags))
    for root in run_folders(folder.root.parent).values():
        facts = read_facts(RunFolder(root))
        if facts is not None and facts.data.fingerprint:
            names = {_named_after(each, spec, _usual(study)) for each in (study, facts.data.source) if each}
            if root.name in {f"{name}{control}" for name in names}:
                yield root.name, facts.data


def _facts(spec: StudySpec, session: Session, folder: RunFolder) -> RunFacts:
    """The facts that are needed to repeat the run, besides the spec."""
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
    """The commit of this tool's checkout; None if it was installed from a package, or if there is no git."""
    here = Path(__file__).parents[1]
    git = shutil.which("git")
    if git is None or not (here / ".git").exists():
        return None
    answer = subprocess.run([git, "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None
