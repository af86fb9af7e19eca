"""Where a run keeps its files, and how they are written: whole or not at all."""

import errno
import logging
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, Field, ValidationError
from sqlalchemy import URL, make_url

from search.completion import run_folders
from search.errors import BusyError, RunError
from search.storage import Address, address_of
from train_core.examples import FormatName
from train_core.files import written_whole
from train_core.model_files import suffix_of
from train_core.specs import Frozen

log = logging.getLogger(__name__)

try:
    import fcntl
except ImportError:  # Windows locks files in another way, on all drives
    fcntl = None  # type: ignore[assignment]  # Windows has none

Outcome = TypeVar("Outcome", bound=BaseModel)
SplitName = Literal["val", "test"]

LOCK_TIMEOUT_S = 60.0  # waiting for another worker that does what only one may do at a time
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # from a file system without locks
LOOK_S = 1.0  # longer than a read-only command holds a lock that it tests


@dataclass(frozen=True)
class RunFolder:
    """One run's folder. Every path name of a run is made here.

    study.toml     the spec as run
    run.json       versions, device, data: what is needed to run it again
    images.json    which images the run began with, and what a model file says of them
    night.json     how much time `search auto` has, and its progress
    study.db       the Optuna study, unless it is kept in a `storage` that several machines share
    search.log     a line for each thing that happened
    trials/        checkpoints of trials that are running, or were interrupted
    promoted/      one folder for each full run: checkpoint.pt after every epoch, result.json when it is finished,
                   predictions-val.npz and predictions-test.npz; the best one also has batch.npz
    exported/      models as files of their own, each with its card, written by `search export`
    artifacts/     pictures of the promoted trials, as Optuna's dashboard keeps them
    report.html    written by `search report`
    tensorboard/, mlflow.db, mlflow/, wandb/    written by `--log`
    .workers/      a lock for each process that searches, and a file for its stack trace after a fatal signal
    """

    root: Path
    storage: Address | None = None

    @property
    def name(self) -> str:
        """The run's name."""
        return self.root.name

    @property
    def study_file(self) -> Path:
        """The spec as run."""
        return self.root / "study.toml"

    @property
    def facts(self) -> Path:
        """Versions, device and data of the run."""
        return self.root / "run.json"

    @property
    def listing(self) -> Path:
        """Which images the run began with."""
        return self.root / "images.json"

    @property
    def night(self) -> Path:
        """How much time `search auto` has, and its progress."""
        return self.root / "night.json"

    @property
    def database(self) -> Path:
        """The Optuna study."""
        return self.root / "study.db"

    @property
    def address(self) -> Address:
        """Where the study is kept."""
        return self.storage or Address(_sqlite(self.database.absolute()))

    def absolute(self) -> "RunFolder":
        """The run folder with an absolute path, for processes with another working folder."""
        return RunFolder(self.root.absolute(), self.storage)

    def named(self, name: str) -> "RunFolder":
        """Another run in the same folder of runs."""
        return RunFolder(self.root.with_name(name), self.storage)

    @property
    def log(self) -> Path:
        """The log, in plain lines."""
        return self.root / "search.log"

    @property
    def last_touched(self) -> float:
        """When the run last changed, in seconds since the epoch."""
        written = (self.study_file, self.database, self.log, *(each.checkpoint for each in self.promotions()))
        return max(path.stat().st_mtime for path in written if path.exists())

    @property
    def report(self) -> Path:
        """The report."""
        return self.root / "report.html"

    @property
    def artifacts(self) -> Path:
        """Files that the dashboard shows with a trial, each under its id in the study."""
        return self.root / "artifacts"

    def trial_checkpoint(self, first_attempt: int) -> Path:
        """The state of a short run, shared by all attempts at the same trial."""
        return self.root / "trials" / f"trial-{first_attempt:04d}.pt"

    def trials_with_checkpoints(self) -> set[int]:
        """The first attempts that have a checkpoint, even if only a half-written one."""
        names = (re.search(r"trial-(\d+)\.pt", path.name) for path in (self.root / "trials").glob("*"))
        return {int(found[1]) for found in names if found}

    def promotion(self, trial: int, epochs: int, seed: int, *, refit: bool = False) -> "PromotionFolder":
        """The folder of one full run; `refit`: also trained on the validation images."""
        name = f"trial-{trial:04d}-epochs-{epochs}-seed-{seed}{'-refit' if refit else ''}"
        return PromotionFolder(self.root / "promoted" / name)

    def promotions(self) -> list["PromotionFolder"]:
        """The folders of all full runs, finished or not, in order."""
        return [PromotionFolder(path) for path in sorted((self.root / "promoted").glob("trial-*"))]

    def reproduction(self, row: str, epochs: int, seed: int, protocol: str, fingerprint: str) -> "PromotionFolder":
        """The folder of a report's row, trained on the data with this fingerprint."""
        return PromotionFolder(self.root / f"{row}-epochs-{epochs}-seed-{seed}-{protocol}-{fingerprint[:8]}")

    def exported(self, promotion: "PromotionFolder", fmt: FormatName) -> Path:
        """The model of a full run as one file of a format."""
        return self.root / "exported" / f"{promotion.root.name}{suffix_of(fmt)}"

    def tracked(self, name: str) -> Path:
        """A file or a folder of an experiment tracker in the run: see `search.loggers`."""
        return self.root / name

    def create(self) -> None:
        """Make the folder.

        Raises:
            RunError: it cannot be written.

        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root) as file:
                _check_locks(file.fileno(), self.root)
        except OSError as error:
            raise RunError(
                f"run folder {self.root} cannot be written ({error.strerror}): choose another with --runs"
            ) from error

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other process be in this context for the same folder at the same time. Keep it short.

        Raises:
            BusyError: another process has been in it for `LOCK_TIMEOUT_S`.

        """
        try:
            with FileLock(self.root / ".lock", timeout=LOCK_TIMEOUT_S):
                yield
        except Timeout as error:
            raise BusyError(f"another search in {self.root} hangs: end it, and run this again") from error

    def worker_lock(self, name: str, kernel: str) -> Path:
        """The file that a worker, on the system `kernel`, locks while it is alive."""
        self._workers.mkdir(exist_ok=True)
        return self._workers / f"{name}@{kernel}.lock"

    def worker_trace(self, name: str) -> Path:
        """The stack trace of a worker that a fatal signal ended; empty until then, deleted when it ends normally."""
        self._workers.mkdir(exist_ok=True)
        return self._workers / f"{name}.trace"

    def workers(self) -> dict[str, str]:
        """The processes that search in this run now, according to their locks: the name of each, and its kernel."""
        held = (path.stem.rpartition("@") for path in sorted(self._workers.glob("*.lock")) if is_held(path))
        return {name: kernel for name, _, kernel in held}

    @contextmanager
    def spending_night(self) -> Iterator[None]:
        """Mark this process as the one that divides a night of this run.

        Raises:
            BusyError: another process does.

        """
        try:
            with FileLock(self._night_lock, timeout=LOOK_S):
                yield
        except Timeout as error:
            raise BusyError(
                f"another `search auto` is at work in {self.root}: `search watch {self.name}` shows it, and --workers "
                "gives one command several workers"
            ) from error

    @property
    def _night_lock(self) -> Path:
        return self.root / ".night.lock"

    @contextmanager
    def promoting(self, *, beside_search: bool = False) -> Iterator[None]:
        """Mark this process as the one that promotes trials of this run.

        `beside_search`: other processes may still search.

        Raises:
            BusyError: another process promotes trials, or a search is running.

        """
        if self.workers() and not beside_search:
            raise BusyError(f"a search is at work in {self.root}: promote when it has ended")
        try:
            with FileLock(self._promote_lock, timeout=LOOK_S):
                yield
        except Timeout as error:
            raise BusyError(f"another `search promote` is at work in {self.root}: wait for it") from error

    @property
    def is_promoting(self) -> bool:
        """Whether a process promotes trials of this run now, or divides its night: it may be between two full runs."""
        return any(lock.exists() and is_held(lock) for lock in (self._promote_lock, self._night_lock))

    @property
    def _promote_lock(self) -> Path:
        return self.root / ".promote.lock"

    @property
    def _workers(self) -> Path:
        return self.root / ".workers"


