"""Standard output and standard error of the commands: what happens when nobody can read them."""

import codecs
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from search.errors import OutputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

BROKEN_PIPE = 141  # the exit code of shells for a command whose reader has ended, as in `search list | head -1`
AS_IT_WAS = "search-as-it-was"
"""The handler for characters that cannot be encoded: a file name that is not UTF-8 is written as its bytes, so that it
can be used again; any other character that a terminal lacks becomes `?`, because that is no reason to fail.
"""


def _as_it_was(error: UnicodeError) -> tuple[bytes, int]:
    """Bytes for the characters that an encoding lacks, and where to continue."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return b"".join(bytes([ord(each) & 0xFF]) if "\udc80" <= each <= "\udcff" else b"?" for each in lacking), error.end


codecs.register_error(AS_IT_WAS, _as_it_was)


class Stream(io.FileIO):
    """Writes to an open file descriptor. After an error, it accepts everything and writes nothing."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.is_lost = False

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write, and return the number of bytes that were accepted."""
        if not self.is_lost:
            try:
                return super().write(data)
            except OSError as error:
                self.is_lost = True
                self.lost(error)
        return memoryview(data).nbytes

    def lost(self, error: OSError) -> None:
        """Handle an error; this class ignores it."""


class Output(Stream):
    """Standard output. If it is all that a command is for, an error ends the command."""

    is_logged = False  # whether everything that is printed is also in a log

    def lost(self, error: OSError) -> None:
        """End the command, or continue without the output.

        Raises:
            SystemExit: nobody reads it any more.
            OutputError: it cannot be written.

        """
        if isinstance(error, BrokenPipeError):
            if not self.is_logged:
                raise SystemExit(BROKEN_PIPE)
        elif self.is_logged:
            print(f"search: cannot write the output ({error.strerror}): the command goes on", file=sys.stderr)
        else:
            raise OutputError(f"cannot write the output ({error.strerror}): give it another place")


@contextmanager
def outputs() -> Iterator[None]:
    """Write to standard output and standard error through `Output` and `Stream`, if they are files or pipes."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _by_way_of(Output, sys.stdout), _by_way_of(Stream, sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


@contextmanager
def output_is_logged() -> Iterator[None]:
    """Do not end a command if its output cannot be written: the log has it."""
    before, Output.is_logged = Output.is_logged, True
    try:
        yield
    finally:
        Output.is_logged = before


def _by_way_of(kind: type[Stream], stream: TextIO) -> TextIO:
    """The stream with another writer for its file; unchanged if it has no file, as in a notebook."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.reconfigure(errors=AS_IT_WAS)
    try:
        descriptor = stream.fileno()
    except OSError:
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(kind(descriptor)),
        encoding=stream.encoding,
        errors=AS_IT_WAS,
        line_buffering=stream.line_buffering,
    )
