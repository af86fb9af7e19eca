"""The model card: what an exported model is, where it comes from, what its numbers mean, and how to use it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch

from search.formatting import count, duration, mean_and_deviation, percent, share_interval, short_run
from search.mistakes import BINS, Mistakes
from search.promotions import Promotion
from search.quantisation import Quantised
from search.run_folder import card_of
from search.scores import named
from search.spec import StudySpec
from search.version import version
from train_core.data import TrainingData
from train_core.datasets import DATASETS, DatasetName
from train_core.description import Description
from train_core.examples import FormatName
from train_core.footprint import FOOTPRINTS, IN_PLACE, memory, peak_activations
from train_core.formats import FORMATS, example
from train_core.specs import AugmentSpec, TrainSpec


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported model, and the facts for its card."""

    file: Path
    format: FormatName
    size: int  # of the file, in bytes
    stored: int  # bytes that the device stores: those of a C array, not of its text
    run: Promotion
    is_winner: bool  # whether validation chose this model
    sibling_runs: Sequence[Promotion]  # all runs of this network and length on the training images, one for each seed
    num_full_runs: int  # full runs that are finished, of any network
    trials: int  # short runs that have ended
    spec: StudySpec
    data: TrainingData  # as the search saw it
    about: Description
    versions: Mapping[str, str]  # of the packages that the search used; empty if not known
    difference: float  # the largest between the logits of this file (or its float file) and the checkpoint
    images: int  # number of images that they were compared on
    kind: str = "validation image"  # what each of these images is
    quantised: Quantised | None = None  # for an int8 file: what it loses
    facts: Mapping[str, str] = field(default_factory=dict)  # more rows about the file
    mistakes: Sequence[Mistakes] = ()  # of this model, on validation and on test, if its predictions are stored

    @property
    def card(self) -> Path:
        """The path of the card."""
        return card_of(self.file)

    @property
    def over_limit(self) -> str:
        """The limits of the study that this file exceeds, in a line; empty if none."""
        spec, run = self.spec, self.run
        if spec.max_file is not None and self.stored > spec.max_file:
            return (
                f"the {self.format} file takes {self.stored:,} bytes, more than the limit of {spec.max_file:,}: search "
                f"with a smaller --max-file, or with --format {self.format}"
            )
        if spec.max_latency is not None and run.latency_s is not None and run.latency_s > spec.max_latency:
            return (
                f"an image took {1000 * run.latency_s:.3g} ms, measured on {run.device}, more than the limit of "
                f"{1000 * spec.max_latency:g} ms: search with a smaller --max-latency"
            )
        return ""

    def __str__(self) -> str:
        """The file, and its agreement with the checkpoint or its loss in int8, in a line."""
        if self.quantised is not None:
            return f"{self.file}: {self.quantised}"
        agreement = f"agrees with the checkpoint to {self.difference:.0e} on {count(self.images, self.kind)}"
        return f"{self.file}: {self.size:,} bytes, {agreement}"


def model_card(exported: Exported) -> str:
    """The card, as Markdown."""
    about, run = exported.about, exported.run
    classes = json.dumps(about.classes, ensure_ascii=False)
    kind = f"{about.width}x{about.height} {'grey' if about.channels == 1 else 'RGB'} images"
    over = f"**Over its limit:** {exported.over_limit}.\n\n" if exported.over_limit else ""
    return (
        f"# An image classifier of {run.parameters:,} parameters\n\n"
        f"It tells {len(about.classes)} classes of {kind} apart. It is {about.origin}; exported by budget-search "
        f"{version()} with PyTorch {torch.__version__}.\n\n"
        f"{over}## Use\n\n{_use(exported)}\n"
        f"## The model\n\n{_table(_model(exported))}\n"
        f"The classes, in the order of the outputs:\n\n```json\n{classes}\n```\n\n"
        f"## Its numbers\n\n{_table(_numbers(exported), 'measured on', named(run.score), 'conditions')}\n"
        f"{_words(exported)}\n{_quantised(exported)}{_by_class(exported)}{_probabilities(exported)}"
        f"## Training\n\n{_table(_training(exported))}\n"
        f"Network and recipe, whole:\n\n```json\n{run.network.model_dump_json()}\n```\n\n"
        f"```json\n{run.recipe.model_dump_json()}\n```\n\n"
        f"## Limits\n\n{_limits(exported)}"
    )


