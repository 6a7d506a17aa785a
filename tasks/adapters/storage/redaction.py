"""Quote errors of libraries without passwords: libraries name the whole address that they could not reach.

Raise `from None` after quoting, because Prefect logs and stores the chain of causes unredacted.
"""

import re

_LOG_IN = re.compile(r"([a-z][a-z0-9+.-]*://)\S*@", re.IGNORECASE)
_QUERY = re.compile(r"\?\S+")  # also of an address without its scheme, as HTTP clients quote them


def without_secrets(text: str) -> str:
    """The text with log-ins and queries of addresses blotted out; a password may hold what ends a log-in elsewhere."""
    return _QUERY.sub("?***", _LOG_IN.sub(r"\1***@", text))


def reason_of(error: Exception) -> str:
    """An error's type and the first line of what it says, without secrets."""
    kind, said = type(error).__name__, str(error).strip()
    return f"{kind}: {without_secrets(said.splitlines()[0])}" if said else kind
