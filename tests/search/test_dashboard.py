"""`search dashboard` as a process of its own, asked over HTTP and looked at in a browser."""

from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from search.dashboard import open_browser
from search.notes import publish
from search.results import read_results
from search.run_folder import RunFolder
from tests.support.browser import Browser
from tests.support.processes import get, run_folder, serving
from tests.support.runs import make_run, promoted

LOADED = "document.images.length >= 4 && [...document.images].every(each => each.complete && each.naturalWidth > 0)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with two trials, one of them promoted."""
    made = make_run(run_folder(tmp_path_factory.mktemp("dashboard")).root, [0.5, 0.6])
    promoted(made, 1)
    publish(made, read_results(made), (32, 32))
    return made


@pytest.fixture(scope="module")
def url(folder: RunFolder) -> Iterator[str]:
    """Where the run's dashboard is served."""
    with serving("digits-20k --no-browser", folder.root.parents[1]) as (address, _):
        yield address


def test_the_dashboard_has_the_study_its_notes_and_its_artifacts(url: str) -> None:
    assert url.startswith("http://127.0.0.1:")
    assert [study["study_name"] for study in get(f"{url}/api/studies")["study_summaries"]] == ["digits-20k"]
    study = get(f"{url}/api/studies/1")
    assert "The best network found for digits within 20,000 parameters" in study["note"]["body"]
    assert study["objective_names"] == ["validation accuracy"]
    first, second = study["trials"]
    assert "- verdict: complete, 50.00 % on validation" in first["note"]["body"]
    assert first["artifacts"] == []
    assert {"parameters", "multiply-adds", "training time (s)"} <= {each["key"] for each in second["user_attrs"]}
    names = [each["filename"] for each in second["artifacts"]]
    assert sorted(names) == ["trial-1-epochs-5-seed-0-learning-curve.svg", "trial-1-network.svg"]
    for each in second["artifacts"]:
        with urlopen(f"{url}/artifacts/1/{second['trial_id']}/{each['artifact_id']}", timeout=30) as answer:
            assert answer.headers["Content-Type"] == "image/svg+xml"
            assert answer.read().startswith(b"<svg ")


def test_a_promoted_trials_page_shows_its_note_and_pictures(url: str, browser: Browser) -> None:
    page = browser.load(f"{url}/dashboard/studies/1/trials?numbers=1")
    page.wait_for(LOADED)
    for said in ("verdict: complete, 60.00 % on validation", "Full runs", "trial-1-network.svg"):
        assert said in page.text, said
    assert "[//]" not in page.text
    widths = page.evaluate("[...document.images].map(each => each.clientWidth)")
    assert max(widths) == 480  # in the note, large enough to be read
    assert page.errors == []


def test_the_studys_note_is_shown(url: str, browser: Browser) -> None:
    page = browser.load(f"{url}/dashboard/studies/1/note", dark=True)
    page.wait_for("document.body.innerText.includes('The best network found')")
    assert "Next: search export digits-20k." in page.text
    assert page.evaluate("document.querySelector('a[href*=numbers]').textContent") == "trial 1"
    assert page.errors == []


def test_the_browser_is_opened_and_other_machines_are_warned_of(folder: RunFolder, tmp_path: Path) -> None:
    opener, opened = tmp_path / "opener", tmp_path / "opened"
    opener.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    opener.chmod(0o755)
    warning = "warning: anyone who can reach this port can change and delete all studies: use a private network\n"
    environment = {"DISPLAY": ":9", "BROWSER": f"{opener} %s", "SAYS": warning}
    with serving("--host 0.0.0.0", folder.root.parents[1], **environment) as (address, _):
        assert address.startswith("http://localhost:")
        assert len(get(f"{address}/api/studies/1")["trials"]) == 2
    assert opened.read_text() == f"{address}/dashboard/studies/1\n"


def test_without_a_screen_no_browser_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    open_browser("http://127.0.0.1:1")
    assert opened == []
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    open_browser("http://127.0.0.1:2")
    monkeypatch.delenv("WAYLAND_DISPLAY")
    monkeypatch.setattr("sys.platform", "darwin")
    open_browser("http://127.0.0.1:3")
    assert opened == ["http://127.0.0.1:2", "http://127.0.0.1:3"]