def _use(exported: Exported) -> str:
    fmt = FORMATS[exported.format]
    text = f"Without budget-search (`pip install {fmt.example_packages}`), from the folder of this file:\n\n"
    text += f"```python\n{example(exported.format, exported.about, exported.file.name)}```\n\n"
    text += f"{fmt.warning}\n\n" if fmt.warning else ""
    return text + f"With it: `search predict {exported.file.name} image.png`, which runs no code that is in the file.\n"


def _model(exported: Exported) -> Iterator[tuple[str, str]]:
    about, run = exported.about, exported.run
    form = FORMATS[exported.format]
    sizes = {"channels": about.channels, "height": about.height, "width": about.width, "classes": len(about.classes)}
    yield "file", f"`{exported.file.name}`, {exported.size:,} bytes"
    yield from exported.facts.items()
    yield "input", form.takes.format(**sizes)
    yield "output", form.gives.format(**sizes)
    yield "network", str(run.network)
    yield "parameters", f"{run.parameters:,}, all trainable; the budget was {exported.spec.budget:,}"
    yield "multiply-adds", f"{run.multiply_adds:,} for an image"
    footprint, size = FOOTPRINTS[exported.format], (about.height, about.width)
    peak = footprint.number * peak_activations(run.network, size, footprint.schedule or IN_PLACE)
    words = f"{peak:,} bytes at their peak, {count(footprint.number, 'byte')} a number; computed"
    if footprint.schedule is not None:
        words += f"; with what its runtime takes besides, at most {memory(run.network, size, exported.format):,.0f}"
    yield "activations", words
    averaged = f"the average over the run (decay {run.recipe.ema_decay:g} a step)"
    yield "weights", averaged if run.recipe.ema_decay else "those after the last step"
    arithmetic = "fp32" if form.int8 is None else form.int8.arithmetic
    yield "arithmetic", f"{arithmetic}; trained and scored in {run.recipe.precision}"
    images = f"{count(exported.images, exported.kind)} in fp32"
    whose = "logits" if exported.quantised is None else "before it was quantised, its logits"
    yield "agreement", f"{whose} differ from the checkpoint's by {exported.difference:.1e} at most, on {images}"
    for name, values in (("mean", about.mean), ("deviation", about.std)):
        shown = ", ".join(f"{value:.4f}" for value in values)
        yield name, f"{shown}: of the images trained on, where 1 is the brightest"


def _numbers(exported: Exported) -> Iterator[tuple[str, str, str]]:
    run, data, seeds = exported.run, exported.data, exported.sibling_runs
    validation = f"{len(data.val):,} validation images"
    yield validation, percent(run.short_score), f"the short run of {short_run(exported.spec)}, by which it was promoted"
    if run.val_score is not None:
        yield validation, percent(run.val_score), f"this model, after {count(run.recipe.epochs, 'epoch')}"
    if run.test_score is not None:
        yield f"{run.test_images:,} test images", percent(run.test_score), "this model; read once, after training"
    if run.mirrored_test_score is not None:
        mirrored = "this model, by mean logits of image and mirror image"
        yield f"{run.test_images:,} test images", percent(run.mirrored_test_score), mirrored
    if len(seeds) > 1 or (run.refit and seeds):
        how = f"mean and standard deviation of {len(seeds)} seeds" if len(seeds) > 1 else "the same network"
        how += ", trained without the validation images" if run.refit else ""
        scored = [seed.val_score for seed in seeds if seed.val_score is not None]
        if scored:
            yield validation, _mean(scored), how
        tested = [seed.test_score for seed in seeds if seed.test_score is not None]
        if len(tested) == len(seeds):
            yield f"{seeds[0].test_images:,} test images", _mean(tested), how


