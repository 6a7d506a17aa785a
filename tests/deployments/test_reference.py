"""deployments/README.md matches the settings classes, and its examples are valid."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import BaseModel, Field, JsonValue, TypeAdapter
from pydantic.fields import FieldInfo

from deployments.config.blocks.data import Settings
from deployments.config.blocks.training import Training
from deployments.config.fleet import FleetConfig
from deployments.config.folders import DEPLOYMENTS
from deployments.config.loading import load_model_config
from deployments.config.model import ModelConfig
from deployments.reference import Page, render
from tasks.policy.decision.retraining import RetrainingPolicy
from tasks.policy.economics.placement import PlacementPolicy

PAGE = (DEPLOYMENTS / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)


def classes(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield every settings class within a type, at any depth; a group of conditions contains conditions."""
    waiting, seen = [annotation], set()
    while waiting:
        found = waiting.pop()
        if isinstance(found, type) and issubclass(found, BaseModel) and found not in seen:
            seen.add(found)
            waiting += [field.annotation for field in found.model_fields.values()]
            yield found
        elif hasattr(found, "__args__"):
            waiting += found.__args__


def settings() -> list[tuple[str, FieldInfo]]:
    found = sorted({*classes(ModelConfig), *classes(FleetConfig)}, key=lambda held: held.__name__)
    return [(f"{held.__name__}.{name}", field) for held in found for name, field in held.model_fields.items()]


class Item(Settings):
    """One of a list."""

    share: float | None = Field(None, gt=0, le=1, examples=[0.5])
    """A share."""
    options: dict[str, JsonValue] = Field({})
    """Any values."""


class File(Settings):
    """A file."""

    items: tuple[Item, ...] = ()
    """Items."""
    named: dict[str, Item] = Field({})
    """Items by name."""
    limit: int = Field(ge=1)
    """A limit."""


def test_nested_settings_are_found_with_bounds() -> None:
    file, item = Page(File.model_json_schema()).blocks()
    assert [(each.name, each.type, each.default) for each in file.settings] == [
        ("`items`", "list of settings of [`items`](#items-and-namedname)", ""),
        ("`named`", "mapping of names to settings of [`named.NAME`](#items-and-namedname)", ""),
        ("`limit`", "whole number ≥ 1", "**required**"),
    ]
    assert item.title == "`items` and `named.NAME`"
    assert [(each.type, each.meaning, each.example) for each in item.settings] == [
        ("number > 0, ≤ 1", "A share.", "`share: 0.5`"),
        ("mapping of names to any value", "Any values.", ""),
    ]


def test_page_is_up_to_date() -> None:
    assert render() == PAGE, "run: python -m deployments.reference > deployments/README.md"


def test_every_setting_has_a_description() -> None:
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        for row in re.findall(r"^\| `\w+` \|.+$", PAGE, re.M)
    ]
    assert {name.split(".")[1] for name, _ in settings()} - {"trigger"} <= {row[0].strip("`") for row in rows}
    assert not [row for row in rows if len(row) > 3 and not row[3]]


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, field in settings() if field.examples])
def test_examples_are_valid(name: str, field: FieldInfo) -> None:
    kind: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    for example in field.examples or ():
        TypeAdapter(kind).validate_python(example)


def test_settings_without_default_have_an_example() -> None:
    bare = [
        name
        for name, field in settings()
        if not field.examples
        and not list(classes(field.annotation))
        and (field.is_required() or field.default in (None, (), {}, ""))
        and not name.endswith(".trigger")
        and name.split(".")[0] in {held.__name__ for held in classes(ModelConfig) if "trigger" not in held.model_fields}
    ]
    assert not bare


@pytest.mark.parametrize(
    "page", [DEPLOYMENTS / "README.md", DEPLOYMENTS.parent / "README.md"], ids=["settings", "main"]
)
def test_complete_example_loads(page: Path, tmp_path: Path) -> None:
    file = tmp_path / "churn.yaml"
    shown = re.findall(r"^```yaml\n(name:.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    file.write_text(shown[0], encoding="utf-8")
    assert load_model_config(file).name == "churn"


def test_the_other_examples_load() -> None:
    """Those of "Bring what you have" are run by tests of their own."""
    ways_in = [path.read_text(encoding="utf-8") for path in (DEPLOYMENTS / "ways_in").glob("*.md")]
    others = [block for block in BLOCKS if not any(block in text for text in ways_in)]
    parsed = [yaml.safe_load(block) for block in others if not block.startswith("name:")]
    assert {key for block in parsed for key in block} == {"placement", "shared_budget", "training"}
    for block in parsed:
        if "placement" in block:
            PlacementPolicy.model_validate(block["placement"])
        elif "training" in block:
            Training.model_validate(block["training"])
        else:
            FleetConfig.model_validate(block)


def test_links_lead_to_headings() -> None:
    headings = re.findall(r"^#+ (.+)$", PAGE, re.M)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors


def test_condition_examples_are_valid() -> None:
    section = PAGE[PAGE.index("## Conditions") : PAGE.index("### Condition")]
    shown = re.findall(r"\| `(\{trigger: .+\})` \|$", section, re.M)
    for condition in shown:
        RetrainingPolicy.model_validate({"when": yaml.safe_load(condition)})
