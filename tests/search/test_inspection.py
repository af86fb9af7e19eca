"""What the terminal tells of runs, whole: as drawn at 80 columns, as plain lines in a pipe, and as JSON."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import optuna
import pytest
from filelock import FileLock
from optuna.trial import TrialState
from rich.console import Console, RenderableType

from search import comparison, identity, inspection, plot, records, storage, tables
from search.formatting import ago, rounded
from search.identity import open_study
from search.inspection import Reader
from search.run_folder import RunFolder, write_text
from search.storage import Address, parse_address
from search.trials import TrialRecord
from tests.support.commands import Search
from tests.support.commands import search as searched
from tests.support.postgres import Server
from tests.support.runs import SMALL_SPACE, make_run, promoted, study_spec
from tests.support.tiny import NETWORK, tiny_recipe
from train_core.specs import num_madds, num_params

pytestmark = pytest.mark.usefixtures("in_lines")

COMPLETE, PRUNED, FAIL, RUNNING = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING
TRIALS: list[tuple[TrialState, list[float], dict[str, Any]]] = [
    (COMPLETE, [0.2, 0.4, 0.5, 0.6], {"baseline": "lenet-sized"}),
    (FAIL, [0.3, 0.5], {"reason": "lost its process"}),
    (COMPLETE, [0.3, 0.5, 0.65, 0.7], {"retry_of": 1}),
    (PRUNED, [0.1, 0.15], {"reason": "below the median of its kind at epoch 2"}),
    (PRUNED, [], {"reason": "diverged: the loss is nan after 3 steps"}),
    (FAIL, [0.1], {"reason": "ValueError: no [room] left"}),
    (FAIL, [], {"reason": "the same as trial 0"}),
    (RUNNING, [0.35, 0.45], {}),
]
"""Of a made-up study: state, validation accuracy after each epoch, and what is special."""


def made_up(name: str, made: int = len(TRIALS), storage: Address | None = None, **values: Any) -> RunFolder:
    """A run with the first few of `TRIALS`."""
    folder = make_run(Path("runs") / name, spec=study_spec(**values), storage=storage)
    study = open_study(folder)
    common = {
        "network": NETWORK.model_dump_json(),
        "recipe": tiny_recipe(optimizer="adamw", epochs=4).model_dump_json(),
        "network in words": str(NETWORK),
        "parameters": num_params(NETWORK),
        "multiply-adds": num_madds(NETWORK, 32),
        "worker": "host-12-abc",
        "training time (s)": 12.3456,
    }
    drawn: Any = {"lr": optuna.distributions.FloatDistribution(0.001, 0.1)}
    for state, curve, special in TRIALS[:made]:
        trial = optuna.trial.create_trial(
            state=state,
            value=curve[-1] if state == COMPLETE else None,
            params={"lr": 0.0123456},
            distributions=drawn,
            user_attrs=common | special,
            intermediate_values=dict(enumerate(curve, start=1)),
        )
        trial.datetime_start = datetime.now() - timedelta(hours=2)
        study.add_trial(trial)
    return folder


def promote(folder: RunFolder, trial: int, accuracies: list[float], **outcome: Any) -> None:
    """Full runs of a trial, a seed each."""
    for seed, accuracy in enumerate(accuracies):
        promoted(folder, trial, seed=seed, val_accuracy=accuracy, test_accuracy=accuracy - 0.1, **outcome)


def touch(folder: RunFolder, when: float) -> None:
    """As if nothing had been done in the run since then."""
    for path in (folder.study_file, folder.database):
        if path.exists():
            os.utime(path, (when, when))


def in_a_terminal(what: RenderableType, **settings: Any) -> str:
    """What is seen of it in a terminal of 80 columns, without its colours."""
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=80, highlight=False, **settings)
    with console.capture() as captured:
        console.print(what)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def make_runs() -> None:
    """A run of each kind, the first touched last."""
    good, other = made_up("good", max_madds=1_000_000), made_up("other", 1, trials=1)
    shared, broken = made_up("shared", 0), made_up("x")
    write_text(good.facts, json.dumps({"data": {"training_images": 1150, "validation_images_of_classes": [30, 5, 5]}}))
    promote(good, 2, [0.9, 0.92])
    promote(other, 0, [0.8])
    shared.database.unlink()
    write_text(shared.facts, json.dumps({"storage": "postgresql"}))
    broken.database.write_text("no database")
    for hours, folder in enumerate((good, other, shared, broken), start=2):
        touch(folder, time.time() - 3600 * hours - 60)


LIST = """
Accuracies in %; short and full run: on validation
run     data    budget  trials  short   full   test  state           idle
─────────────────────────────────────────────────────────────────────────
good    digits    20 k     5/6  70.00  91.00  81.00  unfinished     2.0 h
other   digits    20 k     1/1  60.00  80.00  70.00  promoted       3.0 h
shared  digits    20 k     ?/6                       in postgresql  4.0 h
x                                                    broken         5.0 h
x: {folder}/runs/x/study.db cannot be opened (file is not a database): put back a copy of it, or use another --name
"""


def test_list_tells_each_run_in_a_line_and_of_a_broken_one_its_problem(search: Search, tmp_path: Path) -> None:
    assert search("list") == "no run here: start one with `search run`\n"
    assert json.loads(search("list --json")) == {"runs": []}
    make_runs()
    before = contents()
    assert search("list") == LIST.lstrip("\n").format(folder=tmp_path)
    runs = json.loads(search("list --json"))["runs"]
    assert [(run["name"], run["state"], run["trials"], run["problem"] is None) for run in runs] == [
        ("good", "unfinished", 5, True),
        ("other", "promoted", 1, True),
        ("shared", None, None, True),
        ("x", None, None, False),
    ]
    assert contents() == before, "reading writes nothing"


def contents() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}


STATUS = """
good
state      unfinished, last touched 2.0 h ago
data       digits, budget 20,000 parameters, 1,000,000 multiply-adds, short runs
           of 4 epochs
