"""`search watch` as a process of its own, asked over HTTP and looked at as on a phone."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest

from search import watch
from search.errors import RunError
from search.inspection import Reader, read_run
from search.night import Kept
from search.report import write_report
from search.run_folder import RunFolder, write_text
from tests.support.browser import Browser
from tests.support.commands import Search
from tests.support.processes import run_folder, start
from tests.support.runs import make_run, promoted

PLAN = "until 05:40 about 90 short runs of 20 epochs; from 05:40 the best 2 for 200 epochs; ready by 08:00"
WARNING = "warning: anyone who can reach this port can read this page and the report: use a private network\n"


@contextmanager
def watching(words: str, folder: Path, says: str = "") -> Iterator[str]:
    """The address that `search watch` says it serves at; interrupted at the end."""
    process = start(f"watch {words} --port 0", folder)
    try:
        said = process.stdout.readline()
        found = re.fullmatch(r"digits-20k: (http://\S+:\d+/); Ctrl-C ends it\n", said)
        assert found, (said, process.stderr.read() if process.poll() is not None else "")
        yield found[1]
        process.send_signal(signal.SIGINT)
        process.wait(60)
        assert (process.returncode, process.stdout.read(), process.stderr.read()) == (0, says, "")
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with two trials, one of them promoted, in a night that is not over."""
    made = make_run(run_folder(tmp_path_factory.mktemp("watch")).root, [0.5, 0.6])
    promoted(made, 1)
    write_text(made.night, Kept(asked="--hours 8", end=time.time() + 7200, told=PLAN).model_dump_json())
    write_text(made.log, "".join(f"12:00:{i:02} trial 1  <b>{i}</b>\n" for i in range(40)))
    write_report(made)
    return made


@pytest.fixture(scope="module")
def url(folder: RunFolder) -> Iterator[str]:
    with watching("digits-20k", folder.root.parents[1]) as address:
        yield address


def ask(url: str, path: str, method: str = "GET") -> tuple[int, dict[str, str], str]:
    """Code, headers and body; the path goes out as it is."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.request(method, path)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read().decode()
    connection.close()
    return found


def test_the_page_has_progress_plan_best_network_and_the_end_of_the_log(url: str, folder: RunFolder) -> None:
    assert url.startswith("http://127.0.0.1:")
    code, headers, page = ask(url, "/")
    assert (code, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert headers["Cache-Control"] == "no-store"
    assert '<meta http-equiv="refresh" content="10">' in page
    assert '<p class="best">90.00 %</p>' in page
    assert "validation accuracy of the best full run, trial 1" in page
    assert '<progress max="2" value="2">' in page
    assert "left of the night" in page
    assert f"<dt>plan</dt><dd>{PLAN}</dd>" in page
    assert "the same `search auto` goes on until" in page
    assert "trial 1  &lt;b&gt;39&lt;/b&gt;" in page
    assert "&lt;b&gt;28&lt;/b&gt;" in page
    assert "&lt;b&gt;27&lt;/b&gt;" not in page
    assert "<script" not in page
    assert "<form" not in page


def test_the_report_and_the_status_are_served(url: str, folder: RunFolder) -> None:
    code, headers, page = ask(url, "/report")
    assert (code, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert page == folder.report.read_text(encoding="utf-8")
    code, headers, text = ask(url, "/status.json")
    assert (code, headers["Content-Type"]) == (200, "application/json; charset=utf-8")
    status = json.loads(text)
    assert (status["name"], status["trials"], status["trials_wanted"], status["plan"]) == ("digits-20k", 2, 2, PLAN)
    assert status["best_full"]["validation"] == 0.9
    assert len(status["log"]) == 12
    assert str(folder.root) not in text


@pytest.mark.parametrize(
    "path",
    ["/study.db", "/report.html", "/../study.toml", "/report/../../study.toml", "/%2e%2e/study.toml", "/?x=1"],
)
def test_nothing_else_is_served(url: str, path: str) -> None:
    code, _, body = ask(url, path)
    assert (code, body) == (404, "there are /, /report and /status.json\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "MKCOL"])
def test_nothing_but_get_is_answered(url: str, folder: RunFolder, method: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.root.rglob("*") if path.is_file()}
    for path in ("/", "/report"):
        code, headers, _ = ask(url, path, method)
        assert (code, headers["Allow"]) == (405, "GET")
    assert {path: path.stat().st_mtime_ns for path in folder.root.rglob("*") if path.is_file()} == before


def test_a_phone_shows_the_page(url: str, browser: Browser, tmp_path: Path) -> None:
    page = browser.load(url, width=390, height=844)
    assert "90.00 %" in page.text
    assert page.evaluate("document.documentElement.scrollWidth") == 390  # nothing has to be scrolled to the side
    assert page.evaluate("document.querySelector('a').getBoundingClientRect().height") >= 44  # for a finger
    assert page.errors == []
    assert page.screenshot(tmp_path / "phone.png", whole=True).stat().st_size > 0
    page.evaluate("document.querySelector('a').click()")
    page.wait_for("location.pathname == '/report' && document.readyState == 'complete'")
    assert "The best network found" in page.text


def test_other_machines_are_warned_of(folder: RunFolder) -> None:
    with watching("--host 0.0.0.0", folder.root.parents[1], WARNING) as address:
        assert "0.0.0.0" not in address
        assert ask(f"http://127.0.0.1:{urlsplit(address).port}/", "/")[0] == 200


def test_a_run_without_results_report_and_log(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "one")
    watched = watch.Watched(read_run(tmp_path / "runs", "one", None))
    page = watched.page()
    assert '<p class="best">no result yet</p>' in page
    assert "<pre>" not in page
    assert "/report" not in page
    assert watched.report() is None
    assert watched.log() == []


def test_what_is_seen_follows_the_run_and_many_readers_cost_one_look(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counting(Reader):
        looks = 0

        def status(self) -> Any:
            self.looks += 1
            return super().status()

    run = Counting(folder)
    watched = watch.Watched(run)
    for _ in range(5):
        watched.page()
    assert run.looks == 1
    monkeypatch.setattr(watch, "FRESH_S", 0.0)
    before = folder.study_file.read_text()
    folder.study_file.write_text(before.replace("trials = 2", "trials = 7"))
    try:
        assert watched.status().trials_wanted == 7
    finally:
        folder.study_file.write_text(before)


def test_a_run_that_cannot_be_read_is_said_on_the_page(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Reader(folder)

    def fail() -> Any:
        raise OSError(5, "Input/output <error>")

    monkeypatch.setattr(run, "status", fail)
    with watch.listening(run, "127.0.0.1", 0) as (server, address):
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        code, _, page = ask(address, "/")
        server.shutdown()
        thread.join()
    assert code == 503
    assert "The run cannot be read at the moment: Input/output &lt;error&gt;" in page
    assert 'http-equiv="refresh"' in page


def test_a_port_that_is_taken_and_a_run_that_is_missing(folder: RunFolder, search: Search) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(RunError, match=rf"127\.0\.0\.1 port {port} cannot be listened on .*: give another --host"),
            watch.listening(Reader(folder), "127.0.0.1", port),
        ):
            pass
    with pytest.raises(RunError, match="no run 'two' in runs: start one"):
        watch.serve_page(Path("runs"), "two", None, host="127.0.0.1", port=0)


def test_it_needs_no_torch() -> None:
    code = "import sys, search.watch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
