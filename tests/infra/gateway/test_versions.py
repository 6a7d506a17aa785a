"""Following the registry and the split: versions change between requests, and doubt means that the champion answers."""

import pytest

from infra.gateway import versions
from tasks.adapters import ledger, registry
from tasks.adapters.storage.workspace import workspace as current_workspace
from tasks.policy.evidence.ledger import Fact
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.records.base import utc
from tests.support.gateway import NAME, gateway_of, prepare, split_traffic

CANARY = {"mode": "canary", "share": 0.5}


@pytest.fixture
def config(workspace):
    return prepare(workspace)


@pytest.fixture
def follower(config):
    return gateway_of(config).services[NAME].follower


def answering(follower) -> tuple[str, str | None]:
    serving = follower.serving
    return serving.champion.number, serving.challenger.number if serving.challenger else None


def test_a_moved_alias_and_a_new_split_are_followed(config, follower):
    assert answering(follower) == ("1", None)
    split_traffic(config, **CANARY)
    follower.refresh()
    assert answering(follower) == ("1", "2")
    registry.set_aliases(NAME, {registry.CHAMPION: "2"})
    follower.refresh()
    assert answering(follower) == ("2", None)
    assert "the split is between 1 and 2, but champion 2 serves" in follower.fault


def test_a_version_with_a_verdict_against_it_does_not_answer(config, follower):
    report = ValidationReport("2", "1", "fail", (), ("it loses",), rows=10)
    for kind, body in (("challenger.registered", registry.version(NAME, "2")), ("challenger.refused", report)):
        ledger.append(NAME, Fact(kind, body, utc("2024-03-06"), "d2"))
    registry.set_aliases(NAME, {registry.CHAMPION: "2"})
    follower.refresh()
    assert answering(follower) == ("1", None)
    assert "alias champion is on version 2, whose validation says fail (it loses)" in follower.fault
    restarted = gateway_of(config).services[NAME].follower
    assert restarted.serving is None and "whose validation says fail" in restarted.fault


def test_a_promoted_challenger_is_not_loaded_again(config, follower, monkeypatch):
    split_traffic(config, **CANARY)
    follower.refresh()
    challenger = follower.serving.challenger
    registry.set_aliases(NAME, {registry.CHAMPION: "2"})
    follower.refresh()
    assert follower.serving.champion is challenger


@pytest.mark.parametrize("status", ["quarantined", "rejected"])
def test_a_barred_challenger_is_not_followed(config, follower, status):
    split_traffic(config, **CANARY)
    registry.tag(NAME, "2", status=status)
    follower.refresh()
    assert answering(follower) == ("1", None)
    assert f"challenger 2 is {status}" in follower.fault


def test_a_challenger_that_cannot_be_loaded_is_tried_again_later(config, follower, monkeypatch):
    split_traffic(config, **CANARY)
    loads = []

    def load(version, estimator):
        loads.append(version.version)
        raise OSError("the store is away")

    with monkeypatch.context() as away:
        away.setattr(registry.version_files, "load_scorer", load)
        for _ in range(3):
            follower.refresh()
    assert (answering(follower), loads) == (("1", None), ["2"])
    assert "challenger 2 cannot be loaded: the store is away" in follower.fault
    monkeypatch.setattr(versions, "RELOAD_AFTER_S", 0.0)
    follower.refresh()
    assert answering(follower) == ("1", "2")


def test_an_unreadable_split_means_the_champion(config, follower):
    split_traffic(config, **CANARY)
    path = next((current_workspace().home / "ledger" / "_traffic" / NAME).glob("*.json"))
    path.write_text("{")
    follower.refresh()
    assert answering(follower) == ("1", None)


def test_without_the_registry_the_loaded_versions_keep_answering(config, follower, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////nowhere/mlflow.db")
    for _ in range(3):
        follower.refresh()
    assert answering(follower) == ("1", None)
    assert len([one for one in caplog.records if "the champion cannot be read" in one.getMessage()]) == 1