def _mean(shares: list[float]) -> str:
    return mean_and_deviation(shares) if len(shares) > 1 else percent(shares[0])


def _words(exported: Exported) -> str:
    run = exported.run
    among = f"{count(exported.trials, 'short run')} and {count(exported.num_full_runs, 'full run')}"
    if exported.is_winner:
        text = (
            f"The validation images chose it out of {among}: its validation accuracy is therefore slightly optimistic. "
        )
    else:
        text = (
            f"It is not the one that the validation images choose out of {among}: it was asked for by its number. If "
            "you chose it by an accuracy, that accuracy is slightly optimistic. "
        )
    if run.test_score is not None:
        text += (
            "The test images had no part in the choice.\n"
            if exported.is_winner
            else "The test images were read once.\n"
        )
    elif run.tested:
        text += "This data has no test split, so every number here was used for model selection.\n"
    else:
        text += "Its test images are not read yet.\n"
    if run.refit and run.test_score is None:
        text += "This model was also trained on the validation images, so it has no number of its own.\n"
    if len(exported.sibling_runs) > 1 and not run.refit:
        text += "Of several seeds, this one was the best on validation: the means are what to expect of another.\n"
    return text


def _on_test(found: Quantised) -> str:
    """What an int8 file loses on test, as the end of a sentence."""
    if found.test is None:
        return "; on test it was not measured"
    test = found.test
    return (
        f". On {count(test.images, 'test image')}, the int8 file is right on {percent(test.int8)}, the float32 file on "
        f"{percent(test.floats)}: measured once more at export, after all was chosen"
    )


def _quantised(exported: Exported) -> str:
    """What an int8 file loses."""
    found, form = exported.quantised, FORMATS[exported.format]
    if found is None or form.int8 is None or form.runtime is None:
        return ""
    rows = (
        (name, f"{each.size:,} bytes", percent(each.accuracy), f"{1000 * each.latency:.3f} ms")
        for name, each in (("float32", found.floats), ("int8, this file", found.int8))
    )
    heads = ("file", "size", f"right on {count(found.images, 'validation image')}", "latency")
    text = (
        "## What int8 loses\n\nAll other numbers in this card are those of the float32 model. "
        f"{form.int8.rounding}, with ranges from {count(found.calibrated_on, 'training image')}. Both files, computed "
        f"by {form.runtime.name} on the CPU:\n\n"
        f"{_table(iter(rows), *heads)}\n"
        f"The int8 file loses {100 * found.lost:.2f} points on validation{_on_test(found)}. The latency is "
        "that of one image on one thread of the machine that exported it: the median of 50, after 10 others.\n\n"
    )
    if exported.run.refit:
        text += "The model was also trained on these validation images: on new images it may lose more or less.\n\n"
    return text


def _by_class(exported: Exported) -> str:
    """Recall and precision of each class, or only of the worst classes if there are many."""
    if not exported.mistakes:
        return ""
    judged = exported.mistakes[-1]  # on test, if it is stored
    split = "validation" if judged.split == "val" else "test"
    number = len(judged.classes)
    shown = list(judged.classes) if number <= MANY else judged.worst_classes[:WORST]
    which = "" if number <= MANY else f" The {WORST} classes of {number} with the lowest recall:"
    rows = (
        (each.name, f"{each.images:,}", share_interval(each.recall) or "none", share_interval(each.precision) or "none")
        for each in shown
    )
    return (
        f"By class, on {judged.images:,} {split} images, with Wilson's 95 % intervals. Balanced accuracy (mean recall) "
        f"is {percent(judged.balanced_accuracy)}; saying {_cell(judged.largest_class)} each time would be right for "
        f"{percent(judged.baseline)}.{which}\n\n{_table(rows, 'class', 'images', 'recall', 'precision')}\n"
    )


