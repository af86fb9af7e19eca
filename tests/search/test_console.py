"""What a terminal of 80 columns shows of commands that work, whole: bars while they do, and what is left at the end."""

import io
import os
import re
import signal
from collections.abc import Iterator
from datetime import datetime, tzinfo
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console

import search.console
import search.terminal
from search import api, full_runs, searching
from search.console import EpochBar, StudyProgress, epoch_bar, say_winner
from search.forecast import Span
from search.formatting import percent
from search.identity import open_study
from search.interrupt import stop_requested
from search.plan import Estimate
from search.promotions import finished
from search.run_folder import RunRef, note_promoted, read_facts
from search.session import Placement
from search.terminal import has_signs, is_live
from search.trial_lines import TrialColumns
from search.trials import TrialRecord, finished_trials
from tests.support.commands import search as searched
from tests.support.runs import make_run, promoted
from tests.support.tiny import NETWORK, tiny_recipe
from tests.support.trainers import FakeTrainer, epoch_result
from tests.support.transcripts import PROMOTE, RUN

RUNNING = TrialState.RUNNING


class Terminal:
    """A terminal of 80 columns: what stands on it, with all that was drawn over gone."""

    def __init__(self, console: Console, written: io.StringIO) -> None:
        self.console = console
        self.written = written

    def drawn(self, bars: StudyProgress | EpochBar) -> str:
        """What is shown once the bars are drawn as they are now."""
        bars.refresh()
        return self.shown

    def clear(self) -> None:
        """Begin with an empty one."""
        self.written.seek(0)
        self.written.truncate()

    @property
    def shown(self) -> str:
        """The lines, with machine and times made the same everywhere."""
        lines, row = [""], 0
        for sign, code in re.findall(r"(\x1b\[[?\d;]*[A-Za-z]|\r|\n)|([^\x1b\r\n]+)", self.written.getvalue()):
            if code:
                lines[row] += code
            elif sign == "\n":
                row += 1
                lines += [""] * (row == len(lines))
            elif sign.endswith("A"):
                row -= int(sign[2:-1])
            elif sign.endswith("K"):
                lines[row] = ""
        shown = "\n".join(line.rstrip() for line in lines).rstrip()
        shown = re.sub(r"(?m)^device .*", "device   SOME", shown)
        shown = re.sub(r"[━╸╺ ]{20}(?= \d+/\d+ )", "BAR", shown)
        shown = re.sub(r"\d+ s(?= left|  )", "N s", shown)
        return re.sub(r"(?m)(?<=  )[ \d]\d$", " N", shown)  # seconds, at the end of a row


@pytest.fixture(params=["colours", "NO_COLOR"])
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """Stands in for the user's; in colours or without, the same is said."""
    wish = {"NO_COLOR": "1"} if request.param == "NO_COLOR" else {}
    written = io.StringIO()
    console = Console(
        file=written,
        width=80,
        force_terminal=True,
        highlight=False,
        soft_wrap=True,
        _environ={"TERM": "xterm-256color", **wish},
    )
    for module in (search.terminal, search.console, searching):
        monkeypatch.setattr(module, "console", console)
    yield Terminal(console, written)
    coloured = re.search(r"\x1b\[[\d;]*(?:3[0-7]|38;5;\d+)(?:;\d+)*m", written.getvalue())
    assert not (wish and coloured)


