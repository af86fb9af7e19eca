"""Addresses and passwords; what is tried again, and what is not."""

import errno
import logging
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from sqlalchemy import exc as database_errors

from search import storage as storages
from search.errors import RunError, SpecError, StorageError
from search.identity import open_study
from search.run_folder import RunFolder, find_run, new_run, write_text
from search.storage import (
    Address,
    RetryingStorage,
    connect,
    is_full,
    is_loopback,
    is_transient,
    parse_address,
    redacted,
    with_retries,
)
from tests.support.runs import run_study, study_spec
from tests.support.trainers import FakeTrainer


def failing(error: str) -> database_errors.OperationalError:
    return database_errors.OperationalError("SELECT 1", {}, Exception(error))


@pytest.mark.parametrize(
    ("text", "url", "shown"),
    [
        ("postgresql://me:pw1@db/studies", "postgresql+psycopg://me:pw1@db/studies", "postgresql on db/studies"),
        ("postgres://db:5433/s", "postgresql+psycopg://db:5433/s", "postgresql on db:5433/s"),
        ("mysql://me:pw1@db:3306/s", "mysql+pymysql://me:pw1@db:3306/s", "mysql on db:3306/s"),
        ("mariadb://me:pw1@db/s", "mysql+pymysql://me:pw1@db/s", "mysql on db/s"),
        ("grpc://head:13000", "grpc://head:13000", "grpc on head:13000"),
    ],
)
def test_an_address_is_completed_and_shown_without_user_and_password(text: str, url: str, shown: str) -> None:
    address = parse_address(text)
    assert (address.url, str(address), address.is_shared) == (url, shown, True)
    assert "pw1" not in repr(address) + repr(RunFolder(Path("run"), address)) + str(address)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("no address with a s3cret", "--storage cannot be read as an address: give postgresql"),
        ("oracle://me:s3cret@db/s", "--storage is of a kind that is not known: give postgresql"),
        (
            "postgresql+psycopg2://me:s3cret@db/s",
            "--storage is of a kind that is not known: give postgresql+psycopg://",
        ),
        ("sqlite:///s3cret.db", "a run keeps its SQLite database in its folder: leave out --storage"),
        ("grpc://me:s3cret@head", "--storage is a gRPC proxy without host or port: give grpc://host:13000"),
    ],
)
def test_an_address_that_is_none_is_refused_without_repeating_it(text: str, answer: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_address(text)
    assert str(caught.value).startswith(answer)
    assert "s3cret" not in str(caught.value)


def test_a_password_is_taken_out_of_texts_in_every_form() -> None:
    parse_address("postgresql://me:top%2Fp%40ss@db/s?sslpassword=k3y%20word")
    assert redacted("top/p@ss top%2Fp%40ss k3y word k3y+word me@db") == "*** *** *** *** me@db"


def test_a_process_that_was_handed_an_address_keeps_its_password_out_of_texts_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(storages, "_passwords", set())
    monkeypatch.setattr(storages, "FIRST_PATIENCE_S", 0.0)
    with pytest.raises(StorageError):
        connect(Address("postgresql+psycopg://me:pw4@127.0.0.1:1/s"))
    assert redacted("pw4") == "***"


def test_a_storage_that_is_not_there_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storages, "FIRST_PATIENCE_S", 0.3)
    for kind, url in (("postgresql", "postgresql://me:pw2@127.0.0.1:1/s"), ("grpc", "grpc://127.0.0.1:1")):
        with pytest.raises(StorageError, match=rf"^{kind} on 127.0.0.1:1.* cannot be opened \(.*\): check") as caught:
            connect(parse_address(url))
        assert "\n" not in str(caught.value)
        assert "pw2" not in str(caught.value)


def test_a_missing_driver_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("No module named 'psycopg'")

    monkeypatch.setattr(optuna.storages, "RDBStorage", missing)
    advice = r"^postgresql on db/s needs a driver: pip install '\.\[postgresql\]' in the checkout$"
    with pytest.raises(RunError, match=advice):
        connect(parse_address("postgresql://db/s"))


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (failing("database is locked"), True),
        (failing("database or disk is full"), True),
        (failing("server closed the connection unexpectedly"), True),
        (failing("FATAL: the database system is starting up"), True),
        (failing("attempt to write a readonly database"), False),
        (failing("FATAL: password authentication failed for user"), False),
        (database_errors.ProgrammingError("SELECT", {}, Exception("syntax error")), False),
        (ValueError("anything else"), False),
    ],
)
def test_what_may_pass_is_told_from_what_lasts(error: Exception, passes: bool) -> None:
    assert is_transient(error) == passes
    wrapped = optuna.exceptions.StorageInternalError("as Optuna raises it")
    wrapped.__cause__ = error
    assert is_transient(wrapped) == passes


