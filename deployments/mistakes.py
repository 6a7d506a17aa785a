"""A mistake in a YAML file in one line: the field, the value found and what is accepted, with the nearest known key."""

import difflib
from typing import Any

from deployments.settings import Settings


def explain(file: str, item: Any, root: type[Settings]) -> str:
    """One pydantic error as `file: field is value, expected …`."""
    location = [str(part) for part in item["loc"]]
    field = ".".join(location) or "the file"
    if item["type"] == "extra_forbidden":
        known = _fields_at(location[:-1], root)
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}."
        return f"{file}: {field} is not a known key; {hint}"
    if item["type"] == "missing":
        return f"{file}: {field} is missing; expected {_describe(location, root)}"
    message = item["msg"].removeprefix("Value error, ")
    found = "" if isinstance(item["input"], (dict, Settings)) else f" is {item['input']!r},"
    message = message.replace("Input should be", "expected").replace("String should", "expected text that should")
    return f"{file}: {field}{found or ':'} {message}"


def _model_at(location: list[str], root: type[Settings]) -> type[Settings] | None:
    """The settings class that a dotted location lies in, where it is a plain nesting of classes."""
    model: Any = root
    for part in location:
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field is not None else None
        if not isinstance(model, type):
            return None
    return model if isinstance(model, type) and hasattr(model, "model_fields") else None


def _fields_at(location: list[str], root: type[Settings]) -> list[str]:
    model = _model_at(location, root)
    return list(model.model_fields) if model else []


def _describe(location: list[str], root: type[Settings]) -> str:
    model = _model_at(location[:-1], root)
    field = model.model_fields.get(location[-1]) if model else None
    text = (field.description or "a value") if field else "a value"
    return text[0].lower() + text[1:]