def _probabilities(exported: Exported) -> str:
    """Calibration, the temperature, and the cost of refusing to answer."""
    if not exported.mistakes:
        return ""
    judged = exported.mistakes[-1]
    split = "validation" if judged.split == "val" else "test"
    text = f"## Its probabilities\n\nExpected calibration error on {judged.images:,} {split} images, in {BINS} bins: "
    text += f"{100 * judged.calibration.error:.2f} points"
    if judged.temperature is not None and judged.calibrated is not None:
        text += (
            f"; {100 * judged.calibrated.error:.2f} if the logits are divided by the temperature "
            f"{judged.temperature:.3f}, which was fitted on the validation images. The file does not do this."
        )
    else:
        text += "."
    if not judged.thresholds:
        return f"{text}\n\n"
    rows = (
        (
            f"{each.threshold:.4f}",
            percent(each.answered),
            share_interval(each.accuracy) or "none",
            percent(each.lost),
        )
        for each in judged.thresholds
    )
    text += (
        " If no answer is given where the highest probability (of the file as it is) is below a threshold chosen on "
    )
    return f"{text}validation:\n\n{_table(rows, 'threshold', 'answered', 'right of these', 'right ones lost')}\n"


MANY, WORST = 20, 10  # classes: of more than MANY, only the WORST are shown


def _training(exported: Exported) -> Iterator[tuple[str, str]]:
    run, data = exported.run, exported.data
    yield "data", f"{data.name}, fingerprint {data.fingerprint}"
    if run.refit:
        yield "trained on", f"{len(data.train) + len(data.val):,} images, training and validation together"
    else:
        yield "trained on", f"{len(data.train):,} images; {len(data.val):,} validation images held out"
    yield "recipe", str(run.recipe)
    dropout = f"dropout {run.network.block_dropout:g} in blocks and {run.network.head_dropout:g} before the classifier"
    decay = f"weight decay {run.recipe.weight_decay:g}, label smoothing {run.recipe.label_smoothing:g}"
    yield "regularisation", f"{decay}, {dropout}"
    changes = [(name, value) for name, value in run.recipe.augment if value != getattr(_UNCHANGED, name)]
    yield "augmentation", ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in changes) or "none"
    if run.recipe.mix != "none":
        yield "mixed images", _mixed(run.recipe)
    yield "seed", f"{run.seed}"
    yield "device", f"{run.device}, {duration(run.seconds)}"
    if exported.versions:
        yield "versions", ", ".join(f"{name} {number}" for name, number in exported.versions.items())


_UNCHANGED = AugmentSpec(crop_padding=0, flip=False)


def _mixed(recipe: TrainSpec) -> str:
    """How a recipe mixes images, for example `cutmix in 50% of the batches, shares from Beta(1, 1)`."""
    words = (
        f"{recipe.mix} in {recipe.mix_share:.0%} of the batches, shares from Beta({recipe.alpha:g}, {recipe.alpha:g})"
    )
    return words + (f", none in the last {recipe.mix_off:.0%} of the run" if recipe.mix_off else "")


def _limits(exported: Exported) -> str:
    return (
        "- The numbers hold for images like those of the data: of the same kind, cut and size. Others are resized by\n"
        "  the caller, and the effect on accuracy was not measured.\n"
        "- It always answers with one of its classes, also for an image of none of them. How many of such images a\n"
        "  threshold on the probability stops was not measured.\n"
        f"{'' if exported.mistakes else _UNMEASURED}"
        f"- {_licence(exported.spec.data)}\n"
        "  budget-search (MIT) makes no claim on models.\n"
    )


_UNMEASURED = "- Its probabilities rank classes; how often they are right was not measured.\n"


def _licence(data: str) -> str:
    dataset = DATASETS.get(cast(DatasetName, data))
    if dataset is not None:
        return dataset.licence
    return "The licence of the images that it was trained on may bind the model too: check it before you pass it on."


def _table(rows: Iterator[tuple[str, ...]], *heads: str) -> str:
    lines = list(rows)
    heads = heads or ("",) * len(lines[0])
    table = [heads, ("---",) * len(heads), *lines]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in table)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
