"""Compares two groups of runs, for example one group for each of two methods, with a run for each seed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from search.comparison import compared, different_settings
from search.errors import SpecError
from search.formatting import count, p_value, points
from search.inspection import Reader
from search.records import Compared, Group, GroupComparison, Measure
from search.scores import named
from search.uncertainty import paired, welch

SEED = "seed"  # may differ between the runs of a group, so it is not a setting


def compare_groups(labels: tuple[str, str], groups: tuple[Sequence[Reader], Sequence[Reader]]) -> GroupComparison:
    """Two groups of runs side by side. Neither is called better if the difference may be chance.

    If both groups have one run for each of the same seeds, the runs of a seed are compared with each other (paired t);
    otherwise the means are (Welch's t). The verdict uses the full runs on validation.

    Raises:
        SpecError: a run is in both groups.
        UserError: a result cannot be read.

    """
    first, second = ([run.folder.name for run in group] for group in groups)
    if both := sorted(set(first) & set(second)):
        raise SpecError(f"run {both[0]!r} is on both sides: compare groups that have no run in common")
    seeds = [[run.spec.seed for run in group] for group in groups]
    is_paired = sorted(seeds[0]) == sorted(seeds[1]) and all(len(set(each)) == len(each) for each in seeds)
    if is_paired:
        groups = _by_seed(groups[0]), _by_seed(groups[1])
    sides = _group(labels[0], groups[0]), _group(labels[1], groups[1])
    measures = tuple(
        _measure(name, [[score(run) for run in side.runs] for side in sides], is_paired)
        for name, score in MEASURES.items()
    )
    settings = different_settings([*groups[0], *groups[1]])
    cut = len(groups[0])
    differences = {
        name: (_values(each[:cut]), _values(each[cut:]))
        for name, each in settings.items()
        if _values(each[:cut]) != _values(each[cut:]) and not (name == SEED and is_paired)
    }
    words, better = _verdict(sides, measures[1], is_paired, settings)
    return GroupComparison(
        groups=sides,
        paired=is_paired,
        differences=differences,
        measures=measures,
        better=better,
        verdict=words,
    )


MEASURES: dict[str, Callable[[Compared], float | None]] = {
    "short run, validation": lambda run: run.best_short.validation if run.best_short else None,
    "full run, validation": lambda run: run.best_full.validation if run.best_full else None,
    "full run, test": lambda run: run.best_full.test if run.best_full else None,
}
"""The compared figures, for the best network of each run by the run's score; shares of 1."""


def _by_seed(group: Sequence[Reader]) -> list[Reader]:
    return sorted(group, key=lambda run: run.spec.seed)


def _group(label: str, group: Sequence[Reader]) -> Group:
    return Group(
        name=label,
        runs=tuple(compared(run) for run in group),
        seeds=tuple(run.spec.seed for run in group),
    )


def _values(each: Iterable[Any]) -> list[Any]:
    """The different values of a setting, in the order of the runs."""
    found: list[Any] = []
    found += (value for value in each if value not in found)
    return found


def _measure(name: str, values: Sequence[Sequence[float | None]], is_paired: bool) -> Measure:
    """A figure of all runs; runs that lack it are left out, with their partner if they are paired."""
    one, other = values
    if is_paired:
        pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
        difference = paired([a for a, _ in pairs], [b for _, b in pairs]) if pairs else None
    else:
        known = [[value for value in side if value is not None] for side in values]
        difference = welch(*known) if all(known) else None
    means, deviations = zip(*(_mean_and_deviation(side) for side in values), strict=True)
    return Measure(
        name=name,
        values=(tuple(one), tuple(other)),
        means=means,
        deviations=deviations,
        difference=difference.value if difference else None,
        low=difference.low if difference else None,
        high=difference.high if difference else None,
        p=difference.p if difference else None,
    )


def _mean_and_deviation(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None, stdev(known) if len(known) > 1 else None


def _verdict(
    sides: tuple[Group, Group], full: Measure, is_paired: bool, settings: Mapping[str, Sequence[Any]]
) -> tuple[str, str | None]:
    """Which group is better, if any: in words, and its name."""
    runs = [run for side in sides for run in side.runs]
    if "data fingerprint" in settings:
        return "not to be compared: their data differ", None
    if len({run.score for run in runs}) > 1:
        return "not to be compared: some chose by accuracy, others by balanced accuracy", None
    if without := [run.name for run in runs if run.best_full is None]:
        return f"no verdict: no full run of {' and '.join(without)} yet, and short runs alone decide nothing", None
    if len(lengths := sorted({run.best_full.epochs for run in runs if run.best_full})) > 1:
        lengths_said = " and ".join(map(str, lengths))
        return f"no verdict: full runs of {lengths_said} epochs cannot be compared", None
    if full.low is None or full.high is None or full.p is None or full.difference is None:
        return "no verdict: one run alone does not show what is chance: search with several seeds (--seed)", None
    how = f"{count(len(sides[0].runs), 'pair')} of the same seed, paired t" if is_paired else "Welch's t"
    figures = f"95 % interval {100 * full.low:+.2f} to {100 * full.high:+.2f}; {how}, {p_value(full.p)}"
    if full.low <= 0 <= full.high:
        words = f"no verdict: {sides[1].name} differs by {100 * full.difference:+.2f} points on validation, which may "
        return f"{words}be chance ({figures})", None
    better = sides[full.difference > 0].name
    return f"{better} is better, by {100 * abs(full.difference):.2f} points on validation ({figures})", better


def table_of(comparison: GroupComparison) -> list[list[str]]:
    """The comparison as rows of text, the headings first: for a terminal or a paper. Scores are in percent."""
    sides = comparison.groups
    rows = [["", *(side.name for side in sides), "difference (95 % interval)"]]
    rows.append(["runs", *(str(len(side.runs)) for side in sides), ""])
    rows.append(["seeds", *(", ".join(map(str, side.seeds)) for side in sides), ""])
    for what, number in _COSTS.items():
        rows.append([what, *(f"{fmean(map(number, side.runs)):,.0f}" for side in sides), ""])
    score = named(sides[0].runs[0].score or "accuracy")
    for each in comparison.measures:
        shown = [
            "none" if mean is None else points(mean, deviation)
            for mean, deviation in zip(each.means, each.deviations, strict=True)
        ]
        rows.append([f"{each.name} {score}", *shown, _difference_in_words(each)])
    return rows


_COSTS: dict[str, Callable[[Compared], int]] = {
    "trials in a run": lambda run: run.trials or 0,
    "epochs of its short runs": lambda run: run.epochs_short,
    "epochs of its full runs": lambda run: run.epochs_full,
}


def _difference_in_words(each: Measure) -> str:
    if each.difference is None:
        return ""
    interval = (
        f" ({100 * each.low:+.2f} to {100 * each.high:+.2f})" if each.low is not None and each.high is not None else ""
    )
    return f"{100 * each.difference:+.2f}{interval}"


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """The rows as a table in Markdown."""
    lines = [f"| {' | '.join(map(_in_markdown, row))} |" for row in rows]
    return "\n".join([lines[0], f"|---|{'---:|' * (len(rows[0]) - 1)}", *lines[1:]])


def as_latex(rows: Sequence[Sequence[str]]) -> str:
    """The rows as a LaTeX tabular, which needs no package."""
    lines = [f"  {' & '.join(map(_in_latex, row))} \\\\" for row in rows]
    head, body = lines[0], lines[1:]
    columns = "l" + "r" * (len(rows[0]) - 1)
    return "\n".join(
        [f"\\begin{{tabular}}{{{columns}}}", r"  \hline", head, r"  \hline", *body, r"  \hline", r"\end{tabular}"]
    )


def _in_markdown(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\|*_`<>[]#~" else letter for letter in text)


def _in_latex(text: str) -> str:
    """The text with LaTeX's special characters escaped."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "*": r"{*}",
    "<": r"$<$",
    ">": r"$>$",
}