def _check_locks(file: int, folder: Path) -> None:
    """Check that files can be locked here: some mounted drives cannot, and two processes would collide.

    `filelock` would then use the existence of a file as a lock, which remains when a process is killed.

    Raises:
        RunError: files cannot be locked.

    """
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise RunError(
            f"the drive of {folder} has no file locks, which keep two processes out of one run: choose a folder on "
            "another drive with --runs, and copy it there when the run is done"
        ) from error


def is_held(lock: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


@dataclass(frozen=True)
class PromotionFolder:
    """One full run's folder."""

    root: Path

    @property
    def of(self) -> tuple[int, int, int, bool]:
        """Which run it is, according to its name: trial, epochs, seed, and whether it is a refit."""
        _, trial, _, epochs, _, seed, *refit = self.root.name.split("-")
        return int(trial), int(epochs), int(seed), bool(refit)

    @property
    def checkpoint(self) -> Path:
        """The state after the last finished epoch; at the end, the trained network."""
        return self.root / "checkpoint.pt"

    @contextmanager
    def taken(self) -> Iterator[bool]:
        """Whether this process may train the run: no other process has taken it, until the context ends."""
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.root / ".lock", timeout=0):
                yield True
        except Timeout:
            yield False

    @property
    def result(self) -> Path:
        """The outcome; it exists only when the run is finished."""
        return self.root / "result.json"

    def predictions(self, split: SplitName) -> Path:
        """The trained network's predictions for the images of a split."""
        return self.root / f"predictions-{split}.npz"

    @property
    def batch(self) -> Path:
        """A training batch as the network saw it; only the best full run has one."""
        return self.root / "batch.npz"

    def read(self, kind: type[Outcome]) -> Outcome:
        """The outcome of a finished run.

        Raises:
            RunError: the file is damaged.

        """
        try:
            return kind.model_validate_json(self.result.read_text(encoding="utf-8"))
        except (ValidationError, OSError, UnicodeDecodeError) as error:
            raise RunError(
                f"{self.result} cannot be read: delete it, and the `search promote` or `search fidelity` that trained "
                "it writes it again from the checkpoint"
            ) from error


