"""Redact passwords from library errors, which quote the complete URL that they could not reach.

Use `raise ... from None` after redaction, because Prefect logs and stores the exception chain unredacted.
"""

import re

_LOG_IN = re.compile(r"([a-z][a-z0-9+.-]*://)\S*@", re.IGNORECASE)
_QUERY = re.compile(r"\?\S+")  # also matches URLs without a scheme, as HTTP clients quote them


def without_secrets(text: str) -> str:
    """Replace credentials and query strings of URLs with ***. Passwords may contain URL delimiters such as @ and /."""
    return _QUERY.sub("?***", _LOG_IN.sub(r"\1***@", text))


def reason_of(error: Exception) -> str:
    """Return an error's type and the first line of its message, redacted."""
    kind, message = type(error).__name__, str(error).strip()
    return f"{kind}: {without_secrets(message.splitlines()[0])}" if message else kind