trials     5 of 6: 2 complete, 1 pruned, 1 diverged, 1 failed; 1 network; about
           12 s of training left
score      accuracy (always the largest class: 75.00 %)
speed      202 images/s by a worker, in the last trials
best       70.00 %, trial 2: [4,8] x [1,1] basic, 3x3 stem, 1,391 parameters
full run   91.00 ± 1.41 % on validation, 81.00 ± 1.41 % on test, trial 2: [4,8]
           x [1,1] basic, 3x3 stem; 2 seeds, 5 epochs
full runs  2 finished
           trial 0, seed 1, refit: 8 epochs, stopped
Running (accuracy: on validation)
trial  epoch  accuracy   time  parameters  worker
───────────────────────────────────────────────────────────────────────────
    7    2/4   45.00 %  2.0 h       1,391  died; `search run` runs it again
"""


def test_status_of_a_search_that_died(search: Search) -> None:
    make_runs()
    unfinished = RunFolder(Path("runs/good")).promotion(0, 8, 1, refit=True)
    write_text(unfinished.checkpoint, "a checkpoint")
    when = RunFolder(Path("runs/good")).study_file.stat().st_mtime
    os.utime(unfinished.checkpoint, (when, when))
    plain = search("status")  # without a name: of the run worked on last
    assert (
        STATUS.lstrip("\n") == in_a_terminal(tables.status_view(Reader(RunFolder(Path("runs/good"))).status())) + "\n"
    )
    assert plain.split() == STATUS.split()
    assert len(plain.splitlines()) == 14
    assert json.loads(search("status --json")) == {
        "name": "good",
        "folder": "runs/good",
        "touched": ANY,
        "storage": "sqlite",
        "state": "unfinished",
        "workers": 0,
        "data": "digits",
        "score": "accuracy",
        "always_largest": 0.75,
        "budget": 20000,
        "max_madds": 1_000_000,
        "max_memory": None,
        "max_file": None,
        "max_latency": None,
        "trials": 5,
        "trials_wanted": 6,
        "best_short": {
            "trial": 2,
            "validation": 0.7,
            "validation_accuracy": ANY,
            "validation_balanced": None,
            "parameters": 1391,
            "network": str(NETWORK),
        },
        "best_full": {
            "trial": 2,
            "epochs": 5,
            "seeds": 2,
            "validation": pytest.approx(0.91),
            "validation_deviation": pytest.approx(0.02 / 2**0.5),
            "validation_accuracy": pytest.approx(0.91),
            "validation_balanced": None,
            "test": pytest.approx(0.81),
            "test_deviation": pytest.approx(0.02 / 2**0.5),
            "test_accuracy": pytest.approx(0.81),
            "test_balanced": None,
            "parameters": 1391,
            "network": str(NETWORK),
        },
        "problem": None,
        "epochs": 4,
        "outcomes": {"complete": 2, "pruned": 1, "diverged": 1, "failed": 1},
        "networks": 1,
        "used_up": False,
        "running": [
            {
                "trial": 7,
                "worker": "host-12-abc",
                "alive": False,
                "epoch": 2,
                "validation": 0.45,
                "seconds": pytest.approx(7200, abs=60),
                "parameters": 1391,
                "network": str(NETWORK),
            }
        ],
        "waiting": [],
        "images_per_second": pytest.approx(11 * 1136 / (5 * 12.3456)),  # batches of 16: 1,136 images in an epoch
        "seconds_left": 12.3456,
        "full_runs": 2,
        "full_runs_pending": [
            {"trial": 0, "epochs": 8, "seed": 1, "refit": True, "seconds_since_epoch": pytest.approx(7260, abs=60)}
        ],
        "ready_by": None,
        "front": [],
    }


def test_status_of_a_trial_that_was_cut_off_says_how_far_it_is(search: Search) -> None:
    folder = made_up("good", 1)
    attributes = {**open_study(folder).trials[0].user_attrs, "reason": "interrupted"}
    cut_off = optuna.trial.create_trial(
        state=FAIL,
        params={"lr": 0.01},
        distributions={"lr": optuna.distributions.FloatDistribution(0.001, 0.1)},
        user_attrs=attributes,
        intermediate_values={1: 0.2, 2: 0.45},
    )
    open_study(folder).add_trial(cut_off)
    said = " ".join(search("status").split())
    assert "waiting trial 1: epoch 2 of 4, 45.00 %; `search run` continues it" in said
    (waiting,) = json.loads(search("status --json"))["waiting"]
    assert waiting == {"trial": 1, "epoch": 2, "validation": 0.45, "parameters": 1391, "network": str(NETWORK)}
    open_study(folder).enqueue_trial({}, user_attrs={**attributes, "retry_of": 1})
    assert [trial["epoch"] for trial in json.loads(search("status --json"))["waiting"]] == [2]


LIVE = """
good
state   searching, 1 worker, last touched 2.0 h ago
data    digits, budget 20,000 parameters, short runs of 4 epochs
trials  5 of 6: 2 complete, 1 pruned, 1 diverged, 1 failed; 1 network; about 0 s
        left
