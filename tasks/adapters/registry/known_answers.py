"""Rows with the answers that a model gave when it was trained, stored with its version.

A validation gives the packaged model the same rows in another process and expects the same answers. The rows are those of
the reference sample, which holds no personal data; a model that reads columns which are not in it gets synthetic rows.
"""

import numpy as np
import pyarrow as pa

from tasks.adapters.models.files import REFUSALS, Floats, Scorer
from tasks.adapters.profiling.reference_sample import ReferenceSample
from tasks.policy.records.errors import FeatureError

ROWS = 64
ANSWER = "answer "
"""Beginning of the name of each column that holds answers, one for each class of several."""


def answer_rows(scorer: Scorer, sample: ReferenceSample | None) -> pa.Table | None:
    """Return rows with the scorer's answers; None if it answers none, which its validation then reports."""
    rows = None if sample is None or not len(sample.rows) else sample.rows.slice(0, ROWS)
    if rows is None or not set(scorer.encoding.names) <= set(rows.column_names):
        rows = scorer.synthetic_rows(ROWS)
    try:
        answers = scorer.predict(rows)
    except (FeatureError, *REFUSALS):
        return None
    return with_answers(rows, answers)


def with_answers(rows: pa.Table, answers: Floats) -> pa.Table:
    """Append the answers (n,) or (n, classes) to their rows."""
    columns = [answers] if answers.ndim == 1 else list(answers.T)
    for place, column in enumerate(columns):
        rows = rows.append_column(f"{ANSWER}{place}", pa.array(column))
    return rows


def answers_in(rows: pa.Table) -> Floats:
    """Return the answers (n,) or (n, classes) that were appended to rows."""
    columns = [rows.column(name).to_numpy() for name in rows.column_names if name.startswith(ANSWER)]
    return np.asarray(columns[0] if len(columns) == 1 else np.column_stack(columns), float)


def without_answers(rows: pa.Table) -> pa.Table:
    """Return the rows alone."""
    return rows.select([name for name in rows.column_names if not name.startswith(ANSWER)])


def to_ipc(rows: pa.Table) -> bytes:
    """Write rows as an Arrow stream, which keeps every type."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue().to_pybytes())


def from_ipc(content: bytes) -> pa.Table:
    """Read rows that `to_ipc` wrote."""
    with pa.ipc.open_stream(content) as reader:
        return reader.read_all()
