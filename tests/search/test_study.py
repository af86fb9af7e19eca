"""Search logic, by ask and report: nothing is trained."""

import contextlib
import itertools
import logging
import math
import re
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

import space
from search import identity, retries
from search import storage as storages
from search import study as studies
from search.console import logged_to
from search.data_shape import NAMED_SHAPES, DataShape
from search.drawing import Setting, draw_trial
from search.errors import RunError, StorageError, StudyFailedError
from search.heartbeat import Worker
from search.identity import check, claim, enqueue_baselines, open_study
from search.optuna_access import fail
from search.retries import MAX_DEATHS
from search.run_folder import RunFolder, write_text
from search.spec import CONTROLS, StudySpec, load_study
from search.storage import parse_address
from search.study import run
from search.trials import TrialRecord, has_begun
from tests.support.commands import search
from tests.support.postgres import Server
from tests.support.processes import until
from tests.support.runs import TASK, ended, network_of, raising, recipe_of, run_study, study_spec
from tests.support.trainers import FakeTrainer, Recorder
from train_core.errors import DivergedError
from train_core.specs import ResNetSpec, TrainSpec, num_madds, num_params

pytestmark = pytest.mark.usefixtures("in_lines")

ONE_NETWORK = {  # and one recipe
    "budget_fraction": 1.0,
    "stages": 2,
    "blocks": 1,
    "growth": 2.0,
    "block": "basic",
    "final_norm": False,
    "k1": 3,
    "k2": 3,
    "shortcut": "conv",
    "shortcut_kernel": 1,
    "stem_kernel": 3,
    "se_reduction": 0,
    "optimizer": "sgd",
    "sgd_lr": 0.1,
    "adam_lr": 1e-3,
    "adamw_lr": 1e-3,
    "schedule": "cosine",
    "batch_size": 64,
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "runs" / "here")
    made.create()
    return made


def retry_interrupted(study: optuna.Study, folder: RunFolder) -> None:
    with Worker(folder, study) as worker, worker.alone():
        retries.retry_interrupted(study, worker)


def test_every_trial_is_within_the_budget_and_says_what_it_was(folder: RunFolder) -> None:
    spec = study_spec(trials=20)
    study = run_study(folder, spec, FakeTrainer())
    assert len(study.trials) == 20
    for trial in study.trials:
        network = network_of(trial)
        assert trial.user_attrs["parameters"] == num_params(network) <= spec.budget
        assert trial.user_attrs["multiply-adds"] == num_madds(network, TASK.size)
        assert trial.user_attrs["network in words"] == str(network)
        assert trial.user_attrs["training time (s)"] >= 0
        assert set(trial.params) == set(space.parameters(spec.space))


def test_a_complete_trial_has_its_last_epochs_accuracy_and_a_value_for_each_epoch(folder: RunFolder) -> None:
    study = run_study(folder, study_spec(trials=1), FakeTrainer(score=lambda network, recipe: 0.8))
    (trial,) = study.trials
    assert trial.state == TrialState.COMPLETE
    assert trial.value == pytest.approx(0.8)
    assert trial.intermediate_values == pytest.approx({1: 0.2, 2: 0.4, 3: 0.6, 4: 0.8})


def test_the_short_run_has_the_studys_length_and_seed(folder: RunFolder) -> None:
    trainer = FakeTrainer()
    run_study(folder, study_spec(trials=3, seed=7), trainer)
    assert {(recipe.epochs, recipe.seed) for _, recipe in trainer.runs} == {(4, 7)}


def test_the_same_seed_gives_the_same_study_and_another_seed_another(tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        folder = RunFolder(tmp_path / name)
        folder.create()
        study = run_study(folder, study_spec(trials=15, seed=seed), FakeTrainer())
        found.append([(trial.params, trial.value) for trial in study.trials])
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_a_study_stopped_and_continued_is_the_study_run_in_one_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, pieces = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "pieces")
    whole.create()
    pieces.create()
    expected = run_study(whole, study_spec(trials=15), FakeTrainer())
    monkeypatch.setattr(identity, "connect", storages.connect)  # to SQLite, as for a user
    for trials in (4, 11, 15):
        study = run_study(pieces, study_spec(trials=trials), FakeTrainer())
    assert [trial.params for trial in study.trials] == [trial.params for trial in expected.trials]
    assert len({str(trial.params) for trial in study.trials}) == 15


def test_short_runs_on_a_part_see_each_image_as_often_as_a_full_run(folder: RunFolder) -> None:
    trainer = FakeTrainer()
    spec = study_spec(trials=2, short_run_images="subset", promote={"top": 1, "epochs": 16})
    run_study(folder, spec, trainer)
    assert {recipe.data_fraction for _, recipe in trainer.runs} == {0.25}
    claim(open_study(folder), spec, TASK, folder)
    with pytest.raises(RunError, match=r"made with short_run_images and promote.epochs, .* of 0.25, not 1.0"):
        claim(open_study(folder), study_spec(trials=2, promote={"top": 1, "epochs": 16}), TASK, folder)


def test_a_finished_study_is_left_alone(folder: RunFolder) -> None:
    run_study(folder, study_spec(), FakeTrainer())
    trainer = FakeTrainer()
    study = run_study(folder, study_spec(), trainer)
    assert trainer.runs == []
    assert len(study.trials) == 6


