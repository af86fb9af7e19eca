"""A run's outcome, read from its folder and its study, and in a sentence or two."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Literal, TypeVar, get_args

import optuna

from search.fidelity import Fidelity, measure, measured_on, optimism, standard_error
from search.formatting import are, count, duration, limits, mean_and_deviation, percent, short_run
from search.identity import open_study
from search.promotions import Promotion, diverged_of, finalists, finished, mean_score, refit_of, winner
from search.run_folder import RunFolder, read_facts
from search.scores import always_largest, named, scored
from search.spec import StudySpec, load_study
from search.starts import sources_of
from search.trials import TrialRecord, different_networks, finished_trials, ranked, records, score_of
from train_core.results import Score

FEW_IMAGES = 500  # fewer validation images make the best of several networks look clearly better than it is
MAX_LEARNT = 500  # trials that the importances are learnt from: 10,000 take minutes, these some seconds

Verdict = Literal["complete", "pruned", "failed or diverged"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Results:
    """All that a report is made from."""

    name: str
    spec: StudySpec
    study: optuna.Study
    trials: Sequence[TrialRecord]  # those that have ended, by number
    promotions: Sequence[Promotion]  # the finished full runs, the longest and best on validation first
    fidelity: Fidelity | None = None  # none: there are too few full runs to measure it
    measured_on: int | None = None  # validation images that standard errors follow from; none: not known
    always_largest: float | None = None  # the score of always answering the largest class; none: not known

    @property
    def compared(self) -> list[Promotion]:
        """The full runs that have a score on validation: those that were not trained on the validation images."""
        return [run for run in self.promotions if not run.refit]

    @property
    def complete(self) -> list[TrialRecord]:
        """The complete trials, the best first."""
        return ranked(self.trials)

    @cached_property
    def importances(self) -> dict[str, float]:
        """Share of the short scores' spread that each parameter explains by itself; the largest first.

        Raises:
            ValueError: these trials are too few or too similar.

        """
        # Takes seconds to import, which a search needs at its end only.
        from optuna.importance import FanovaImportanceEvaluator, get_param_importances

        learnt = thinned(self.complete, MAX_LEARNT)
        varied = varied_parameters({name for trial in learnt for name in trial.draw}, learnt)
        if len({score_of(trial) for trial in learnt}) < 2 or not varied:
            number = count(len(learnt), "complete trial")
            there_are = "there is" if len(learnt) == 1 else "there are"
            raise ValueError(f"it takes two complete trials of different scores, and {there_are} {number}.")
        study = optuna.create_study(direction="maximize")
        study.add_trials([trial.optuna for trial in learnt])
        try:
            # fANOVA learns from every score; Optuna's default compares the best tenth with the rest: too few here.
            return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0), params=varied)
        except RuntimeError as error:
            raise ValueError(str(error)) from error


def read_results(folder: RunFolder) -> Results:
    """A run's outcome so far."""
    study, spec, facts = open_study(folder), load_study(str(folder.study_file), {}), read_facts(folder)
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
    """How well the run's short scores predict its full runs; none where there are too few."""
    return measure(
        records(study),
        finished(folder),
        epochs=spec.epochs,
        family=spec.promote.families,
        validation_images=measured_on(folder, spec.scored_by),
    )