best    70.00 %, trial 2: [4,8] x [1,1] basic, 3x3 stem, 1,391 parameters
Running (accuracy: on validation)
trial  epoch  accuracy   time  parameters  worker
──────────────────────────────────────────────────────
    7    2/4   45.00 %  2.0 h       1,391  host-12-abc
"""


def test_status_of_a_search_that_goes_on_and_of_a_promotion() -> None:
    folder = made_up("good")
    touch(folder, time.time() - 7300)
    reader = Reader(folder)
    with FileLock(folder.worker_lock("host-12-abc", "kernel")):
        status = reader.status()
        assert in_a_terminal(tables.status_view(status)) == LIVE.strip("\n")
        assert status.is_going_on
    assert not reader.status().is_going_on
    with folder.promoting():
        folder.promotion(2, 8, 0).root.mkdir(parents=True)
        status = reader.status()
        assert status.is_going_on
        shown = in_a_terminal(tables.status_view(status))
    assert "state   promoting, last touched" in shown
    assert "trial 2, seed 0: 8 epochs, in its first epoch" in shown


SHOW = """
good, trial 2
outcome   complete, 70.00 %, number 1 of 2
network   [4,8] x [1,1] basic, 3x3 stem
size      1,391 parameters, 634,904 multiply-adds
recipe    adamw, lr 0.05, cosine, batch 16, 4 epochs
drawn     lr 0.01235
trained   4 of 4 epochs in 12 s, by host-12-abc
attempts  trial 1: 2 epochs, interrupted (lost its process)
          trial 2: 4 epochs, complete

