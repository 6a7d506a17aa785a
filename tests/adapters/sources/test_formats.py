"""File formats: older ones are read, newer ones are reported without damage."""

import json
import os
from pathlib import Path

import pytest
from deltalake import DeltaTable

from tasks.adapters import lake, ledger
from tasks.adapters.delta.table import NOTED_FORMAT
from tasks.adapters.ledger.files import HEAD, Head
from tasks.adapters.models import files as model_files
from tasks.policy.evidence.ledger import Fact
from tasks.policy.records.base import FORMAT, digest, newer_format, to_json, utc
from tasks.policy.records.errors import LakeError, LedgerError, ModelFileError
from tests.support.landed_model import CONFIG
from tests.support.monitored_model import WINDOW, rows

AT, MODEL = utc("2024-02-01"), "churn"


def write_next(**changes: object) -> None:
    """Write the next entry as another version of Perennial would."""
    last = ledger.entries(MODEL)[-1]
    entry = json.loads(to_json(last)) | {"sequence": last.sequence + 1, "previous_hash": last.hash} | changes
    text = json.dumps(
        {name: value for name, value in entry.items() if value is not ...}, sort_keys=True, separators=(",", ":")
    )
    folder = Path(os.environ["PERENNIAL_HOME"]) / "ledger" / MODEL
    (folder / f"{last.sequence + 1:08d}.json").write_text(text)
    (folder / HEAD).write_text(to_json(Head(last.sequence + 1, digest(text, length=64))))


@pytest.mark.parametrize("changes", [{"format": FORMAT + 1}, {"format": FORMAT + 1, "actor": ..., "signature": "x"}])
def test_newer_ledger_format_is_reported_and_blocks_writes(changes):
    ledger.append(MODEL, Fact("note", "first", AT))
    write_next(**changes)
    for attempt in (lambda: ledger.entries(MODEL), lambda: ledger.append(MODEL, Fact("note", "second", AT))):
        with pytest.raises(
            LedgerError, match=r"entry 2 has format .2., but this Perennial reads formats up to 1.*upgrade Perennial"
        ) as caught:
            attempt()
        assert "restore" not in str(caught.value)
    assert "entry 2 has format '2'" in ledger.verify(MODEL).problems[0]


def test_first_entry_format_is_unchanged():
    entry = ledger.append(MODEL, Fact("note", "first", AT))
    assert "format" not in json.loads(to_json(entry))


def test_newer_table_format_is_reported():
    snapshot = lake.land_rows(CONFIG, WINDOW, rows(5))
    assert DeltaTable(snapshot.uri).metadata().description == f"{NOTED_FORMAT}{FORMAT}"
    DeltaTable(snapshot.uri).alter.set_table_description(f"{NOTED_FORMAT}2")
    with pytest.raises(LakeError, match=r"the table has format '2'.*upgrade Perennial"):
        lake.landed_rows(CONFIG, WINDOW)
    with pytest.raises(LakeError, match="upgrade Perennial"):
        lake.land_rows(CONFIG, WINDOW.next(), rows(5, 1, WINDOW.next()))


@pytest.mark.parametrize("description", ["", "rows of our customers"])
def test_table_without_format_is_the_first_format(description):
    snapshot = lake.land_rows(CONFIG, WINDOW, rows(5))
    DeltaTable(snapshot.uri).alter.set_table_description(description)
    assert lake.landed_rows(CONFIG, WINDOW) == snapshot
    assert lake.read_rows(snapshot).num_rows == 5


def test_newer_model_file_format_is_reported():
    files = {"scorer.json": json.dumps({"format": 2}).encode()}
    with pytest.raises(ModelFileError, match=r"scorer\.json has format '2'"):
        model_files.load(files, model_files.sha256(files))


@pytest.mark.parametrize(
    ("found", "is_newer"), [(1, False), ("1", False), (2, True), ("2", True), ("two", True), (None, True)]
)
def test_only_known_format_numbers_are_read(found, is_newer):
    assert bool(newer_format(found)) == is_newer
