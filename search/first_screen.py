"""The first screen of a report: the answer in numbers, the winner's recipe in words, and its drawing, as HTML."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from search.diagram import diagram
from search.formatting import Interval, bounds, count, duration, percent, short_run
from search.markup import prose
from search.promotions import Promotion, winner
from search.recipe_words import recipe_in_words
from search.results import Results, is_complete, seconds_of
from search.run_folder import PromotionFolder, RunFacts, RunFolder, card_of
from search.scores import named
from search.spec import StudySpec
from search.trials import score_of
from search.uncertainty import accuracy_interval
from train_core.footprint import FOOTPRINTS, IN_PLACE, file_size, memory, peak_activations
from train_core.model_files import stored_size
from train_core.specs import ResNetSpec, TrainSpec

BYTES = 4  # for each parameter of an exported model


@dataclass(frozen=True, kw_only=True)
class Card:
    """A large number with its name above and a note below."""

    name: str
    value: str
    note: str = ""

    @property
    def html(self) -> str:
        """The card as HTML."""
        note = f"<small>{prose(self.note)}</small>" if self.note else ""
        return f"<div class=card><span>{escape(self.name)}</span><b>{escape(self.value)}</b>{note}</div>"


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best network: by its full runs, one for each seed, or (if None) by its short run."""

    network: ResNetSpec
    recipe: TrainSpec
    parameters: int
    multiply_adds: int
    runs: Sequence[Promotion]

    @classmethod
    def of(cls, results: Results) -> "Best | None":
        """The best network of a run; None: there is none yet."""
        if runs := winner(results.promotions):
            first = runs[0]
            return cls(
                network=first.network,
                recipe=first.recipe,
                parameters=first.parameters,
                multiply_adds=first.multiply_adds,
                runs=runs,
            )
        if not (trials := results.complete):
            return None
        best = trials[0]
        return cls(
            network=best.network,
            recipe=best.recipe,
            parameters=best.parameters,
            multiply_adds=best.multiply_adds,
            runs=(),
        )


def badge(results: Results, going_on: str = "") -> str:
    """What is not finished, in a few words; empty: nothing. `going_on` names other work in progress."""
    if going_on:
        return f"not finished: {going_on}"
    if is_complete(results):
        return ""
    return f"not finished: {len(results.trials):,} of {count(results.spec.trials, 'trial')}"


def cards(folder: RunFolder, facts: RunFacts | None, results: Results) -> Iterator[Card]:
    """The main numbers, one card each."""
    if best := Best.of(results):
        yield from _accuracies(results, facts, best)
        yield from _costs(folder, facts, results.spec, best)
    yield from _times(results)


def _costs(folder: RunFolder, facts: RunFacts | None, spec: StudySpec, best: Best) -> Iterator[Card]:
    """What the network costs, and the share of each limit that it uses."""

    def note(cost: float, most: float | None, otherwise: str) -> str:
        return otherwise if most is None else f"{percent(cost / most)} of {most:,}"

    share = note(best.parameters, spec.budget, "")
    yield Card(name="Parameters", value=f"{best.parameters:,}", note=share)
    share = note(best.multiply_adds, spec.max_madds, "for one image")
    yield Card(name="Multiply-adds", value=f"{best.multiply_adds:,}", note=share)
    if facts is not None and facts.data.size is not None:
        form = FOOTPRINTS[spec.format]
        numbers = form.number * peak_activations(best.network, facts.data.size, form.schedule or IN_PLACE)
        words = f"activations at their peak, {count(form.number, 'byte')} a number, computed"
        if spec.max_memory is not None:
            whole = round(memory(best.network, facts.data.size, spec.format))
            words += f"; at most {_bytes(whole)} in {spec.format}, limit {_bytes(spec.max_memory)}"
        yield Card(name="Memory", value=_bytes(numbers), note=words)
    yield _file_size(folder, best, spec)
    if latencies := [run.latency_s for run in best.runs if run.latency_s is not None]:
        most = f", limit {1000 * spec.max_latency:g} ms" if spec.max_latency is not None else ""
        words = f"measured, one image at a time, fp32, {best.runs[0].device}{most}"
        yield Card(name="Latency", value=f"{1000 * min(latencies):.3g} ms", note=words)


def _accuracies(results: Results, facts: RunFacts | None, best: Best) -> Iterator[Card]:
    """Accuracy on test, if it was read, and on validation, each with its interval."""
    score, on_validation = results.spec.scored_by, results.measured_on
    tested = [run.test_score for run in best.runs if run.test_score is not None]
    if tested:
        images: int | None = best.runs[0].test_images
        if score == "balanced":  # the effective number, if the classes have the same shares as on validation
            all_of_them = facts.data.validation_images if facts else None
            images = round(images * on_validation / all_of_them) if images and on_validation and all_of_them else None
        yield _accuracy(f"Test {named(score)}", tested, images, "had no part in the choice")
    if best.runs:
        reached = [run.val_score for run in best.runs if run.val_score is not None]
        yield _accuracy(f"Validation {named(score)}", reached, on_validation, "chosen by it, so a little too high")
    else:
        note = f"short run of {short_run(results.spec)}; chosen by it, so too high"
        yield _accuracy(f"Validation {named(score)}", [score_of(results.complete[0])], on_validation, note)


