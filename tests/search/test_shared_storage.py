"""One study of several machines, for which folders of their own stand in: real processes, a real PostgreSQL."""

import json
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch
from optuna.trial import TrialState

from benchmarks.many_workers import KNOWN, command_of, environment_of, is_right, run, spec_of, storage_of
from search.identity import open_study
from search.run_folder import RunFolder
from search.storage import parse_address
from search.trials import TrialRecord
from tests.support import processes
from tests.support.forked import Forked
from tests.support.postgres import PASSWORD, QUOTED, Server
from tests.support.processes import (
    ALWAYS_SAVES,
    FEW,
    UNTIMED,
    get,
    proxy,
    run_folder,
    serving,
    wait_for,
    with_few,
)
from tests.support.runs import ended
from train_core import checkpoint

# What is shown here does not depend on the number of threads, and one takes the least time.
start = partial(processes.start, OMP_NUM_THREADS="1")
search = partial(processes.search, OMP_NUM_THREADS="1")

SEARCH = f"run digits {FEW} --trials 6 --epochs 2"
LONG = f"run digits {FEW} --trials 1 --epochs 25"


def shared(folder: Path, url: str) -> RunFolder:
    return RunFolder(run_folder(folder).root, parse_address(url))


def machine(tmp_path: Path, name: str) -> Path:
    """What stands in for a machine: a folder that shares nothing with the others."""
    folder = tmp_path / name
    folder.mkdir()
    return with_few(folder)


