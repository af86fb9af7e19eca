"""Serves Optuna's dashboard for a study, with the pictures in its run's folder."""

import os
import socket
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.artifacts import FileSystemArtifactStore

from search.errors import RunError
from search.optuna_access import storage_of, study_id
from search.run_folder import RunFolder
from search.storage import RetryingStorage


class _Server(ThreadingMixIn, WSGIServer):
    """Handles several requests at a time, and does not wait for them at the end."""

    daemon_threads = True


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name in the standard library
        """Print nothing: a line for each request would hide the line with the address."""


@contextmanager
def listening(study: optuna.Study, folder: RunFolder, host: str, port: int) -> Iterator[tuple[WSGIServer, str]]:
    """A server that can be reached, and the address of the study's page; with port 0, on a free port.

    Raises:
        RunError: host or port cannot be listened on.

    """
    import optuna_dashboard  # takes seconds, which no other command needs

    storage = storage_of(study)
    impatient = (
        storage.storage if isinstance(storage, RetryingStorage) else storage
    )  # a web page shows errors at once, and its reader decides
    app = optuna_dashboard.wsgi(impatient, artifact_store=FileSystemArtifactStore(folder.artifacts))
    kind = _ServerV6 if ":" in host else _Server
    try:
        server = make_server(host, port, app, server_class=kind, handler_class=_Quiet)
    except OSError as error:
        what = f"{host} port {port}" if port else host
        raise RunError(f"{what} cannot be listened on ({error.strerror}): give another --host or --port") from error
    with server:
        name = f"[{host}]" if ":" in host else "localhost" if host == "0.0.0.0" else host
        yield server, f"http://{name}:{server.server_port}/dashboard/studies/{study_id(study)}"


def open_browser(url: str) -> None:
    """Open the page in the browser, where there is a screen to show it on."""
    if sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(url)