def headline(results: Results) -> str:
    """What the search found. The winner is chosen on validation, never on test."""
    spec, runs, trials = results.spec, winner(results.promotions), results.complete
    if not runs and not trials:
        stage = "No trial is complete yet" if results.trials else "No trial has ended yet"
        return f"{stage}: for {spec.data_name} within {limits(spec)}, no network is known so far."
    network = str(runs[0].network) if runs else trials[0].network_words
    size = runs[0].parameters if runs else trials[0].parameters
    text = f"The best network found for {spec.data_name} within {limits(spec)} is {network}: "
    text += f"{size:,} parameters, {percent(size / spec.budget)} of the budget"
    madds = runs[0].multiply_adds if runs else trials[0].multiply_adds
    text += f", and {madds:,} multiply-adds. " if spec.max_madds is not None else ". "
    text += f"Its recipe: {(runs[0] if runs else trials[0]).recipe.method}. "
    if not runs:
        diverged = "every full run so far diverged, and " if results.promotions else ""
        reached = scored(percent(score_of(trials[0])), spec.scored_by)
        text += f"Its short run of {short_run(spec)} reached {reached} on validation; "
        text += f"{diverged}short runs find the good third but cannot order it: full runs decide."
        return text + _always_largest(results) + _flattery(score_of(trials[0]), len(trials), results)
    return text + _of_full_runs(results, runs)


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
        text += "it is not tested yet: `search promote` reads the test split for the runs of its last rung."
    elif not tested:
        text += "it was never tested: this data has no test split, so every number here was used for model selection."
    else:
        on_test = scored(mean_and_deviation(tested), score)
        text += f"{on_test} on the {runs[0].test_images:,} test images, which had no part in the choice."
    if diverged := len(diverged_of(results.promotions, runs)):
        text += f" {diverged} of {count(diverged + len(runs), 'seed')} diverged, and is not in these numbers."
    if (refit := refit_of(results.promotions, runs)) and refit.test_score is not None:
        on_test = scored(percent(refit.test_score), score)
        text += f" Trained once more, also on the validation images, it reaches {on_test} on test."
    text += _always_largest(results)
    text += _flattery(fmean(reached), len(finalists(results.promotions)), results)
    if tie := tie_of(results.promotions, results.measured_on):
        text += f" {tie}"
    return text


def _always_largest(results: Results) -> str:
    """A sentence on what needs no network: always answering the largest class; empty where it is not known."""
    if results.always_largest is None:
        return ""
    reached = scored(percent(results.always_largest), results.spec.scored_by)
    return f" Always answering the largest class reaches {reached} on validation."


def _flattery(score: float, number: int, results: Results) -> str:
    """A sentence on how much too high the score on validation of the best of `number` networks may be.

    It is empty where there are enough images, and where the figure would be 0.0 points.
    """
    images = results.measured_on
    if not images or images >= FEW_IMAGES:
        return ""
    points = f"{100 * optimism(score, images, number):.1f}"
    if points == "0.0":
        return ""
    name, few = named(results.spec.scored_by, "validation accuracy"), _few_images(images, results.spec.scored_by)
    return (
        f" Its {name} was chosen as the best of {number:,} on only {few}: it is likely up to {points} points too high."
    )


def _few_images(images: int, score: Score) -> str:
    """As in `287 images`; of unequal classes, `what counts as 22 images, as the smallest classes have few`."""
    number = count(images, "image")
    return f"what counts as {number}, because the smallest classes have few" if score == "balanced" else number


def tie_of(promotions: Sequence[Promotion], images: int | None) -> str:
    """A sentence where the validation images do not tell the best network from the second; empty where they do.

    `images` is the number of them that standard errors follow from (`fidelity.measured_on`); none: not known.
    They do not if the two differ by at most two standard errors of their difference. Several seeds reduce only a part
    of that error, since they are measured on the same images; it is not made smaller for them.
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
        text += f"The search began with what did best on other images: {sources_of(starts)}. "
    full_runs = results.promotions
    text += f"{count(len(full_runs), 'full run')} {are(len(full_runs))} done"
    if full_runs:
        spent = sum(run.seconds for run in full_runs)
        text += f", after {duration(spent)} of training: {duration(seconds + spent)} in all"
    return text + "."


def verdict_of(trial: TrialRecord) -> Verdict:
    """How a finished trial ended, in three kinds."""
    if trial.failed_or_diverged:
        return "failed or diverged"
    return "pruned" if trial.is_pruned else "complete"


def seconds_of(trials: Iterable[TrialRecord]) -> float:
    """Seconds of training and validation, summed over the trials that came so far."""
    return sum(trial.seconds for trial in trials if trial.seconds is not None)


def thinned(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items (two at least), evenly spread, the first and the last among them."""
    last, steps = len(items) - 1, max(most, 2) - 1
    return list(items) if last <= steps else [items[round(i * last / steps)] for i in range(steps + 1)]


def varied_parameters(names: Iterable[str], trials: Sequence[TrialRecord]) -> list[str]:
    """The parameters, in order, that have more than one value; those that only some trials have are among them."""
    return [name for name in names if len({trial.draw.get(name) for trial in trials}) > 1]
