"""A training that is killed, or told to end, ends in the same model as one that is not, bit for bit."""

import json
import logging
import random
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import sparse
from xgboost import Booster

from tasks.adapters.boosters import xgboost_rounds
from tasks.adapters.checkpoints.store import CheckpointStore
from tasks.adapters.checkpoints.training import TrainingCheckpoints, content_digest
from tasks.adapters.models import estimators
from tasks.adapters.models.estimators import FitPlan
from tasks.adapters.storage.workspace import workspace
from tests.support.killed_training import SAMPLED, Attempts, run
from tests.support.object_store import object_store
from tests.support.trained_models import make_config, make_rows

STORE = CheckpointStore("binary_model", "decision")
TRAINING = {"parameters": {**SAMPLED, "n_estimators": 12}, "min_rows": 200}


@pytest.mark.parametrize(
    ("scheme", "task", "by", "in_prefect"),
    [
        ("s3", "binary", signal.SIGKILL, False),
        ("", "multiclass", signal.SIGTERM, False),
        ("", "regression", signal.SIGTERM, True),
    ],
)
def test_an_ended_training_continues_and_ends_in_the_same_model(monkeypatch, scheme, task, by, in_prefect):
    draw = random.Random(task)
    # SIGTERM has its checkpoint whatever the interval; only SIGKILL needs those on the way
    every_s, ends = (0.0 if by == signal.SIGKILL else 600.0), tuple(draw.randint(2, 15) for _ in range(3))
    with object_store(scheme, monkeypatch) if scheme else nullcontext("") as bucket:
        if bucket:
            monkeypatch.setenv("PERENNIAL_LAKE", f"{bucket}/lake")
        ended, last, undisturbed = run(Attempts(task, SAMPLED, ends, by, every_s, in_prefect))
    assert {each.status for each in ended} == {-by}
    assert (last.model, last.metrics) == (undisturbed.model, undisturbed.metrics)
    lost = len(ends)  # the round in which the end arrives: it has no checkpoint, or its loss is not measured yet
    assert undisturbed.rounds - sum(ends) <= last.rounds <= undisturbed.rounds - sum(ends) + lost


def trained(rows: pa.Table | None = None, every_s: float = 0.0, **changes: Any) -> tuple[bytes, int]:
    """Train, and return the booster and the number of rounds that it took in both fits together."""
    config = make_config(training={**TRAINING, **changes})
    checkpoints = TrainingCheckpoints(STORE, "hash of the rows", every_s)
    counted, update = [0], Booster.update

    def counting(self: Booster, dtrain: Any, iteration: int, fobj: Any = None) -> None:
        counted[0] += 1
        update(self, dtrain, iteration, fobj)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Booster, "update", counting)
        fitted = estimators.fit(config, make_rows() if rows is None else rows, plan=FitPlan(checkpoints=checkpoints))
    return bytes(fitted.scorer.estimator.get_booster().save_raw("ubj")), counted[0]


def files() -> list[Path]:
    return sorted(path for path in Path(workspace().lake).rglob("*") if path.is_file())


def test_a_complete_training_is_read_and_not_repeated(caplog):
    model, rounds = trained()
    assert rounds > 12
    assert [path.name for path in files()] == ["early-stopping-0-150", "final-fit"]
    with caplog.at_level(logging.INFO):
        assert trained() == (model, 0)
    assert [record.message for record in caplog.records] == [
        f"training: early-stopping-0-150 continues after round {rounds - 12} of a checkpoint",
        "training: final-fit continues after round 12 of a checkpoint",
    ]


def test_a_short_training_writes_nothing_and_has_the_same_model():
    model, _ = trained()
    STORE.delete_all()
    assert trained(every_s=600.0)[0] == model
    assert files() == []


@pytest.mark.parametrize("changed", ["rows", "parameters", "seed", "label"])
def test_a_checkpoint_of_other_rows_or_settings_is_never_used(caplog, changed):
    trained()
    rows, changes = make_rows(), {}
    if changed == "rows":
        rows = make_rows(seed=1)
    elif changed == "label":
        labels = rows["label"].to_pylist()
        rows = rows.set_column(rows.column_names.index("label"), "label", pa.array([1 - labels[0], *labels[1:]]))
    elif changed == "seed":
        changes = {"seed": 8}
    else:
        changes = {"parameters": {**TRAINING["parameters"], "max_depth": 2}}
    with caplog.at_level(logging.WARNING):
        model, rounds = trained(rows, **changes)
    assert rounds > 12
    assert len([record for record in caplog.records if "made from other rows or settings" in record.message]) == 2
    STORE.delete_all()
    assert trained(rows, **changes) == (model, rounds)


def test_a_damaged_checkpoint_is_not_used(caplog):
    model, rounds = trained()
    for path in files():
        path.write_bytes(path.read_bytes()[:-20])
    with caplog.at_level(logging.WARNING):
        assert trained() == (model, rounds)
    assert [record.message.partition("; ")[0] for record in caplog.records] == [
        "binary_model: checkpoint early-stopping-0-150 is damaged",
        "binary_model: checkpoint final-fit is damaged",
    ]


def test_the_booster_says_how_many_rounds_it_has(caplog):
    """A checkpoint whose history has another length, as an incompatible version might write, is not used."""
    model, _ = trained()
    phase = TrainingCheckpoints(STORE, "", 0).phase("final-fit")
    header, _, content = files()[1].read_bytes().partition(b"\n")
    STORE.put(
        "final-fit",
        json.loads(header)["identity"],
        b'{"validation_0": {"logloss": [0.5]}}\n' + content.partition(b"\n")[2],
    )
    with caplog.at_level(logging.WARNING):
        assert trained() == (model, 12)
    assert "holds 12 rounds, but a history of {1}" in caplog.text
    assert phase.load() is None


def test_dart_and_forests_per_round_continue_too():
    for parameters in ({"booster": "dart"}, {"num_parallel_tree": 2, "subsample": 0.5}):
        given = {"parameters": {"n_estimators": 8, "max_depth": 2, **parameters}, "early_stopping_rounds": None}
        STORE.delete_all()
        complete, _ = trained(**given)
        STORE.delete_all()
        with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
            patch.setattr(xgboost_rounds.Recorder, "after_iteration", interrupting(5))
            trained(**given)
        assert trained(**given) == (complete, 3)


def interrupting(rounds: int) -> Any:
    after = xgboost_rounds.Recorder.after_iteration

    def interrupt(self: Any, model: Any, epoch: int, log: Any) -> bool:
        found = after(self, model, epoch, log)
        if epoch + 1 == rounds:
            raise KeyboardInterrupt
        return found

    return interrupt


def test_a_random_forest_trains_without_checkpoints():
    trained(estimator="xgboost:XGBRFClassifier", parameters={"n_estimators": 5})
    assert files() == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32)),
        (np.zeros(4, np.float32), np.zeros(4, np.int32)),
        (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [2, 1]})),
        (sparse.csr_matrix([[0, 1]]), sparse.csr_matrix([[1, 0]])),
    ],
)
def test_inputs_differ_by_value_type_and_shape(one, other):
    assert content_digest(one) == content_digest(one.copy()) != content_digest(other)
