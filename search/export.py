"""Writes the model of a run as one file that works without this package, and its card beside it."""

from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image

from search.card import Exported, model_card
from search.errors import CheckpointError, ModelError, RunError
from search.listing import Listing, blank
from search.mistakes import Mistakes, examine
from search.promotions import Promotion, best_run, finished, full_runs_of, refit_of
from search.quantisation import CALIBRATION, Quantised, on_test, quantise
from search.run_folder import PromotionFolder, RunFolder, SplitName, read_facts, write_text
from search.spec import StudySpec
from train_core import checkpoint
from train_core.augment import normalise
from train_core.data import Split, TrainingData
from train_core.deploy import deployed
from train_core.description import Description
from train_core.examples import FormatName
from train_core.files import written_whole
from train_core.formats import FORMATS, example
from train_core.model_files import suffix_of
from train_core.runtimes import without_native_messages
from train_core.state import TrainState

COMPARED = 100  # at most so many validation images test a new file
WRONG = 1e-4  # between logits, as a share of the largest; rounding was measured at 1e-6 on trained networks, and at
# 1e-5 on untrained ones of 5,000,000 parameters


def chosen(folder: RunFolder, trial: int | None) -> Promotion:
    """The full run to export: the winner's, or the longest of this trial.

    Of several seeds, the best on validation is taken. If there is a refit of the network (trained on the validation
    images as well), it is that run.

    Raises:
        RunError: there is none.

    """
    runs = full_runs_of(folder, trial)
    best = best_run(runs)
    assert best is not None  # otherwise `full_runs_of` raises
    return refit_of(runs, [best]) or best


def model_of(folder: RunFolder) -> Path | None:
    """The model file of the best full run, in the first format that it was exported in; None: not exported."""
    best = best_run(finished(folder))
    if best is None:
        return None
    run = refit_of(finished(folder), [best]) or best
    promotion = folder.promotion(run.trial, run.recipe.epochs, run.seed, refit=run.refit)
    files = (folder.exported(promotion, fmt) for fmt in FORMATS)
    return next((file for file in files if file.exists()), None)


def _no_test() -> Split | None:
    """No test images."""
    return None


def export_model(
    folder: RunFolder,
    run: Promotion,
    spec: StudySpec,
    data: TrainingData | Listing,
    fmt: FormatName,
    *,
    trials: int,
    calibration: int = CALIBRATION,
    load_test: Callable[[], Split | None] = _no_test,
) -> Exported:
    """Write the model of a full run, and its card; `trials` is the number of short runs that have ended.

    The file is written only if it computes the same as the checkpoint, on validation images or (if there is only the
    listing of the images) on random pixels. For a format that takes about `calibration` training images for
    calibration, this check uses the float file that it is made from. The loss of the int8 file is then measured, on
    test images too if the full run has read them: `load_test` reads them again.

    Raises:
        RunError: the checkpoint is gone.
        CheckpointError: it is damaged, or belongs to another network.
        ModelError: the file computes something else, or its format needs images and there are none.

    """
    form = FORMATS[fmt]
    if form.int8 is not None and isinstance(data, Listing):
        raise ModelError(
            f"{fmt} files are calibrated on training images: say where they are with --data, or take --format "
            f"{form.int8.float_format}"
        )
    promotion = folder.promotion(run.trial, run.recipe.epochs, run.seed, refit=run.refit)
    state = trained(run, promotion)
    tried = _Tried.on(data, refit=run.refit)
    about = Description.of(run.network, tried.trained_on, _origin(folder, run))
    written = form.write(deployed(state.final_model, about), about)
    logits = _logits(state, tried.trained_on, tried.images)
    difference = _difference(logits, written, fmt if form.int8 is None else form.int8.float_format, tried.images)
    quantised: Quantised | None = None
    if form.int8 is not None:
        # Only if the float32 model has read the test images at the end of its run; they choose nothing here.
        read_test = load_test if run.test_score is not None else _no_test
        written, quantised = _in_int8(written, fmt, tried.data, calibration, read_test)
        logits = form.load_elsewhere(written)(tried.images.permute(0, 3, 1, 2).float().contiguous())
    _check_example(about, written, fmt, tried.images[0], logits[0].softmax(dim=0))

    file, facts = folder.exported(promotion, fmt), read_facts(folder)
    file.parent.mkdir(exist_ok=True)
    with written_whole(file) as content:
        content.write(written)
    exported = Exported(
        file=file,
        format=fmt,
        size=len(written),
        stored=len(form.runtime.stored(written)) if form.runtime is not None else len(written),
        run=run,
        is_winner=run == chosen(folder, None),
        sibling_runs=[other for other in finished(folder) if _same_but_seed(other, run)],
        num_full_runs=sum(not other.refit for other in finished(folder)),
        trials=trials,
        spec=spec,
        data=tried.data,
        about=about,
        versions=facts.versions if facts is not None else {},
        difference=difference,
        images=len(tried.images),
        kind=tried.kind,
        quantised=quantised,
        facts=form.facts(written),
        mistakes=_mistakes(folder, run),
    )
    write_text(exported.card, model_card(exported))
    return exported