def card_of(exported: Path) -> Path:
    """The model card of an exported model."""
    return exported.with_name(f"{exported.name}.md")


def new_run(runs: Path, name: str, storage: Address | None = None) -> RunFolder:
    """The folder of a run by name; it need not exist yet.

    Raises:
        RunError: the name cannot be the name of a folder, or the run's study is kept elsewhere.

    """
    if re.fullmatch(r"[\w+][\w.+-]*", name) is None:
        raise RunError(
            f"a run cannot be called {name!r}: give --name with letters, digits and . _ + -, and none of . - first"
        )
    folder = RunFolder(runs / name, storage)
    # Older versions of SQLAlchemy cannot express every path in an address.
    if not storage and make_url(folder.address.url).database != str(folder.database.absolute()):
        special = min(set("?%#") & set(str(runs.absolute())), default="special character")
        raise RunError(f"the folder {str(runs)!r} has a {special} in its path: choose another with --runs")
    return _kept(folder)


def _sqlite(database: Path) -> str:
    """The address of an SQLite database; characters with a meaning in an address are escaped."""
    return URL.create("sqlite", database=str(database)).render_as_string()


def reproduction_folder(runs: Path, study: str) -> RunFolder:
    """Where the rows of a study's report are trained; it is not a run, so no command mistakes it for one."""
    return RunFolder(runs / f"{Path(study).stem}-reproduced")


def _kept(folder: RunFolder) -> RunFolder:
    """The folder, if its study is where the command expects it."""
    if folder.storage and folder.database.exists():
        raise RunError(
            f"run {folder.name!r} keeps its study in its own folder: leave out --storage (and SEARCH_STORAGE), or "
            "choose another --name"
        )
    kind = kind_of_storage(folder)
    if not folder.storage and kind != "sqlite":
        raise RunError(
            f"run {folder.name!r} keeps its study in a {kind} storage: give --storage, or set SEARCH_STORAGE"
        )
    return folder


def control_name(name: str, control: str) -> str:
    """Name of the control of the run called `name`."""
    return f"{name}-{control}"


def find_run(runs: Path, name: str | None, storage: Address | None = None) -> RunFolder:
    """The run called `name` in the folder `runs`, or the last one used.

    Raises:
        RunError: there is none, or it is kept elsewhere.

    """
    return _kept(RunFolder(_found(runs, name), storage))


def find_run_to_read(runs: Path, name: str | None, storage: Address | None = None) -> RunFolder:
    """As `find_run`, but a storage that this run does not use is ignored, because nothing will be written.

    Raises:
        RunError: there is none, or it is kept elsewhere.

    """
    return as_kept(_found(runs, name), storage)


def as_kept(root: Path, storage: Address | None) -> RunFolder:
    """The run in this folder, with the storage only if its study is kept there.

    Raises:
        RunError: its study is kept in a storage, and none is given.

    """
    return _kept(RunFolder(root, storage if kind_of_storage(RunFolder(root)) != "sqlite" else None))


def kind_of_storage(folder: RunFolder) -> str:
    """The kind of storage that contains the run's study, according to its folder."""
    facts = read_facts(folder)
    return facts.storage if facts is not None else "sqlite"


