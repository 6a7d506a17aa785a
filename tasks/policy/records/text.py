"""Sanitise text from elsewhere: user input to one line of printable text, and errors to one line without passwords.

A line break in a name or a reason would start a new line in a page or a terminal, as if Perennial had written it. A
control character can change the state of a terminal. Libraries' errors quote the complete URL that they could not reach:
use `raise ... from None` after redaction, because Prefect logs and stores the exception chain unredacted.
"""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

NO_CONTROLS = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
"""Matches text without control characters and line breaks; understood by browsers, Pydantic and Prefect's server."""

_LOG_IN = re.compile(r"([a-z][a-z0-9+.-]*://)\S*@", re.IGNORECASE)
_QUERY = re.compile(r"\?\S+")  # also matches URLs without a scheme, as HTTP clients quote them
_SOURCE_LINE = re.compile(r"^(\[[\d:]+\] )?\S+\.(cc|cpp|cu|h):\d+: ")
"""The place in its own code that a boosting library begins an error with."""


def printable(text: str) -> str:
    """Replace each character that is not printable by a space: control characters, and bidirectional overrides."""
    return "".join(character if character.isprintable() else " " for character in text)


def one_line(text: str) -> str:
    """The printable text with runs of white space collapsed to single spaces."""
    return " ".join(printable(text).split())


def plain(text: str) -> str:
    """One line of text that starts no heading, quote or list and contains no link, image, tag or table column."""
    return re.sub(r"[\\\[!|]|^[#>]|^[-+*](?= )|^~~~|^```", r"\\\g<0>", one_line(text)).replace("<", "&lt;")


def without_secrets(text: str) -> str:
    """Replace credentials and query strings of URLs with ***. Passwords may contain URL delimiters such as @ and /."""
    return _QUERY.sub("?***", _LOG_IN.sub(r"\1***@", text))


def reason_of(error: BaseException) -> str:
    """Return an error's type and the first line of its message, redacted."""
    kind, lines = type(error).__name__, str(error).strip().splitlines()
    return f"{kind}: {without_secrets(_SOURCE_LINE.sub('', lines[0]))}" if lines else kind


def raised(error: BaseException) -> str:
    """Return the words for an exception of the user's own code, to follow what raised it: `raised KeyError: 'fee'`."""
    return f"raised {reason_of(error)[:300]}"


def _in_one_line(typed: Any) -> Any:
    return one_line(typed) if isinstance(typed, str) else typed


OneLine = Annotated[str, BeforeValidator(_in_one_line)]
