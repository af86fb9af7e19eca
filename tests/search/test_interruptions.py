"""Searches as processes, killed, asked to stop, and joined: nothing is lost, nothing is done twice."""

import json
import random
import signal
import time
from functools import partial
from pathlib import Path

import optuna
import pytest
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from search.between import Watcher
from search.identity import open_study
from search.interrupt import NOTICE
from search.run_folder import RunFolder
from search.trainer import Trainer
from tests.support import processes
from tests.support.processes import ALWAYS_SAVES, FEW, SHORT, UNTIMED, run_folder, wait_for, with_few
from tests.support.runs import ended
from tests.support.tiny import NETWORK, tiny_data, tiny_recipe
from train_core import checkpoint

# What is shown here does not depend on the number of threads, and one takes the least time.
start = partial(processes.start, OMP_NUM_THREADS="1")
search = partial(processes.search, OMP_NUM_THREADS="1")


def test_a_search_killed_at_random_instants_loses_and_doubles_nothing(tmp_path: Path) -> None:
    generator = random.Random(1)
    log = run_folder(tmp_path).log
    for kill in range(2):
        process = start(SHORT, with_few(tmp_path))
        wait_for(log, "measured: ")
        time.sleep(generator.uniform(0, 1.0))
        process.kill()
        process.communicate()
        log.rename(log.with_name(f"killed-{kill}.log"))
    search(SHORT, tmp_path)
    study = open_study(run_folder(tmp_path))
    assert len(ended(study)) == 3
    assert not [trial for trial in begun(study) if not trial.state.is_finished()]
    roots = [trial.user_attrs.get("retry_of", trial.number) for trial in ended(study)]
    assert len(roots) == len(set(roots))
    baselines = [trial for trial in ended(study) if trial.user_attrs.get("baseline") == "lenet-sized"]
    assert len(baselines) == 1


