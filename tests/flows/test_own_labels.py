"""Labels that lie elsewhere: late, corrected, withdrawn, repeated, and of rows that nobody has."""

from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy

from deployments.cli import main
from deployments.config.loading import load_model_config
from flows.monitor import monitor
from flows.promote import promote
from flows.retrain import retrain
from flows.score import score
from tasks.adapters import lake
from tasks.policy.records.base import Window, utc
from tasks.policy.records.errors import ModelConfigError
from tests.support.small_model import rows, write_model
from tests.support.ways_in import example

pytestmark = pytest.mark.usefixtures("prefect_server")

BLOCK = f"{example('labels')}window_days: 2\n"


def outcomes(table: pd.DataFrame, delay: timedelta = timedelta(hours=20)) -> pd.DataFrame:
    return pd.DataFrame(
        {"row_id": table["row"], "known_at": table["at"] + delay, "outcome": table["y"], "clerk": "somebody"}
    )


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write the small model without labels in its rows, and its labels to a database; `write` replaces these."""
    table = rows()
    model = write_model(tmp_path, table.drop(columns="y"), **{"window_days: 2\nperiod": f"{BLOCK}period"})
    address = f"sqlite:///{tmp_path / 'labels.db'}"
    monkeypatch.setenv("LABELS_URL", address)

    def write(labels: pd.DataFrame) -> None:
        engine = sqlalchemy.create_engine(address)
        labels.to_sql("outcomes", engine, index=False, if_exists="replace")
        engine.dispose()

    write(outcomes(table))
    return model, table, write


def serve(model: str, day: int):
    score(model, until=utc(f"2024-01-{day:02d}"))
    return monitor(model, until=utc(f"2024-01-{day:02d}"))


def known(model: str, start: int, end: int, as_of: str) -> pd.Series:
    config = load_model_config(model)
    window = Window(utc(f"2024-01-{start:02d}"), utc(f"2024-01-{end:02d}"))
    table = lake.labelled_rows(config, window, utc(as_of), [config.columns.key, config.columns.label])
    return table.to_pandas().set_index("row")["y"]


def test_a_model_lives_from_labels_of_another_source(own):
    model, table, _ = own
    validation = retrain(model, until=utc("2024-01-21"))
    assert validation.verdict == "pass"
    promote(model, until=utc("2024-01-21"))
    judgement = serve(model, 23)
    report = judgement.evidence.performance
    assert (report.rows, report.maturity) == (300, "maturing")
    due = table[(table["at"] >= utc("2024-01-21")) & (table["at"] <= utc("2024-01-23") - timedelta(hours=32))]
    assert report.labelled_rows == len(due), "known 20 hours after the row, and read 12 hours later"


def test_corrections_withdrawals_repeats_and_orphans(own, caplog):
    model, table, write = own
    retrain(model, until=utc("2024-01-21"))
    promote(model, until=utc("2024-01-21"))
    serve(model, 23)
    labels, inside = outcomes(table), table["at"].between(utc("2024-01-21"), utc("2024-01-22"))
    first, second, third = table.index[inside][:3]
    later = utc("2024-01-24")
    changes = [
        {"row_id": table["row"][first], "known_at": later, "outcome": 77.0},  # corrected
        {"row_id": table["row"][second], "known_at": later, "outcome": None},  # withdrawn
        {"row_id": table["row"][third], "known_at": labels["known_at"][third], "outcome": labels["outcome"][third]},
        {"row_id": "of nobody", "known_at": later, "outcome": 1.0},
    ]
    before = known(model, 21, 22, "2024-01-23")
    write(pd.concat([labels.assign(clerk=None), pd.DataFrame(changes)], ignore_index=True))
    serve(model, 25)
    after = known(model, 21, 22, "2024-01-25")
    assert before[table["row"][first]] == pytest.approx(table["y"][first])
    assert after[table["row"][first]] == 77.0
    assert table["row"][second] in before.index
    assert table["row"][second] not in after.index
    assert after[table["row"][third]] == pytest.approx(table["y"][third])
    assert before[table["row"][first]] == pytest.approx(known(model, 21, 22, "2024-01-23")[table["row"][first]])
    assert "1 labels belong to no row that has landed, 1 labels repeat another label" in caplog.text


def test_a_repeated_id_gets_the_label_of_its_latest_row(tmp_path, monkeypatch):
    """A customer is scored each week; an outcome belongs to the row before it."""
    import pyarrow as pa

    from tasks.adapters.sources.own_labels import read_own_labels

    pd.DataFrame(
        {"row_id": ["c1", "c1", "c1", "c2"], "known_at": pd.to_datetime(["2024-01-03", "2024-01-10", "2023-12-30", "2024-01-09"], utc=True), "outcome": [1.0, 2.0, 3.0, 4.0]}
    ).to_parquet(tmp_path / "labels.parquet")  # fmt: skip
    source = "labels: {source: {kind: parquet, path: labels.parquet}, id: row_id, time: known_at, label: outcome}\n"
    config = load_model_config(write_model(tmp_path, **{"window_days: 2\nperiod": f"{source}window_days: 2\nperiod"}))
    span = Window(utc("2024-01-01"), utc("2024-01-15"))
    times = pa.array([utc("2024-01-01"), utc("2024-01-08"), utc("2024-01-08")], pa.timestamp("us", "UTC"))
    keys = pa.table({"row": ["c1", "c1", "c2"], "at": times})
    found = read_own_labels(config, Window(utc("2023-12-01"), utc("2024-02-01")), keys, span)
    assert found.labels.select(["row", "at", "y"]).to_pylist() == [
        {"row": "c1", "at": utc("2024-01-01"), "y": 1.0},
        {"row": "c1", "at": utc("2024-01-08"), "y": 2.0},
        {"row": "c2", "at": utc("2024-01-08"), "y": 4.0},
    ]
    assert found.orphans == 1, "known before the first row"


def test_check_reads_both_sources(own, capsys):
    model, *_ = own
    assert main(["check", "--data", model]) == 0
    shown = capsys.readouterr().out
    assert "300 rows in 2024-01-19..2024-01-21, 300 with a label so far" in shown


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  id: row_id\n", "  id: [row_id, clerk]\n", "expected as many columns as columns.id has: row"),
        ("  time: known_at\n", "", "labels.time is missing; expected when the label became known"),
        ("label: y", "label: y\n  label_time: at", "expected the time under labels.time only"),
        ("    url_env: LABELS_URL\n", "", "labels.source"),
    ],
)
def test_mistakes_are_named(own, old, new, message):
    model = Path(own[0])
    text = model.read_text(encoding="utf-8")
    assert old in text
    model.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ModelConfigError, match=message):
        load_model_config(model)
