"""The `search` command: the table of its commands, and the errors that end in one line. No logic.

Slow imports happen when they are needed: `list`, `status`, `show`, `errors` and `compare` do without torch.
"""

import re
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from search.commands import beforehand, keeping, models, reading, training
from search.interrupt import end_on_sigterm
from search.streams import outputs
from train_core.printable import printable

app = typer.Typer(
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Finds the best small image classifier under a hard parameter budget.",
    epilog="Exit codes: 0 done; 2 the command has to be changed; 1 the work failed; 130 interrupted.",
)

COMMANDS: dict[str, Callable[..., Any]] = {
    "run": training.run,
    "auto": training.auto,
    "promote": training.promote,
    "fidelity": training.fidelity,
    "reproduce": training.reproduce,
    "report": reading.report,
    "export": models.export,
    "predict": models.predict,
    "dashboard": reading.dashboard,
    "watch": reading.watch,
    "list": reading.list_,
    "status": reading.status,
    "trials": reading.trials,
    "show": reading.show,
    "errors": reading.errors,
    "compare": reading.compare,
    "archive": keeping.archive,
    "rm": keeping.rm,
    "count": beforehand.count,
    "cite": keeping.cite,
    "data": beforehand.data_,
}
"""By name, as `search --help` lists them."""
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)

storages = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Storages that several machines share.")
app.add_typer(storages, name="storage")
storages.command()(keeping.serve)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from search.version import version

        print(f"search {version()}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Finds the best small image classifier under a hard parameter budget."""


def main() -> None:
    """Run the command line. Errors that the user can fix end in one line on standard error, not in a traceback."""
    end_on_sigterm()
    with outputs():
        _main()


def _main() -> None:
    from train_core.errors import UserError

    try:
        code = app(standalone_mode=False) or 0
    except UserError as error:
        _end(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        _end(f"{what}: make room or fix the cause and run the same command to continue", 1)
    except Exception as error:
        if reason := _outside_trouble(error):
            _end(reason, 1)
        # Typer's errors about the command line; their class depends on its version.
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help text
            typer.echo(error.format_message())
            sys.exit(2)
        _end(f"{_plain(error.format_message())} (see {_command_of(error)} --help)", 2)
    if code == 130:  # depending on its version, typer turns Ctrl-C into this or into Abort, or leaves it
        _end("interrupted; run the same command to continue", code)
    sys.exit(code)


PLAIN = {
    r"Input should be a valid integer.*": "give a whole number",
    r"Input should be a valid number.*": "give a number",
    r"Input should be greater than or equal to (\S+)": r"give \1 or more",
    r"Input should be less than or equal to (\S+)": r"give \1 or less",
    r"Input should be greater than (\S+)": r"give more than \1",
}


def _plain(message: str) -> str:
    """A message of Typer's in words that say what to give."""
    for theirs, ours in PLAIN.items():
        message = re.sub(theirs, ours, message)
    return message


def _command_of(error: Any) -> str:
    """The command that an error of Typer's is about: `search storage serve`."""
    context, names = getattr(error, "ctx", None), []
    while context is not None and context.parent is not None:
        names.append(context.info_name)
        context = context.parent
    return " ".join(["search", *reversed(names)])


def _end(message: str, code: int) -> None:
    typer.echo(f"search: {printable(message)}", err=True)
    sys.exit(code)


def _outside_trouble(error: Exception) -> str | None:
    """One line for an error of the storage or a lack of memory; None for anything else."""
    first_line = (str(error).strip().splitlines() or [""])[0]
    # Compared by name: importing their packages would take a second, also for `--help`.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"SQLAlchemyError", "StorageInternalError", "RpcError"}:
        from search.storage import reason_of

        return f"the study's storage failed ({reason_of(error)}): fix the cause and run the same command to continue"
    if "MemoryError" in kinds or "out of memory" in first_line or "can't allocate memory" in first_line:
        return "not enough memory for these networks or images on this device: give a smaller --budget, or use another"
    return None