def test_trials_below_the_median_are_pruned_after_the_warm_up_and_not_before(folder: RunFolder) -> None:
    spec = study_spec(trials=12, epochs=6, pruner={"startup_trials": 5, "warmup": 0.5, "min_values": 3, "like": []})
    scores = [0.8] * 5 + [0.1, 0.9] * 4
    trainer = FakeTrainer()
    trainer.score = lambda network, recipe: scores[len(trainer.runs) - 1]
    study = run_study(folder, spec, trainer)
    states = [trial.state for trial in study.trials]
    assert states[:5] == [TrialState.COMPLETE] * 5
    assert states[5] == TrialState.PRUNED
    assert states[6] == TrialState.COMPLETE
    assert max(study.trials[5].intermediate_values) == 3  # judged when half of its epochs were done, not before
    assert study.trials[5].user_attrs["reason"] == "below the median of its kind at epoch 3"


def test_a_trial_that_runs_to_its_last_epoch_is_complete_not_pruned(folder: RunFolder) -> None:
    spec = study_spec(trials=8, pruner={"startup_trials": 2, "warmup": 1.0, "min_values": 1, "like": []})
    falling = FakeTrainer()
    falling.score = lambda network, recipe: 0.9 / len(falling.runs)
    study = run_study(folder, spec, falling)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}


def test_a_diverged_trial_is_pruned_with_its_reason_so_that_the_sampler_learns_from_it(folder: RunFolder) -> None:
    trainer = FakeTrainer(misbehave=raising(DivergedError("the training loss was nan in epoch 1"), run=2))
    study = run_study(folder, study_spec(), trainer)
    assert study.trials[1].state == TrialState.PRUNED
    assert study.trials[1].user_attrs["reason"] == "diverged: the training loss was nan in epoch 1"
    assert len(ended(study)) == 6


def test_a_trial_that_raises_is_recorded_and_the_study_goes_on(folder: RunFolder) -> None:
    trainer = FakeTrainer(misbehave=raising(RuntimeError("no more memory\nlong explanation"), run=3, epoch=2))
    events = Recorder()
    study = run_study(folder, study_spec(), trainer, events=events)
    assert study.trials[2].state == TrialState.FAIL
    assert study.trials[2].user_attrs["reason"] == "RuntimeError: no more memory"
    assert [trial.number for trial in events.ended] == list(range(6))
    assert set(study.trials[2].params) == set(space.parameters(study_spec().space))


def test_the_traceback_of_a_trial_that_raises_is_in_the_run_folder(folder: RunFolder) -> None:
    trainer = FakeTrainer(misbehave=raising(RuntimeError("no more memory"), run=2))
    with logged_to(folder):
        run_study(folder, study_spec(trials=3), trainer)
    log = folder.log.read_text()
    assert "trial 1 failed\nTraceback (most recent call last):\n" in log
    assert "RuntimeError: no more memory\n" in log


