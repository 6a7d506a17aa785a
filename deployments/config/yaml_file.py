"""Read a YAML file from an untrusted author: size, depth and references are bounded, duplicate keys are refused.

An error states line, column and cause. It quotes no content, because the path may point to an unrelated file.
"""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES, MOST_DEPTH, MOST_ALIASES, MOST_VALUES, MOST_DIGITS = 1_000_000, 20, 100, 50_000, 300

NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class UnreadableYaml(ValueError):
    """A file cannot be read as YAML; the message says why."""


class _Loader(yaml.SafeLoader):
    """Safe loader that refuses duplicate keys, of which YAML would silently use the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # `<<: *name`
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise UnreadableYaml(f"{_at(key_node.start_mark)}: a key is not text, expected a name")
            if key in seen:
                raise UnreadableYaml(f"{_at(key_node.start_mark)}: a key occurs twice, expected each once")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Read the file's content. Raises UnreadableYaml and OSError."""
    if path.stat().st_size > MOST_BYTES:
        raise UnreadableYaml(f"has {path.stat().st_size:,} bytes, expected at most {MOST_BYTES:,}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        _check_shape(text)
        loader = _Loader(text)
        tree = loader.get_single_node()
        if tree is None:
            return None
        _check_values(tree)
        return loader.construct_document(tree)
    except UnicodeDecodeError:
        raise UnreadableYaml("is not text in UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UnreadableYaml(f"is not YAML: {_at(mark)}: {_without_quotes(error.problem)}") from None
    except yaml.YAMLError as error:
        raise UnreadableYaml(
            f"is not YAML: it holds a character that YAML does not allow ({type(error).__name__})"
        ) from None
    except (RecursionError, OverflowError) as error:
        raise UnreadableYaml(f"is too deep or holds too large a number ({type(error).__name__})") from None
    except ValueError as error:
        if isinstance(error, UnreadableYaml):
            raise
        raise UnreadableYaml("holds a number or a date that cannot be read") from None


def _check_shape(text: str) -> None:
    """Refuse deep nesting and many references, before objects are built. Raises UnreadableYaml."""
    depth = aliases = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        if depth > MOST_DEPTH:
            raise UnreadableYaml(f"{_at(event.start_mark)}: is nested more than {MOST_DEPTH} deep")
        if aliases > MOST_ALIASES:
            raise UnreadableYaml(f"{_at(event.start_mark)}: has more than {MOST_ALIASES} references (*name)")


def _check_values(tree: yaml.Node) -> None:
    """Refuse references that expand to too many values, and numbers that take long to parse (`1:1:1` is base 60)."""
    written_out: dict[int, int] = {}

    def count(node: yaml.Node) -> int:
        if id(node) not in written_out:
            written_out[id(node)] = MOST_VALUES  # until counted: a reference to an enclosing node would never end
            parts = node.value if isinstance(node, yaml.CollectionNode) else []
            parts = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
            written_out[id(node)] = 1 + sum(count(part) for part in parts)
            if written_out[id(node)] > MOST_VALUES:
                raise UnreadableYaml(
                    f"{_at(node.start_mark)}: has more than {MOST_VALUES:,} values, references written out"
                )
        if node.tag in NUMBERS and len(node.value) > MOST_DIGITS:
            raise UnreadableYaml(f"{_at(node.start_mark)}: a number has more than {MOST_DIGITS} digits")
        return written_out[id(node)]

    count(tree)


def _at(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"


def _without_quotes(problem: str | None) -> str:
    """Return the problem without the part of the file that some messages quote."""
    return (problem or "it cannot be parsed").split("'")[0].split('"')[0].strip() or "it cannot be parsed"