def begun(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that are not of the portfolio and wait for a larger total."""
    waits = [trial.state == TrialState.WAITING and "retry_of" not in trial.user_attrs for trial in study.trials]
    return [trial for trial, is_left in zip(study.trials, waits, strict=True) if not is_left]


LONGER = f"run digits {FEW} --trials 2 --epochs 12"  # so that a signal after the first epoch leaves some to do


@pytest.fixture(scope="module")
def searched_longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = with_few(tmp_path_factory.mktemp("searched-longer"))
    search(LONGER, folder, first=UNTIMED)
    return folder


def scores(folder: Path) -> list[tuple[float, dict[int, float]]]:
    trials = sorted(
        ended(open_study(run_folder(folder))), key=lambda each: each.user_attrs.get("retry_of", each.number)
    )
    return [(trial.value or 0.0, trial.intermediate_values) for trial in trials]


def test_a_trial_whose_process_was_killed_goes_on_from_its_checkpoint(searched_longer: Path, tmp_path: Path) -> None:
    process = start(LONGER, with_few(tmp_path), UNTIMED + ALWAYS_SAVES)
    wait_for(run_folder(tmp_path).trial_checkpoint(0))
    process.kill()
    process.communicate()
    assert [trial.state for trial in open_study(run_folder(tmp_path)).trials[:1]] == [TrialState.RUNNING]
    done = checkpoint.load(run_folder(tmp_path).trial_checkpoint(0), torch.device("cpu")).history
    search(LONGER, tmp_path, first=UNTIMED)
    assert f"trial 0, run again, goes on after epoch {len(done)}\n" in run_folder(tmp_path).log.read_text()
    assert scores(tmp_path) == scores(searched_longer)


@pytest.mark.parametrize(("error", "is_kept"), [(GeneratorExit, True), (UpdateFinishedTrialError, False)])
def test_what_was_trained_is_kept_where_it_is_stopped_and_not_where_another_worker_has_the_trial(
    error: type[BaseException], is_kept: bool, tmp_path: Path
) -> None:
    trainer = Trainer(RunFolder(tmp_path), tiny_data(), torch.device("cpu"), Watcher())
    results = trainer(NETWORK, tiny_recipe(), 0)
    next(results)
    with pytest.raises(error):
        results.throw(error)
    assert checkpoint.exists(RunFolder(tmp_path).trial_checkpoint(0)) == is_kept


def test_a_signal_while_the_images_are_read_ends_with_the_usual_line(tmp_path: Path) -> None:
    slow = """
import time
from search import session
session.load = lambda spec, progress: (print("reads", flush=True), time.sleep(60))
"""
    process = start(SHORT, with_few(tmp_path), slow)
    assert process.stdout is not None
    assert process.stdout.readline() == "reads\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.strip() == "search: interrupted; run the same command to continue"


def test_a_signal_ends_the_search_after_the_epoch_and_the_trial_goes_on_from_there(
    searched_longer: Path, tmp_path: Path
) -> None:
    folder = run_folder(with_few(tmp_path))
    log_before, kept = "", 0
    for number in (signal.SIGINT, signal.SIGTERM):
        process = start(LONGER, tmp_path, UNTIMED)
        wait_for(folder.log, f" at epoch {kept + 1}  ")
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert err == NOTICE.decode() + "search: interrupted; run the same command to continue\n"
        assert out.splitlines()[-1].startswith("stopping when this epoch ends, in about ")
        study = open_study(folder)
        assert {trial.state.is_finished() for trial in begun(study)} == {True}
        (root,) = folder.trials_with_checkpoints()
        done = checkpoint.load(folder.trial_checkpoint(root), torch.device("cpu")).history
        assert len(done) > kept
        kept, log_before = len(done), folder.log.read_text()
    assert "2 of 2 trials" in search(LONGER, tmp_path, first=UNTIMED)
    assert scores(tmp_path) == scores(searched_longer)
    assert list((folder.root / "trials").iterdir()) == []
    # The epochs from before are printed again with their old pace, which no new epoch has to the last digit.
    log_after = folder.log.read_text().removeprefix(log_before)
    assert f"{done[0].images / done[0].seconds:,.0f} images/s" in log_after


def test_a_second_signal_ends_the_search_at_once_and_the_same_command_continues(tmp_path: Path) -> None:
    process = start(f"{SHORT} --trials 1000 --epochs 1000", with_few(tmp_path), UNTIMED)
    wait_for(run_folder(tmp_path).log, "trial 0  ")
    assert process.stderr is not None
    process.send_signal(signal.SIGINT)
    assert (process.stderr.readline(), process.stderr.readline()) == ("\n", NOTICE.decode().lstrip())
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "search: interrupted; run the same command to continue\n"


def test_searches_of_one_run_share_its_trials_and_outlive_each_other(tmp_path: Path) -> None:
    many = f"run digits {FEW} --trials 9 --epochs 4"
    first = start(many, with_few(tmp_path))
    wait_for(run_folder(tmp_path).log, "measured: ")
    others = [start(many, tmp_path, UNTIMED) for _ in range(2)]
    wait_for(run_folder(tmp_path).log, "joining 2 other searches")
    first.kill()
    first.communicate()
    for other in others:
        out, err = other.communicate(timeout=120)
        assert other.returncode == 0, err
        assert "9 of 9 trials" in out
    study = open_study(run_folder(tmp_path))
    roots = [trial.user_attrs.get("retry_of", trial.number) for trial in ended(study)]
    assert len(roots) == len(set(roots)) == 9
    assert {trial.state.is_finished() for trial in study.trials} == {True}
    assert len({trial.user_attrs["worker"] for trial in ended(study)}) >= 2
    assert sum(trial.user_attrs.get("baseline") == "lenet-sized" for trial in ended(study)) == 1
    draws = [json.dumps(trial.params, sort_keys=True) for trial in ended(study)]
    assert len(set(draws)) == 9


def test_hours_stop_in_time_and_the_same_command_continues(tmp_path: Path) -> None:
    out = search(f"{SHORT} --trials 1000 --hours 0.001", with_few(tmp_path))
    assert "of 1,000 trials" in out
    assert "stopped in time; run the same command to continue digits-20k" in out
    done = len(ended(open_study(run_folder(tmp_path))))
    assert done < 1000
    out = search(f"{SHORT} --trials {done + 1}", tmp_path)
    assert f"{done + 1} of {done + 1} trial" in out
