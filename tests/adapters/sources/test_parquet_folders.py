"""Folders of Parquet files: one schema for all files, or the file that differs is named."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pa_dataset
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from deployments.config.model import ModelConfig
from tasks.adapters.sources import file_dataset
from tasks.adapters.sources.read import read_labels, read_window
from tasks.policy.records.errors import SourceError
from tests.support.monitored_model import WINDOW
from tests.support.source_tables import TABLE, assert_is_the_window, clock, replaced, source

ROWS = len(TABLE)
IDS = [f"b{row}" for row in range(ROWS)]


def folder(path: Path, *tables: pa.Table, **settings: Any) -> ModelConfig:
    for number, table in enumerate(tables):
        pq.write_table(table, path / f"{number}.parquet")
    return source("parquet", path, **settings)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("amount", pa.nulls(ROWS), pa.array([1.5] * ROWS)),
        ("amount", pa.array([1] * ROWS), pa.array([1.5] * ROWS)),
        ("amount", pa.array([1] * ROWS, pa.int8()), pa.array([300] * ROWS, pa.int16())),
        ("country", pa.nulls(ROWS), pa.array(["DE"] * ROWS)),
        ("country", pa.array(["FR"] * ROWS).dictionary_encode(), pa.array(["DE"] * ROWS)),
        ("country", pa.array(["FR"] * ROWS, pa.string_view()), pa.array(["DE"] * ROWS, pa.large_string())),
        ("country", pa.array([1] * ROWS), pa.array(["01"] * ROWS)),
        ("member", pa.array([1] * ROWS), pa.array([False] * ROWS)),
    ],
)
def test_lossless_type_unification_ignores_file_order(
    tmp_path: Path, name: str, one: pa.Array, other: pa.Array, reverse: bool
) -> None:
    tables = [replaced(name, one), replaced(name, other).set_column(0, "id", pa.array(IDS))]
    config = folder(tmp_path, *(reversed(tables) if reverse else tables))
    read = read_window(config, WINDOW)
    kind = {"amount": float, "country": lambda value: value and str(value), "member": bool}[name]
    expected = {kind(array[0].as_py()) if array[0].is_valid else None for array in (one, other)}
    assert (read.num_rows, set(read[name].to_pylist())) == (100, expected)


@pytest.mark.parametrize("reverse", [False, True])
def test_column_missing_in_one_file_is_null(tmp_path: Path, reverse: bool) -> None:
    tables = [TABLE.drop_columns(["amount", "churned"]).set_column(0, "id", pa.array(IDS)), TABLE]
    config = folder(tmp_path, *(reversed(tables) if reverse else tables))
    assert (read_window(config, WINDOW)["amount"].null_count, read_labels(config, WINDOW).num_rows) == (50, 50)


def test_column_missing_in_every_file_is_an_error(tmp_path: Path) -> None:
    table = TABLE.rename_columns({"amount": "ammount"})
    with pytest.raises(SourceError, match="column 'amount' is missing; did you mean 'ammount'"):
        read_window(folder(tmp_path, table, table), WINDOW)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("id", pa.array(range(ROWS)), pa.array([f"{row:03}" for row in range(ROWS)])),
        ("id", pa.array(range(ROWS)), pa.array([1.0] * ROWS)),
        ("amount", pa.array([1.5] * ROWS), pa.array(["2.5"] * ROWS)),
        ("amount", pa.array([1.5] * ROWS), pa.array([True] * ROWS)),
        ("country", pa.array([1.5] * ROWS), pa.array(["DE"] * ROWS)),
        ("at", TABLE["at"].combine_chunks(), TABLE["at"].cast(pa.timestamp("us")).combine_chunks()),
    ],
)
def test_file_with_incompatible_type_is_named(
    tmp_path: Path, name: str, one: pa.Array, other: pa.Array, reverse: bool
) -> None:
    tables = [replaced(name, one), replaced(name, other)]
    config = folder(tmp_path, *(reversed(tables) if reverse else tables))
    first, second = (str(array.type) for array in ((other, one) if reverse else (one, other)))
    with pytest.raises(SourceError) as caught:
        read_window(config, WINDOW)
    message = (
        f"column {name!r} is {first} in {tmp_path}/0.parquet and {second} in {tmp_path}/1.parquet, expected one kind"
    )
    assert message in str(caught.value)


@pytest.mark.parametrize("later", [[1.0, None] * (ROWS // 2), [True, False] * (ROWS // 2)])
def test_classes_unify_across_numeric_and_boolean_files(tmp_path: Path, later) -> None:
    config = folder(tmp_path, replaced("churned", [1, 0] * (ROWS // 2)), replaced("churned", later))
    assert set(read_labels(config, WINDOW)["churned"].to_pylist()) == {0, 1}


def test_incompatible_label_type_is_named(tmp_path: Path) -> None:
    config = folder(tmp_path, TABLE, replaced("churned", ["0"] * ROWS))
    assert read_window(config, WINDOW).num_rows == 100, "the label is not read with the rows"
    with pytest.raises(SourceError, match=r"column 'churned' is int64 in .*0.parquet and string in .*1.parquet"):
        read_labels(config, WINDOW)


@pytest.mark.parametrize("kind", [pa.timestamp("ns", "UTC"), pa.timestamp("ms", "America/New_York")])
def test_times_unify_across_precision_and_zone(tmp_path: Path, kind: pa.DataType) -> None:
    tables = [clock(kind).slice(0, 60), TABLE.slice(60, 59), TABLE.slice(119)]
    assert_is_the_window(read_window(folder(tmp_path, *tables), WINDOW))
    assert_is_the_window(read_window(folder(tmp_path, *reversed(tables)), WINDOW))


def test_times_are_read_beside_times_as_text(tmp_path: Path) -> None:
    tables = [TABLE.slice(0, 60), clock(pa.string()).slice(60, 59), TABLE.slice(119)]
    assert_is_the_window(read_window(folder(tmp_path, *tables), WINDOW))
    assert_is_the_window(read_window(folder(tmp_path, *reversed(tables)), WINDOW))


# --- folders named by a value


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_partition_values_keep_leading_zeros(tmp_path: Path, form: str) -> None:
    names = ["01", "02", "0A"]
    rest = TABLE.drop_columns(["country", "unused", "churned"])
    for number, country in enumerate(names, start=1):
        table = rest.append_column("country", pa.array([country] * ROWS))
        partitioning = pa_dataset.partitioning(pa.schema([("country", pa.string())]), flavor="hive")
        pa_dataset.write_dataset(
            table, tmp_path, format=form, partitioning=partitioning, existing_data_behavior="overwrite_or_ignore"
        )
        assert sorted(set(read_window(source(form, tmp_path), WINDOW)["country"].to_pylist())) == names[:number]


# --- what it costs


class CountingFiles(LocalFileSystem):
    def __init__(self) -> None:
        super().__init__()
        self.opened = Counter[str]()

    def open(self, path: str, *given: Any, **options: Any) -> Any:
        self.opened[path] += 1
        return super().open(path, *given, **options)


def test_each_footer_is_read_once(tmp_path: Path) -> None:
    """A scan reads every footer itself, to skip row groups outside the window."""
    local = CountingFiles()
    config = folder(tmp_path, *(TABLE.slice(row * 20, 20) for row in range(6)))
    files = pa_fs.PyFileSystem(pa_fs.FSSpecHandler(local))
    dataset = file_dataset.open_files(config, files, str(tmp_path), ["id", "at"], "here")
    assert sum(local.opened.values()) <= 6 + 1, "the first one's is also read to find out how folders are named"
    before = dict(local.opened)
    late = pc.field("at") > pa.scalar(WINDOW.end + 90 * (WINDOW.end - WINDOW.start))
    assert dataset.to_table(columns=["id"], filter=late).num_rows == 0
    assert local.opened == before, "footers are cached, and no file has such a time"
    assert dataset.to_table(columns=["id"]).num_rows == ROWS
