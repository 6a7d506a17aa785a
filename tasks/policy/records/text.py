"""Sanitise user input to one line of printable text.

A line break in a name or a reason would start a new line in a page or a terminal, as if Perennial had written it. A
control character can change the state of a terminal.
"""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

NO_CONTROLS = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
"""Matches text without control characters and line breaks; understood by browsers, Pydantic and Prefect's server."""


def printable(text: str) -> str:
    """Replace each character that is not printable by a space: control characters, and bidirectional overrides."""
    return "".join(character if character.isprintable() else " " for character in text)


def one_line(text: str) -> str:
    """The printable text with runs of white space collapsed to single spaces."""
    return " ".join(printable(text).split())


def plain(text: str) -> str:
    """One line of text that starts no heading, quote or list and contains no link, image, tag or table column."""
    return re.sub(r"[\\\[!|]|^[#>]|^[-+*](?= )|^~~~|^```", r"\\\g<0>", one_line(text)).replace("<", "&lt;")


def _in_one_line(typed: Any) -> Any:
    return one_line(typed) if isinstance(typed, str) else typed


OneLine = Annotated[str, BeforeValidator(_in_one_line)]
