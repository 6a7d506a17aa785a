"""The split: labels that are not due yet and the holdout are excluded from training."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from flows.promote import promote
from flows.retrain import retrain
from tasks.adapters import lake, ledger, registry
from tasks.adapters.lake.schemas import conform_labels
from tasks.data.split import split_labelled_rows
from tasks.policy.evidence.ledger import Fact
from tasks.policy.records.base import Window, utc
from tasks.policy.records.errors import TooEarly
from tasks.policy.records.reports import QualityReport
from tests.support.small_model import write_model
from tests.support.trained_models import START, TRAINING, land, make_config, make_rows

LATE = {
    "id": "id", "time": "time", "label": "label", "label_delay_hours": 336,
    "features": {"numeric": ["x", "noise"], "categorical": ["colour"], "boolean": ["flag"]},
}  # fmt: skip


def test_holdout_is_the_latest_labelled_days():
    config = make_config(columns=LATE)
    land(config, TRAINING, make_rows(rows=6000))
    training, holdout = split_labelled_rows.fn(config, TRAINING.end)
    assert training.window.end == holdout.window.start == utc("2024-02-11")  # 14 days of delay, 5 of holdout
    assert training.labelled_rows == training.rows == 4100
    assert holdout.labelled_rows == holdout.rows == 500, "100 rows a day, on the five days before the delay"


def test_holdout_with_label_times_is_nearly_complete_days():
    """Labels 5 to 12 days after their row, uniformly: 98 % of each class within 11.9 days."""
    own_time = {**LATE, "label_delay_hours": 0, "label_time": "came"}
    config, rows = make_config(columns=own_time), make_rows(rows=6000)
    lags = np.random.default_rng(0).permutation(np.linspace(5, 12, 6000)) * 86_400_000_000
    came = pa.array(rows["time"].to_numpy() + lags.astype("timedelta64[us]"), pa.timestamp("us", "UTC"))
    rows = rows.append_column("came", came)
    land(config, TRAINING, rows)
    training, holdout = split_labelled_rows.fn(config, TRAINING.end)
    assert training.window.end == holdout.window.start
    assert TRAINING.end - training.window.end == pytest.approx(timedelta(days=16.8), abs=timedelta(days=0.2))
    assert training.labelled_rows == training.rows
    assert 490 <= holdout.labelled_rows <= holdout.rows == 500, "five days of 100 rows, of which nearly all labels came"
    later = TRAINING.end + timedelta(days=60)
    lake.land_labels(config, conform_labels(config, rows, "test"), later)
    assert split_labelled_rows.fn(config, later)[1].labelled_rows == 500, "requested by hand: the last days with rows"
    few = make_config(columns=own_time, period={"start": utc("2024-02-14"), "history_until": TRAINING.end})
    with pytest.raises(
        TooEarly,
        match=r"more than the 16 that .* \(11\.9 days, in which 98% of the labels of each class arrived according to came",
    ):
        split_labelled_rows.fn(few, TRAINING.end)


def test_holdout_waits_for_late_rare_class():
    """One row in sixty is positive and known after 20 days, all others the next day: no day is judged without positives."""
    config, rows = make_config(columns={**LATE, "label_delay_hours": 0, "label_time": "came"}), make_rows(rows=6000)
    rare = np.arange(6000) % 60 == 0
    days = np.where(rare, 20, 1).astype("timedelta64[D]").astype("timedelta64[us]")
    rows = rows.drop_columns(["label"]).append_column("label", pa.array(rare.astype(int)))
    rows = rows.append_column("came", pa.array(rows["time"].to_numpy() + days, pa.timestamp("us", "UTC")))
    land(config, TRAINING, rows)
    training, holdout = split_labelled_rows.fn(config, TRAINING.end)
    assert training.window.end == TRAINING.end - timedelta(days=25), "20 days of delay, 5 of holdout"
    assert holdout.labelled_rows == holdout.rows == 500
    latest = Window(TRAINING.end - timedelta(days=28), TRAINING.end - timedelta(days=14))
    measured = lake.labelled_rows(config, latest, TRAINING.end)
    assert measured.num_rows == 801, "of 1,400 rows, those that are at least 20 days old"
    assert sum(measured["label"].to_pylist()) == pytest.approx(800 / 60, abs=1)


def test_holdout_excludes_days_without_rows():
    """Requested by hand a month later, the same rows are held out; windows stored meanwhile are quarantined."""
    config = make_config()
    land(config, TRAINING, make_rows(rows=6000))
    later = TRAINING.end + timedelta(days=31)
    training, holdout = split_labelled_rows.fn(config, later)
    assert training.window.end == TRAINING.end - timedelta(days=5)
    assert holdout.labelled_rows == 500
    bad = Window(TRAINING.end, TRAINING.end + timedelta(days=5))
    land(config, bad, make_rows(window=bad))
    ledger.append(
        config.name, Fact("window.quarantined", QualityReport(bad, "fail", 1000, (), 1000, ("it is bad",)), bad.end)
    )
    assert split_labelled_rows.fn(config, later)[1].labelled_rows == 500


@pytest.mark.usefixtures("prefect_server")
def test_first_model_trained_late_uses_the_end_of_its_history(tmp_path):
    model = write_model(tmp_path)
    report = retrain(model)  # as of the end of recorded data, 16 days after the history
    assert (report.verdict, report.rows) == ("pass", 225)


def test_too_short_history_refusal_counts_days():
    config = make_config(columns=LATE)
    land(config, TRAINING, make_rows())
    with pytest.raises(TooEarly, match=r"2024-01-20 is 19 days after 2024-01-01.* expected more than the 19 that"):
        split_labelled_rows.fn(config, utc("2024-01-20"))


def test_history_without_training_days_is_refused():
    with pytest.raises(ValidationError, match=r"19 days after period\.start, expected more than the 19"):
        make_config(columns=LATE, period={"start": START, "history_until": utc("2024-01-20")})


@pytest.mark.usefixtures("prefect_server")
def test_label_delay_longer_than_holdout_works(tmp_path):
    model = write_model(tmp_path, **{"label_delay_hours: 12": "label_delay_hours: 120"})
    assert retrain(model, until=utc("2024-01-21")).verdict == "pass"
    assert promote(model, until=utc("2024-01-21")).champion == registry.aliases("small")[registry.CHAMPION] == "1"
