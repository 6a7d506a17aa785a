"""Flows of a model run one at a time, and everything they write records the token of their lease."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from flows.promote import promote
from flows.retrain import retrain
from flows.rollback import rollback
from tasks.adapters import ledger, registry
from tasks.adapters.storage.lease import check, hold
from tasks.policy.records.base import utc
from tasks.policy.records.errors import FencedOut, LeaseHeld
from tasks.rollout import lease as stage
from tests.support.small_model import write_model

pytestmark = pytest.mark.usefixtures("prefect_server")
FIRST = utc("2024-01-21")


def test_writes_record_the_lease_token(tmp_path):
    model = write_model(tmp_path)
    retrain(model, until=FIRST)
    promote(model, until=FIRST)
    assert [entry.lease for entry in ledger.entries("small")] == [1, 1, 1, 2]
    tags = registry.tags("small", "1")
    assert tags["lease"] == "1", "the registering task, which has a timeout, knows the lease of its flow"
    assert check("small") is None, "no lease is held after a run"


def test_flow_waits_for_the_lease_and_fails_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "PATIENCE_S", 0.5)
    model = write_model(tmp_path)
    with (
        hold("small", "retrain"),
        ThreadPoolExecutor(1) as elsewhere,
        pytest.raises(LeaseHeld, match=r"retrain by .* holds the lease"),
    ):
        elsewhere.submit(promote, model, until=FIRST).result()
    assert ledger.entries("small") == ()


def test_rollback_fences_out_a_training(tmp_path, monkeypatch):
    model = write_model(tmp_path)
    retrain(model, until=FIRST)
    facts = ledger.entries("small")

    def roll_back_meanwhile(*_: object) -> None:
        with ThreadPoolExecutor(1) as elsewhere, pytest.raises(Exception, match="nothing to roll back to"):
            elsewhere.submit(rollback, model, reason="answers are wrong", until=FIRST).result()

    monkeypatch.setattr("flows.retrain.land_labels", roll_back_meanwhile)
    with pytest.raises(FencedOut, match="rollback by"):
        retrain(model, until=FIRST, reason="a second one")
    assert ledger.entries("small") == facts
    assert len(registry.client().search_model_versions("name='small'")) == 1