validation accuracy of the short run
 70.00 %                                            ⣀⣀⣀⣀⣀⠤⠤⠤⠤⠤⠒⠒⠒⠒⠒⠉⠉⠉
                                           ⢀⣀⡠⠤⠒⠒⠉⠉⠉
                                     ⣀⡠⠤⠔⠒⠉⠁
                              ⣀⣀⠤⠔⠒⠉⠉
                         ⣀⠤⠔⠒⠉
                    ⣀⠤⠔⠊⠉
              ⢀⣀⠤⠔⠊⠉
 30.00 %  ⣀⠤⠒⠊⠁
   epoch  1                                                          4

validation accuracy of a full run of 5 epochs, seed 1
 50.00 %                                                       ⣀⣀⠤⠤⠒⠒⠉
                                                       ⢀⣀⡠⠤⠒⠒⠉⠉
                                               ⢀⣀⡠⠤⠔⠒⠊⠉⠁
                                        ⣀⣀⠤⠤⠒⠒⠉⠁
                                ⢀⣀⠤⠤⠒⠒⠉⠉
                        ⢀⣀⡠⠤⠔⠒⠊⠉⠁
                 ⣀⣀⠤⠤⠒⠊⠉⠁
 10.00 %  ⣀⠤⠤⠒⠒⠉⠉
   epoch  1                                                          5

Full runs
epochs  seed  full run     test  seconds
───────────────────────────────────────────
     5     1   92.00 %  82.00 %       12
     5     0   90.00 %  80.00 %       12
"""


def test_show_tells_all_of_a_trial(search: Search) -> None:
    make_runs()
    assert search("show 2 good") == SHOW.lstrip("\n")
    shown = json.loads(search("show 2 good --json"))
    assert list(shown) == list(records.Trial.__dataclass_fields__)
    assert shown["curve"] == [0.3, 0.5, 0.65, 0.7]
    assert (shown["outcome"], shown["rank"], shown["complete"], shown["validation"]) == ("complete", 1, 2, 0.7)
    assert [attempt["outcome"] for attempt in shown["attempts"]] == ["interrupted", "complete"]
    assert [(run["seed"], run["validation"], len(run["curve"])) for run in shown["full_runs"]] == [
        (1, 0.92, 5),
        (0, 0.9, 5),
    ]
    assert shown["network"] == NETWORK.model_dump(mode="json")
    assert shown["recipe"]["optimizer"] == "adamw"


BEST = """
Best trials (score: validation accuracy after the short run)
  score  trial  parameters  multiply-adds  optimizer  network            seconds
────────────────────────────────────────────────────────────────────────────────
60.00 %      0   4,975,210          557 M      adamw  [64,128,256,512]     1,234
                                                      x [2,2,2,2]
                                                      preact, kernels 3
                                                      and 1, 3x3 stem,
                                                      max-pool
                                                      shortcut, SE 16
70.00 %      2       1,391          635 k      adamw  [4,8] x [1,1]           12
                                                      basic, 3x3 stem
"""


def test_the_best_trials_fit_into_80_columns(good: Reader) -> None:
    trials = [trial for trial in good.study.get_trials() if trial.state == COMPLETE]
    trials[0].user_attrs |= {
        "network in words": "[64,128,256,512] x [2,2,2,2] preact, kernels 3 and 1, 3x3 stem, max-pool shortcut, SE 16",
        "parameters": 4_975_210,
        "multiply-adds": 556_651_530,
        "training time (s)": 1234.5,
    }
    assert in_a_terminal(tables.best_table([TrialRecord(trial) for trial in trials])) == BEST.strip("\n")


FIRST_LINES = {
    0: ["outcome   complete, 60.00 %, number 2 of 2", "baseline  lenet-sized"],
    1: ["outcome   interrupted", "reason    lost its process"],
    3: ["outcome  pruned", "reason   below the median of its kind at epoch 2"],
    4: ["outcome  diverged", "reason   diverged: the loss is nan after 3 steps"],
    5: ["outcome  failed", "reason   ValueError: no [room] left"],
    6: ["outcome  duplicate", "reason   the same as trial 0"],
    7: ["outcome  running", "network  [4,8] x [1,1] basic, 3x3 stem"],
    8: ["outcome  waiting", "trained  not begun"],
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """A run with a trial of every kind, only read."""
    folder = RunFolder(Path(shutil.move(made_up("good").root, tmp_path_factory.mktemp("runs") / "good")))
    open_study(folder).enqueue_trial({})
    return Reader(folder)


@pytest.mark.parametrize("number", FIRST_LINES)
def test_show_tells_how_each_trial_came_out(number: int, good: Reader) -> None:
    view = in_a_terminal(tables.trial_view(inspection.show_trial(good, number)))
    assert view.splitlines()[1:3] == FIRST_LINES[number]


COMPARE = """
                one                             two
