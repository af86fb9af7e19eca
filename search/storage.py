"""Where a study is kept: the addresses of storages, and retries while a storage does not answer."""

import abc
import errno
import logging
import os
import time
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote_plus

import optuna
from optuna.storages import BaseStorage
from sqlalchemy import URL, make_url
from sqlalchemy import exc as database_errors
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential, wait_random

from search.errors import RunError, SpecError, StorageError

RETRY_TIMEOUT_S = float(os.environ.get("SEARCH_PATIENCE_S", "600"))
"""Seconds for which a call is retried if a storage does not answer or a disk is full."""
FIRST_PATIENCE_S = min(10.0, RETRY_TIMEOUT_S)  # while a study is opened: a wrong address is reported at once
LONGEST_WAIT_S = 15.0  # between two tries
QUIET_S = 1.0  # a shorter wait is not printed
ANSWER_S = 30  # a server that is silent for so long is presumed gone

FORMS = (
    "postgresql+psycopg://user:password@host/database, mysql+pymysql://user:password@host/database, or "
    "grpc://host:13000 for a `search storage serve`"
)
DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    # Optuna knows each of these only by the other name.
    "mariadb": "mysql+pymysql",
    "mariadb+pymysql": "mysql+pymysql",
}
CONNECTING: dict[str, dict[str, Any]] = {
    # Otherwise, a connection whose other end has vanished hangs for a quarter of an hour.
    "psycopg": {"connect_timeout": ANSWER_S, "tcp_user_timeout": 1000 * ANSWER_S},
    "pymysql": {"connect_timeout": ANSWER_S, "read_timeout": 2 * ANSWER_S, "write_timeout": ANSWER_S},
    "pysqlite": {"timeout": 3},  # workers write in turn; a worker that waits longer reports it
}
PERMANENT_ERRORS = (  # errors that waiting does not fix, as the databases word them
    "readonly database",
    "not a database",
    "malformed",
    "no such table",
    "does not exist",
    "unknown database",
    "authentication failed",
    "access denied",
    "permission denied",
    "unable to open database file",
)
STORAGE_ERRORS = (database_errors.SQLAlchemyError, optuna.exceptions.StorageInternalError)

log = logging.getLogger(__name__)
T = TypeVar("T")

_passwords: set[str] = set()


@dataclass(frozen=True)
class Address:
    """Where a study is kept. Its text and its `repr` contain no password."""

    url: str = field(repr=False)

    def __str__(self) -> str:
        """For example `postgresql on host:5432/database`."""
        url = make_url(self.url)
        if url.get_backend_name() == "sqlite":
            return str(url.database)
        place = f"{url.host or 'localhost'}{f':{url.port}' if url.port else ''}"
        return f"{self.kind} on {place}{f'/{url.database}' if url.database else ''}"

    @property
    def kind(self) -> str:
        """The kind of storage: sqlite, postgresql, mysql, grpc."""
        return make_url(self.url).drivername.split("+")[0]

    @property
    def is_shared(self) -> bool:
        """Whether several machines can use it: SQLite relies on the file locks of one machine."""
        return self.kind != "sqlite"


def address_of(text: str | None) -> Address | None:
    """The address of a shared storage, if one is given."""
    return parse_address(text) if text else None


def parse_address(text: str) -> Address:
    """The address of a storage that several machines can share.

    Raises:
        SpecError: it is not one; the message does not repeat it, because it may contain a password.

    """
    try:
        url = make_url(text)
    except (database_errors.ArgumentError, ValueError):
        raise SpecError(f"--storage cannot be read as an address: give {FORMS}") from None
    _passwords.update(_secrets(url))
    url = url.set(drivername=DRIVERS.get(url.drivername, url.drivername))
    if url.get_backend_name() == "sqlite":
        raise SpecError(
            "a run keeps its SQLite database in its folder: leave out --storage, or give a server's address"
        )
    if url.drivername == "grpc":
        if not url.host or not url.port:
            raise SpecError("--storage is a gRPC proxy without host or port: give grpc://host:13000")
        return Address(text)
    if url.drivername not in DRIVERS.values():
        raise SpecError(f"--storage is of a kind that is not known: give {FORMS}")
    return Address(url.render_as_string(hide_password=False))


