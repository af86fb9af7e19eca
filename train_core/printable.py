"""Names from users' files, made safe for printing: nothing in them controls a terminal. Imports no torch."""

from unicodedata import category

_STEERING = frozenset({"Cc", "Cf", "Zl", "Zp"})  # control characters, invisible marks, line ends
_JOINERS = "\u200c\u200d"  # used in Persian and Indian words, and in emoji


def printable(text: str) -> str:
    r"""The text with an escape, such as `\x1b` or `\u202e`, for each character that would control a terminal.

    These are control characters, line ends, and marks that change the direction of writing. Bytes of a file name
    that is not UTF-8 (lone surrogates, as in `os.fsdecode`) stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        each.encode("unicode_escape").decode() if category(each) in _STEERING and each not in _JOINERS else each
        for each in text
    )