@dataclass(frozen=True)
class _Tried:
    """What a new file is tested on."""

    images: torch.Tensor
    """uint8 [N, H, W, C]."""
    kind: str
    """The name of one of them, in the singular."""
    data: TrainingData
    """The images of the run; None if there is only their listing."""
    trained_on: TrainingData
    """The same images, as the full run used them."""

    @classmethod
    def on(cls, data: TrainingData | Listing, *, refit: bool) -> "_Tried":
        """Validation images; or random pixels if there is only the listing of the images."""
        if isinstance(data, Listing):
            nothing = blank(data, refit=refit)
            return cls(_random_images(data), "random image", nothing, nothing)
        trained_on = data.with_validation_in_training() if refit else data
        return cls(data.val.images[:COMPARED], "validation image", data, trained_on)


def _in_int8(
    floats: bytes, fmt: FormatName, data: TrainingData, calibration: int, read_test: Callable[[], Split | None]
) -> tuple[bytes, Quantised]:
    """The int8 file of a format, and its losses on validation, and on test if there are test images."""
    written, quantised = quantise(floats, fmt, data, calibration)
    if (test := read_test()) is not None:
        quantised = replace(quantised, test=on_test(floats, written, fmt, test))
    return written, quantised


def _random_images(listing: Listing) -> torch.Tensor:
    """As many random images as are compared, uint8 [N, H, W, C]: the same in each call."""
    generator = torch.Generator().manual_seed(0)
    shape = (COMPARED, *listing.size, listing.in_channels)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def _same_but_seed(one: Promotion, run: Promotion) -> bool:
    return one.diverged is None and not one.refit and (one.trial, one.recipe.epochs) == (run.trial, run.recipe.epochs)


def _mistakes(folder: RunFolder, run: Promotion) -> list[Mistakes]:
    """What a full run gets wrong, on validation and on test, if its predictions are stored."""
    found = []
    splits: tuple[SplitName, ...] = ("val", "test")
    for split in splits:
        with suppress(RunError):
            found.append(examine(folder, run, split))
    return found


def trained(run: Promotion, folder: PromotionFolder) -> TrainState:
    """The trained network of a finished run."""
    if not checkpoint.exists(folder.checkpoint):
        raise RunError(
            f"{folder.checkpoint} is gone, and with it the trained network: delete {folder.root} to have "
            "`search promote` train it again"
        )
    state = checkpoint.load(folder.checkpoint, torch.device("cpu"))
    if (state.network, state.recipe, len(state.history)) != (run.network, run.recipe, run.recipe.epochs):
        raise CheckpointError(
            f"{folder.checkpoint} is not of the run in {folder.result.name}: delete {folder.root} to have "
            "`search promote` train it again"
        )
    return state


def _origin(folder: RunFolder, run: Promotion) -> str:
    refit = ", also on the validation images" if run.refit else ""
    return f"trial {run.trial} of the run {folder.name}, {run.recipe.epochs} epochs with seed {run.seed}{refit}"


def _logits(state: TrainState, data: TrainingData, images: torch.Tensor) -> torch.Tensor:
    """The checkpoint's logits for images uint8 [N, H, W, C]."""
    with torch.inference_mode():
        logits: torch.Tensor = state.final_model.eval()(normalise(images, data.mean, data.std, torch.float32))
    return logits


def _difference(logits: torch.Tensor, written: bytes, fmt: FormatName, images: torch.Tensor) -> float:
    """The largest difference between the checkpoint's logits and the written model's, on images uint8 [N, H, W, C].

    Raises:
        ModelError: it is too large.

    """
    reloaded = FORMATS[fmt].load_elsewhere(written)(images.permute(0, 3, 1, 2).float().contiguous())
    difference: float = (logits - reloaded).abs().max().item()
    if not difference <= WRONG * max(1.0, logits.abs().max().item()):
        raise ModelError(
            f"the {fmt} file would give other logits than the checkpoint (by {difference:.1e}), and was not written: "
            "take another --format, or the versions in constraints.txt"
        )
    return difference


def _check_example(
    about: Description, written: bytes, fmt: FormatName, image: torch.Tensor, probabilities: torch.Tensor
) -> None:
    """Run the card's example on an image uint8 [H, W, C], and check that it prints our first class for it.

    Raises:
        ModelError: it prints something else.

    """
    with TemporaryDirectory() as folder:
        file, picture = Path(folder, f"model{suffix_of(fmt)}"), Path(folder, "image.png")
        file.write_bytes(written)
        Image.fromarray(image.squeeze(-1).numpy()).save(picture)
        printed = StringIO()
        with redirect_stdout(printed), without_native_messages():
            exec(example(fmt, about, str(file), str(picture)), {"__name__": "example"})
    first, _, share = (printed.getvalue().splitlines() or [""])[0].rpartition(" ")
    best = probabilities.max().item()
    expected = [name for name, each in zip(about.classes, probabilities.tolist(), strict=True) if each > best - 1e-3]
    if first not in expected or abs(float(share) - best) > 1e-3:
        raise ModelError(
            f"the card's example of a {fmt} file prints {printed.getvalue().strip()!r} where the checkpoint says "
            f"{expected[0]!r}: take another --format, or the versions in constraints.txt"
        )
