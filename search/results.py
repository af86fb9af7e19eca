"""A run's outcome, read from its folder and its study, and its summary in a sentence or two."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from statistics import fmean
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import optuna

import space as search_space
from search.drawing import is_used_up
from search.fidelity import Fidelity, measure, measured_on, standard_error
from search.formatting import Interval, are, count, duration, mean_and_deviation, percent, short_run
from search.identity import open_study, spec_of
from search.promotions import Promotion, diverged_of, finalists, finished, mean_score, refit_of, untested_longer, winner
from search.run_folder import RunFolder, read_facts
from search.scores import always_largest, scored
from search.spec import StudySpec
from search.starts import source_of, sources_of
from search.trials import TrialRecord, different_networks, finished_trials, ranked, records, score_of

PER_PARAMETER = 5  # complete trials needed for each parameter whose importance is shown
RESAMPLES = 8  # resamples of the trials for the importances
MAX_LEARNT = 128  # trials in a resample: 8 of these take a second; with 10,000 trials, minutes

MAX_COUNTED = 500  # at most so many trials are checked for the parameters that they use
MOST = 0.5  # a parameter has a meaningful importance only if this share of the trials uses it

Verdict = Literal["complete", "pruned", "failed or diverged"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that a report is made from."""

    name: str
    spec: StudySpec
    study: optuna.Study
    trials: Sequence[TrialRecord]  # the ended trials, by number
    promotions: Sequence[Promotion]  # the finished full runs, the longest first, then by validation
    fidelity: Fidelity | None = None  # None: there are too few full runs to measure it
    measured_on: int | None = None  # number of validation images that standard errors follow from; None: not known
    always_largest: float | None = None  # the score of always predicting the largest class; None: not known

    @property
    def compared(self) -> list[Promotion]:
        """The full runs that have a score on validation: those that were not trained on the validation images."""
        return [run for run in self.promotions if not run.refit]

    @cached_property
    def complete(self) -> list[TrialRecord]:
        """The complete trials, the best first."""
        return ranked(self.trials)

    @cached_property
    def usage(self) -> dict[str, float]:
        """The parameters that varied, in the order of the space, with the share of complete trials that use each."""
        trials = thinned(self.complete, MAX_COUNTED)
        drawn = varied_parameters(search_space.parameters(self.spec.space), trials)
        using = Counter(chain.from_iterable(self.used_by(trial) for trial in trials))
        return {name: using[name] / len(trials) for name in drawn}

    def used_by(self, trial: TrialRecord) -> set[str]:
        """The drawn parameters that have an effect in a trial, so not the rates of other optimizers."""
        draw = self._held | trial.draw
        is_whole = all(name in draw for name in ("stages", "optimizer", "mix"))  # not for a trial made by hand
        return search_space.used(draw, self.spec.space) if is_whole else set(draw)

    @cached_property
    def _held(self) -> dict[str, Any]:
        return search_space.held(self.spec.space)

    @cached_property
    def importances(self) -> dict[str, Interval]:
        """The share of the short scores' variance that each parameter alone explains (fANOVA); the largest first.

        The value is the mean over resamples of the trials; the interval is their minimum and maximum. Parameters that
        most trials do not use are left out.

        Raises:
            ValueError: there are too few trials, or they are too similar.

        """
        # Takes seconds to import, and a search needs it only at its end.
        from optuna.importance import FanovaImportanceEvaluator, get_param_importances

        complete, names = self.complete, [name for name, share in self.usage.items() if share >= MOST]
        if len({score_of(trial) for trial in complete}) < 2 or not names:
            number = count(len(complete), "complete trial")
            raise ValueError(f"it takes complete trials of different scores, and there {are(len(complete))} {number}.")
        if len(complete) < PER_PARAMETER * len(names):
            raise ValueError(
                f"{count(len(complete), 'complete trial')} {are(len(complete))} too few for "
                f"{count(len(names), 'parameter')}. It takes {PER_PARAMETER} for each, "
                f"{PER_PARAMETER * len(names):,} in all."
            )
        generator = np.random.default_rng(0)
        found: dict[str, list[float]] = {name: [] for name in names}
        for seed in range(RESAMPLES):
            study = optuna.create_study(direction="maximize")
            drawn = generator.choice(len(complete), min(len(complete), MAX_LEARNT))
            study.add_trials([_bare(complete[i], names) for i in drawn])
            # fANOVA learns from every score; Optuna's default compares the best tenth with the rest: too few.
            evaluator = FanovaImportanceEvaluator(n_trees=8, max_depth=8, seed=seed)
            varied = varied_parameters(names, [complete[i] for i in drawn])
            try:
                shares = get_param_importances(study, evaluator=evaluator, params=varied)
            except RuntimeError as error:
                raise ValueError(f"{error}.") from error
            for name in names:
                found[name].append(shares.get(name, 0.0))
        ordered = sorted(names, key=lambda name: fmean(found[name]), reverse=True)
        return {name: Interval(fmean(found[name]), min(found[name]), max(found[name])) for name in ordered}


