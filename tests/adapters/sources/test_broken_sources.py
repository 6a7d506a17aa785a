"""Unreadable files: nothing is stored, the error says why, and the repaired file is read."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deployments.config.loading import load_model_config
from deployments.config.model import ModelConfig
from tasks.adapters import lake, sources
from tasks.policy.records.base import Window, utc
from tasks.policy.records.errors import ModelConfigError, SourceEmpty, SourceError
from tests.support.small_model import rows, write_model

WINDOW = Window(utc("2024-01-21"), utc("2024-01-23"))
BROKEN_ROW = 3050
"""A row of the window."""


def with_broken_text(column: str, kind: pa.DataType) -> pa.Table:
    """Return the table with the latin-1 bytes of "grün" in a column that claims to be text."""
    table = pa.Table.from_pandas(rows(), preserve_index=False)
    values = [value.encode() for value in table[column].to_pylist()]
    values[BROKEN_ROW] = "grün".encode("latin-1")
    wide = pa.array(values, pa.large_binary() if kind == pa.large_string() else pa.binary())
    text = pa.Array.from_buffers(kind, len(wide), wide.buffers())
    return table.set_column(table.schema.get_field_index(column), column, text)


def read_and_land(config: ModelConfig) -> int:
    rows_read = sources.read_window(config, WINDOW)
    sources.read_labels(config, WINDOW)
    return lake.land_rows(config, WINDOW, rows_read).rows


def lands_once_mended(config: ModelConfig) -> None:
    assert lake.landed_rows(config, WINDOW) is None
    assert read_and_land(config) == 300


@pytest.mark.parametrize("column", ["colour", "row"])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_invalid_utf8_parquet_is_refused_until_repaired(tmp_path: Path, column, kind):
    config = load_model_config(write_model(tmp_path))
    pq.write_table(with_broken_text(column, kind), tmp_path / "rows.parquet", store_schema=True)
    with pytest.raises(SourceError, match=f"column '{column}' holds bytes that are not UTF-8 text") as refused:
        read_and_land(config)
    assert "gr" not in str(refused.value).split("bytes")[1], "unreadable text is not quoted"
    rows().to_parquet(tmp_path / "rows.parquet")
    lands_once_mended(config)


def give_broken(start, end) -> pa.Table:
    return with_broken_text("colour", pa.string())


def test_invalid_utf8_from_a_function_is_refused(tmp_path: Path):
    source = {"{kind: parquet, path: rows.parquet}": f"{{kind: python, function: '{__name__}:give_broken'}}"}
    with pytest.raises(SourceError, match="column 'colour' holds bytes that are not UTF-8 text"):
        read_and_land(load_model_config(write_model(tmp_path, **source)))


@pytest.mark.parametrize("column", ["colour", "row"])
def test_latin1_csv_needs_its_encoding(tmp_path: Path, column):
    as_csv = {"{kind: parquet, path: rows.parquet}": "{kind: csv, path: rows.csv}"}
    named = {"{kind: parquet, path: rows.parquet}": "{kind: csv, path: rows.csv, options: {encoding: latin-1}}"}
    config = load_model_config(write_model(tmp_path, **as_csv))
    table = rows()
    table.loc[BROKEN_ROW, column] = "grün"
    table.to_csv(tmp_path / "rows.csv", index=False, encoding="latin-1")
    with pytest.raises(SourceError, match=r"in UTF-8 or the encoding that source\.options\.encoding names"):
        read_and_land(config)
    lands_once_mended(load_model_config(write_model(tmp_path, **named)))


@pytest.fixture
def folder(tmp_path: Path) -> tuple[ModelConfig, Path]:
    config = load_model_config(write_model(tmp_path, **{"path: rows.parquet": "path: folder"}))
    (tmp_path / "folder" / "2024").mkdir(parents=True)
    (tmp_path / "rows.parquet").rename(tmp_path / "folder" / "2024" / "rows.parquet")
    return config, tmp_path / "folder"


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("again", "../folder", "is the same as ., so its rows would be read more than once"),
        ("latest", "2024", "so its rows would be read more than once"),
        ("2024/up", "..", "is the same as ."),
        ("copy.parquet", "2024/rows.parquet", "so its rows would be read more than once"),
        ("self", "self", "is a broken link"),
        ("gone.parquet", "/nowhere/rows.parquet", "is a broken link"),
    ],
)
def test_ambiguous_links_are_refused(folder, name, target, message):
    config, place = folder
    (place / name).symlink_to(target)
    with pytest.raises(SourceError, match="remove the link") as refused:
        read_and_land(config)
    assert message in str(refused.value)
    (place / name).unlink()
    lands_once_mended(config)


def test_unique_links_are_read(folder, tmp_path: Path):
    """As in a Kubernetes volume, where each file is a link into a hidden folder that is swapped atomically."""
    config, place = folder
    (place / "..2024_01").mkdir()
    (place / "2024" / "rows.parquet").rename(place / "..2024_01" / "rows.parquet")
    (place / "..data").symlink_to("..2024_01")
    (place / "rows.parquet").symlink_to("..data/rows.parquet")
    assert read_and_land(config) == 300


def test_link_loop_is_reported(tmp_path: Path):
    model = write_model(tmp_path)
    (tmp_path / "rows.parquet").unlink()
    (tmp_path / "rows.parquet").symlink_to("rows.parquet")
    with pytest.raises((ModelConfigError, SourceError), match=r"loop of links|cannot be read|not found"):
        read_and_land(load_model_config(model))


@pytest.mark.parametrize("content", [pd.DataFrame.head, None])
def test_empty_window_is_read_once_rows_arrive(tmp_path: Path, content):
    config = load_model_config(write_model(tmp_path))
    if content is None:
        (tmp_path / "rows.parquet").write_bytes(b"")
    else:
        rows().head(0).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(SourceError if content is None else SourceEmpty):
        read_and_land(config)
    rows().to_parquet(tmp_path / "rows.parquet")
    lands_once_mended(config)
