"""The real thing: the commands as processes, on real digits, killed and continued."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from wsgiref.util import setup_testing_defaults

import optuna_dashboard
import pytest
import torch
from optuna.trial import TrialState

from search.interrupt import NOTICE
from search.promote import Promotion, finished
from search.run_folder import RunFolder
from search.study import ended, open_study
from train_core import checkpoint

T = TypeVar("T")
SHORT = "run digits --trials 3 --epochs 2"
FULL = "promote --top 1 --epochs 5"


def start(command: str, folder: Path) -> subprocess.Popen[str]:
    """`search <command>` in `folder`, as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "search", *command.split()],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "SEARCH_CACHE": str(folder / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def search(command: str, folder: Path, code: int = 0) -> str:
    """What `search <command>` prints, once it has ended with this exit code."""
    process = start(command, folder)
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    return out + err


def wait_for(path: Path, text: str = "", seconds: float = 120) -> None:
    """Wait until the file is there and holds the text."""
    limit = time.monotonic() + seconds
    while not (path.exists() and text in path.read_text(errors="replace")):
        assert time.monotonic() < limit, f"{path} never said {text!r}"
        time.sleep(0.005)


def until(check: Callable[[], T], seconds: float = 120) -> T:
    """Wait until the check comes to something; returns that."""
    limit = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < limit
        time.sleep(0.005)
    return found


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a short search of digits has run."""
    folder = tmp_path_factory.mktemp("searched")
    out = search(SHORT, folder)
    assert "3 of 3 trials: 3 complete, 0 pruned, 0 failed" in out
    return folder


@pytest.fixture
def copy(searched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(searched, tmp_path / "copy"))


def run_folder(folder: Path) -> RunFolder:
    return RunFolder(folder / "runs" / "digits-20k")


def test_the_search_says_what_it_will_do_and_what_it_did(searched: Path) -> None:
    log = run_folder(searched).log.read_text()
    for said in (
        "new study",
        "1,150 training and 287 validation images, 32x32 grey, 10 classes, a test split that only `promote` reads",
        "CPU, 1 thread",
        "budget   20,000 parameters",
        "smallest: 514 parameters",
        "trials   3 of 2 epochs, first 1 known network (lenet-sized)",
        "images/s measured on",
        "1/3  trial 0 (lenet-sized)",
        "3/3  trial 2",
        "next: search promote digits-20k",
    ):
        assert said in log, said


def test_the_run_folder_holds_what_is_needed_to_run_it_again(searched: Path) -> None:
    folder = run_folder(searched)
    facts = json.loads(folder.facts.read_text())
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["device"] == "CPU, 1 thread"
    assert facts["data"]["training images"] == 1150
    again = search(f"run {folder.study_file} --name digits-20k", searched)
    assert "continuing" in again
    assert "3 of 3 trials" in again


def test_every_trial_stayed_within_the_budget(searched: Path) -> None:
    trials = open_study(run_folder(searched)).trials
    assert len(trials) == 3
    assert all(trial.user_attrs["parameters"] <= 20_000 for trial in trials)


def test_the_same_seed_gives_the_same_study_in_another_process(searched: Path, tmp_path: Path) -> None:
    search(SHORT, tmp_path)
    first, second = (open_study(run_folder(folder)).trials for folder in (searched, tmp_path))
    assert [trial.params for trial in first] == [trial.params for trial in second]
    assert [trial.intermediate_values for trial in first] == [trial.intermediate_values for trial in second]


def test_running_again_continues_to_a_larger_total(copy: Path) -> None:
    out = search("run digits --trials 4 --epochs 2", copy)
    assert "trials   4 of 2 epochs, 3 done" in out
    assert "4 of 4 trials" in out
    assert len(open_study(run_folder(copy)).trials) == 4


def test_the_dashboard_opens_the_study(searched: Path) -> None:
    app = optuna_dashboard.wsgi(run_folder(searched).storage)
    environ: dict[str, Any] = {"PATH_INFO": "/api/studies", "REQUEST_METHOD": "GET"}
    setup_testing_defaults(environ)
    statuses: list[str] = []
    body = b"".join(app(environ, lambda status, *_: statuses.append(status)))
    assert statuses == ["200 OK"]
    assert [study["study_name"] for study in json.loads(body)["study_summaries"]] == ["digits-20k"]


def result_of(folder: Path) -> Promotion:
    (result,) = finished(run_folder(folder))
    return result


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    (promotion,) = run_folder(folder).promotions()
    return checkpoint.load(promotion.checkpoint, torch.device("cpu")).model.state_dict()


@pytest.fixture(scope="module")
def promoted(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the searched folder in which the best trial has been promoted without interruption."""
    folder = Path(shutil.copytree(searched, tmp_path_factory.mktemp("promoted") / "copy"))
    out = search(FULL, folder)
    assert "Longer runs, the longest first, then the best on validation" in out
    assert "best on validation: trial" in out
    return folder


def test_a_promotion_has_a_test_accuracy_and_a_report(promoted: Path) -> None:
    result = result_of(promoted)
    assert len(result.history) == 5
    assert result.test_images == 360
    assert result.test_accuracy is not None
    page = run_folder(promoted).report.read_text()
    assert f"{100 * result.test_accuracy:.2f} %" in page
    assert search("report", promoted).strip() == "runs/digits-20k/report.html"


def test_a_finished_promotion_is_not_done_again(promoted: Path) -> None:
    (folder,) = run_folder(promoted).promotions()
    before = folder.checkpoint.stat().st_mtime_ns
    search(FULL, promoted)
    assert folder.checkpoint.stat().st_mtime_ns == before


def test_a_promotion_killed_at_random_instants_ends_with_the_weights_of_one_that_was_not(
    promoted: Path, copy: Path
) -> None:
    generator = random.Random(0)
    for _ in range(3):
        process = start(FULL, copy)
        wait_for(run_folder(copy).log, "the top 1 for 5 epochs")
        time.sleep(generator.uniform(0.05, 0.5))
        process.kill()
        process.communicate()
        run_folder(copy).log.write_text("")
    search(FULL, copy)
    whole, pieces = final_weights(promoted), final_weights(copy)
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)
    assert result_of(copy).test_accuracy == result_of(promoted).test_accuracy