def _bare(trial: TrialRecord, names: Iterable[str]) -> optuna.trial.FrozenTrial:
    """A complete trial with only these parameters: a study copies everything that its trials have."""
    draw, distributions = trial.draw, trial.optuna.distributions
    params = {name: draw[name] for name in names if name in draw}
    return optuna.trial.create_trial(
        value=trial.score, params=params, distributions={name: distributions[name] for name in params}
    )


def read_results(folder: RunFolder, study: optuna.Study | None = None) -> Results:
    """A run's outcome so far; `study` is its study if it is already open."""
    study, spec, facts = study or open_study(folder), spec_of(folder), read_facts(folder)
    return Results(
        name=folder.name,
        spec=spec,
        study=study,
        trials=finished_trials(study),
        promotions=finished(folder),
        fidelity=fidelity_of(folder, spec, study),
        measured_on=measured_on(folder, spec.scored_by),
        always_largest=always_largest(facts.data.validation_images_of_classes, spec.scored_by) if facts else None,
    )


def fidelity_of(folder: RunFolder, spec: StudySpec, study: optuna.Study) -> Fidelity | None:
    """How well the run's short scores predict its full runs; None if there are too few."""
    return measure(
        records(study),
        finished(folder),
        epochs=spec.epochs,
        family=spec.promote.families,
        validation_images=measured_on(folder, spec.scored_by),
    )


def is_complete(results: Results) -> bool:
    """Whether the search has ended: it has all its trials, or its space has no new network."""
    return len(results.trials) >= results.spec.trials or is_used_up(results.study)


def headline(results: Results) -> str:
    """The result of the search: network, limits and accuracy. It is chosen on validation, never on test."""
    spec, runs, trials = results.spec, winner(results.promotions), results.complete
    if not runs and not trials:
        stage = "No trial is complete yet" if results.trials else "No trial has ended yet"
        return f"{stage}: for {spec.data_name} within {spec.limits}, no network is known so far."
    network = str(runs[0].network) if runs else trials[0].network_words
    text = f"The best network found for {spec.data_name} within {spec.limits} is {network}. "
    if runs:
        return text + _of_full_runs(results, runs)
    reached = scored(percent(score_of(trials[0])), spec.scored_by)
    return text + f"Its short run of {short_run(spec)} reached {reached} on validation."


def _of_full_runs(results: Results, runs: Sequence[Promotion]) -> str:
    """The outcome of the best network's full runs, one for each seed."""
    mean = f" (mean and standard deviation of {len(runs)} seeds)" if len(runs) > 1 else ""
    score = results.spec.scored_by
    reached = [run.val_score for run in runs if run.val_score is not None]
    asam = f" with asam {runs[0].recipe.asam:g}" if runs[0].recipe.asam else ""
    text = f"Trained for {count(runs[0].recipe.epochs, 'epoch')}{asam}, it reaches "
    text += f"{scored(mean_and_deviation(reached), score)}{mean} on validation, by which it was chosen; "
    tested = [run.test_score for run in runs if run.test_score is not None]
    if not all(run.tested for run in runs):
        return text + "it is not tested yet: `search promote` reads the test split for the runs of its last rung."
    if not tested:
        return text + "it was never tested: this data has no test split, so all numbers served to choose it."
    on_test = scored(mean_and_deviation(tested), score)
    return text + f"{on_test} on the {runs[0].test_images:,} test images, which had no part in the choice."


def remarks(results: Results) -> list[str]:
    """Remarks on the headline: the origin of the network, ties, and the score without any network."""
    runs, trials = winner(results.promotions), results.complete
    if not runs and not trials:
        return []
    said = [_origin(results, runs), tie_of(results.promotions, results.measured_on)]
    if not runs:
        diverged = "Every full run so far diverged. " if results.promotions else ""
        said.append(f"{diverged}Short runs find the good third of the networks but cannot order it: full runs decide.")
    elif diverged_seeds := len(diverged_of(results.promotions, runs)):
        all_seeds = count(diverged_seeds + len(runs), "seed")
        said.append(f"{diverged_seeds} of {all_seeds} diverged, and {are(diverged_seeds)} not in these numbers.")
    if runs and (longer := untested_longer(results.promotions, runs)):
        runs_are = f"{count(len(longer), 'longer full run')} {are(len(longer))}"
        said.append(
            f"{runs_are} not tested and not compared with it: `search promote` tests the runs of its last rung."
        )
    if runs and (refit := refit_of(results.promotions, runs)) and refit.test_score is not None:
        on_test = scored(percent(refit.test_score), results.spec.scored_by)
        said.append(f"Trained once more, also on the validation images, it reaches {on_test} on test.")
    if results.always_largest is not None:
        reached = scored(percent(results.always_largest), results.spec.scored_by)
        said.append(f"Always answering the largest class reaches {reached} on validation.")
    return [each for each in said if each]


