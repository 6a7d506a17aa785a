"""Render deployments/README.md: every setting of a model's file and of fleet.yaml, read from the classes that check them.

    python -m deployments.reference > deployments/README.md

Type, bounds, default, meaning and example come from the classes' JSON schema (JSON Schema 2020-12, as pydantic writes
it), the text around them from `reference.md.j2`. `tests/deployments/test_reference.py` checks that the page is up to date
and that every setting has a description.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel

from deployments.config.fleet import FleetConfig
from deployments.config.model import ModelConfig
from deployments.config.risk import DEFAULTS
from tasks.policy.decision.retraining import RetrainingPolicy

HERE = Path(__file__).parent
WAYS_IN = ("labels", "predictions", "adopt", "training", "features", "metrics", "triggers", "alerts", "edge")
"""Sections of "Bring what you have", in this order: files of the folder `ways_in`."""
Schema = Mapping[str, Any]
LOWER = {"minimum": "≥", "exclusiveMinimum": ">"}
UPPER = {"maximum": "≤", "exclusiveMaximum": "<"}
PLAIN = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` or `false`"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of a table: name, type, default, meaning and example of a setting."""

    name: str
    type: str
    default: str
    meaning: str
    example: str


@dataclass(frozen=True, slots=True)
class Block:
    """The settings of one class, with every path in the file at which they may occur."""

    paths: tuple[str, ...]
    meaning: str
    settings: tuple[Setting, ...]
    example: str = ""
    """For a condition: the YAML in one line."""

    @property
    def title(self) -> str:
        return _title(self.paths)


def render() -> str:
    """Render the page as Markdown."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 (Markdown from our own settings; no HTML and no user input)
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page = Page(ModelConfig.model_json_schema())
    fleet = Page(FleetConfig.model_json_schema())
    return environment.get_template("reference.md.j2").render(
        ways_in=[f"ways_in/{name}.md" for name in WAYS_IN if (HERE / "ways_in" / f"{name}.md").exists()],
        blocks=page.blocks(),
        conditions=page.conditions(),
        fleet=fleet.blocks(),
        risks=_risks(),
    )


class Page:
    """Split one JSON schema into blocks; nested classes become blocks of their own that the tables link to."""

    def __init__(self, schema: Schema) -> None:
        self.root = schema
        self.classes: Mapping[str, Schema] = schema.get("$defs", {})
        self.paths: dict[str, list[str]] = {}
        for path, name in self._places("", schema):
            self.paths.setdefault(name, []).append(path)

    def blocks(self) -> list[Block]:
        """Return the top-level settings first, then the nested blocks in the order of the file."""
        nested = [self._block(tuple(paths), self.classes[name]) for name, paths in self.paths.items()]
        return [self._block(("",), self.root), *nested]

    def conditions(self) -> list[Block]:
        """Return the conditions that `retraining.when` accepts, in the order of the union."""
        return [
            replace(self._block((name,), self.classes[kind.__name__]), example=getattr(kind, "example", ""))
            for name, kind in _kinds(RetrainingPolicy.model_fields["when"].annotation)
        ]

    def link(self, path: str) -> str:
        """Return a Markdown link to the heading of the block at a path."""
        places = next(paths for paths in self.paths.values() if path in paths)  # a class has one heading for all places
        return f"[`{path}`](#{_anchor(_title(places))})"

    def _places(self, path: str, schema: Schema) -> Iterator[tuple[str, str]]:
        """Yield each settings class below `schema`, as (its path in the file, its name)."""
        for name, node in schema.get("properties", {}).items():
            for inner, held in self._held(node):
                place = ".".join(filter(None, (path, name, inner))).replace(".(", " (")
                yield place, held
                yield from self._places(place, self.classes[held])

    def _held(self, node: Schema) -> Iterator[tuple[str, str]]:
        """Yield (path below the setting, class name) of the settings classes in one setting; conditions are left out."""
        for part in () if _is_condition(node) else node.get("anyOf", [node]):
            for kind, reference in _by_kind(part).items():
                yield f"(kind: {kind})", reference.rsplit("/", 1)[-1]
            values = _values(part)
            holders = (("", part), ("", part.get("items", {})), ("NAME", values))
            for inner, holder in holders:
                name = holder.get("$ref", "").rsplit("/", 1)[-1]
                if "properties" in self.classes.get(name, {}):
                    yield inner, name

    def _block(self, paths: tuple[str, ...], schema: Schema) -> Block:
        needed = schema.get("required", ())
        settings = tuple(
            Setting(
                f"`{name}`",
                self._type(node, ".".join(filter(None, (paths[0], name)))),
                _default(paths[0], name, node, name in needed),
                _cell(node.get("description") or self._meaning_of_class(node)),
                "" if any(self._held(node)) else _example(name, node),
            )
            for name, node in schema.get("properties", {}).items()
            if "const" not in node  # `trigger: NAME` or `kind: NAME`, which is the heading
        )
        return Block(paths, _sentence(schema.get("description", "")), settings)

    def _meaning_of_class(self, node: Schema) -> str:
        return next((str(self.classes[held].get("description", "")) for _, held in self._held(node)), "")

    def _type(self, node: Schema, path: str) -> str:
        """Describe the accepted values in words."""
        if _is_condition(node):
            return "[condition](#conditions)"
        if _by_kind(node):
            return f"settings of {' or '.join(self.link(f'{path} (kind: {kind})') for kind in _by_kind(node))}"
        if "$ref" in node:
            return f"settings of {self.link(path)}" if any(self._held(node)) else "any value"
        if "const" in node:
            return f"`{node['const']}`"
        if "enum" in node:
            return _cell(", ".join(f"`{value}`" for value in node["enum"]))
        if "anyOf" in node:
            offered = [part for part in node["anyOf"] if part.get("type") != "null"]
            null = ["`null`"] if len(offered) < len(node["anyOf"]) and node.get("default") is not None else []
            offered_types = [self._type(part, path) for part in offered]
            if "number" in offered_types:
                offered_types = [kind for kind in offered_types if kind != PLAIN["integer"]]
            return " or ".join([*offered_types, *null])
        return self._plain_type(node, path)

    def _plain_type(self, node: Schema, path: str) -> str:
        kind = node.get("type", "")
        if kind == "array":
            if "prefixItems" in node:
                return f"list of {len(node['prefixItems'])}: {self._type(node['prefixItems'][0], path)}"
            return f"list of {self._type(node['items'], path)}"
        if kind == "object":
            values = _values(node)
            return f"mapping of names to {self._type(values, f'{path}.NAME') if values else 'any value'}"
        if node.get("format") == "date-time":
            return "time (UTC)"
        if "pattern" in node:
            return _cell(f"text matching `{node['pattern']}`")
        return _bounded(PLAIN[kind], node)


def _values(node: Schema) -> Schema:
    """The schema of a mapping's values; empty where any value is accepted."""
    values = next(iter(node.get("patternProperties", {}).values()), node.get("additionalProperties", {}))
    found: Schema = values if isinstance(values, Mapping) and values.get("$ref") != "#/$defs/JsonValue" else {}
    return found


