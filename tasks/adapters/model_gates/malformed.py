"""Rows that break the model's contract, made from real ones: a missing, a renamed or an ill-typed column, and no rows.

The kinds are those of the model's file, not of the packaged model, whose own schema could be the mistake. Columns beside the
features are no fault: rows carry ids, times and labels.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

import pyarrow as pa

from deployments.config.blocks.data import Features

MOST_FEATURES = 20
"""Features whose column is taken away and replaced, the first ones of the model's file."""
OF_ANOTHER_TYPE = {"numeric": "text", "boolean": "text", "categorical": datetime(2024, 1, 1, tzinfo=UTC)}
"""A value that no feature of the kind may hold."""


def malformed_rows(features: Features, known: tuple[str, ...], rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Yield (what is wrong, rows) from one row; `known` are the columns that the model reads."""
    row = rows.slice(0, 1)
    yield "no rows, but an answer", rows.slice(0, 0)
    read = [name for name in known if name in rows.column_names]
    for name in read[:MOST_FEATURES]:
        yield f"without column {name}", row.drop_columns([name])
    if read:
        renamed = [f"{name} (renamed)" if name == read[0] else name for name in row.column_names]
        yield f"an unknown column instead of {read[0]}", row.rename_columns(renamed)
    for kind, value in OF_ANOTHER_TYPE.items():
        for name in [name for name in getattr(features, kind) if name in read][:MOST_FEATURES]:
            wrong = pa.array([value] * len(row))
            yield f"{name} as {wrong.type}", row.set_column(row.column_names.index(name), name, wrong)