────────────────────────────────────────────────────────────────────────────────
state           unfinished                      finished
trials          5 of 6                          1 of 1
epochs trained  11 epochs in short runs, 0 in   4 epochs in short runs, 0 in
                full runs                       full runs
best short run  70.00 %, trial 2: [4,8] x       60.00 %, trial 0: [4,8] x [1,1]
                [1,1] basic, 3x3 stem, 1,391    basic, 3x3 stem, 1,391
                parameters                      parameters
best full run   none yet                        none yet
Different settings
                  one                  two
───────────────────────────────────────────────────────
budget            20,000               30,000
trials            6                    1
space.stages      2 to 3               2
space.growth      1 to 2.5, step 0.25  1 to 2, step 0.5
space.final_norm  false, true          true
space.sgd_lr      0.01 to 0.5, log     0.01 to 0.2, log
no verdict: neither run has a full run yet, and short runs alone decide nothing
"""


def test_compare_tells_two_runs_side_by_side(search: Search) -> None:
    space = SMALL_SPACE | {
        "stages": 2,
        "growth": {"low": 1.0, "high": 2.0, "step": 0.5},
        "final_norm": True,
        "sgd_lr": {"low": 0.01, "high": 0.2, "log": True},
    }
    one = made_up("one")
    two = made_up("two", 1, trials=1, budget=30_000, space=space)
    assert in_a_terminal(tables.comparison_view(comparison.compare(Reader(one), Reader(two)))) + "\n" == COMPARE.lstrip(
        "\n"
    )
    plain = search("compare one two")
    assert max(map(len, plain.splitlines())) <= 100
    assert all(line.split()[0] in plain for line in COMPARE.splitlines() if line.strip())
    assert plain.splitlines()[-1] == COMPARE.splitlines()[-1]
    found = json.loads(search("compare one two --json"))
    assert list(found) == list(records.Comparison.__dataclass_fields__)
    assert found["differences"]["budget"] == [20_000, 30_000]
    assert [(run["name"], run["epochs_short"], run["epochs_full"]) for run in found["runs"]] == [
        ("one", 11, 0),
        ("two", 4, 0),
    ]
    assert (found["difference"], found["spread"], found["better"]) == (None, None, None)


HIGH, LOW = [0.95, 0.96], [0.9, 0.91]
VERDICTS: dict[str, tuple[list[float], list[float], dict[str, Any], str | None, str]] = {
    "clear": (LOW, HIGH, {}, "two", "two is better, by 5.00 points on validation; 3.05 points can be chance (95 %)"),
    "worse": (HIGH, LOW, {}, "one", "one is better, by 5.00 points on validation; 3.05 points can be chance (95 %)"),
    "near": ([0.91, 0.95], HIGH, {}, None, "they differ by 2.50 points on validation, and 20.24 points can be chance"),
    "few images": (LOW, HIGH, {"images": 50}, None, "they differ by 5.00 points on validation, and 7.67 points can be"),
    "one seed": ([0.9], HIGH, {}, None, "one seed alone does not show what is chance: promote with --seeds 3"),
    "lengths": (LOW, HIGH, {"epochs": 6}, None, "full runs of 5 and 6 epochs cannot be compared"),
    "not promoted": (LOW, [], {}, None, "two does not have a full run yet, and short runs alone decide nothing"),
}


def test_nothing_is_called_better_for_what_may_be_chance() -> None:
    one, two = (made_up(name, 1, trials=1) for name in ("one", "two"))
    readers = Reader(one), Reader(two)
    for case, (first, second, changes, better, verdict) in VERDICTS.items():
        for folder, accuracies in ((one, first), (two, second)):
            shutil.rmtree(folder.root / "promoted", ignore_errors=True)
            promote(folder, 0, accuracies, epochs=changes.get("epochs", 5) if folder is two else 5)
            write_text(folder.facts, json.dumps({"data": {"validation_images": changes.get("images", 100_000)}}))
        found = comparison.compare(*readers)
        assert found.better == better, case
        assert found.verdict.startswith(verdict if better else f"no verdict: {verdict}"), case


def test_a_comparison_says_where_the_number_of_validation_images_is_not_known() -> None:
    one, two = (made_up(name, 1, trials=1) for name in ("one", "two"))
    promote(one, 0, LOW)
    promote(two, 0, HIGH)
    write_text(one.facts, json.dumps({"data": {"validation_images": 100_000}}))  # two has no run.json
    verdict = comparison.compare(Reader(one), Reader(two)).verdict
    assert verdict.endswith(
        "3.05 points can be chance (95 %) between seeds; the number of validation images is not known"
    )


def test_runs_on_other_data_are_not_compared() -> None:
    one, two = made_up("one", 0), made_up("two", 0)
    open_study(two).set_user_attr("identity", {"data fingerprint": "another"})
    assert comparison.compare(Reader(one), Reader(two)).verdict == "not to be compared: their data differ"


def test_a_curve_in_asterisks_where_there_is_no_utf_8() -> None:
    assert list(plot.plotted([0, 1, 1, 0.5], 7, 3, braille=False)) == ["  **** ", " *    *", "*      "]
    assert list(plot.plotted([0.5, 0.5], 4, 3, braille=False)) == ["    ", "****", "    "]
    assert list(plot.plotted([0, 1], 2, 2, braille=True)) == [" ⡜", "⡰⠁"]


@pytest.mark.parametrize(
    ("number", "said"), [(999, "999"), (19_810, "19.8 k"), (4_975_210, "4.98 M"), (1_234_567_890, "1.23 G")]
)
def test_large_numbers_have_three_digits(number: int, said: str) -> None:
    assert rounded(number) == said


def test_ago() -> None:
    assert [ago(seconds) for seconds in (3, 600, 7200)] == ["just now", "10 min ago", "2.0 h ago"]


def test_a_run_that_is_alone_has_none_to_be_compared_with(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up("one")
    assert searched("compare one", capsys, monkeypatch) == (
        2,
        "",
        "search: compare 'one' with a second run: runs has no other, make one with `search run`\n",
    )


MISTAKES = [
    ("status nowhere", 2, "no run 'nowhere' in runs: there are good, other, shared, x"),
    ("status x", 1, "study.db cannot be opened (file is not a database)"),
    ("status shared", 2, "run 'shared' keeps its study in a postgresql storage: give --storage, or set SEARCH_STORAGE"),
    ("status shared --storage nonsense", 2, "--storage cannot be read as an address"),
    ("show 99 good", 2, "run 'good' has no trial 99: they go from 0 to 7"),
    ("show best good", 2, "give a whole number (see search show --help)"),
    ("compare good", 2, "compare 'good' with a second run: give one of other, shared, x"),
    ("compare nowhere", 2, "no run 'nowhere' in runs: there are good, other, shared, x"),
    ("compare good nowhere", 2, "no run 'nowhere' in runs"),
    ("list --jsno", 2, "--jsno"),
]


def test_mistakes_are_answered_in_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    make_runs()
    for command, code, said in MISTAKES:
        answered, out, err = searched(command, capsys, monkeypatch)
        assert (answered, out, err.count("\n")) == (code, "", 1), command
        assert said in err


def test_runs_in_a_shared_storage(search: Search, postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = postgres.new_database()
    shared = made_up("shared", storage=parse_address(url))
    write_text(shared.facts, json.dumps({"storage": "postgresql"}))
    made_up("good")

    def states() -> dict[str, tuple[str | None, int | None, str | None]]:
        runs = json.loads(search("list --json"))["runs"]
        return {run["name"]: (run["state"], run["trials"], run["problem"]) for run in runs}

    assert states() == {"good": ("unfinished", 5, None), "shared": (None, None, None)}
    monkeypatch.setenv("SEARCH_STORAGE", url)
    # Who runs trial 7 is not on this machine: it may be alive.
    assert states() == {"good": ("unfinished", 5, None), "shared": ("searching", 5, None)}
    assert json.loads(search("status good --json"))["state"] == "unfinished"
    assert json.loads(search("status shared --json"))["running"][0]["alive"] is None
    assert json.loads(search("show 2 shared --json"))["validation"] == 0.7
    assert json.loads(search("compare good shared --json"))["differences"] == {}
    monkeypatch.setattr(storage, "FIRST_PATIENCE_S", 0.1)
    monkeypatch.setenv("SEARCH_STORAGE", "postgresql://127.0.0.1:9/nowhere")
    found = states()
    assert found["good"] == ("unfinished", 5, None)
    assert "postgresql on 127.0.0.1:9/nowhere cannot be opened" in str(found["shared"])


def test_runs_in_a_shared_storage_without_a_folder_here(
    search: Search, postgres: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.new_database()
    made_up("far", storage=parse_address(url))
    shutil.rmtree("runs/far")
    monkeypatch.setenv("SEARCH_STORAGE", url)
    (run,) = json.loads(search("list --json"))["runs"]
    assert (run["name"], run["folder"], run["state"]) == ("far", "", "searching")
    assert (run["trials"], run["trials_wanted"], run["data"], run["budget"]) == (5, None, None, 20_000)
    assert run["best_short"]["validation"] == 0.7
    assert re.search(r"far +20 k +5 +70\.00 ", search("list"))
    status = json.loads(search("status far --json"))
    assert (status["epochs"], status["outcomes"]["complete"], status["running"][0]["trial"]) == (4, 2, 7)
    said = search("status far")
    assert "folder  not on this machine: its data, its number of trials and its full runs are not known here" in said
    assert "trials  5: 2 complete, 1 pruned, 1 diverged, 1 failed; 1 network" in said
    made_up("good")
    assert [run["name"] for run in json.loads(search("list --json"))["runs"]] == ["good", "far"]
    code, out, err = searched("status gone", capsys, monkeypatch)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"search: no run 'gone' in runs, nor in postgresql on \S+: there are far\n", err)


AS_INSTALLED = "import sys; sys.argv[0] = 'search'; from search.cli import main; main()"
ONE_BY_ONE = """
import sys
from search.cli import main
for command in sys.argv[1:]:
    sys.argv = ["search", *command.split()]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, command
    print("end of the answer")
