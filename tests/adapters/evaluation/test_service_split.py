"""A split of somebody else's traffic in the lake: its windows, its units, and what its rows have in common."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from deployments.config.model import ModelConfig
from tasks.adapters import lake
from tasks.adapters.evaluation.prediction_log import read_logged
from tasks.adapters.evaluation.rollout_labels import LabelledSpan, split_arms
from tasks.adapters.evaluation.service_split import JUDGED, Versions, read_split, why_not_split
from tasks.adapters.lake.schemas import conform_labels
from tasks.policy.records.base import Window
from tasks.policy.rollout.state import Rollout
from tasks.policy.statistics.metrics import Metric
from tests.support.monitored_model import WINDOW, model, reference, rows

SECOND = WINDOW.next()
AT = LabelledSpan(Window(WINDOW.start, SECOND.end), SECOND.end + timedelta(days=9))
PAIR = Versions("1", "2")
COUNT = 800


def config_of(**sections: object) -> ModelConfig:
    own = {"performance": {"metric": "mae"}, "columns": {"label_delay_hours": 24}}
    return model(task="regression", **own | sections)


def land(config: ModelConfig, window: Window, to_second: np.ndarray, lost: np.ndarray | None = None, **more) -> None:
    """Land rows, the log of who answered them, and labels except the `lost` ones; version 1 errs by 2, version 2 by 1."""
    table = rows(COUNT, window is SECOND, window, **more)
    lake.land_rows(config, window, table)
    labels = table.select(["id", "at"]).append_column("churned", table["age"])
    known = labels.filter(pa.array(~lost)) if lost is not None else labels
    lake.land_labels(config, conform_labels(config, known, "test"), window.end + timedelta(days=1))
    answers = {
        "id": table["id"],
        "time": table["at"],
        "prediction": pa.array(table["age"].to_numpy() + np.where(to_second, 1.0, 2.0)),
        "model_version": pa.array(np.where(to_second, "2", "1")),
        "role": pa.array(["champion"] * COUNT),
        "step": pa.array([""] * COUNT),
    }
    lake.land_predictions(config, window, "1", pa.table(answers))


def at_random(share: float = 0.3) -> np.ndarray:
    return np.random.default_rng(1).random(COUNT) < share


def test_only_the_windows_that_are_split_are_compared():
    """In the second window version 2 takes over, and would be better on rows of its own."""
    config = config_of()
    land(config, WINDOW, at_random())
    land(config, SECOND, np.arange(COUNT) >= COUNT // 2)
    found = read_split(config, PAIR, AT, reference(config))
    assert list(found.served) == [WINDOW]
    assert found.share == pytest.approx(0.3, abs=0.05)
    assert {"amount", "age", "country", "member", JUDGED} == set(found.codes)
    assert found.why_not_random() is None
    arms = split_arms(config, Rollout("c", "2", "1", (), None, "", WINDOW.start), AT, found.served)
    assert len(arms.challenger.y_true) == at_random().sum()
    assert arms.gain(Metric("mae")).gain == pytest.approx(1.0)
    assert why_not_split(config, PAIR, SECOND) == "one version answered after the other"
    assert read_split(config, PAIR, AT._replace(excluding=(WINDOW.name,)), reference(config)) is None


def test_units_of_several_rows_are_assigned_as_one():
    """Each customer sends four rows in a row, which only `rollout.unit` tells from versions that take turns."""
    customers = np.repeat(np.arange(COUNT // 4), 4)
    to_second = (np.random.default_rng(2).random(COUNT // 4) < 0.5)[customers]
    country = np.array(["DE", "FR", "IT"])[np.random.default_rng(3).integers(0, 3, COUNT // 4)][customers]
    config = config_of(rollout={"mode": "none", "unit": "customer"})
    land(config, WINDOW, to_second, customer=customers, country=country)
    found = read_split(config, PAIR, AT, reference(config))
    assert 190 <= len(found.of_challenger) <= COUNT // 4, "from the first to the last customer of the second version"
    assert found.why_not_random() is None
    assert "took turns" in why_not_split(config_of(), PAIR, WINDOW)


def test_an_even_split_is_measured_by_one_version():
    """By chance, the second version has a few rows more."""
    config = config_of()
    land(config, WINDOW, np.random.default_rng(1).permutation(COUNT) < COUNT // 2 + 10)
    log = {"kind": "parquet", "path": "log.parquet"}
    service = config_of(predictions={"source": log, "time": "at", "prediction": "p", "version": "version"})
    assert read_logged(service, WINDOW, AT.as_of).version == "1"
    assert read_logged(config, WINDOW, AT.as_of).version == "2"


def test_a_version_whose_rows_lose_their_labels_is_not_compared():
    config, to_second = config_of(), at_random()
    land(config, WINDOW, to_second, lost=to_second & (np.random.default_rng(4).random(COUNT) < 0.3))
    assert f"differ in {JUDGED}" in read_split(config, PAIR, AT, reference(config)).why_not_random()
    early = AT._replace(as_of=WINDOW.start + timedelta(days=1))
    assert read_split(config, PAIR, early, reference(config)).why_not_random() is None, "no label is due yet"