def _origin(results: Results, runs: Sequence[Promotion]) -> str:
    """A sentence if the best network was given to the search: which one it is, and the best that the search drew."""
    by_number = {trial.number: trial for trial in results.trials}
    best = by_number.get(runs[0].trial) if runs else results.complete[0]
    if best is None or best.given is None:
        return ""
    if best.baseline:
        text = f"It is the baseline {best.baseline}, which the search was given"
    elif source_of(best.given) == "portfolio":
        text = f"It is one of the portfolio's starts ({best.given.partition(': ')[2]}), not drawn by this search"
    else:
        text = f"It is {best.given}, with which the search began"
    if runs:
        drawn = [each for each in finalists(results.promotions) if _is_drawn(by_number.get(each[0].trial))]
        kind, score = "full run of a network that it drew", mean_score(drawn[0]) if drawn else None
    else:
        own = [trial for trial in results.complete if _is_drawn(trial)]
        kind, score = "short run of a network that it drew", score_of(own[0]) if own else None
    if score is None:
        return f"{text}; there is no {kind} to compare with."
    return f"{text}; the best {kind} reached {scored(percent(score), results.spec.scored_by)}."


def _is_drawn(trial: TrialRecord | None) -> bool:
    """Whether the search drew the trial itself."""
    return trial is not None and trial.given is None


def tie_of(promotions: Sequence[Promotion], images: int | None) -> str:
    """A sentence if the validation images do not distinguish the best network from the second; empty if they do.

    `images` is the number of images that standard errors follow from (`fidelity.measured_on`); None: not known. They do
    not distinguish the two if the difference is at most two standard errors. Several seeds reduce only a part of that
    error, because they are measured on the same images; so it is not reduced for them.
    """
    rivals = finalists(promotions)
    if len(rivals) < 2 or not images:
        return ""
    best, second = map(mean_score, rivals[:2])
    if best - second > 2 * standard_error((best + second) / 2, images):
        return ""
    few = "so few images of the smallest classes" if rivals[0][0].score == "balanced" else count(images, "image")
    return (
        f"Trial {rivals[1][0].trial} is within {100 * (best - second):.2f} points of it on validation: {few} do not "
        "tell the two apart."
    )


def progress(results: Results) -> str:
    """How many trials and full runs are done, and how long they took."""
    trials = results.trials
    counts = (f"{sum(verdict_of(trial) == verdict for trial in trials):,} {verdict}" for verdict in VERDICTS)
    seconds = seconds_of(trials)
    have = "has" if results.spec.trials == 1 else "have"
    text = f"{len(trials):,} of {count(results.spec.trials, 'trial')} {have} ended ({', '.join(counts)}), "
    text += f"of {count(different_networks(trials), 'different network')}, " if trials else ""
    text += f"after {duration(seconds)} of training. "
    if trials and all(trial.failed_or_diverged for trial in trials):
        text += f"All of them failed or diverged, the last with: {trials[-1].reason or 'no reason'}. "
    if starts := [trial.start for trial in trials if trial.start is not None]:
        where = "before" if any(source_of(start) != "portfolio" for start in starts) else "on other images"
        text += f"The search began with what did best {where}: {sources_of(starts)}. "
    full_runs = results.promotions
    text += f"{count(len(full_runs), 'full run')} {are(len(full_runs))} done"
    if full_runs:
        spent = sum(run.seconds for run in full_runs)
        text += f", after {duration(spent)} of training: {duration(seconds + spent)} in all"
    return text + "."


def verdict_of(trial: TrialRecord) -> Verdict:
    """How a finished trial ended, as one of three kinds."""
    if trial.failed_or_diverged:
        return "failed or diverged"
    return "pruned" if trial.is_pruned else "complete"


def seconds_of(trials: Iterable[TrialRecord]) -> float:
    """Seconds of training and validation, summed over the trials for which they are known."""
    return sum(trial.seconds for trial in trials if trial.seconds is not None)


def thinned(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items (at least two), evenly spread, including the first and the last."""
    last, steps = len(items) - 1, max(most, 2) - 1
    return list(items) if last <= steps else [items[round(i * last / steps)] for i in range(steps + 1)]


def varied_parameters(names: Iterable[str], trials: Sequence[TrialRecord]) -> list[str]:
    """The parameters, in order, that have more than one value, including those that only some trials have."""
    return [name for name in names if len({trial.draw.get(name) for trial in trials}) > 1]