def test_a_database_that_another_process_has_locked_is_waited_for(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(identity, "connect", storages.connect)
    monkeypatch.setitem(storages.CONNECTING, "pysqlite", {"timeout": 0.05})  # of SQLite's own patience
    monkeypatch.setattr(storages, "QUIET_S", 0.3)
    said = "the study's storage does not answer (database is locked): trying again for 10 minutes"
    locked = threading.Event()

    def lock(run: int, epoch: int) -> None:
        if (run, epoch) == (1, 2):
            threading.Thread(target=hold).start()
            locked.wait()

    def hold() -> None:
        with contextlib.closing(sqlite3.connect(folder.database)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            locked.set()
            until(lambda: said in caplog.messages, seconds=30)

    with caplog.at_level(logging.WARNING, logger="search"):
        study = run_study(folder, study_spec(trials=2), FakeTrainer(misbehave=lock))
    assert caplog.messages == [said, "the study's storage answers again"]
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2


def test_a_study_whose_first_trials_all_fail_stops_and_says_why(folder: RunFolder) -> None:
    def misbehave(run: int, epoch: int) -> None:
        raise RuntimeError("wrong shape") if run % 2 else DivergedError("loss nan")

    trainer = FakeTrainer(misbehave=misbehave)
    with pytest.raises(StudyFailedError, match=r"first 5 trials all failed, the last with: RuntimeError: wrong shape"):
        run_study(folder, study_spec(trials=50), trainer)
    assert len(trainer.runs) == 5


def test_a_study_in_which_everything_diverges_says_which_rates_to_lower(
    folder: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def misbehave(run: int, epoch: int) -> None:
        raise DivergedError("the training loss was nan in epoch 1")

    said = (
        r"set lower rates under \[space\] in a study file \(\w+_lr(, \w+_lr)*\), and start again under another --name"
    )
    with pytest.raises(
        StudyFailedError, match=rf"^the first 5 trials all diverged, the last with: diverged: .*; {said}$"
    ):
        run_study(folder, study_spec(trials=50), FakeTrainer(misbehave=misbehave))
    write_text(folder.study_file, study_spec(trials=50).as_toml())
    code, _, err = search(f"promote {folder.name} --runs {folder.root.parent}", capsys, monkeypatch)
    assert (code, err.count("\n")) == (2, 1)
    assert re.search(rf"all 5 trials of run '{folder.name}' diverged: {said} for `search run`$", err)


def test_what_was_tried_before_is_drawn_again_and_not_trained_again(folder: RunFolder) -> None:
    space = {**ONE_NETWORK, "optimizer": ["sgd", "adam", "adamw"], "batch_size": [32, 64]}
    trainer = FakeTrainer()
    study = run_study(folder, study_spec(trials=6, seed=1, space=space), trainer)
    assert len(ended(study)) == 6
    assert len(set(trainer.runs)) == len(trainer.runs) == 6
    skipped = [trial for trial in study.trials if trial not in ended(study)]
    assert skipped
    for trial in skipped:
        number = int(trial.user_attrs["reason"].removeprefix("the same as trial "))
        drawn, same = trial.params, study.trials[number].params
        assert all(drawn[name] == same[name] for name in ("optimizer", "batch_size"))


def test_a_space_that_is_used_up_ends_the_study(folder: RunFolder) -> None:
    spec = study_spec(trials=9, space={**ONE_NETWORK, "batch_size": [32, 64]})
    study = run_study(folder, spec, FakeTrainer())
    assert (len(ended(study)), study.user_attrs["used up"]) == (2, True)
    trainer = FakeTrainer()
    run_study(folder, spec, trainer)
    assert trainer.runs == []


def test_a_first_phase_that_is_used_up_is_over(folder: RunFolder) -> None:
    held = {"optimizer": "adam", "batch_size": 64}
    space = {**ONE_NETWORK, "k1": [1, 3], "optimizer": ["sgd", "adam"], "batch_size": [32, 64]}
    spec = study_spec(trials=4, space=space, phases={"architecture": 0.75}, baseline_recipe=held)
    study = run_study(folder, spec, FakeTrainer())
    assert study.user_attrs["first phase"] == 2
    assert [recipe_of(trial).optimizer for trial in ended(study)[:2]] == ["adam", "adam"]
    assert len({trial.user_attrs["recipe"] + trial.user_attrs["network"] for trial in ended(study)}) == 4


def test_a_larger_total_does_not_begin_the_first_phase_again(folder: RunFolder) -> None:
    held = {"optimizer": "adam", "adam_lr": 0.002, "schedule": "cosine", "batch_size": 64}
    values = {"phases": {"architecture": 0.5, "keep": 1}, "baseline_recipe": held}
    run_study(folder, study_spec(trials=4, **values), FakeTrainer())
    study = run_study(folder, study_spec(trials=8, **values), FakeTrainer())
    assert len({trial.user_attrs["network"] for trial in ended(study)[2:]}) == 1


def test_the_first_phase_draws_architectures_and_the_second_recipes_for_the_best(folder: RunFolder) -> None:
    held = {"optimizer": "adam", "adam_lr": 0.002, "schedule": "cosine", "batch_size": 64}
    spec = study_spec(trials=16, phases={"architecture": 0.5, "keep": 2}, baseline_recipe=held)
    study = run_study(folder, spec, FakeTrainer())
    first, second = study.trials[:8], study.trials[8:]
    assert all(set(trial.params) == set(space.parameters(spec.space)) for trial in study.trials)
    assert all(trial.params[name] == value for trial in first for name, value in held.items())
    assert len({trial.user_attrs["network"] for trial in first}) == 8
    best = sorted(first, key=lambda trial: trial.value or 0, reverse=True)[:2]
    kept = [best[i % 2].user_attrs["network"] for i in range(8)]
    assert [trial.user_attrs["network"] for trial in second] == kept
    assert len({(trial.user_attrs["network"], trial.user_attrs["recipe"]) for trial in second}) == 8


def test_late_failures_do_not_stop_a_study(folder: RunFolder) -> None:
    def misbehave(run: int, epoch: int) -> None:
        if run > 1:
            raise RuntimeError(f"wrong shape in run {run}")

    assert len(ended(run_study(folder, study_spec(trials=9), FakeTrainer(misbehave=misbehave)))) == 9


def test_asked_to_stop_it_stops_after_the_epoch_and_the_trial_is_tried_again(folder: RunFolder) -> None:
    events = Recorder()
    study = run_study(folder, study_spec(), FakeTrainer(), events=events, stop=lambda: len(events.epochs) >= 6)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.FAIL]
    assert events.epochs == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 1), (1, 2)]
    trainer = FakeTrainer()
    assert len(ended(run_study(folder, study_spec(), trainer))) == 6
    assert trainer.forgotten == [1, 3, 4, 5, 6]  # the second attempt at trial 1 is trial 2


def test_a_retried_trial_does_not_change_what_is_drawn_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pieces = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "pieces")
    whole.create()
    pieces.create()
    expected = run_study(whole, study_spec(trials=16), FakeTrainer())
    monkeypatch.setattr(identity, "connect", storages.connect)  # to SQLite, as for a user
    with pytest.raises(KeyboardInterrupt):
        run_study(pieces, study_spec(trials=16), FakeTrainer(misbehave=raising(KeyboardInterrupt(), run=6)))
    retry_interrupted(open_study(pieces), pieces)
    study = run_study(pieces, study_spec(trials=16), FakeTrainer())
    assert [trial.params for trial in ended(study)] == [trial.params for trial in expected.trials]