def test_two_machines_share_the_trials_of_a_study_and_write_its_password_nowhere(
    postgres: Server, tmp_path: Path
) -> None:
    url = postgres.new_database()
    machines = [machine(tmp_path, name) for name in ("here", "there")]
    searches = [start(SEARCH, folder, UNTIMED, SEARCH_STORAGE=url) for folder in machines]
    printed = "".join(out + err for out, err in (process.communicate(timeout=240) for process in searches))
    assert [process.returncode for process in searches] == [0, 0], printed
    assert "new study, kept in postgresql on 127.0.0.1" in printed
    study = open_study(shared(machines[0], url))
    trials = ended(study)
    assert len(trials) == len({TrialRecord(trial).first_attempt for trial in trials}) == 6
    assert len({trial.user_attrs["worker"] for trial in trials}) == 2
    assert sum("baseline" in trial.user_attrs for trial in trials) == 1
    assert {trial.state.is_finished() for trial in study.trials} == {True}

    printed += search("promote --top 1 --epochs 3", machines[0], SEARCH_STORAGE=url)
    printed += search(f"{SEARCH} --budget 1e4", machines[1], 2, SEARCH_STORAGE=url)
    assert (
        "search: run 'digits-20k' was made with budget 20,000, not 10,000: give the same, or another --name" in printed
    )
    with serving("digits-20k --no-browser", machines[0], SEARCH_STORAGE=url) as (address, _):
        shown = get(f"{address}/api/studies/1")
        printed += json.dumps([shown, get(f"{address}/api/studies"), get(f"{address}/api/meta")])
    assert "The best network found for few" in shown["note"]["body"]
    assert all("verdict: " in trial["note"]["body"] for trial in shown["trials"] if trial["state"] != "Fail")
    assert sum(len(trial["artifacts"]) for trial in shown["trials"]) == 2

    dump = [f"--dbname={url.replace('+psycopg', '')}", "--data-only", "--inserts"]
    printed += subprocess.run(["pg_dump", *dump], capture_output=True, text=True, check=True).stdout
    assert "baseline" in printed  # it is the study
    written = [path for folder in machines for path in folder.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert not secrets_in(printed)
    assert not [path for path in written if secrets_in(path.read_text(errors="replace"))]


def secrets_in(text: str) -> list[str]:
    return [secret for secret in (PASSWORD, QUOTED) if secret in text]


@pytest.mark.long
def test_on_a_second_machine_with_the_same_run_folder_a_trial_goes_on_from_its_checkpoint(
    postgres: Server, tmp_path: Path
) -> None:
    url, log = postgres.new_database(), run_folder(tmp_path).log
    first = start(LONG, with_few(tmp_path), ALWAYS_SAVES, SEARCH_STORAGE=url)
    wait_for(run_folder(tmp_path).trial_checkpoint(0))
    first.kill()
    first.communicate()
    done = len(checkpoint.load(run_folder(tmp_path).trial_checkpoint(0), torch.device("cpu")).history)
    log.unlink()
    elsewhere = (
        "from search import heartbeat; heartbeat._kernel = lambda: 'another'"  # where the first one's lock says nothing
    )
    second = start(LONG, tmp_path, elsewhere, SEARCH_STORAGE=url, SEARCH_LEASE_S="1")
    wait_for(log, f"trial 0, run again, goes on after epoch {done}\n")
    out, err = second.communicate(timeout=240)
    assert second.returncode == 0, err
    assert "1 of 1 trial: 1 complete" in out
    assert len(ended(open_study(shared(tmp_path, url)))) == 1


def test_a_database_that_is_gone_for_a_while_is_waited_for(postgres: Server, tmp_path: Path) -> None:
    url = postgres.new_database()
    process = start(LONG, with_few(tmp_path), UNTIMED, SEARCH_STORAGE=url)
    log = run_folder(tmp_path).log
    wait_for(log, "trial 0  ")
    postgres.stop()
    try:
        wait_for(log, "the study's storage does not answer (")
    finally:
        postgres.start()
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert not secrets_in(out + err)
    assert "1 of 1 trial: 1 complete" in out
    assert "the study's storage answers again" in out
    trials = open_study(shared(tmp_path, url)).trials
    assert [len(trial.intermediate_values) for trial in trials if trial.state == TrialState.COMPLETE] == [25]


@pytest.mark.long
def test_a_database_that_is_gone_for_good_ends_the_search_and_what_was_trained_is_kept(
    postgres: Server, tmp_path: Path
) -> None:
    url = postgres.new_database()
    process = start(LONG, with_few(tmp_path), SEARCH_STORAGE=url, SEARCH_PATIENCE_S="2")
    wait_for(run_folder(tmp_path).log, "trial 0  ")
    postgres.stop()
    try:
        out, err = process.communicate(timeout=120)
    finally:
        postgres.start()
    assert process.returncode == 1
    assert not secrets_in(out + err + run_folder(tmp_path).log.read_text())
    assert err.startswith("search: the study's storage failed (")
    assert err.endswith("): fix the cause and run the same command to continue\n")
    assert err.count("\n") == 1
    done = len(checkpoint.load(run_folder(tmp_path).trial_checkpoint(0), torch.device("cpu")).history)
    assert done > 0
    search(LONG, tmp_path, SEARCH_STORAGE=url)
    assert f"trial 0, run again, goes on after epoch {done}\n" in run_folder(tmp_path).log.read_text()
    study = open_study(shared(tmp_path, url))
    assert len(ended(study)) == 1
    assert [trial.user_attrs["reason"] for trial in study.trials if trial.state == TrialState.FAIL] == [
        "lost its process"
    ]


@pytest.mark.long
def test_a_proxy_stands_in_for_a_database_and_may_be_killed_itself(postgres: Server, tmp_path: Path) -> None:
    url = postgres.new_database()
    with proxy(url) as (address, server):
        process = start(LONG, with_few(tmp_path), SEARCH_STORAGE=address)
        wait_for(run_folder(tmp_path).log, "trial 0  ")
        server.kill()
        wait_for(run_folder(tmp_path).log, "the study's storage does not answer (")
        with proxy(url, port=int(address.rpartition(":")[2])):
            out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "1 of 1 trial: 1 complete" in out
    assert len(ended(open_study(shared(tmp_path, url)))) == 1


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_processes_that_are_killed_lose_and_double_nothing(kind: str, postgres: Server, tmp_path: Path) -> None:
    started = []

    def start(folder: RunFolder, trials: int, epoch_s: float) -> Forked:
        _, _, module, *arguments = command_of(folder, trials, epoch_s)
        started.append(Forked(arguments, "", tmp_path, environment_of(folder), module=module))
        return started[-1]

    with storage_of(postgres.new_database() if kind == "postgresql" else kind) as address:
        found = run(
            address,
            tmp_path,
            processes=3,
            trials=20,  # 12 are known networks and 5 more begin the study: the others are drawn
            epoch_s=0.08,
            kill_every=0.8,
            most_kills=2,
            apart=kind == "postgresql",
            start=start,
        )
    said = [process.communicate() for process in started]
    assert is_right(found, spec_of(20)), (found, said)
    assert found["kills"] == 2
    assert found["baselines"] == KNOWN
