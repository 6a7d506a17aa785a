"""Report an error in a YAML file in one line: field, value found, what is accepted, and the nearest known key."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from deployments.config.blocks.data import IMPORT_PATH
from tasks.policy.records.base import Settings, duration_unit, is_share

SCALARS = {"str": "string_type", "int": "int_type", "float": "float_type", "bool": "bool_type"}
"""Error types that pydantic reports, one per member, for a value that is none of str | int | float | bool."""
MOST_SHOWN = 200  # characters of a value
QUESTION = "?"
"""Value of a setting that `perennial new` could not guess and a person has not decided yet."""
FREE = ("options", "parameters", "classes", "categories")
"""Settings below which a question mark is a value like any other."""


def open_questions(file: str, content: Mapping[str, Any], root: type[Settings]) -> list[str]:
    """Describe each setting whose value is a question mark, as an error in one line."""
    return [
        f"{file}: {'.'.join(location)} is an open question, found {QUESTION}, expected {_answer(location, root)}"
        for location in _questions(content, ())
    ]


def _questions(content: Mapping[str, Any], place: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, value in content.items():
        here = (*place, str(name))
        if value == QUESTION:
            yield here
        elif isinstance(value, Mapping) and name not in FREE:
            yield from _questions(value, here)


def _answer(location: Sequence[str], root: type[Settings]) -> str:
    """Describe what an answer is: the values if they are few, and the field's meaning."""
    model = _model_at(location[:-1], root)
    field = model.model_fields.get(location[-1]) if model else None
    options = (
        [str(each) for each in get_args(field.annotation)] if field and get_origin(field.annotation) is Literal else []
    )
    meaning = " ".join(_describe(list(location), root).split()).split(". ")[0].removesuffix(".")
    null = "; null if nobody knows" if field is not None and not field.is_required() and field.default is None else ""
    return f"{', '.join(options)}: {meaning}" if options else f"{meaning}{null}"


def explain_all(file: str, errors: Sequence[Any], root: type[Settings]) -> list[str]:
    """Describe each error in one line; omit errors that only follow from another one."""
    return list(dict.fromkeys(explain(file, item, root) for item in _causes(errors)))


def _causes(errors: Sequence[Any]) -> Iterator[Any]:
    for item in errors:
        place = item["loc"]
        inside = any(other["loc"][: len(place)] == place and len(other["loc"]) > len(place) for other in errors)
        if item["type"] == "too_short" and inside:
            continue  # a consequence of invalid items, which pydantic does not count
        if place and SCALARS.get(str(place[-1])) == item["type"]:
            item = {**item, "loc": place[:-1], "msg": "expected text, a number, true or false"}
        yield item


def explain(file: str, item: Any, root: type[Settings]) -> str:
    """Describe one pydantic error as `file: field is value, expected …`."""
    location = [str(part) for part in item["loc"]]
    field = ".".join(location)
    if item["type"] == "extra_forbidden":
        known = _fields_at(location[:-1], root)
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}."
        return f"{file}: {field} is not a known key; {hint}"
    if item["type"] == "missing":
        return f"{file}: {field} is missing; expected {_describe(location, root)}"
    if item["type"] == "model_type":
        keys = ", ".join(_fields_at(location, root))
        return f"{file}: {field} is {_shortened(item['input'])}, expected a mapping with some of the keys {keys}"
    message = _expected_quantity(item, location, root) or _expected(item)
    if not location:  # a rule about several fields names them itself
        return f"{file}: {message}"
    found = (
        ""
        if isinstance(item["input"], (dict, Settings)) and "expected a mapping" not in message
        else (f" is {_shortened(item['input'])},")
    )
    return f"{file}: {field}{found or ':'} {message}"


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def _expected_quantity(item: Any, location: Sequence[str], root: type[Settings]) -> str | None:
    """Describe the forms of a duration or a share, where text is neither; None for any other error."""
    if item["type"] not in ("float_parsing", "int_parsing", "int_from_float"):
        return None
    named = location[:-1] if location[-1].isdecimal() else location  # an item of a list
    model = _model_at(named[:-1], root)
    field = model.model_fields.get(named[-1]) if model else None
    if unit := duration_unit(named[-1]):
        return (
            f"expected a number of {unit}, or a duration in seconds, minutes, hours, days or weeks, such as 14 {unit}"
        )
    if field is not None and is_share(field):
        return "expected a number such as 0.05, or a percentage such as 5 %"
    return None


def _expected(item: Any) -> str:
    """Describe what is accepted in this place, without pydantic's terms."""
    given = item["input"]
    if (
        item["type"] in ("union_tag_invalid", "union_tag_not_found", "model_attributes_type")
        and "control" in item["loc"]
    ):
        return "expected a mapping that begins with kind: haproxy or kind: sagemaker"
    if item["type"] == "model_attributes_type":  # a condition
        if isinstance(given, str):
            return f"expected a mapping such as {{trigger: {given}}}"
        return "expected a mapping that begins with trigger:; combine several with {trigger: any_of, conditions: [...]}"
    if item["type"] == "string_pattern_mismatch" and item["ctx"]["pattern"] == IMPORT_PATH:
        module, dot, name = str(given).rpartition(".")
        return f"expected module:name, such as {module + ':' + name if dot else 'sklearn.linear_model:Ridge'}"
    if item["type"] == "too_short":
        return "expected at least one"
    if item["type"] == "string_type" and isinstance(given, int | float | date):
        return "expected text; quote values that YAML reads as a number, a date, or yes and no"
    if item["type"] == "invalid-json-value":
        return "expected text, a number, true or false, a list or a mapping"
    if item["type"] == "tuple_type":
        return "expected a list"
    message = str(item["msg"]).removeprefix("Value error, ")
    return message.replace("Input should be", "expected").replace("String should", "expected text that should")


def _model_at(location: Sequence[str], root: type[Settings]) -> type[Settings] | None:
    """Find the settings class of a dotted location, through lists, mappings and the class that a trigger or kind selects."""
    kind: Any = root
    for part in location:
        kind = _step(kind, part)
    return next((member for member in _members(kind) if hasattr(member, "model_fields")), None)


def _step(kind: Any, part: str) -> Any:
    for member in _members(kind):
        if get_origin(member) in (tuple, list):
            return get_args(member)[0]
        if get_origin(member) is dict:
            return get_args(member)[1]
        fields = getattr(member, "model_fields", {})
        if any(part in get_args(fields[tag].annotation) for tag in ("trigger", "kind") if tag in fields):
            return member
        if part in fields:
            return fields[part].annotation
    return None


def _members(kind: Any) -> list[Any]:
    """Return the member types of a union or annotated type, without annotations."""
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [member for each in get_args(kind) for member in _members(each)]
    return [kind]


def _fields_at(location: Sequence[str], root: type[Settings]) -> list[str]:
    model = _model_at(location, root)
    return list(model.model_fields) if model else []


def _describe(location: list[str], root: type[Settings]) -> str:
    model = _model_at(location[:-1], root)
    field = model.model_fields.get(location[-1]) if model else None
    text = (field.description or "a value") if field else "a value"
    return text[0].lower() + text[1:]