def test_a_trial_cut_off_while_it_was_drawn_is_drawn_again_as_it_would_have_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A known network that leaves something to draw, one of the random trials, and one of the sampler's model."""
    spec = study_spec(trials=15, baselines={"known": {"widths": [8, 16], "blocks": [1, 1]}})
    whole, pieces = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "pieces")
    whole.create()
    pieces.create()
    enqueue_baselines(open_study(whole, create=True), spec, TASK)
    expected = run_study(whole, spec, FakeTrainer())
    monkeypatch.setattr(identity, "connect", storages.connect)  # to SQLite, as for a user
    enqueue_baselines(open_study(pieces, create=True), spec, TASK)
    suggest, drawn = space._suggest, list[str]()
    dimensions = len(space.parameter_names(spec.space))

    def cut_off(trial: space.Trial, name: str, dimension: object) -> object:
        drawn.append(name)
        if len(drawn) in [place * dimensions + dimensions // 2 for place in (0, 4, 14)]:
            raise KeyboardInterrupt
        return suggest(trial, name, dimension)

    monkeypatch.setattr(space, "_suggest", cut_off)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run_study(pieces, spec, FakeTrainer())
    study = run_study(pieces, spec, FakeTrainer())
    assert len(study.trials) == 18
    assert [trial.params for trial in ended(study)] == [trial.params for trial in expected.trials]


def test_a_trial_that_keeps_killing_its_process_is_failed_in_the_end(folder: RunFolder) -> None:
    spec = study_spec(baselines={"deadly": {"widths": [8, 16], "blocks": [1, 1]}})
    study = open_study(folder, create=True)
    enqueue_baselines(study, spec, TASK)
    for _ in range(MAX_DEATHS):
        study.ask()  # and the process dies
        retry_interrupted(study, folder)
    assert [trial.user_attrs["reason"] for trial in ended(study)] == [f"given up: lost its process {MAX_DEATHS} times"]
    assert len(ended(run_study(folder, spec, FakeTrainer()))) == 6


FAULT = "Fatal Python error: {}\n\nCurrent thread 0x00007f1f (most recent call first):\n  File ..."
SEGMENTATION_FAULT, ABORT, KILL = FAULT.format("Segmentation fault"), FAULT.format("Aborted"), ""


def dies(study: optuna.Study, folder: RunFolder, trace: str, epochs: int = 0) -> optuna.Trial:
    """A trial whose worker died after so many epochs, and left this trace."""
    trial = study.ask()
    worker = f"worker-{trial.number}"
    folder.worker_trace(worker).write_text(trace)
    for name, value in {
        "worker": worker,
        "network": "decided",
        "budget_fraction": trial.suggest_float("budget_fraction", 0, 1),
    }.items():
        trial.set_user_attr(name, value)
    for epoch in range(1, epochs + 1):
        trial.report(0.5, epoch)
    return trial


def reasons(study: optuna.Study) -> list[str | None]:
    return [trial.user_attrs.get("reason") for trial in study.trials]


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (SEGMENTATION_FAULT, SEGMENTATION_FAULT, "ended its process (segmentation fault) twice"),
        (SEGMENTATION_FAULT, ABORT, "ended its process twice (segmentation fault, then abort)"),
    ],
)
def test_a_trial_that_ends_its_process_in_a_fault_twice_is_failed(
    first: str, second: str, reason: str, folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    study = open_study(folder, create=True)
    for trace in (first, KILL, second):  # one that is not explained in between changes nothing
        dies(study, folder, trace)
        retry_interrupted(study, folder)
        retry_interrupted(study, folder)
    assert reasons(study) == [
        "ended its process (segmentation fault)",
        "lost its process (killed, or out of memory)",
        f"given up: {reason}",
    ]
    assert caplog.messages == [
        "trial 0 ended its process (segmentation fault): it is run again",
        "trial 0 lost its process (killed, or out of memory): it is run again",
        f"trial 0 (run again as trial 2) {reason}: it counts as failed, and the search goes on",
    ]
    assert [trial.number for trial in ended(study)] == [2]


def test_a_fault_after_a_new_epoch_is_the_first_one(folder: RunFolder) -> None:
    study = open_study(folder, create=True)
    for epochs in (1, 2, 3):
        dies(study, folder, SEGMENTATION_FAULT, epochs)
        retry_interrupted(study, folder)
        assert ended(study) == []
    dies(study, folder, SEGMENTATION_FAULT, epochs=1)  # of the checkpoint's
    retry_interrupted(study, folder)
    assert reasons(study)[3:] == ["given up: ended its process (segmentation fault) twice"]


def test_deaths_that_nothing_explains_are_borne_for_longer(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    study = open_study(folder, create=True)
    for death in range(MAX_DEATHS):
        assert ended(study) == []
        dies(study, folder, SEGMENTATION_FAULT if death == 4 else KILL)
        retry_interrupted(study, folder)
    reason = f"lost its process {MAX_DEATHS} times (killed, or out of memory)"
    assert [trial.user_attrs["reason"] for trial in ended(study)] == [f"given up: {reason}"]
    assert caplog.messages[-1].endswith(f"{reason}: it counts as failed, and the search goes on")


def test_each_trial_has_the_fault_of_its_own_worker(folder: RunFolder) -> None:
    study = open_study(folder, create=True)
    for trace in (ABORT, KILL, SEGMENTATION_FAULT):
        dies(study, folder, trace)
    study.tell(0, 0.5)  # and its worker died after that
    study.ask()  # and the process died before it said whose it is
    retry_interrupted(study, folder)
    assert reasons(study)[:4] == [
        None,
        "lost its process (killed, or out of memory)",
        "ended its process (segmentation fault)",
        "lost its process",
    ]


def test_a_trial_that_was_being_drawn_is_drawn_anew(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    study = open_study(folder, create=True)
    study.ask().set_user_attr("worker", "another")
    folder.worker_trace("another").touch()
    retry_interrupted(study, folder)
    (message,) = caplog.messages
    assert message == "trial 0 lost its process (killed, or out of memory): another trial is drawn in its place"
    assert len(study.trials) == 1


def test_a_trial_that_is_given_up_is_told_as_one_that_has_ended(folder: RunFolder) -> None:
    study = open_study(folder, create=True)
    dies(study, folder, ABORT)
    retry_interrupted(study, folder)
    dies(study, folder, ABORT)
    recorder = Recorder()
    run_study(folder, study_spec(trials=3), FakeTrainer(), events=recorder)
    assert [trial.number for trial in recorder.ended] == [1, 2, 3]
    assert recorder.ended[0].reason == "given up: ended its process (abort) twice"


def test_a_study_in_which_every_trial_ends_its_process_stops_and_says_why(folder: RunFolder) -> None:
    study = open_study(folder, create=True)
    for _ in range(studies.ALL_FAILED_AFTER):
        dies(study, folder, ABORT)
        retry_interrupted(study, folder)
        dies(study, folder, ABORT)
        if len(ended(study)) < studies.ALL_FAILED_AFTER - 1:
            retry_interrupted(study, folder)
    trainer = FakeTrainer()
    with pytest.raises(StudyFailedError, match=r"with: given up: ended its process \(abort\) twice; fix the data"):
        run_study(folder, study_spec(trials=10), trainer)
    assert trainer.runs == []


def test_an_interrupt_after_a_trial_is_told_leaves_it_told(folder: RunFolder) -> None:
    class Impatient(Recorder):
        def trial_ended(self, trial: TrialRecord, finished: list[TrialRecord]) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(folder, study_spec(), FakeTrainer(), events=Impatient())
    assert [trial.state for trial in open_study(folder).trials] == [TrialState.COMPLETE]


def test_the_same_failure_again_and_again_stops_the_study_to_be_mended(folder: RunFolder) -> None:
    def misbehave(run: int, epoch: int) -> None:
        if run > 2:
            raise RuntimeError("the device is lost")

    trainer = FakeTrainer(misbehave=misbehave)
    with pytest.raises(StudyFailedError, match=r"the last 5 trials all failed with: RuntimeError: the device is lost"):
        run_study(folder, study_spec(trials=50), trainer)
    assert len(trainer.runs) == 7
    assert len(ended(run_study(folder, study_spec(trials=10), FakeTrainer()))) == 10


def test_a_storage_that_fails_is_not_the_networks_fault(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: object) -> None:
        raise optuna.exceptions.StorageInternalError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(optuna.trial.Trial, "report", locked)
        with pytest.raises(optuna.exceptions.StorageInternalError):
            run_study(folder, study_spec(), FakeTrainer())
    assert ended(open_study(folder)) == []


def test_a_renamed_run_is_the_same_study(folder: RunFolder, tmp_path: Path) -> None:
    run_study(folder, study_spec(), FakeTrainer())
    moved = RunFolder(folder.root.rename(tmp_path / "elsewhere"))
    assert len(open_study(moved).trials) == len(open_study(moved, create=True).trials) == 6


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_trial_is_tried_again_once_and_counts_once(folder: RunFolder, error: BaseException) -> None:
    with pytest.raises(type(error)):
        run_study(folder, study_spec(), FakeTrainer(misbehave=raising(error, run=3, epoch=2)))
    study = open_study(folder)
    assert [trial.state for trial in study.trials][-1] == TrialState.FAIL
    assert study.trials[-1].user_attrs["reason"] == "interrupted"
    retry_interrupted(study, folder)
    retry_interrupted(study, folder)
    study = run_study(folder, study_spec(), FakeTrainer())
    assert len(study.trials) == 7
    assert len(ended(study)) == 6
    assert study.trials[3].params == study.trials[2].params
    assert study.trials[3].user_attrs["retry_of"] == 2


def test_a_trial_whose_process_was_killed_is_found_and_tried_again(folder: RunFolder) -> None:
    spec = study_spec(baselines={"known": {"widths": [8, 16], "blocks": [1, 1]}})
    study = open_study(folder, create=True)
    assert enqueue_baselines(study, spec, TASK) == {"known": True}
    study.ask()  # asked for, and then the process died before it drew anything: still running in the storage
    study = open_study(folder)
    retry_interrupted(study, folder)
    retry_interrupted(study, folder)
    study = run_study(folder, spec, FakeTrainer())
    assert not [trial for trial in study.trials if trial.state in {TrialState.RUNNING, TrialState.WAITING}]
    assert study.trials[1].user_attrs["baseline"] == "known"
    assert network_of(study.trials[1]).widths == (8, 16)
    assert len(ended(study)) == 6


def test_a_known_network_that_was_interrupted_is_not_enqueued_again_beside_its_retry(folder: RunFolder) -> None:
    spec = study_spec(trials=3, baselines={"known": {"widths": [8, 16], "blocks": [1, 1]}})
    enqueue_baselines(open_study(folder, create=True), spec, TASK)
    with pytest.raises(KeyboardInterrupt):
        run_study(folder, spec, FakeTrainer(misbehave=raising(KeyboardInterrupt(), run=1)))
    enqueue_baselines(open_study(folder), spec, TASK)
    study = run_study(folder, spec, FakeTrainer())
    assert [trial.user_attrs.get("retry_of") for trial in study.trials] == [None, 0, None, None]


def test_a_trial_interrupted_twice_is_tried_a_third_time(folder: RunFolder) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_study(folder, study_spec(trials=1), FakeTrainer(misbehave=raising(KeyboardInterrupt(), run=1)))
        retry_interrupted(open_study(folder), folder)
    study = run_study(folder, study_spec(trials=1), FakeTrainer())
    assert [trial.user_attrs.get("retry_of") for trial in study.trials] == [None, 0, 0]
    assert len(ended(study)) == 1


def test_it_stops_before_an_epoch_that_would_end_after_the_deadline(folder: RunFolder) -> None:
    run_study(folder, study_spec(trials=1), FakeTrainer())  # the first one takes longer: tables are made, code is read
    trainer = FakeTrainer(misbehave=lambda run, epoch: time.sleep(0.05))
    started = time.monotonic()
    study = run_study(folder, study_spec(trials=1000), trainer, left=lambda: started + 2 - time.monotonic())
    assert time.monotonic() - started < 4
    assert 1 < len(ended(study)) < 1000
    assert not [trial for trial in study.trials if trial.state == TrialState.RUNNING]


def test_the_known_networks_come_first_once_with_their_recipe(folder: RunFolder) -> None:
    spec = study_spec(
        baselines={
            "narrow": {"widths": [8, 16], "blocks": [1, 1]},
            "too large": {"widths": [64, 128], "blocks": [2, 2]},
            "deep": {"widths": [8, 8, 16], "blocks": [2, 1, 1], "block": "preact"},
        },
        baseline_recipe={"optimizer": "adamw", "adamw_lr": 1e-3, "schedule": "one-cycle", "batch_size": 64},
    )
    study = open_study(folder, create=True)
    assert enqueue_baselines(study, spec, TASK) == {"narrow": True, "too large": False, "deep": True}
    assert enqueue_baselines(study, spec, TASK) == {"narrow": True, "too large": False, "deep": True}
    study = run_study(folder, spec, FakeTrainer())
    assert [trial.user_attrs.get("baseline") for trial in study.trials] == ["narrow", "deep"] + [None] * 4
    first = recipe_of(study.trials[0])
    assert (first.optimizer, first.lr, first.schedule, first.batch_size) == ("adamw", 1e-3, "one-cycle", 64)
    assert network_of(study.trials[1]).blocks == (2, 1, 1)
    assert network_of(study.trials[0]).in_channels == TASK.in_channels


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"budget": 30_000}, "budget 20,000, not 30,000"),
        ({"space": {"k1": 3}}, "space."),
        ({"epochs": 5}, "epochs 4, not 5"),
        ({"seed": 1}, "seed 0, not 1"),
        ({"sampler": "random"}, "sampler tpe, not random"),
    ],
)
def test_a_run_is_not_continued_with_another_study(folder: RunFolder, changes: dict[str, Any], named: str) -> None:
    study = open_study(folder, create=True)
    claim(study, study_spec(), TASK, folder)
    claim(study, study_spec(trials=100), TASK, folder)
    with pytest.raises(RunError, match="run 'here' was made with") as caught:
        claim(study, study_spec(**changes), TASK, folder)
    assert named in str(caught.value)
    assert "--name" in str(caught.value)