class HalfPastSix(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "HalfPastSix":
        return cls(2026, 11, 27, 18, 30, tzinfo=tz)


FIDELITY = """
digits-20k: 4 trials of every score for 5 epochs, on CPU, 1 thread; the test
split is not read
Shorter runs against 5 epochs: rank correlation; points lost by
promoting the best k only

 run       trials       Spearman  Kendall  k = 1  k = 3  k = 5
 ─────────────────────────────────────────────────────────────
 2 epochs       4           0.80     0.67    1.4    0.0
                   -0.82 to 1.00

Below Spearman's correlation: its 95 % interval.
Short runs of 2 epochs may rank this space or not: 4 trials cannot show it (the
rank correlation can be -0.82 to 1.00); search more trials and measure, or
promote the best 1.
report: runs/digits-20k/report.html
"""


def masked(text: str) -> str:
    """Without what really training trial 1 gave: another processor rounds otherwise, and its seeds may change places.

    Nor with the seconds that it takes on this machine.
    """
    text = re.sub(r"(?<=0\.33    )\d\.\d", "N.N", text)  # the points that promoting the best one loses to trial 1
    text = re.sub(r"about \d\S*( s| min)?( to \d\S*)? (s|min)", "about N to N s", text)
    text = re.sub(r"(?<=muon     )[01]", "S", text)
    return re.sub(r"(?<=±)(\s)\d\.\d\d", r"\1N", re.sub(r"9[4-9]\.\d\d|100\.00", "NN.NN", text))


@pytest.mark.parametrize("terminal", ["NO_COLOR"], indirect=True)
def test_what_run_promote_and_fidelity_leave_behind(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "Trainer", lambda *_: FakeTrainer())
    monkeypatch.setattr(searching, "estimate", lambda *_: Estimate(images_per_second=1234.5, trial_s=225))
    monkeypatch.setattr(search.console, "datetime", HalfPastSix)
    folder = api.run("digits", {"trials": 4, "epochs": 2}, RunRef(), Placement())
    assert terminal.shown == RUN.strip("\n")

    terminal.clear()
    for trial, seed, validation, test in ((0, 0, 0.9, 0.88), (0, 1, 0.92, 0.9), (2, 0, 0.85, 0.8), (2, 1, 0.87, 0.81)):
        promoted(folder, trial, seed=seed, val_accuracy=validation, test_accuracy=test, tested=True)
    note_promoted(folder, "search promote digits-20k --top 1")
    full_runs.promote(RunRef(), Placement(), full_runs.PromoteFlags(ladder="2x5", seeds=2))
    assert masked(terminal.shown) == masked(PROMOTE.strip("\n"))
    for run in finished(folder):
        assert run.val_accuracy is not None
        assert run.test_accuracy is not None
        assert f"{percent(run.val_accuracy)}  {percent(run.test_accuracy)}" in terminal.shown

    terminal.clear()
    for trial in (1, 3):
        promoted(folder, trial, tested=False, test_accuracy=None, val_accuracy=0.8 + trial / 100)
    full_runs.fidelity(RunRef(), Placement(), trials=4, epochs=5)
    assert masked(terminal.shown) == masked(FIDELITY.strip("\n"))

    terminal.clear()
    api.run("digits", {"trials": 4, "epochs": 2}, RunRef(), Placement())
    facts = read_facts(folder)
    assert facts is not None
    assert list(facts.promoted) == [
        "search promote digits-20k --top 1",
        "search promote digits-20k --ladder 2x5 --seeds 2",
        "search fidelity digits-20k --trials 4 --epochs 5",
    ]


BEFORE = """
study   BAR 0/3 none complete yet
trial 0 BAR 0/4 1,391 parameters  [4,8] x [1,1] basic, 3x3 stem
Ctrl-C stops; the same command continues
"""
BETWEEN = """
 done   trial     score   size    time  network    ★ best, - pruned, x failed
 1/3 ★     0   50.00 %  10.1k     N s  [8,8,24] x [1,1,1] preact, 3x3 stem, SE…
   best  trial   size  time  network
50.00 %      0  10.1k   N s  [8,8,24] x [1,1,1] preact, 3x3 stem, SE 16, final …
study   BAR 1/3 best 50.00 % (trial 0), N s left
trial 1 BAR 2/4 65.00 % at epoch 2  10,000 images/s
Ctrl-C stops; the same command continues
"""
AFTER = """
 done   trial     score   size    time  network    ★ best, - pruned, x failed
 1/3 ★     0   50.00 %  10.1k     N s  [8,8,24] x [1,1,1] preact, 3x3 stem, SE…
 2/3 ★     1   70.00 %  19.6k     N s  [16,16,24] x [1,1,1] preact, 5x5 stem, m…
"""
WORKERS = """
 done   trial     score   size    time  network    ★ best, - pruned, x failed
 1/6 ★     0   50.00 %  10.1k     N s  [8,8,24] x [1,1,1] preact, 3x3 stem, SE…
   best  trial   size  time  network
50.00 %      0  10.1k   N s  [8,8,24] x [1,1,1] preact, 3x3 stem, SE 16, final …
study    BAR 1/6 best 50.00 % (trial 0), N s left
2 trials BAR 2/8 trial 1 40.00 %, trial 2 begun
Ctrl-C stops; the same command continues
"""
COUNT = """
digits: digits (32x32 grey, 10 classes), budget 20,000 parameters
lenet-sized                  19,810 parameters        772,416 multiply-adds  [8,16,32] x [1,1,1] basic, 3x3/2 stem
smallest of the space           514 parameters         47,184 multiply-adds  [8,8] x [1,1] basic, kernels 1 and 1, 1x1/2 stem
largest of 100 draws         19,826 parameters        772,416 multiply-adds  [8,16,32] x [1,1,1] preact, 3x3/2 stem, final norm
drawn: budget_fraction 0.5 to 1, mostly 0.9 to 1, stages 2 to 3, blocks 1 to 2, growth 1 to 2.5 in steps of 0.25, mostly 1.5 to 2, block [basic, preact], final_norm [true 95%, false 5%], k1 [1 1%, 3 97%, 5 1%, 7 1%], k2 [1 1%, 3 97%, 5 1%, 7 1%], shortcut [conv, max-pool], stem_kernel [1 5%, 3 90%, 5 5%], optimizer [sgd 60%, muon 20%, adam 10%, adamw 10%], sgd_lr 0.01 to 0.5, adam_lr 0.0003 to 0.01, adamw_lr 0.0003 to 0.01, muon_lr 0.001 to 0.05, schedule [cosine 80%, one-cycle 20%], batch_size [32, 64]
fixed: widening stages, fit_maps true, expansion 4, groups 1, shortcut_kernel 1, shortcut_norm after, shortcut_input block, stem_width 0, stem_stride 2, stem_pool false, stem_end norm-relu, se_reduction 0, zero_init false, norm batch, sgd_weight_decay 0.0005, adam_weight_decay 5e-05, adamw_weight_decay 0.05, muon_weight_decay 0.05, momentum 0.9, nesterov true, warmup 0.05, clip_norm 0.0, ema_decay 0.0, class_weights none, label_smoothing 0.1, block_dropout 0.0, head_dropout 0.0, drop_path 0.0, crop_padding 3, flip false, flip_order random, policy none, cutout 0, rotation 0.0, enlarge 1.0, resize_crop 1.0, perspective 0.0, brightness 0.0, contrast 0.0, saturation 0.0, hue 0.0, erasing 0.0, mix none, mix_share 1.0, mix_off 0.0
"""  # noqa: E501  # as the terminal has it


def test_the_bars_of_a_search(terminal: Terminal, tmp_path: Path) -> None:
    first, second = finished_trials(open_study(make_run(tmp_path / "run", [0.5, 0.7])))
    recipe = tiny_recipe(epochs=4)
    with StudyProgress([], 3, logs=False) as progress:
        progress.trial_started(0, NETWORK, recipe)
        before = terminal.drawn(progress)
        progress.trial_ended(first, [first])
        progress.trial_started(1, NETWORK, recipe)
        progress.epoch_ended(1, epoch_result(1, 0.6))
        progress.epoch_ended(1, epoch_result(2, 0.65))
        between = terminal.drawn(progress)
        progress.trial_ended(second, [first, second])
    assert [before, between, terminal.shown] == [each.strip("\n") for each in (BEFORE, BETWEEN, AFTER)]


def test_the_bars_of_several_workers(terminal: Terminal, tmp_path: Path) -> None:
    study = open_study(make_run(tmp_path / "run", [0.5]))
    for curve in ({1: 0.3, 2: 0.4}, {}):
        recipe = {"recipe": tiny_recipe(epochs=4).model_dump_json(), "network": NETWORK.model_dump_json()}
        study.add_trial(optuna.trial.create_trial(state=RUNNING, user_attrs=recipe, intermediate_values=curve))
    with StudyProgress([], 6, logs=False) as progress:
        progress.catch_up(study)
        drawn = terminal.drawn(progress)
    assert drawn == WORKERS.strip("\n")


@pytest.mark.parametrize(("gain", "warned"), [(3.14, True), (1.1, False)])
def test_one_thread_is_advised_where_it_is_faster(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, gain: float, warned: bool
) -> None:
    monkeypatch.setattr(searching, "Trainer", lambda *_: FakeTrainer())
    slow = Estimate(images_per_second=10, trial_s=2, one_thread=gain)
    monkeypatch.setattr(searching, "estimate", lambda *_: slow)
    api.run("digits", {"trials": 1, "epochs": 1}, RunRef(), Placement())
    said = "warning one thread trains 3.1 times as fast as all of them here, perhaps because other programs use the "
    assert (f"{said}processor: stop, and start with OMP_NUM_THREADS=1" in " ".join(terminal.shown.split())) is warned


def test_the_bar_of_a_longer_run(terminal: Terminal) -> None:
    with epoch_bar("trial 12, seed 0", 20) as bar:
        bar.epoch_ended(epoch_result(1, 0.6))
        bar.epoch_ended(epoch_result(2, 0.65, seconds=0.1))
        drawn = terminal.drawn(bar)
    assert drawn == (
        "trial 12, seed 0 BAR 2/20 65.00 %, N s left  1,000 images/s\nCtrl-C stops; the same command continues"
    )
    assert terminal.shown == ""


@pytest.mark.parametrize(("second", "tied"), [(0.893, True), (0.88, False)])
def test_a_tie_is_said_behind_the_winner(terminal: Terminal, tmp_path: Path, second: float, tied: bool) -> None:
    folder = make_run(tmp_path / "run", [0.5, 0.7])
    say_winner([promoted(folder, 0, val_accuracy=0.9), promoted(folder, 1, val_accuracy=second)], 5_000)
    shown = " ".join(terminal.shown.split())
    assert "best on validation: trial 0" in shown
    said = "Trial 1 is within 0.70 points of it on validation: 5,000 images do not tell the two apart."
    assert shown.endswith(said) is tied


def test_count(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert searched("count digits", capsys, monkeypatch) == (0, COUNT.lstrip("\n"), "")


def test_bars_move_within_an_epoch(terminal: Terminal) -> None:
    with epoch_bar("trial 12, seed 0", 4) as bar:
        bar.moved(2.5)
        bar.refresh()
        drawn = terminal.written.getvalue()
    assert "2/4" in drawn
    with StudyProgress([], 2, logs=False) as progress:
        progress.trial_started(0, NETWORK, tiny_recipe(epochs=4))
        progress.moved(2.0)
        assert [task.percentage for task in progress._bars.tasks] == [25.0, 50.0]
        assert "left" in terminal.drawn(progress)


def test_a_live_view_shows_at_once_that_it_stops(terminal: Terminal, capfd: pytest.CaptureFixture[str]) -> None:
    with stop_requested(is_live) as stop, StudyProgress([], 2, logs=False, stop=stop) as progress:
        assert terminal.drawn(progress).endswith("Ctrl-C stops; the same command continues")
        os.kill(os.getpid(), signal.SIGINT)
        progress.refresh()
        assert terminal.shown.endswith("stopping; press Ctrl-C again to stop immediately")
        progress.workers_stop()
        progress.workers_stop()
    assert terminal.shown == "stopping; each worker finishes its epoch if that takes at most 3 s"
    assert capfd.readouterr().err == ""


def test_hours_say_how_many_trials_fit(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "Trainer", lambda *_: FakeTrainer())
    monkeypatch.setattr(searching, "estimate", lambda *_: Estimate(images_per_second=1234.5, trial_s=360))
    monkeypatch.setattr(search.console, "datetime", HalfPastSix)
    api.run("digits", {"trials": 3, "epochs": 2}, RunRef(), Placement(), hours=0.2)
    shown = " ".join(terminal.shown.split())
    assert "time about 15 to 21 min, done between 18:45 and 18:50" in shown
    assert "in 0.2 hours, until 18:42: about 1 to 2 of the 3 trials" in shown


def test_in_a_pipe_a_wrong_plan_is_corrected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = finished_trials(open_study(make_run(tmp_path / "run", [0.5, 0.7])))
    with StudyProgress([], 3, logs=False, planned=Span(3600, 7200)) as progress:
        progress.trial_started(0, NETWORK, tiny_recipe(epochs=3))
        progress.trial_ended(first, [first])
        progress.trial_ended(second, [first, second])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert re.fullmatch(r"time     now about 0 s left, done at about (\w+ )?\d\d:\d\d", lines[2])


def lines_of(trials: list[TrialRecord], trained: int = 3) -> list[str]:
    columns = TrialColumns(trained, "accuracy")
    return [str(columns.line(i + 1, trial, is_best=i == 0, left="12 min")) for i, trial in enumerate(trials)]


def ended(state: TrialState, **attributes: object) -> TrialRecord:
    decided = {"network": NETWORK.model_dump_json(), "network in words": str(NETWORK), "parameters": 48_230}
    return TrialRecord(
        optuna.trial.create_trial(
            state=state,
            value=0.9 if state == TrialState.COMPLETE else None,
            user_attrs={**decided, "training time (s)": 700.0, **attributes},
            intermediate_values={1: 0.125},
        )
    )


ENDED = [
    ended(TrialState.COMPLETE, baseline="a published network"),
    ended(TrialState.PRUNED, reason="below the median of its kind at epoch 2"),
    ended(TrialState.FAIL, reason="RuntimeError: " + 20 * "no room "),
]


def test_the_line_of_a_trial_has_its_mark_and_the_width_of_the_terminal(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lines_of(ENDED) == [
        " 1/3 ★    -1   90.00 %  48.2k  12 min  a published network: [4,8] x [1,1] basic…",
        " 2/3 -    -1   12.50 %  48.2k  12 min  [4,8] x [1,1] basic, 3x3 stem",
        " 3/3 x    -1   12.50 %  48.2k  12 min  RuntimeError: no room no room no room no…",
    ]
    styles = [TrialColumns(3, "accuracy").line(1, trial, is_best=trial is ENDED[0], left="").style for trial in ENDED]
    assert styles == ["green", "dim", "red"]
    terminal.console.width = 120
    assert lines_of(ENDED)[0].endswith("  a published network: [4,8] x [1,1] basic, 3x3 stem")
    assert max(map(len, lines_of(ENDED))) == 120
    # An output that is not in UTF-8.
    monkeypatch.setattr(terminal.console, "_file", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert "".join(lines_of(ENDED)).isascii()
    assert "* best" in str(TrialColumns(3, "balanced").heading())


def test_in_a_pipe_the_line_also_says_how_long_the_rest_takes() -> None:
    assert lines_of(ENDED[:1]) == [
        f" 1/3 {'★' if has_signs() else '*'}    -1   90.00 %  48.2k  12 min   12 min  "
        f"a published network: [4,8] x{' [1…' if has_signs() else ' ...'}"
    ]
