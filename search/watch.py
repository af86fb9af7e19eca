"""`search watch`: a small page about the progress of a run, for a phone or another machine. It can change nothing.

It answers GET requests for `/`, `/report` and `/status.json`, and nothing else. Imports no torch.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from rich.text import Text

from search.colours import BLUE
from search.elsewhere import Elsewhere, to_watch
from search.errors import RunError
from search.formatting import duration, percent, points
from search.inspection import Reader
from search.night import read_night
from search.records import Status
from search.scores import named
from search.storage import is_loopback, reason_of
from search.tables import status_rows
from search.terminal import say
from train_core.printable import printable

REFRESH_S = 10  # between two loads of the page
FRESH_S = 2.0  # an answer is reused for this time: many readers cost no more than one
LINES, LINES_BYTES = 12, 16_384  # shown from the end of the log
REQUEST_S = 30  # until a request must have arrived

STYLE = f"""
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 12px; max-width: 640px }}
body {{ overflow-wrap: anywhere }}
h1 {{ font-size: 20px; margin: 0 }}
.best {{ font-size: 40px; font-weight: 600; margin: 8px 0 0 }}
.of, footer {{ opacity: 0.7 }}
progress {{ width: 100%; height: 14px; accent-color: {BLUE} }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 4px 12px; margin: 12px 0 }}
dt {{ opacity: 0.7 }} dd {{ margin: 0; min-width: 0 }}
pre {{ font-size: 12px; white-space: pre-wrap; margin: 0; padding: 8px; background: #8882 }}
a {{ display: block; padding: 12px 0 }}
"""


class Watched:
    """The visible facts of a run; read again if they are older than `FRESH_S`."""

    def __init__(self, run: Reader | Elsewhere) -> None:
        self._run = run
        self._folder = run.folder if isinstance(run, Reader) else None  # None: it is on another machine
        self._lock = threading.Lock()
        self._status: Status | None = None
        self._read = 0.0  # in monotonic seconds

    def status(self) -> Status:
        """The current state of the run."""
        with self._lock:
            if self._status is None or time.monotonic() - self._read > FRESH_S:
                self._status, self._read = self._run.status(), time.monotonic()
            return self._status

    def page(self) -> str:
        """The page as HTML."""
        return page(self.status(), self.plan(), self.log(), has_report=self.report() is not None)

    def plan(self) -> str:
        """How `search auto` spends the time, as last printed; empty: no such command is running."""
        night = read_night(self._folder) if self._folder else None
        return night.told if night is not None and not night.done else ""

    def log(self) -> list[str]:
        """The last lines of the log."""
        if self._folder is None:
            return []
        try:
            with self._folder.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - LINES_BYTES))
                end = file.read().decode(errors="replace")
        except OSError:
            return []
        return [printable(line) for line in end.splitlines()[-LINES:]]

    def report(self) -> bytes | None:
        """The report; None: there is none yet, or not on this machine."""
        try:
            return self._folder.report.read_bytes() if self._folder else None
        except OSError:
            return None

    def as_json(self) -> str:
        """The status, as printed by `search status --json`, without the folder, with the plan and the log."""
        document = {name: value for name, value in asdict(self.status()).items() if name != "folder"}
        return json.dumps({**document, "plan": self.plan(), "log": self.log()}, indent=2)


def page(status: Status, plan: str, log: list[str], *, has_report: bool) -> str:
    """The page of a run as HTML: its best network, progress, plan and time left, and the last lines of its log."""
    rows = [(label, value.plain if isinstance(value, Text) else value) for label, value in status_rows(status)]
    if plan:
        rows.insert(1, ("plan", plan))
    rows += [("now" if number == 0 else "", words) for number, words in enumerate(_running(status))]
    score, which = _best(status)
    wanted = status.trials_wanted or 0
    bar = f'<progress max="{wanted}" value="{min(status.trials or 0, wanted)}"></progress>' if wanted else ""
    listed = "".join(f"<dt>{escape(label)}</dt><dd>{escape(printable(value))}</dd>" for label, value in rows)
    lines = f"<pre>{escape(chr(10).join(log))}</pre>" if log else ""
    return _whole(
        status.name,
        f'<p class="best">{escape(score)}</p><p class="of">{escape(which)}</p>{bar}<p>{escape(_left(status))}</p>'
        f"<dl>{listed}</dl>{lines}{'<a href=/report>Report</a>' if has_report else ''}",
    )


def _best(status: Status) -> tuple[str, str]:
    """The score of the best network so far, and the name of the score."""
    full, short = status.best_full, status.best_short
    what = named(status.score or "accuracy", "validation accuracy")
    if full is not None:
        return points(full.validation, full.validation_deviation), f"{what} of the best full run, trial {full.trial}"
    if short is not None:
        return percent(short.validation), f"{what} of the best short run, trial {short.trial}"
    return "no result yet", "the first trial has not ended"


def _running(status: Status) -> Iterator[str]:
    """The progress of the running trials."""
    for trial in status.running:
        reached = f", {percent(trial.validation)}" if trial.validation is not None else ""
        died = "; its process has died" if trial.alive is False else ""
        yield f"trial {trial.trial}: epoch {trial.epoch} of {status.epochs}{reached}{died}"


def _left(status: Status) -> str:
    """The remaining time; empty: not known."""
    if status.ready_by is not None:
        left = datetime.fromisoformat(status.ready_by) - datetime.now().astimezone()
        return f"{duration(max(left.total_seconds(), 0.0))} left of the night"
    return f"about {duration(status.seconds_left)} left" if status.seconds_left is not None else ""


def _whole(title: str, content: str) -> str:
    """A page that reloads itself."""
    name = escape(printable(title))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'  # otherwise a browser asks for one
        f'<meta http-equiv="refresh" content="{REFRESH_S}"><style>{STYLE}</style></head>'
        f"<body><h1>{name}</h1>{content}"
        f"<footer>{time.strftime('%H:%M:%S')}, loaded again every {REFRESH_S} seconds</footer></body></html>\n"
    )


class _Handler(BaseHTTPRequestHandler):
    """Answers GET; the standard library calls `send_error` for all other methods."""

    server: "_Server"
    server_version, sys_version = "search", ""
    timeout = REQUEST_S

    def do_GET(self) -> None:
        """Serve one of the three documents."""
        watched = self.server.watched
        try:
            if self.path == "/":
                self._answer(HTTPStatus.OK, "text/html", watched.page())
            elif self.path == "/status.json":
                self._answer(HTTPStatus.OK, "application/json", watched.as_json())
            elif self.path != "/report":
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", "there are /, /report and /status.json\n")
            elif (report := watched.report()) is not None:
                self._answer(HTTPStatus.OK, "text/html", report)
            else:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", "there is no report yet, or not on this machine\n")
        except ConnectionError:
            pass  # the reader has gone
        except Exception as error:  # noqa: BLE001  # such as a storage error: the next load may succeed
            reason = f"<p>The run cannot be read at the moment: {escape(printable(reason_of(error)))}</p>"
            with suppress(ConnectionError):
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/html", _whole("search watch", reason))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a method other than GET; of any other error, show only the number."""
        refused = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self._answer(refused, "text/plain", "" if self.command == "HEAD" else f"{refused.phrase}\n")

    def _answer(self, code: HTTPStatus, kind: str, content: str | bytes) -> None:
        body = content.encode(errors="replace") if isinstance(content, str) else content
        self.send_response(code)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name in the standard library
        """Print nothing: a line for each request would hide the line with the address."""


class _Server(ThreadingHTTPServer):
    """Handles several requests at a time, and does not wait for them at the end."""

    daemon_threads = True
    watched: Watched


class _ServerV6(_Server):
    address_family = socket.AF_INET6


@contextmanager
def listening(run: Reader | Elsewhere, host: str, port: int) -> Iterator[tuple[_Server, str]]:
    """A server of the page, and its address; port 0 means a free port.

    Raises:
        RunError: host or port cannot be listened on.

    """
    try:
        server = (_ServerV6 if ":" in host else _Server)((host, port), _Handler)
    except OSError as error:
        what = f"{host} port {port}" if port else host
        raise RunError(f"{what} cannot be listened on ({error.strerror}): give another --host or --port") from error
    server.watched = Watched(run)
    with server:
        name = f"[{host}]" if ":" in host else _own_address() if host == "0.0.0.0" else host
        yield server, f"http://{name}:{server.server_port}/"


def serve_page(runs: Path, run: str | None, storage: str | None, *, host: str, port: int) -> None:
    """Serve the page of a run until interrupted; `run`, `runs` and `storage` as for `search status`.

    Raises:
        UserError: there is no such run, it cannot be read, or the port cannot be listened on.

    """
    reader = to_watch(runs, run, storage)
    with listening(reader, host, port) as (server, url), suppress(KeyboardInterrupt):
        say(f"{reader.status().name}: {url}; Ctrl-C ends it")
        if not is_loopback(host):
            say("warning: anyone who can reach this port can read this page and the report: use a private network")
        server.serve_forever()


def _own_address() -> str:
    """The address of this machine on its network, for use by a phone; `localhost` if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address reserved for documentation: nothing is sent
            return str(probe.getsockname()[0])
        except OSError:
            return "localhost"
