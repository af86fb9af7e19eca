"""Warnings for readers of a run's results: a list of sentences, and the condition for each."""

from collections.abc import Iterator
from statistics import fmean

from search.fidelity import advice, optimism, shows_nothing
from search.formatting import count, percent, warnings_of
from search.promotions import finalists, winner
from search.results import Results
from search.scores import named
from search.trials import different_networks, score_of
from search.uncertainty import difference_in_noise
from train_core.results import Score

FEW_IMAGES = 500  # with fewer validation images, the best of several networks seems clearly better than it is
FEW_TRIALS = 20  # with fewer trials, shares mean nothing
MANY_PRUNED = 0.8  # a share of the trials
FEW_NETWORKS = 0.6  # different networks, as a share of the trials


def cautions(results: Results) -> list[str]:
    """All warnings that apply, the most important first."""
    return [
        *_no_better_than_nothing(results),
        *_few_images(results),
        *_many_pruned(results),
        *_few_networks(results),
        *_unknown_fidelity(results),
        *(f"{each[0].upper()}{each[1:]}" for each in warnings_of(results.spec)),
    ]


def _no_better_than_nothing(results: Results) -> Iterator[str]:
    """Warn if the network has learned nothing measurable."""
    least, (best, _) = results.always_largest, _chosen(results)
    if least is None or best is None:
        return
    noise = difference_in_noise(least, results.measured_on) / 2 if results.measured_on else 0.0
    if best <= least + noise:
        yield (
            f"The best network ({percent(best)}) is no better than always answering the largest class "
            f"({percent(least)}): it has learned nothing that shows. Train longer (`--epochs`), or look at the images "
            "with `search data`."
        )


def _few_images(results: Results) -> Iterator[str]:
    """Report the noise of few validation images, and how optimistic the best of several scores probably is."""
    images, score, (best, number) = results.measured_on, results.spec.scored_by, _chosen(results)
    if not images or images >= FEW_IMAGES or best is None:
        return
    noise = f"{100 * difference_in_noise(best, images):.0f}"
    text = f"{_images_in_words(images, score)}: differences under {noise} {'point' if noise == '1' else 'points'} are "
    text += "noise."
    points = f"{100 * optimism(best, images, number):.1f}"
    if points != "0.0":
        text += f" The {named(score, 'validation accuracy')} of the best of {number:,} is likely up to {points} points "
        text += "too high."
    yield text


def _images_in_words(images: int, score: Score) -> str:
    """For example `287 validation images`; for unequal classes, the effective number."""
    if score == "balanced":
        return f"What counts as {count(images, 'validation image')}, because the smallest classes have few"
    return count(images, "validation image")


def _chosen(results: Results) -> tuple[float | None, int]:
    """The score by which the best network was chosen, and from how many networks."""
    if runs := winner(results.promotions):
        return fmean(run.ranking_score for run in runs), len(finalists(results.promotions))
    complete = results.complete
    return (score_of(complete[0]) if complete else None), len(complete)


def _many_pruned(results: Results) -> Iterator[str]:
    ended, pruned = (
        len(results.trials),
        sum(trial.is_pruned and not trial.failed_or_diverged for trial in results.trials),
    )
    if ended >= FEW_TRIALS and pruned > MANY_PRUNED * ended:
        yield (
            f"{pruned:,} of {ended:,} trials ({percent(pruned / ended)}) were pruned, so the best was chosen from "
            f"{count(len(results.complete), 'complete trial')}. A larger `pruner.startup_trials` or `pruner.warmup` "
            "prunes fewer."
        )


def _few_networks(results: Results) -> Iterator[str]:
    ended, networks = len(results.trials), different_networks(results.trials)
    if ended >= FEW_TRIALS and networks < FEW_NETWORKS * ended:
        yield (
            f"{ended:,} trials had only {count(networks, 'different network')} ({percent(networks / ended)}): the "
            "search compared recipes more than networks. A wider space has more networks."
        )


def _unknown_fidelity(results: Results) -> Iterator[str]:
    if results.fidelity is not None and shows_nothing(results.fidelity):
        yield advice(results.fidelity)
