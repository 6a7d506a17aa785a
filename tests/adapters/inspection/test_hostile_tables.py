"""Names and values of a table reach the model's file only as values or in comments, and the terminal only as text."""

import csv
import io
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml
from rich.console import Console

from deployments.new.draft import People, draft
from deployments.new.start import _print_list, describe_guesses
from tasks.adapters.inspection.proposal import Answers, Proposal, describe_table, propose
from tasks.adapters.inspection.table import FoundTable, TablePlace, read_table
from tasks.policy.records.errors import SourceError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BREAKS = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1b[2J", "\x85", "\u2028", "\u2029", "\u202e", "\x9b", "\x00"]
NUL = "\x00"
SETTINGS = {
    "rollout",
    "name",
    "owner",
    "purpose",
    "risk",
    "task",
    "source",
    "columns",
    "window_days",
    "period",
    "performance",
    "training",
    "validation",
    "budget",
}
CODE = "metrics: {own: {function: 'rev_evil:go'}}"


def proposed(between: str, path: str = "t.parquet") -> Proposal:
    """Return the proposal for a table in which every name but the time's, and every text, tries to add a setting."""
    hostile = f"{between}{CODE}{between}#"
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            f"order{hostile}": [f"o{number}" for number in range(400)],
            "ordered_at": pd.date_range("2025-01-01", periods=400, freq="3h", tz="UTC"),
            f"amount{hostile}": np.where(np.arange(400) % 20, random.gamma(2, 10, 400), -9999.0),
            f"mail{hostile}": [f"u{number}@mail.example" for number in range(400)],
            f"constant{hostile}": "EUR",
            f"label{hostile}": random.choice([f"a{hostile}", f"b{hostile}"], 400),
        }
    )
    found = FoundTable(pa.Table.from_pandas(table), 400, {"kind": "parquet", "path": path}, TablePlace(path))
    answers = Answers(label=f"label{hostile}", id=(f"order{hostile}",))
    return propose("returns", found, describe_table(found), answers)


@pytest.mark.parametrize("between", BREAKS)
def test_no_name_or_value_adds_a_setting(between, tmp_path):
    proposal = proposed(between, f"t{between.strip(NUL)}{CODE}#.parquet")
    text = draft(proposal, People(owner=f"ada{between}{CODE}"), tmp_path, NOW)
    content = yaml.safe_load(text)
    assert set(content) <= SETTINGS
    assert content["rollout"] == {"feedback": "?"}
    assert content["columns"]["label"] == proposal.label.value
    assert content["columns"]["positive_label"] == proposal.positive.value
    assert content["owner"] == f"ada{between}{CODE}"
    assert text.count("left out: constant") == 1
    assert content["columns"]["personal"] == [name for name in proposal.columns if name.startswith("mail")]
    assert "looks like a missing value" in text


@pytest.mark.parametrize("between", BREAKS)
def test_the_terminal_shows_no_control_character(between):
    shown = io.StringIO()
    guesses = describe_guesses(proposed(between))
    _print_list("guessed:", guesses, Console(file=shown, width=250))
    assert all(line.isprintable() for line in shown.getvalue().split("\n"))
    assert len(shown.getvalue().split("\n")) == len(guesses) + 2


@pytest.mark.parametrize("between", [each for each in BREAKS if each not in ("\u202e", "\x00")])
@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_name_with_a_control_character_is_refused(between, suffix, tmp_path):
    path = tmp_path / f"t.{suffix}"
    table = pd.DataFrame({f"note{between}{CODE}": ["a", "b"], "y": [1, 2]})
    table.to_parquet(path) if suffix == "parquet" else table.to_csv(path, index=False, quoting=csv.QUOTE_ALL)
    with pytest.raises(SourceError, match=r"column .note.*control character in its name, expected none; rename it"):
        read_table(TablePlace(str(path)))


def test_other_languages_are_written_as_they_are(tmp_path: Path):
    table = pd.DataFrame({"größe": [1.5, 2.5] * 200, "zeit": pd.date_range("2025-01-01", periods=400, tz="UTC")})
    table.to_parquet(tmp_path / "t.parquet")
    found = read_table(TablePlace(str(tmp_path / "t.parquet")))
    text = draft(propose("m", found, describe_table(found), Answers(label="größe")), People(), tmp_path, NOW)
    assert "label: größe  # as given" in text