def test_a_run_is_not_continued_on_other_images(folder: RunFolder) -> None:
    study = open_study(folder, create=True)
    claim(study, study_spec(), TASK, folder)
    other = DataShape(fingerprint="other", in_channels=1, num_classes=10, size=(32, 32))
    with pytest.raises(RunError, match="made with data fingerprint"):
        claim(study, study_spec(), other, folder)


def test_two_hundred_trials_hold_many_different_networks(folder: RunFolder) -> None:
    """TPE as Optuna ships it proposes the networks that it knows: of 200 it drew 38 different ones here."""
    spec = load_study("cifar10-small", {"trials": 200, "epochs": 1}).model_copy(update={"baselines": {}})

    def score(network: ResNetSpec, recipe: TrainSpec) -> float:
        size, rate = math.log(num_params(network)) / 50, abs(math.log(recipe.lr / 0.05)) / 30
        return 0.5 + size - rate - 0.01 * (network.block == "basic") - 0.01 * (network.k1 + network.k2) / 2

    study = run_study(folder, spec, FakeTrainer(score), task=NAMED_SHAPES["cifar10"])
    networks = [network_of(trial) for trial in ended(study)]
    assert len(networks) == 200
    assert len(set(networks)) >= 120
    assert len(set(networks[100:])) >= 50


