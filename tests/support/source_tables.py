"""One table of three windows, written as any kind of source: shared by the tests of sources."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy

from deployments.config.model import ModelConfig
from tasks.adapters.lake.casts import MOMENT
from tasks.policy.records.base import Window
from tests.support.monitored_model import WINDOW, model, rows

HOUR = timedelta(hours=1)
BEFORE = Window(WINDOW.start - (WINDOW.end - WINDOW.start), WINDOW.start)
ALL = pa.concat_tables([rows(40, 1, BEFORE), rows(50), rows(30, 2, WINDOW.next())])
TABLE = ALL.append_column("churned", pa.array([0, 1] * 60)).append_column("unused", pa.array(["x"] * 120))
WANTED = ["id", "at", "amount", "age", "country", "member"]


def source(kind: str, path: Path | str | None = None, **settings: Any) -> ModelConfig:
    place = {} if path is None else {"path": str(path)}
    return model(source={"kind": kind, **place, **settings})


def parquet(folder: Path, table: pa.Table = TABLE, **settings: Any) -> ModelConfig:
    pq.write_table(table, folder / "rows.parquet", row_group_size=20)
    return source("parquet", folder / "rows.parquet", **settings)


def replaced(name: str, values: Any) -> pa.Table:
    return TABLE.set_column(
        TABLE.column_names.index(name), name, values if isinstance(values, pa.Array) else pa.array(values)
    )


def clock(kind: pa.DataType) -> pa.Table:
    return TABLE.set_column(1, "at", TABLE["at"].cast(kind))


def assert_is_the_window(table: pa.Table) -> None:
    assert table.column_names == WANTED, "unused columns and the label are not read"
    assert sorted(table["id"].to_pylist()) == sorted(rows(50)["id"].to_pylist())
    assert table.schema.field("at").type == MOMENT
    assert [str(table.schema.field(name).type) for name in WANTED[2:]] == ["double", "double", "string", "bool"]
    by_id = dict(zip(table["id"].to_pylist(), table["amount"].to_pylist(), strict=True))
    assert by_id["0-7"] == pytest.approx(rows(50)["amount"][7].as_py())


def database(monkeypatch: pytest.MonkeyPatch, folder: Path, query: str, **settings: Any) -> ModelConfig:
    address = f"sqlite:///{folder / 'rows.db'}"
    monkeypatch.setenv("ROWS_URL", address)
    frame = TABLE.to_pandas()
    frame["at"] = frame["at"].dt.tz_convert("UTC").dt.tz_localize(None)
    engine = sqlalchemy.create_engine(address)
    frame.to_sql("rows", engine, index=False)
    engine.dispose()
    return source("sql", url_env="ROWS_URL", query=query, options={"time_zone": "UTC"}, **settings)


QUERY = "select * from rows where at >= :start and at < :end"