def named_runs(runs: Path, words: Iterable[str]) -> list[str]:
    """The names of the runs in the folder `runs` that match the words, each once.

    A word is a name, or a pattern such as `night-*`, or several of these with commas between them.

    Raises:
        RunError: a name or a pattern matches no run.

    """
    found: dict[str, None] = {}
    there = sorted(run_folders(runs))
    for word in (part for each in words for part in each.split(",")):
        names = [word] if word in there else [name for name in there if fnmatchcase(name, word)]
        if not names:
            listed = f": there are {', '.join(there)}" if there else ": start one with `search run`"
            raise RunError(f"no run {word!r} in {runs}{listed}")
        found |= dict.fromkeys(names)
    return list(found)


def _found(runs: Path, name: str | None) -> Path:
    found = run_folders(runs)
    if name is None and found:
        return max(found.values(), key=lambda path: RunFolder(path).last_touched)
    if name is not None and len(Path(name).parts) > 1 and Path(name).name in run_folders(Path(name).parent):
        return Path(name)  # a path instead of a name
    if name not in found or name is None:
        there = f": there are {', '.join(sorted(found))}" if found else ": start one with `search run`"
        raise RunError(f"no run{f' {name!r}' if name else ''} in {runs}{there}")
    return found[name]


class DataFacts(Frozen):
    """Which data a run was made with."""

    source: str | None = None
    fingerprint: str | None = None
    training_images: int | None = None
    validation_images: int | None = None
    validation_images_of_classes: tuple[int, ...] = ()
    test_split: bool | None = None
    classes: tuple[str, ...] = ()
    size: tuple[int, int] | None = None  # height and width, in pixels


class RunFacts(Frozen):
    """The facts that are needed to repeat the run, besides the spec. Unknown facts are None, never a guess."""

    versions: dict[str, str] = Field(default={})
    commit: str | None = None  # of the tool's checkout
    storage: str = "sqlite"
    device: str | None = None
    precision: str | None = None
    data: DataFacts = DataFacts()
    promoted: tuple[str, ...] = ()  # the commands that trained full runs, in order
    archived: str | None = None  # the day on which it was packed; None: not an archive


def read_facts(folder: RunFolder) -> RunFacts | None:
    """The contents of `run.json`; None if it is missing or damaged."""
    try:
        return RunFacts.model_validate_json(folder.facts.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def check_trainable(folder: RunFolder) -> None:
    """Check that this run is not an opened archive, which has results but no images to train on.

    Raises:
        RunError: it is an opened archive.

    """
    facts = read_facts(folder)
    if facts is not None and facts.archived:
        raise RunError(
            f"run {folder.name!r} is archived: it can be read, but it has no checkpoints and no models; start a "
            f"new search with `search run {folder.study_file}`, another --name, and --data if the images are elsewhere"
        )


def write_facts(folder: RunFolder, facts: RunFacts) -> None:
    """Write `run.json`, and keep the commands for full runs that it lists."""
    before = read_facts(folder)
    if before is None and folder.facts.exists():
        log.warning("%s was damaged and is written again; it no longer lists the commands for full runs", folder.facts)
    kept = facts.model_copy(update={"promoted": before.promoted}) if before is not None else facts
    write_text(folder.facts, kept.model_dump_json(indent=2) + "\n")


def note_promoted(folder: RunFolder, command: str) -> None:
    """Record, once, that this command is done."""
    facts = read_facts(folder)
    if facts is None:  # what else it holds is known to `search run` only
        log.warning("%s is missing or damaged: `search run` with the same study writes it again", folder.facts)
        return
    commands = tuple(dict.fromkeys([*facts.promoted, command]))
    write_text(folder.facts, facts.model_copy(update={"promoted": commands}).model_dump_json(indent=2) + "\n")


@dataclass(frozen=True)
class RunRef:
    """The run that a command uses, as the user names it."""

    name: str | None = None  # None: the last one used
    runs: Path = Path("runs")  # the folder of all runs
    storage: str | None = None  # the address of a storage that several machines share

    def find(self) -> RunFolder:
        """The run's folder.

        Raises:
            UserError: there is none, or its study is kept elsewhere.

        """
        return find_run(self.runs, self.name, address_of(self.storage))

    def find_to_read(self) -> RunFolder:
        """The run's folder, for a command that writes nothing: a storage that it does not use is ignored.

        Raises:
            UserError: there is none, or its study is kept elsewhere.

        """
        return find_run_to_read(self.runs, self.name, address_of(self.storage))


def write_text(path: Path, text: str) -> None:
    """Write `path`, whole or not at all; its folder is created if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as file:
        # A class name may come from a folder name that is not valid text.
        file.write(text.encode(errors="replace"))