def test_random_sampling_is_there_as_a_control(folder: RunFolder) -> None:
    study = run_study(folder, study_spec(sampler="random"), FakeTrainer())
    assert isinstance(study.sampler, optuna.samplers.RandomSampler)


def test_a_control_draws_nothing_that_the_search_draws_and_keeps_its_seed(tmp_path: Path) -> None:
    """Also in the first trials, which are random in both: else a short search is compared with itself."""
    spec = study_spec(trials=10, epochs=1)
    alike: dict[str, float] = {}
    draws: dict[str, list[dict[str, Any]]] = {}
    for name in ("", *CONTROLS):
        controlled = spec.model_copy(update={**CONTROLS.get(name, {}), "control": name})
        folder = RunFolder(tmp_path / f"run-{name}")
        folder.create()
        study = run_study(folder, controlled, FakeTrainer())
        assert {recipe_of(trial).seed for trial in study.trials} == {spec.seed}
        draws[name] = [TrialRecord(trial).draw for trial in ended(study)]
    for one, other in itertools.combinations(draws, 2):
        fractions = [{draw["budget_fraction"] for draw in draws[name]} for name in (one, other)]
        assert not fractions[0] & fractions[1], (one, other)
        # A choice of 4 values: with the same stream, all ten are the same; by chance, one in four.
        alike[f"{one}, {other}"] = sum(
            first["k1"] == second["k1"] for first, second in zip(draws[one], draws[other], strict=True)
        )
    assert max(alike.values()) < 8, alike  # by chance in 1 of 2,400 pairs


