"""The commands for a trained model: export, predict."""

from pathlib import Path
from typing import Annotated

import typer

from search.commands.options import FORMAT_NAMES, AsJson, MovedData, Run, Runs, Storage
from search.completion import RUNS, one_of


def export(
    run: Run = None,
    trial: Annotated[
        int | None, typer.Option(min=0, help="A trial's longest full run; default: the best model.")
    ] = None,
    front: Annotated[
        bool, typer.Option("--front", help="One model for each network on the front of the full runs.")
    ] = False,
    format: Annotated[  # noqa: A002  # the flag
        str | None,
        typer.Option(
            help=f"{', '.join(FORMAT_NAMES)}; default: the study's, which is onnx by itself.",
            autocompletion=one_of(FORMAT_NAMES),
        ),
    ] = None,
    calibration: Annotated[
        int | None, typer.Option(min=1, help="Training images that an int8 file is calibrated on; default: 300.")
    ] = None,
    data: MovedData = None,
    storage: Storage = None,
    runs: Runs = RUNS,
) -> None:
    """Write a run's best model as one file that needs nothing of this tool, and its card beside it."""
    from search import api
    from search.errors import SpecError
    from search.run_folder import RunRef
    from search.terminal import tell

    if front and trial is not None:
        raise SpecError("--front exports several networks, and --trial one: give one of them")
    ref = RunRef(run, runs, storage)
    if front:
        written = api.export_front(ref, fmt=format, data=data, calibration=calibration)
    else:
        written = [api.export(ref, trial=trial, fmt=format, data=data, calibration=calibration)]
    for exported in written:
        tell(str(exported))
        tell(str(exported.card))


def predict(
    model: Annotated[Path, typer.Argument(help=f"A file that `search export` wrote: {', '.join(FORMAT_NAMES)}.")],
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files, folders, quoted patterns ('photos/*.png'), or - for paths on standard input."
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="Classes for each image.")] = 3,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a CSV table, a row for each image.")] = False,
) -> None:
    """Print the classes that an exported model gives images, the most probable first."""
    from search.answers import answering
    from search.errors import SpecError
    from search.predict import classify, written

    if as_json and as_csv:
        raise SpecError("--json and --csv are two forms of one output: give one of them")
    predictions = classify(model, images, top)
    with answering(predictions) as answers:
        for text in written(answers, "json" if as_json else "csv" if as_csv else "text", predictions.guesses):
            typer.echo(text, nl=False)
    if answers.failed:
        raise typer.Exit(1)
