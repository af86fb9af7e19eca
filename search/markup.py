"""The pieces of HTML that the sections of a report share."""

import re
from html import escape


def prose(text: str) -> str:
    """Text as HTML; text between backticks becomes code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def paragraph(text: str) -> str:
    """A paragraph of `prose`."""
    return f"<p>{prose(text)}</p>"


def slug(title: str) -> str:
    """The anchor of a section in the page: `what-mattered`."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def section(title: str, content: str) -> str:
    """A section with its heading, to which the table of contents can link; `content` is HTML."""
    return f'<section id="{slug(title)}"><h2>{escape(title)}</h2>{content}</section>\n'