def test_a_control_is_not_continued_as_a_search(folder: RunFolder) -> None:
    spec = study_spec(sampler="random", control="random")
    claim(open_study(folder, create=True), spec, TASK, folder)
    with pytest.raises(RunError, match=r"was made with control random, not without it: give the same, or another"):
        claim(open_study(folder), spec.model_copy(update={"control": ""}), TASK, folder)


def test_the_sampler_models_all_parameters_jointly(folder: RunFolder) -> None:
    """No trial, however it ended, takes a parameter out of TPE's joint model."""
    bad = raising(DivergedError("loss nan"), run=3)
    study = run_study(folder, study_spec(trials=14), FakeTrainer(misbehave=bad))
    sampler = optuna.samplers.TPESampler(seed=0)
    joint = sampler.infer_relative_search_space(study, study.trials[-1])
    assert set(joint) == set(space.parameters(study_spec().space))


def test_a_broken_database_is_named_in_one_line(folder: RunFolder) -> None:
    folder.database.write_text("this is no database, whatever its name says" * 100)
    with pytest.raises(
        StorageError,
        match=r"study\.db cannot be opened \(file is not a database\): put back a copy of it, or use another --name$",
    ) as caught:
        open_study(folder, create=True)
    assert "\n" not in str(caught.value)


def test_plain_learning_finds_better_networks_than_chance(tmp_path: Path) -> None:
    """A smoke test of the whole search: TPE's best beats the median of its own random start."""
    folder = RunFolder(tmp_path / "tpe")
    folder.create()
    study = run_study(folder, study_spec(trials=40, pruner={"startup_trials": 100}), FakeTrainer())
    values = [trial.value or 0 for trial in study.trials]
    assert sum(values[30:]) / 10 > sum(values[:10]) / 10


# Several workers: what each decides follows from the trials with lower numbers.


def begun(study: optuna.Study, worker: str = "another", **attributes: Any) -> optuna.Trial:
    """A trial that another worker has, and has not decided what it is."""
    trial = study.ask()
    for name, value in {"worker": worker, **attributes}.items():
        trial.set_user_attr(name, value)
    return trial


class NoDeaths(Worker):
    """A worker that takes all other workers to be alive, except one called dead."""

    def is_dead(self, trial: TrialRecord) -> bool:
        return trial.worker == "dead"


def test_a_worker_waits_for_those_before_it_to_decide_what_they_are(folder: RunFolder) -> None:
    study = open_study(folder, create=True)
    first = begun(study)
    done: list[optuna.Study] = []

    def work() -> None:
        mine = open_study(folder)
        with NoDeaths(folder, mine) as worker:
            run(Setting(mine, study_spec(trials=2), TASK, "fp32", worker), FakeTrainer(), Recorder())
        done.append(mine)

    thread = threading.Thread(target=work)
    thread.start()
    while len(study.trials) < 2:
        time.sleep(0.01)
    time.sleep(0.3)
    assert "network" not in study.trials[1].user_attrs
    first.set_user_attr("network", "decided")
    while "network" not in study.trials[1].user_attrs:
        time.sleep(0.01)
    study.tell(first, 0.5)
    thread.join()
    assert len(ended(done[0])) == 2


def test_one_that_died_before_it_decided_is_not_waited_for(folder: RunFolder) -> None:
    study = open_study(folder, create=True)
    begun(study, "dead")
    with NoDeaths(folder, study) as worker:
        run(Setting(study, study_spec(trials=2), TASK, "fp32", worker), FakeTrainer(), Recorder())
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] + [TrialState.COMPLETE] * 2
    assert len(ended(study)) == 2


def drawn(study: optuna.Study, spec: StudySpec, folder: RunFolder) -> object:
    with NoDeaths(folder, study) as worker:
        return draw_trial(Setting(study, spec, TASK, "fp32", worker))


def test_of_two_that_begin_the_last_trial_one_is_surplus(folder: RunFolder) -> None:
    study = open_study(folder, create=True)
    begun(study, network="decided")
    assert drawn(study, study_spec(trials=1), folder) is None
    assert study.trials[1].user_attrs["reason"] == "not needed: the study is complete"
    assert ended(study) == []