class Flaky:
    """Fails so many times, then works."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.failures, self.error = failures, error

    def __call__(self) -> str:
        self.failures -= 1
        if self.failures >= 0:
            raise self.error
        return "done"


def test_what_may_pass_is_tried_again_and_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(storages, "QUIET_S", 0.15)
    with caplog.at_level(logging.WARNING, logger="search"):
        assert with_retries(Flaky(4, failing("database is locked")), is_transient, "the study's storage") == "done"
    assert [record.getMessage() for record in caplog.records] == [
        "the study's storage does not answer (database is locked): trying again for 10 minutes",
        "the study's storage answers again",
    ]


def test_how_long_each_try_took_counts(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(storages, "QUIET_S", 0.3)
    flaky = Flaky(1, failing("database is locked"))

    def slow() -> str:
        time.sleep(0.3)
        return flaky()

    with caplog.at_level(logging.WARNING, logger="search"):
        assert with_retries(slow, is_transient, "it") == "done"
    assert len(caplog.records) == 2


def test_a_blip_is_not_worth_a_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="search"):
        assert with_retries(Flaky(1, failing("deadlock detected")), is_transient, "it") == "done"
    assert caplog.records == []


def test_what_lasts_ends_at_once_and_what_passes_when_asked_to_stop_or_out_of_patience(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ends(flaky: Flaky, stop: Callable[[], bool] = lambda: False) -> int:
        with pytest.raises(type(flaky.error)):
            with_retries(flaky, is_transient, "it", stop)
        return 1000 - flaky.failures

    assert ends(Flaky(1000, failing("attempt to write a readonly database"))) == 1
    assert ends(Flaky(1000, failing("database is locked")), stop=lambda: True) == 1
    monkeypatch.setattr(storages, "RETRY_TIMEOUT_S", 0.5)
    assert 2 <= ends(Flaky(1000, failing("database is locked"))) <= 5


def test_a_full_disk_may_pass_and_a_read_only_one_does_not() -> None:
    assert is_full(OSError(errno.ENOSPC, "No space left on device"))
    assert not is_full(OSError(errno.EROFS, "Read-only file system"))


def test_every_call_of_a_storage_is_passed_on_patiently(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    study = open_study(folder, create=True)
    patient = study._storage
    assert isinstance(patient, RetryingStorage)
    ours = {name for name in vars(BaseStorage) if not name.startswith("__") and callable(getattr(BaseStorage, name))}
    assert ours
    assert all(getattr(RetryingStorage, name) is not getattr(BaseStorage, name) for name in ours)

    class Stumbling:
        def __init__(self, storage: BaseStorage) -> None:
            self.storage, self.calls = storage, 0

        def __getattr__(self, name: str) -> Callable[..., object]:
            def call(*args: object, **kwargs: object) -> object:
                self.calls += 1
                if self.calls % 3 == 0:
                    raise failing("database is locked")
                return getattr(self.storage, name)(*args, **kwargs)

            return call

    patient.storage = Stumbling(patient.storage)  # type: ignore[assignment]  # in its place
    study = run_study(folder, study_spec(trials=2), FakeTrainer())
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2


@pytest.mark.parametrize(
    ("host", "private"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("head", False)]
)
def test_what_only_this_machine_can_reach(host: str, private: bool) -> None:
    assert is_loopback(host) == private


def test_a_run_is_looked_for_where_it_is_kept(tmp_path: Path) -> None:
    shared = Address("postgresql+psycopg://db/s")
    kept = new_run(tmp_path, "shared", shared)
    kept.create()
    kept.study_file.touch()
    write_text(kept.facts, '{"storage": "postgresql"}')
    assert find_run(tmp_path, "shared", shared).address == shared
    with pytest.raises(RunError, match=r"keeps its study in a postgresql storage: give --storage, or set SEARCH_STOR"):
        find_run(tmp_path, None)
    own = new_run(tmp_path, "own")
    own.create()
    own.study_file.touch()
    own.database.touch()
    with pytest.raises(RunError, match=r"'own' keeps its study in its own folder: leave out --storage"):
        find_run(tmp_path, "own", shared)
