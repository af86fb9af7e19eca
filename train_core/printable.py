"""Names from people's files as they may be printed: nothing in them steers a terminal. Imports no torch."""

from unicodedata import category

_STEERING = frozenset({"Cc", "Cf", "Zl", "Zp"})  # control characters, marks without a shape of their own, line ends
_JOINERS = "\u200c\u200d"  # parts of Persian and Indian words, and of emoji


def printable(text: str) -> str:
    r"""The text with an escape, as in `\x1b` or `\u202e`, for each character that would steer a terminal.

    These are control characters, ends of lines, and marks that change the direction of writing. Bytes of a file name
    that is not UTF-8 (lone surrogates, as in `os.fsdecode`) stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        each.encode("unicode_escape").decode() if category(each) in _STEERING and each not in _JOINERS else each
        for each in text
    )