def test_of_two_retries_of_one_trial_the_first_counts(folder: RunFolder) -> None:
    spec = study_spec(trials=1)
    with pytest.raises(KeyboardInterrupt):
        run_study(folder, spec, FakeTrainer(misbehave=raising(KeyboardInterrupt(), run=1)))
    study = open_study(folder)
    params = study.trials[0].params
    for _ in range(2):  # by two workers that found it at once
        study.enqueue_trial(params, user_attrs={"retry_of": 0})
    begun(study, network="decided")  # the first of them is at work
    assert drawn(study, spec, folder) is None
    assert study.trials[2].user_attrs["reason"] == "run again as trial 1"
    study.tell(1, 0.5)
    assert len(ended(study)) == len(ended(run_study(folder, spec, FakeTrainer()))) == 1


def test_a_known_network_that_is_enqueued_twice_is_trained_once(folder: RunFolder) -> None:
    spec = study_spec(trials=3, baselines={"known": {"widths": [8, 16], "blocks": [1, 1]}})
    study = open_study(folder, create=True)
    enqueue_baselines(study, spec, TASK)
    (known,) = study.trials
    study.enqueue_trial(known.system_attrs["fixed_params"], user_attrs={"baseline": "known"})
    study = run_study(folder, spec, FakeTrainer())
    assert study.trials[1].user_attrs["reason"] == "the same as trial 0"
    assert sum("baseline" in trial.user_attrs for trial in ended(study)) == 1
    assert len(ended(study)) == 3


def test_a_worker_whose_trial_was_given_to_another_goes_on_with_the_next(
    folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    other = open_study(folder, create=True)

    def asleep(run: int, epoch: int) -> None:
        if (run, epoch) == (1, 3):  # for so long that another worker takes it for dead
            fail(other, other.trials[0]._trial_id, "lost its process")

    trainer = FakeTrainer(misbehave=asleep)
    study = run_study(folder, study_spec(trials=2), trainer)
    assert "a trial was taken from this worker, whose heartbeat had stopped" in caplog.text
    assert [trial.user_attrs.get("retry_of") for trial in study.trials] == [None, 0, None]
    assert len(ended(study)) == 2
    assert trainer.forgotten == [0, 2]
    assert trainer.closed_by == [optuna.exceptions.UpdateFinishedTrialError]  # and so keeps no checkpoint


def test_a_verdict_that_was_written_though_the_answer_was_lost_stands(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = optuna.Study.tell

    def twice(study: optuna.Study, *arguments: Any, **options: Any) -> optuna.trial.FrozenTrial:
        tell(study, *arguments, **options)
        raise optuna.exceptions.UpdateFinishedTrialError

    monkeypatch.setattr(optuna.Study, "tell", twice)
    study = run_study(folder, study_spec(trials=2), FakeTrainer())
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2


def test_deaths_of_a_trial_that_gets_on_are_not_held_against_it(folder: RunFolder) -> None:
    spec = study_spec(trials=1)
    study = open_study(folder, create=True)
    for epoch in range(1, 3 * MAX_DEATHS):
        trial = study.ask()
        trial.suggest_float("budget_fraction", 0.1, 1.0)
        trial.set_user_attr("network", "decided")
        trial.report(0.5, epoch)  # and the process dies
        retry_interrupted(study, folder)
    assert ended(study) == []
    assert study.trials[-1].state == TrialState.WAITING
    for _ in range(MAX_DEATHS):
        study.ask()
        retry_interrupted(study, folder)
    assert [trial.user_attrs["reason"] for trial in ended(study)] == [f"given up: lost its process {MAX_DEATHS} times"]
    assert spec.trials == 1


def test_who_did_not_make_the_study_waits_for_what_it_is(postgres: Server, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", parse_address(postgres.new_database()))
    folder.create()
    made = open_study(folder, create=True)
    found: list[optuna.Study] = []
    joining = threading.Thread(target=lambda: found.append(open_study(folder, create=True)))
    joining.start()
    joining.join(1.0)
    assert found == []
    claim(made, study_spec(), TASK, folder)
    joining.join()
    with pytest.raises(RunError, match="budget 20,000, not 30,000"):
        check(found[0], study_spec(budget=30_000), TASK, folder)
    with pytest.raises(
        RunError, match=r"^postgresql on .* has no study 'other': give the command that made the run again, or "
    ):
        open_study(folder.named("other"))


def test_a_study_has_begun_when_a_trial_was_started_though_none_has_ended() -> None:
    study = optuna.create_study()
    study.enqueue_trial({})
    assert not has_begun(study)
    study.ask()
    assert has_begun(study)


def test_a_trial_that_was_cut_off_goes_on_before_known_networks_that_wait(folder: RunFolder) -> None:
    known = {name: {"widths": [width, 16], "blocks": [1, 1]} for name, width in (("first", 8), ("second", 16))}
    spec = study_spec(trials=3, baselines=known)
    enqueue_baselines(open_study(folder, create=True), spec, TASK)
    with pytest.raises(KeyboardInterrupt):
        run_study(folder, spec, FakeTrainer(misbehave=raising(KeyboardInterrupt(), run=1, epoch=3)))
    trainer = FakeTrainer()
    study = run_study(folder, spec, trainer)
    assert [network.widths for network, _ in trainer.runs[:2]] == [(8, 16), (16, 16)]
    assert [trial.user_attrs.get("retry_of") for trial in study.trials] == [None, None, 0, None]
    assert len(ended(study)) == 3