def _accuracy(name: str, shares: Sequence[float], images: int | None, note: str) -> Card:
    seeds = "one seed" if len(shares) == 1 else count(len(shares), "seed")
    if not images:
        estimate = Interval(sum(shares) / len(shares), 0, 1)
        return Card(name=name, value=percent(estimate.value), note=f"{seeds}; interval not known; {note}")
    estimate = accuracy_interval(shares, images)
    holds = f"{images:,} images alone, {seeds}" if len(shares) == 1 else f"{images:,} images and {seeds}"
    return Card(name=name, value=percent(estimate.value), note=f"95 %: {bounds(estimate)} ({holds}); {note}")


def _file_size(folder: RunFolder, best: Best, spec: StudySpec) -> Card:
    """The size of an exported model if there is one, otherwise an estimate."""
    limit = f", limit {_bytes(spec.max_file)}" if spec.max_file is not None else ""
    for run in best.runs:
        for refit in (True, False):
            promotion = folder.promotion(run.trial, run.recipe.epochs, run.seed, refit=refit)
            for file in exported_files(folder, promotion):
                return Card(name="Model file", value=_bytes(file.size), note=f"`{file.name}`{limit}")
    if FOOTPRINTS[spec.format].file is not None:
        note = f"{spec.format}, computed, not exported yet{limit}"
        return Card(name="Model file", value=_bytes(round(file_size(best.network, spec.format))), note=note)
    note = f"{BYTES} bytes a parameter; a model file, which is not exported yet, is larger{limit}"
    return Card(name="Weights", value=_bytes(BYTES * best.parameters), note=note)


def _times(results: Results) -> Iterator[Card]:
    spent = seconds_of(results.trials) + sum(run.seconds for run in results.promotions)
    starts = [trial.started for trial in results.trials if trial.started]
    ends = [trial.ended for trial in results.trials if trial.ended]
    if spent:
        note = f"short runs alone took {duration((max(ends) - min(starts)).total_seconds())} from first to last"
        yield Card(name="Training time", value=duration(spent), note=note if starts and ends else "")
    if ends:
        yield Card(name="Last trial ended", value=f"{max(ends):%Y-%m-%d}", note=f"{max(ends):%H:%M}")


def _bytes(size: int) -> str:
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} bytes"


@dataclass(frozen=True)
class ExportedFile:
    """An exported model in the run's folder."""

    name: str
    size: int  # in bytes, as a device stores it: of a C array, not of its text
    address: str  # relative to the report
    card: str | None  # address of its model card; None: there is none


def exported_files(folder: RunFolder, promotion: PromotionFolder | None = None) -> Iterator[ExportedFile]:
    """The exported models of the run, or of one full run."""
    # A float model comes before the models made from it, such as `.int8.onnx`.
    for path in sorted((folder.root / "exported").glob("*"), key=lambda path: (len(path.suffixes), path.name)):
        if path.name.startswith(".") or path.suffix == ".md" or not path.is_file():
            continue
        if promotion is not None and path.name.partition(".")[0] != promotion.root.name:
            continue
        card = card_of(path)
        address = f"exported/{quote(path.name)}"
        has_card = card.exists()
        yield ExportedFile(path.name, stored_size(path), address, f"exported/{quote(card.name)}" if has_card else None)


def recipe_table(best: Best) -> str:
    """The whole recipe of the best network, with a row for each part."""
    rows = "".join(f"<tr><th>{escape(name)}<td>{prose(value)}" for name, value in recipe_in_words(best.recipe))
    return f"<table class=facts>{rows}</table>"


def drawing(best: Best, facts: RunFacts | None) -> str:
    """The best network as a picture of its stages."""
    if facts is None or facts.data.size is None:
        return "<p>Not drawn: the size of the images is not known.</p>"
    return f"<div class=diagram>{diagram(best.network, facts.data.size)}</div>"


def exports(folder: RunFolder) -> str:
    """Links to the exported models and their cards; empty if there are none."""
    items = [
        f'<li><a href="{each.address}">{escape(each.name)}</a> ({_bytes(each.size)})'
        + (f', <a href="{each.card}">its model card</a>' if each.card else "")
        for each in exported_files(folder)
    ]
    return f"<ul>{''.join(items)}</ul>" if items else ""