def redacted(text: str) -> str:
    """The text without the passwords of all addresses that were parsed or connected to."""
    for secret in sorted(_passwords, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _secrets(url: URL) -> set[str]:
    queried = (value for name, value in url.query.items() if "pass" in name.lower() and isinstance(value, str))
    plain = {str(value) for value in (url.password, *queried) if value}
    return plain | {quote_plus(value) for value in plain} | {quote_plus(value, safe="") for value in plain}


def connect(address: Address) -> "RetryingStorage":
    """The storage at the address.

    Raises:
        RunError: its driver is not installed.
        StorageError: it cannot be reached, or it is not the storage of a study.

    """
    url = make_url(address.url)
    _passwords.update(_secrets(url))  # needed in a worker that another process started: it has not parsed the address
    try:
        if url.drivername == "grpc":
            proxy = _proxy(url)
            return _patient_with(proxy, proxy.close)
        driver = url.get_driver_name()
        settings = {"connect_args": CONNECTING.get(driver, {}), "pool_pre_ping": True}
        open_it = Retrying(
            # Two processes that create the tables at the same time disturb each other.
            retry=retry_if_exception(lambda error: is_transient(error) or "already exists" in str(error)),
            wait=wait_exponential(multiplier=0.1, max=2) + wait_random(0, 0.1),
            stop=stop_after_delay(FIRST_PATIENCE_S),
            reraise=True,
        )
        storage = open_it(optuna.storages.RDBStorage, address.url, engine_kwargs=settings)
        return _patient_with(optuna.storages.get_storage(storage), storage.engine.dispose)
    except ImportError as error:
        extra = "mysql" if address.kind == "mariadb" else address.kind
        raise RunError(f"{address} needs a driver: pip install '.[{extra}]' in the checkout") from error
    except (*STORAGE_ERRORS, RuntimeError, ConnectionError) as error:
        raise StorageError(f"{address} cannot be opened ({reason_of(error)}): {_what_to_do(address)}") from error


def _proxy(url: URL) -> optuna.storages.GrpcStorageProxy:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.GrpcStorageProxy(host=str(url.host), port=int(url.port or 0))
    storage.wait_server_ready(timeout=FIRST_PATIENCE_S)
    return storage


def _what_to_do(address: Address) -> str:
    return "check the address and the server" if address.is_shared else "put back a copy of it, or use another --name"


def reason_of(error: BaseException) -> str:
    """The first line of a storage's error message, without passwords."""
    if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__:
        error = error.__cause__
    if isinstance(error, database_errors.DBAPIError) and error.orig is not None:
        error = error.orig
    text = getattr(error, "details", lambda: "")() or (isinstance(error, OSError) and error.strerror) or str(error)
    return redacted((text.strip().splitlines() or [type(error).__name__])[0])


def is_transient(error: BaseException) -> bool:
    """Whether the storage may recover from this by itself: it is locked, full, restarting, or out of reach."""
    if any(words in reason_of(error).lower() for words in PERMANENT_ERRORS):
        return False
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    return isinstance(cause, _PASSING) or _is_of_proxy(error)


_PASSING = (
    database_errors.OperationalError,
    database_errors.InterfaceError,
    database_errors.InternalError,
    database_errors.TimeoutError,
)


def _is_of_proxy(error: BaseException) -> bool:
    # Compared by name, because gRPC is an extra.
    return "RpcError" in {kind.__name__ for kind in type(error).__mro__}


def is_full(error: BaseException) -> bool:
    """Whether a file could not be written because the disk is full, which may change."""
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on this host."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def with_retries(
    do: Callable[[], T], passing: Callable[[BaseException], bool], what: str, stop: Callable[[], bool] = lambda: False
) -> T:
    """Call `do`; if an error may be temporary, retry for `RETRY_TIMEOUT_S` or until `stop`, then raise it.

    The log reports this once, and once more when it has worked; `what` names what fails, for example "the disk".
    """
    told = False

    def tell(state: RetryCallState) -> None:
        nonlocal told
        waited = (state.seconds_since_start or 0) + state.upcoming_sleep
        if not told and waited >= QUIET_S and state.outcome:
            told = True
            reason = reason_of(state.outcome.exception() or RuntimeError())
            patience = f"{RETRY_TIMEOUT_S / 60:.0f} minutes" if RETRY_TIMEOUT_S >= 120 else f"{RETRY_TIMEOUT_S:.0f} s"
            log.warning("%s does not answer (%s): trying again for %s", what, reason, patience)

    def sleep(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not stop():
            time.sleep(min(0.2, seconds))

    result = Retrying(
        retry=retry_if_exception(passing),
        wait=wait_exponential(multiplier=0.1, max=LONGEST_WAIT_S) + wait_random(0, 0.1),
        stop=lambda state: stop() or (state.seconds_since_start or 0) > RETRY_TIMEOUT_S,
        sleep=sleep,
        before_sleep=tell,
        reraise=True,
    )(do)
    if told:
        log.warning("%s answers again", what)
    return result


def write_with_retries(write: Callable[[], None], path: Path, stop: Callable[[], bool] = lambda: False) -> None:
    """Write the file `path`; if the disk is full, retry until there is room."""
    with_retries(write, is_full, f"the disk of {path.parent}", stop)


class RetryingStorage(BaseStorage):
    """Passes every call to another storage, and retries it while that storage does not answer.

    A call may then have been executed twice, if only the answer was lost: for a new trial this leaves a trial without a
    worker, and for a verdict it raises `UpdateFinishedTrialError`. Callers must handle both.
    """

    def __init__(self, storage: BaseStorage, close: Callable[[], None]) -> None:
        self.storage = storage  # the storage that does not retry
        self.stop: Callable[[], bool] = lambda: False  # whether to stop retrying
        weakref.finalize(self, close)


def _patient(name: str) -> Callable[..., Any]:
    def call(self: RetryingStorage, *args: Any, **kwargs: Any) -> Any:
        method = getattr(self.storage, name)
        return with_retries(lambda: method(*args, **kwargs), is_transient, "the study's storage", self.stop)

    return call


# The whole interface, including what a later Optuna release adds to it.
for _name in [name for name, each in vars(BaseStorage).items() if callable(each) and not name.startswith("__")]:
    setattr(RetryingStorage, _name, _patient(_name))
abc.update_abstractmethods(RetryingStorage)  # type: ignore[type-abstract]  # the loop above has defined every method


def _patient_with(storage: BaseStorage, close: Callable[[], None]) -> RetryingStorage:
    return RetryingStorage(storage, close)  # type: ignore[abstract]  # its methods are defined by the loop above


def serve(address: Address, host: str, port: int) -> None:
    """Serve a storage to workers that cannot reach it themselves, until interrupted: Optuna's gRPC proxy.

    Raises:
        RunError: gRPC is not installed, or the port is taken.
        StorageError: the storage cannot be opened.

    """
    patient = connect(address)
    impatient = patient.storage  # the workers retry
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.run_grpc_proxy_server(impatient, host=host, port=port)
    except ImportError as error:
        raise RunError("the proxy needs gRPC: pip install '.[grpc]' in the checkout") from error
    except RuntimeError as error:
        raise RunError(f"{host}:{port} cannot be listened on: give another --host or --port") from error
