"""The label gate in the loop: bad labels are reported and neither decided on nor trained on."""

import numpy as np
import pandas as pd
import pytest

from deployments.config.loading import load_model_config
from flows.monitor import monitor
from flows.promote import promote
from flows.retrain import retrain
from flows.score import score
from tasks.adapters import lake, ledger
from tasks.data.split import split_labelled_rows
from tasks.policy.evidence.monitoring import Judgement
from tasks.policy.records.base import utc
from tasks.record.fleet import survey_files
from tests.support.small_model import rows, write_model

pytestmark = pytest.mark.usefixtures("prefect_server")
FIRST, JUMP = utc("2024-01-21"), utc("2024-01-23")


OWN = {"limit: 1.0": "limit: 1.01"}
"""A policy of its own, so that its decision ids differ from those of other tests."""


def begin(folder, table: pd.DataFrame) -> str:
    model = write_model(folder, table, **OWN)
    retrain(model, until=FIRST)
    promote(model, until=FIRST)
    return model


def judged(model: str, until: str) -> list[Judgement]:
    found = []
    for window in load_model_config(model).windows(end=utc(until)):
        score(model, until=window.end)
        found.append(monitor(model, until=window.end))
    return found


def test_rescaled_labels_are_not_used_until_accepted(tmp_path):
    table = rows()
    model = begin(tmp_path, table.assign(y=table["y"].where(table["at"] < JUMP, table["y"] * 1000)))
    sound, first, second = (judgement.decision for judgement in judged(model, "2024-01-27"))
    assert (sound.blocked_by, first.blocked_by, second.blocked_by) == (None, "labels", "labels")
    assert not first.retrain and not second.retrain
    assert first.diagnosis == "upstream_data_fault"
    assert "the labels of 2024-01-23..2024-01-25 cannot be trusted (labels (y): they spread" in first.reasons[0]
    assert [entry.kind for entry in ledger.entries("small")].count("labels.quarantined") == 2
    training, holdout = split_labelled_rows.fn(load_model_config(model), utc("2024-01-27"))
    taught = lake.read_labelled(training, ["y"])["y"].to_numpy()
    asked = lake.read_labelled(holdout, ["y"])["y"].to_numpy()
    assert len(taught) and len(asked) and np.abs(np.r_[taught, asked]).max() < 20, "also refused for a manual retrain"

    accepted = write_model(
        tmp_path, table.assign(y=table["y"].where(table["at"] < JUMP, table["y"] * 1000)),
        **OWN | {"performance:": "quality: {labels: {on_unit_change: warn}}\nperformance:"},
    )  # fmt: skip
    window = load_model_config(accepted).windows(end=utc("2024-01-29"))[-1]
    score(accepted, until=window.end)
    assert monitor(accepted, until=window.end).decision.retrain
    assert "labels.sound" in {entry.kind for entry in ledger.entries("small")}


@pytest.mark.slow("lives through several windows")
def test_missing_labels_become_overdue(tmp_path):
    table = rows()
    model = begin(tmp_path, table.assign(y=table["y"].mask(table["at"] >= JUMP)))
    *_, early, late = judged(model, "2024-01-27")
    assert early.decision.blocked_by is None, "the labels of its last half day are still due"
    assert (late.decision.blocked_by, late.decision.diagnosis) == ("labels", "upstream_data_fault")
    assert "0 of 300 rows of 2024-01-23..2024-01-25 have a label, although all are due" in late.decision.reasons[0]
    fleet = survey_files([model], utc("2024-01-27"))
    assert (fleet.members[0].health, fleet.members[0].needs[0].kind) == ("action required", "labels")
    assert "0 of 300 rows" in fleet.members[0].needs[0].sentence


@pytest.mark.slow("lives through several windows")
def test_infinite_labels_are_counted_and_reported(tmp_path):
    table = rows()
    some = (table["at"] >= JUMP) & (table.index % 50 == 0)
    many = (table["at"] >= utc("2024-01-25")) & (table.index % 3 == 0)
    model = begin(tmp_path, table.assign(y=table["y"].mask(some | many, np.inf)))
    _, few, most = judged(model, "2024-01-27")
    assert (few.evidence.performance.labels.verdict, few.decision.blocked_by) == ("warn", None)
    assert any("5 infinite; they are left out" in reason for reason in few.decision.reasons)
    assert (most.evidence.performance.labels.verdict, most.decision.blocked_by) == ("fail", "labels")


@pytest.mark.slow("lives through several windows")
def test_concept_drift_is_not_a_label_fault(tmp_path):
    model = begin(tmp_path, rows())
    decided = judged(model, "2024-02-01")
    assert any(judgement.decision.retrain for judgement in decided)
    reports = [judgement.evidence.performance.labels for judgement in decided]
    assert [report.verdict for report in reports] == ["pass"] * 3 + ["warn"] * (len(reports) - 3)
    assert all("or the relationship reversed" in report.reasons[0] for report in reports[3:])