"""
"""Each argument is a command."""


def as_a_process(*words: str, code: str = AS_INSTALLED, **environment: str) -> subprocess.CompletedProcess[str]:
    """The code with these words, `search <words>` by default; on standard error, what it imported."""
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )


def test_looking_needs_no_torch_and_old_terminals_get_plain_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "connect", storage.connect)  # a database, which other processes read
    made_up("good")
    commands = ("list", "status", "trials", "trials --csv", "show 2", "compare good good")
    answer = as_a_process(*commands, code=ONE_BY_ONE, PYTHONIOENCODING="ascii")
    assert "torch" not in answer.stderr
    assert answer.stdout.isascii()
    *answers, rest = answer.stdout.split("end of the answer\n")
    assert (len(answers), rest) == (len(commands), "")
    assert all(answers)


COMPLETIONS = [
    ("search show 2 g", "good"),
    ("search status ", "good\nother"),
    ("search compare good o", "other"),
    ("search promote --runs elsewhere ", ""),
    ("search run cifar10", "cifar10\ncifar10-small\ncifar10-wide\ncifar100"),
    ("search comp", "compare"),
    ("search run digits --target esp", "esp32-s3"),
    ("search run digits --front m", "madds\nmemory"),
    ("search export --format pt", "pt2"),
]


@pytest.mark.parametrize(("typed", "offered"), COMPLETIONS)
def test_the_shell_completes_names_in_a_moment(typed: str, offered: str) -> None:
    for name in ("good", "other"):
        write_text(Path("runs") / name / "study.toml", "")
    words = typed.split(" ")
    answer = as_a_process(_SEARCH_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(len(words) - 1))
    assert answer.stdout.split() == offered.split()
    assert "torch" not in answer.stderr
    assert "optuna" not in answer.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_installed(shell: str, tmp_path: Path) -> None:
    environment = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "HOME": str(tmp_path)}
    shown = as_a_process("--show-completion", shell, **environment)
    assert "_SEARCH_COMPLETE" in shown.stdout
    as_a_process("--install-completion", shell, **environment)
    assert any("_SEARCH_COMPLETE" in path.read_text() for path in tmp_path.rglob("*search*") if path.is_file())
