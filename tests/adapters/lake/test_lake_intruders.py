"""Other tools that change the lake's tables: snapshots stay readable, or the lost one is named."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, TableFeatures, write_deltalake

from tasks.adapters import lake
from tasks.policy.records.errors import LakeError, WorkspaceError
from tasks.policy.records.reports import Snapshot
from tests.support.landed_model import CONFIG, SECOND, label_of, labels
from tests.support.monitored_model import WINDOW, rows

THIRD = SECOND.next()


@pytest.fixture
def stored_snapshots() -> tuple[Snapshot, Snapshot]:
    return lake.land_rows(CONFIG, WINDOW, rows(10)), lake.land_rows(CONFIG, SECOND, rows(10, 1, SECOND))


def vacuum(uri: str) -> None:
    DeltaTable(uri).vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)


def append(uri: str) -> None:
    write_deltalake(uri, DeltaTable(uri).to_pyarrow_table().slice(0, 3), mode="append")


def append_with_a_column(uri: str) -> None:
    more = DeltaTable(uri).to_pyarrow_table().slice(0, 3).append_column("new", pa.array([1, 2, 3]))
    write_deltalake(uri, more, mode="append", schema_mode="merge")


def optimise(uri: str) -> None:
    DeltaTable(uri).optimize.z_order(["amount"])


def upgrade(*features: TableFeatures) -> Callable[[str], None]:
    return lambda uri: DeltaTable(uri).alter.add_feature(list(features), allow_protocol_versions_increase=True)


@pytest.mark.parametrize(
    "touch",
    [
        vacuum,
        append,
        append_with_a_column,
        optimise,
        upgrade(TableFeatures.DeletionVectors),
        upgrade(TableFeatures.ColumnMapping),
    ],
    ids=["vacuum", "append", "append with a column", "optimise", "deletion vectors", "column mapping"],
)
def test_tables_stay_readable_and_writable_after_other_tools(stored_snapshots, touch):
    first, second = stored_snapshots
    before = [lake.read_rows(snapshot) for snapshot in stored_snapshots]
    touch(first.uri)
    assert (lake.landed_rows(CONFIG, WINDOW), lake.landed_rows(CONFIG, SECOND)) == (first, second)
    assert [lake.read_rows(snapshot) for snapshot in stored_snapshots] == before
    assert lake.land_rows(CONFIG, THIRD, rows(10, 2, THIRD)).rows == 10
    assert lake.landed_until(CONFIG, THIRD.end) == THIRD.end


def test_rows_appended_by_other_tools_are_reported_and_ignored(stored_snapshots, caplog):
    append(stored_snapshots[0].uri)
    assert lake.landed_rows(CONFIG, WINDOW) == stored_snapshots[0]
    assert "files that another tool wrote; expected no other writer" in caplog.text


def test_labels_are_known_after_optimise(stored_snapshots):
    lake.land_labels(CONFIG, labels(["0-0"], [1], [WINDOW.end]), WINDOW.end)
    optimise_labels = DeltaTable(stored_snapshots[0].uri.removesuffix("rows") + "labels")
    optimise_labels.optimize.z_order(["id"])
    assert label_of(WINDOW.end) == {"0-0": 1}


def test_lost_file_after_vacuum_is_named(stored_snapshots):
    optimise(stored_snapshots[0].uri)
    vacuum(stored_snapshots[0].uri)
    assert lake.landed_rows(CONFIG, WINDOW) == stored_snapshots[0]
    with pytest.raises(LakeError, match=r"window=2024-02-01\.\.2024-02-06/.* changed or lost after it landed; restore"):
        lake.read_rows(stored_snapshots[0])


def delete(uri: str) -> None:
    DeltaTable(uri).alter.set_table_properties({"delta.appendOnly": "false"})
    DeltaTable(uri).delete("amount > -1e9")


def test_deleted_rows_are_not_stored_again(stored_snapshots):
    first = stored_snapshots[0]
    before = DeltaTable(first.uri).version() + 1
    delete(first.uri)
    message = rf"\(DELETE\) removed rows of 2024-02-01.*landed at version 1.*restore\({before}\)"
    for attempt in (
        lambda: lake.landed_rows(CONFIG, WINDOW),
        lambda: lake.land_rows(CONFIG, WINDOW, rows(9)),
        lambda: lake.land_rows(CONFIG, THIRD, rows(9, 2, THIRD)),
        lambda: lake.landed_until(CONFIG, THIRD.end),
    ):
        with pytest.raises(LakeError, match=message):
            attempt()
    assert lake.read_rows(first).num_rows == 10, "a snapshot is read at its own version"
    DeltaTable(first.uri).restore(before)
    assert lake.landed_rows(CONFIG, WINDOW) == first
    assert lake.land_rows(CONFIG, THIRD, rows(9, 2, THIRD)).rows == 9


def newer_protocol(uri: str, reader: int, features: list[str]) -> None:
    """Raise the protocol, as a newer tool would."""
    version = DeltaTable(uri).version() + 1
    protocol = {"minReaderVersion": reader, "minWriterVersion": 7, "writerFeatures": ["appendOnly", *features]}
    protocol |= {"readerFeatures": features} if reader == 3 else {}
    log = Path(uri) / "_delta_log" / f"{version:020d}.json"
    log.write_text(json.dumps({"protocol": protocol}) + "\n")


def test_unreadable_protocol_is_reported(stored_snapshots):
    newer_protocol(stored_snapshots[0].uri, 3, ["featureOfTomorrow"])
    with pytest.raises(LakeError, match="another tool upgraded the table's protocol"):
        lake.landed_rows(CONFIG, WINDOW)
    assert [lake.read_rows(snapshot).num_rows for snapshot in stored_snapshots] == [10, 10]


def test_unwritable_protocol_is_reported(stored_snapshots):
    newer_protocol(stored_snapshots[0].uri, 1, ["rowTracking"])
    assert lake.landed_rows(CONFIG, WINDOW) == stored_snapshots[0]
    with pytest.raises(WorkspaceError, match=r"nothing was landed.*another tool upgraded the table's protocol"):
        lake.land_rows(CONFIG, THIRD, rows(10, 2, THIRD))


def test_cleaned_log_names_the_lost_snapshot(stored_snapshots):
    DeltaTable(stored_snapshots[0].uri).create_checkpoint()
    for version in (0, 1):
        (Path(stored_snapshots[0].uri) / "_delta_log" / f"{version:020d}.json").unlink()
    assert lake.landed_rows(CONFIG, WINDOW) == stored_snapshots[0]
    assert lake.read_rows(stored_snapshots[1]).num_rows == 10
    with pytest.raises(LakeError, match="version 1"):
        lake.read_rows(stored_snapshots[0])
