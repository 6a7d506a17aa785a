"""Sanitise what people type: one line of printable text.

A line break in a name or a reason would print a line of its own in a page or a terminal, as if Perennial had written it; a
control character can change a terminal.
"""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

NO_CONTROLS = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
"""As browsers, Pydantic and Prefect's server read it: no control character and no line break."""


def printable(text: str) -> str:
    """The text with a space for each character that cannot be printed: control characters, but also turned writing."""
    return "".join(character if character.isprintable() else " " for character in text)


def one_line(text: str) -> str:
    """The printable text with single spaces."""
    return " ".join(printable(text).split())


def plain(text: str) -> str:
    """The text in one line that begins no heading, quote or list and holds no link, image, tag or column."""
    return re.sub(r"[\\\[!|]|^[#>]|^[-+*](?= )|^~~~|^```", r"\\\g<0>", one_line(text)).replace("<", "&lt;")


def _in_one_line(typed: Any) -> Any:
    return one_line(typed) if isinstance(typed, str) else typed


OneLine = Annotated[str, BeforeValidator(_in_one_line)]