def test_fidelity_trains_trials_at_length_and_answers_from_ladders_at_no_cost(searched: Path, copy: Path) -> None:
    search(f"{SHORT} --trials 6", copy)
    said = search("fidelity --trials 4 --epochs 4", copy)
    assert "4 trials of every score for 4 epochs" in said
    assert re.search(r"2 epochs +4 +(-?\d?\.\d\d|nan) ", said), said
    assert "Short runs of 2 epochs" in said
    runs = finished(run_folder(copy))
    assert len(runs) == 4
    assert not any(run.tested for run in runs)
    again = search("fidelity --trials 0", copy)
    assert again.splitlines()[-6:-1] == said.splitlines()[-6:-1]
    assert "Can the short runs be trusted?" in run_folder(copy).report.read_text()
    said = search("promote --ladder 3x4,1x5 --seeds 2 --refit", copy)
    assert "the top 3 for 4 epochs, the best 1 of those for 5, with 2 seeds each, then the winner" in said
    assert "2 seeds, mean and standard deviation: validation" in said
    assert "trained once more, on the validation images, too: test" in said
    runs = finished(run_folder(copy))
    assert {(run.recipe.epochs, run.tested) for run in runs} == {(4, False), (5, True)}


def test_a_search_killed_at_random_instants_loses_and_doubles_nothing(tmp_path: Path) -> None:
    generator = random.Random(1)
    log = run_folder(tmp_path).log
    for kill in range(3):
        process = start(SHORT, tmp_path)
        wait_for(log, "images/s measured on")
        time.sleep(generator.uniform(0, 1.0))
        process.kill()
        process.communicate()
        log.rename(log.with_name(f"killed-{kill}.log"))
    search(SHORT, tmp_path)
    study = open_study(run_folder(tmp_path))
    assert len(ended(study)) == 3
    assert not [trial for trial in study.trials if trial.state in {TrialState.RUNNING, TrialState.WAITING}]
    roots = [trial.user_attrs.get("retry_of", trial.number) for trial in ended(study)]
    assert len(roots) == len(set(roots))
    baselines = [trial for trial in ended(study) if trial.user_attrs.get("baseline") == "lenet-sized"]
    assert len(baselines) == 1


LONGER = "run digits --trials 2 --epochs 8"  # so that a signal after the first epoch leaves some to do


