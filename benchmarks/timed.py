"""Sections of a measurement, each in its own process and with its own time limit.

A section that hangs, or crashes its process or the device's state, loses only what it had not measured yet and disturbs
no other. No torch here: the processes are forked from one that has imported it, and start at once.
"""

import os
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import import_module
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from threading import Thread
from typing import Any, Literal, TypeVar

ENDING_S = 5.0  # of a section's time: to stop measuring, and for its process to end on request

Row = dict[str, Any]
"""A row of a section's table: text, numbers and `Spread`s by the names of their columns."""

T = TypeVar("T")

_context = get_context("forkserver")
preload = _context.set_forkserver_preload  # modules that all sections find imported


@dataclass(frozen=True)
class Spread:
    """A figure that was measured several times, in the order measured."""

    values: tuple[float, ...]

    def __str__(self) -> str:
        """Median, range and number of measurements, for example `2.03 (1.99 to 2.10, n=3)`."""
        low, high = min(self.values), max(self.values)
        return f"{rounded(self.median)} ({rounded(low)} to {rounded(high)}, n={len(self.values)})"

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def times(self, factor: float) -> "Spread":
        """The same in another unit."""
        return Spread(tuple(factor * value for value in self.values))

    def as_json(self) -> dict[str, Any]:
        """Its statistics, and the measurements themselves."""
        low, high = min(self.values), max(self.values)
        return {"median": self.median, "low": low, "high": high, "n": len(self.values), "values": self.values}


def rounded(value: float) -> str:
    """A number with three digits, or with all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


class OutOfTimeError(Exception):
    """A section's time was over before it had measured everything; the message says how far it got."""


@dataclass(frozen=True)
class Clock:
    """The time of a section. `until` is a time of `time.monotonic`."""

    until: float

    @property
    def left(self) -> float:
        """Seconds until the section should be done."""
        return self.until - time.monotonic()

    def each(self, items: Sequence[T]) -> Iterator[T]:
        """The items, while there is time for another one that takes as long as the longest so far.

        Raises:
            OutOfTimeError: there is no time.

        """
        longest = 0.0
        for done, item in enumerate(items):
            if self.left < longest:
                raise OutOfTimeError(f"its time was up after {done} of {len(items)} measurements")
            began = time.monotonic()
            yield item
            longest = max(longest, time.monotonic() - began)


@dataclass(frozen=True, kw_only=True)
class Section:
    """What is measured, and how long that takes, in seconds."""

    name: str
    measure: str  # the function that yields the rows, as "module:name"; called with a context and a `Clock`
    needs: float  # with less time, it is not started
    limit: float  # after this time, it is cut off


@dataclass(kw_only=True)
class Outcome:
    """The outcome of a section."""

    state: Literal["begun", "measured", "measured in part", "failed", "dropped"] = "begun"
    why: str = ""  # why nothing, or not everything, was measured; one line
    traceback: str = ""
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)

    def __str__(self) -> str:
        """The outcome in words, for example `measured in 12 s`."""
        took = "" if self.state == "dropped" else f" in {self.seconds:.0f} s"
        return f"{self.state}{took}{f': {self.why}' if self.why else ''}"

    def as_json(self) -> dict[str, Any]:
        """All fields that have a value."""
        rows = [
            {key: value.as_json() if isinstance(value, Spread) else value for key, value in row.items()}
            for row in self.rows
        ]
        return {key: value for key, value in {**asdict(self), "rows": rows}.items() if value != ""}


@dataclass(frozen=True)
class _End:
    """The last message of a section's process."""

    state: Literal["measured", "measured in part", "failed"]
    why: str = ""
    traceback: str = ""


def measured(section: Section, context: object, left: float, on_row: Callable[[Outcome], None]) -> Outcome:
    """Measure a section in at most `left` seconds; `on_row` gets the current outcome, at first and after each row."""
    if left < section.needs:
        return Outcome(state="dropped", why=f"{left:.0f} s left, it needs about {section.needs:.0f} s")
    began = time.monotonic()
    seconds = min(section.limit, left)
    outcome = Outcome()
    on_row(outcome)
    end = _run(section.measure, context, began + seconds, outcome, on_row)
    outcome.state, outcome.why, outcome.traceback = end.state, end.why, end.traceback
    outcome.seconds = time.monotonic() - began
    return outcome


def _run(measure: str, context: object, until: float, outcome: Outcome, on_row: Callable[[Outcome], None]) -> _End:
    """Collect the rows of a process that measures, and end it in time."""
    ours, theirs = _context.Pipe(duplex=False)
    clock = Clock(until - ENDING_S)
    surroundings = (str(Path.cwd()), dict(os.environ))
    process = _context.Process(target=_measure, args=(theirs, measure, context, clock, *surroundings))
    process.start()
    theirs.close()
    try:
        while ours.poll(max(0.0, until - ENDING_S / 2 - time.monotonic())):
            message = ours.recv()
            if isinstance(message, _End):
                process.join(ENDING_S / 2)
                return message
            outcome.rows.append(message)
            on_row(outcome)
        return _End("measured in part", "it was cut off: it had not ended in its time")
    except EOFError:
        process.join(ENDING_S)
        return _End("failed", f"its process died (exit code {process.exitcode})")
    finally:
        ours.close()
        _stop(process, until)


def _stop(process: ForkServerProcess, until: float) -> None:
    """End a section's process and its child processes: first by a request, so that it can clean up."""
    process.terminate()
    process.join(min(ENDING_S, max(0.5, until - time.monotonic())))
    assert process.pid
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _measure(
    connection: Connection, measure: str, context: object, clock: Clock, folder: str, environment: dict[str, str]
) -> None:
    """In the process: send the rows, and how it ended."""
    os.setsid()  # so that its child processes can be ended with it
    signal.signal(signal.SIGTERM, _leave)
    Thread(target=_end_with_parent, daemon=True).start()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    module, _, name = measure.partition(":")
    try:
        for row in getattr(import_module(module), name)(context, clock):
            connection.send(row)
        end = _End("measured")
    except OutOfTimeError as error:
        end = _End("measured in part", str(error))
    except Exception as error:  # noqa: BLE001  # any error is reported, and the other sections go on
        end = _End("failed", in_a_line(error), traceback.format_exc())
    connection.send(end)


def in_a_line(error: BaseException) -> str:
    """The kind of an error and the first line of its message."""
    first_line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line}"


def _leave(*_: object) -> None:
    sys.exit(1)


def _end_with_parent() -> None:
    """Wait until the command that measures has died, and end everything then."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ENDING_S)
    os.killpg(0, signal.SIGKILL)