def _is_condition(node: Schema) -> bool:
    return node.get("discriminator", {}).get("propertyName") == "trigger"


def _by_kind(node: Schema) -> Mapping[str, str]:
    """Return the classes among which `kind` selects, as references by its values; empty for every other setting."""
    selected = node.get("discriminator", {})
    return selected.get("mapping", {}) if selected.get("propertyName") == "kind" else {}


def _bounded(words: str, node: Schema) -> str:
    low = next((f"{sign} {node[key]:,}" for key, sign in LOWER.items() if key in node), "")
    high = next((f"{sign} {node[key]:,}" for key, sign in UPPER.items() if key in node), "")
    return ", ".join(filter(None, (f"{words} {low}".strip(), high))) if low else f"{words} {high}".strip()


def _default(block: str, name: str, node: Schema, required: bool) -> str:
    """Describe the default of a setting; some depend on the model's risk."""
    usual = node.get("default")
    by_risk = {risk: blocks.get(block, {}).get(name, usual) for risk, blocks in DEFAULTS.items()}
    if block != "retraining" and len(set(map(repr, by_risk.values()))) > 1:  # a retraining block is taken as it is
        return ", ".join(f"{risk}: {_inline(value)}" for risk, value in by_risk.items())
    if not block and all(name in blocks for blocks in DEFAULTS.values()):
        return "by risk"
    if required:
        return "**required**"
    if isinstance(usual, dict) and usual and "additionalProperties" not in node:
        return "its defaults"
    return "" if usual in (None, "", [], {}) else f"`{_inline(usual)}`"


def _example(name: str, node: Schema) -> str:
    """Return the first example of the setting, else its default, as YAML."""
    given = [*node.get("examples", ()), *(part for each in node.get("anyOf", ()) for part in each.get("examples", ()))]
    value = given[0] if given else node.get("default")
    return "" if value in (None, "", [], {}) else _cell(f"`{name}: {_inline(value)}`")


def _kinds(union: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield (trigger name, class) of each condition in a union."""
    for kind in get_args(union):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield str(get_args(kind.model_fields["trigger"].annotation)[0]), kind
        else:
            yield from _kinds(kind)


def _inline(value: Any) -> str:
    """Format a value as YAML in one line; integral floats without a decimal point, times without quotes."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]+Z", value):
        return value
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False)
    return text.strip().removesuffix("\n...")


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    """Format text for a cell of a Markdown table."""
    return _sentence(text).replace("|", "\\|")


def _title(paths: Sequence[str]) -> str:
    return " and ".join(f"`{path}`" for path in paths)


def _anchor(title: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _risks() -> list[tuple[str, str, list[str]]]:
    """Return (block, setting, value at each risk) for every setting whose default depends on the risk."""
    named = dict.fromkeys(
        (block, name) for blocks in DEFAULTS.values() for block, settings in blocks.items() for name in settings
    )
    return [
        (block, name, [_inline(blocks[block][name]) if name in blocks[block] else "" for blocks in DEFAULTS.values()])
        for block, name in named
    ]


if __name__ == "__main__":
    print(render(), end="")