@pytest.fixture(scope="module")
def searched_longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searched-longer")
    search(LONGER, folder)
    return folder


def scores(folder: Path) -> list[tuple[float, dict[int, float]]]:
    return [(trial.value or 0.0, trial.intermediate_values) for trial in ended(open_study(run_folder(folder)))]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_search_after_the_epoch_and_the_trial_goes_on_from_there(
    number: signal.Signals, searched_longer: Path, tmp_path: Path
) -> None:
    process = start(LONGER, tmp_path)
    wait_for(run_folder(tmp_path).log, "trial 0  ")  # an epoch
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == (
        "\nsearch: stopping at the end of this epoch; once more stops at once\n"
        "search: interrupted; the same command continues where it stopped\n"
    )
    study = open_study(run_folder(tmp_path))
    assert {trial.state.is_finished() for trial in study.trials} == {True}
    kept = list((run_folder(tmp_path).root / "trials").iterdir())
    assert len(kept) == 1
    done = checkpoint.load(kept[0], torch.device("cpu")).history
    log_before = run_folder(tmp_path).log.read_text()
    assert "2 of 2 trials" in search(LONGER, tmp_path)
    assert scores(tmp_path) == scores(searched_longer)
    assert list((run_folder(tmp_path).root / "trials").iterdir()) == []
    # The epochs from before are told again with their old pace, which no new epoch has to the last digit.
    log_after = run_folder(tmp_path).log.read_text().removeprefix(log_before)
    assert f"{done[0].images / done[0].seconds:,.0f} images/s" in log_after


def test_a_second_signal_ends_the_search_at_once_and_the_same_command_continues(tmp_path: Path) -> None:
    process = start(f"{SHORT} --trials 1000 --epochs 1000", tmp_path)
    wait_for(run_folder(tmp_path).log, "trial 0  ")
    assert process.stderr is not None
    process.send_signal(signal.SIGINT)
    assert (process.stderr.readline(), process.stderr.readline()) == ("\n", NOTICE.decode().lstrip())
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "search: interrupted; the same command continues where it stopped\n"


def test_a_signal_ends_a_promotion_after_the_epoch_and_it_ends_with_the_same_weights(
    promoted: Path, copy: Path
) -> None:
    process = start(FULL, copy)
    wait_for(run_folder(copy).log, "the top 1 for 5 epochs")
    (folder,) = until(lambda: run_folder(copy).promotions())
    until(folder.checkpoint.exists)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert not folder.result.exists()
    search(FULL, copy)
    whole, pieces = final_weights(promoted), final_weights(copy)
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)


def test_searches_of_one_run_share_its_trials_and_outlive_each_other(tmp_path: Path) -> None:
    many = f"{SHORT} --trials 12"
    first = start(many, tmp_path)
    wait_for(run_folder(tmp_path).log, "images/s measured on")
    others = [start(many, tmp_path) for _ in range(2)]
    wait_for(run_folder(tmp_path).log, "joining 2 other searches")
    first.kill()
    first.communicate()
    for other in others:
        out, err = other.communicate(timeout=120)
        assert other.returncode == 0, err
        assert "12 of 12 trials" in out
    study = open_study(run_folder(tmp_path))
    roots = [trial.user_attrs.get("retry_of", trial.number) for trial in ended(study)]
    assert len(roots) == len(set(roots)) == 12
    assert {trial.state.is_finished() for trial in study.trials} == {True}
    assert {trial.user_attrs["worker"] for trial in ended(study)} >= {1, 2}
    assert sum(trial.user_attrs.get("baseline") == "lenet-sized" for trial in ended(study)) == 1
    draws = [json.dumps(trial.params, sort_keys=True) for trial in ended(study)]
    assert len(set(draws)) == 12


def test_hours_stop_in_time_and_the_same_command_continues(tmp_path: Path) -> None:
    out = search(f"{SHORT} --trials 1000 --hours 0.002", tmp_path)
    assert "of 1000 trials" in out
    assert "stopped in time; the same command continues digits-20k" in out
    done = len(ended(open_study(run_folder(tmp_path))))
    assert done < 1000
    out = search(f"run digits --epochs 2 --trials {done + 1}", tmp_path)
    assert f"{done + 1} of {done + 1} trials" in out
