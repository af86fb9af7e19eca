"""A line in the terminal for each ended trial, with aligned columns; never wider than the terminal."""

from rich.text import Text

from search.formatting import duration, percent, rounded, shortened
from search.terminal import has_signs, is_drawn_on, width
from search.trials import TrialRecord
from train_core.results import Score

PLAIN_WIDTH = 80  # of a line in a file or a pipe: its readers often have a terminal of this width


class TrialColumns:
    """The columns of a search with a given number of trials, compared by `score`."""

    def __init__(self, trials: int, score: Score) -> None:
        self._trials = trials
        self._digits = len(str(trials))
        self._measure = "balanced" if score == "balanced" else "score"

    def heading(self) -> Text:
        """The names of the columns, and the meaning of the marks."""
        done, left = "done".rjust(2 * self._digits + 1), "" if is_drawn_on() else f"{'left':>7}  "
        best = _sign("★", "*")
        line = f" {done}   trial  {self._measure:>8}  {'size':>5}  {'time':>6}  {left}"
        marks = f"{best} best, - pruned, x failed"
        whole = f"{line}network    {marks}"
        return Text(whole if _cut(whole) == whole else _cut(f"{line}{marks}"), style="dim")

    def line(self, number: int, trial: TrialRecord, *, is_best: bool, left: str) -> Text:
        """The `number`-th trial that ended; `is_best`: the best so far. `left` is the time until the last one."""
        mark, style = _mark(trial, is_best)
        score = percent(trial.last_score) if trial.last_score is not None else ""
        is_known = trial.is_decided and trial.seconds is not None  # a trial that was given up may lack both
        size = rounded(trial.parameters).replace(" ", "") if is_known else ""
        time = duration(trial.seconds) if trial.seconds is not None else ""
        remaining = "" if is_drawn_on() else f"{left:>7}  "
        line = f" {number:>{self._digits}}/{self._trials} {mark} {trial.number:>5}  {score:>8}  {size:>5}  {time:>6}  "
        return Text(_cut(f"{line}{remaining}{_about(trial)}"), style=style)


def _mark(trial: TrialRecord, is_best: bool) -> tuple[str, str]:
    """The mark for the end of a trial, and its style. Colour is never the only sign."""
    if trial.failed_or_diverged:
        return "x", "red"
    if trial.is_pruned:
        return "-", "dim"
    return (_sign("★", "*"), "green") if is_best else (" ", "")


def _about(trial: TrialRecord) -> str:
    """Its network and its name, if it has one; for a failed trial, the reason."""
    if trial.failed_or_diverged:
        return trial.reason or "no reason is known"
    parts = f"(batches in {trial.accumulation_steps} parts) " if trial.accumulation_steps > 1 else ""
    name = f"{trial.given}: " if trial.given else ""
    return f"{parts}{name}{trial.network_words if trial.is_decided else ''}"


def _sign(sign: str, plain: str) -> str:
    return sign if has_signs() else plain


def _cut(line: str) -> str:
    return shortened(line, width() if is_drawn_on() else PLAIN_WIDTH, _sign("…", "..."))
