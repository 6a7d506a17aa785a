"""Approval: a promotion waits, accepts an answer from an approver, and rejects after the deadline."""

import shlex
from datetime import timedelta

import pytest

from deployments.config.loading import load_model_config
from flows import promote as promote_module
from flows.promote import promote
from flows.retrain import retrain
from tasks.adapters import ledger, registry
from tasks.policy.records.base import utc
from tasks.policy.records.errors import ModelConfigError, PromotionRefused
from tests.support.small_model import write_model
from tests.support.waiting_promotion import FIRST, HIGH, Waiting, answers

pytestmark = pytest.mark.usefixtures("prefect_server")


def asked_for_by_ada(model: str) -> None:
    retrain(model, until=FIRST, requested_by="Ada")


@pytest.fixture
def model(tmp_path, begin) -> str:
    """A high-risk model whose first challenger, requested by Ada, passed validation."""
    return begin(tmp_path, prepare=asked_for_by_ada, **HIGH)


def test_high_risk_promotion_suspends_until_approved(model):
    waiting = Waiting(model)
    assert waiting.run().name == "Suspended"
    assert registry.CHAMPION not in registry.aliases("small")
    evidence = waiting.asked()
    assert "# May version 1 of small serve?" in evidence
    assert "first model: mae" in evidence
    assert "Requested by Ada; to be answered by Ada, Grace" in evidence
    assert waiting.answer(decision="approve", name="Grace", comment="read the report").status.value == "ACCEPT"
    assert waiting.run().is_completed()
    assert registry.aliases("small")[registry.CHAMPION] == "1"
    ((actor, approval),) = answers()
    assert (actor, approval.verdict, approval.comment) == ("Grace", "approved", "read the report")
    assert ledger.entries("small")[-1].kind == "champion.promoted"
    assert ledger.entries("small")[-1].actor == "Grace"
    assert not ledger.verify("small").problems


def test_requester_cannot_approve(model):
    waiting = Waiting(model)
    waiting.run()
    waiting.answer(decision="approve", name=" ada ")
    assert waiting.run().name == "Suspended"
    assert "ada requested this, expected another person" in waiting.asked()
    assert registry.CHAMPION not in registry.aliases("small")
    waiting.answer(decision="approve", name="Grace")
    assert waiting.run().is_completed()
    assert [entry.actor for entry in ledger.entries("small", kind="access.refused")] == ["ada"]
    assert registry.CHAMPION in registry.aliases("small")


def test_unauthorised_person_cannot_approve(model):
    waiting = Waiting(model)
    waiting.run()
    waiting.answer(decision="approve", name="Mallory")
    assert waiting.run().name == "Suspended"
    assert "Mallory may not approve; access.approve has Ada, Grace" in waiting.asked()


def test_server_refuses_unknown_form_fields(model):
    waiting = Waiting(model)
    waiting.run()
    for form in ({}, {"decision": "maybe", "name": "Grace"}, {"decision": "approve", "name": "G"},
                 {"decision": "approve", "name": "Grace", "admin": "yes"}):  # fmt: skip
        assert waiting.answer(**form).status.value == "REJECT"
    assert registry.CHAMPION not in registry.aliases("small")


def test_rejection_is_final(model):
    waiting = Waiting(model)
    waiting.run()
    waiting.answer(decision="reject", name="Grace", comment="the sample is odd")
    assert waiting.run().is_completed()
    assert registry.CHAMPION not in registry.aliases("small")
    assert registry.tags("small", "1")["status"] == "rejected"
    assert ledger.entries("small")[-1].kind == "challenger.rejected"
    assert promote(model, until=FIRST, approved_by="Grace").verdict == "rejected"
    assert registry.CHAMPION not in registry.aliases("small")


def test_expired_approval_is_a_rejection(model, monkeypatch):
    waiting = Waiting(model)
    waiting.run()
    late = promote_module.wall_clock() + timedelta(hours=load_model_config(model).access.approval_hours, seconds=1)
    monkeypatch.setattr(promote_module, "wall_clock", lambda: late)
    outcome = promote(model, until=FIRST, approved_by="Grace")
    assert outcome.verdict == "expired"
    assert "no one answered the request to approve version 1" in outcome.reasons[0]
    assert ledger.entries("small")[-1].kind == "challenger.rejected"
    assert registry.CHAMPION not in registry.aliases("small")


def test_approval_is_requested_once_per_decision(model):
    first, second = Waiting(model), Waiting(model)
    first.run()
    assert second.run().is_completed()
    assert len(ledger.entries("small", kind="approval.requested")) == 1
    first.answer(decision="approve", name="Grace")
    assert first.run().is_completed()
    assert Waiting(model).run().is_completed(), "a rerun after the promotion requested approval again"
    assert len(ledger.entries("small", kind="champion.promoted")) == 1


def test_command_line_approval_ends_the_suspended_run(model):
    waiting = Waiting(model)
    waiting.run()
    with pytest.raises(PromotionRefused, match="Ada requested this"):
        promote(model, until=FIRST, approved_by="Ada")
    assert promote(model, until=FIRST, approved_by="Grace").action == "promoted"
    waiting.answer(decision="reject", name="Ada")
    assert waiting.run().is_completed()
    assert registry.aliases("small")[registry.CHAMPION] == "1"


def test_run_that_cannot_wait_prints_the_complete_command(model):
    """As in a replay: without its date, the promotion would take effect today."""
    with pytest.raises(PromotionRefused) as caught:
        promote(model)
    message = str(caught.value)
    assert "run, as Ada or Grace: perennial run promote" in message
    command = message[message.index("perennial run promote") :].partition(", or the deployment")[0]
    words = shlex.split(command)[3:]
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert given["--model"] == model
    assert given["--decision-id"] == ledger.entries("small", kind="challenger.registered")[-1].decision_id
    assert given["--approved-by"] == "NAME"
    with pytest.raises(PromotionRefused, match=r"--until 2024-01-21T00:00:00Z"):
        promote(model, until=FIRST)
    promote(model, given["--decision-id"], utc("2024-01-21T00:00:00Z"), approved_by="Grace")
    assert ledger.entries("small", kind="champion.promoted")[-1].at == FIRST


def test_no_approval_request_for_a_failed_challenger(tmp_path):
    floor = "validation: {first_model_floor: 0.001, holdout_days: 1.5"
    path = write_model(tmp_path, **HIGH, **{"validation: {holdout_days: 1.5": floor})
    retrain(path, until=FIRST)
    with pytest.raises(PromotionRefused, match="validation says fail"):
        promote(path, until=FIRST, approved_by="Grace")
    assert not ledger.entries("small", kind="approval.requested")


def test_high_risk_without_approvers_is_refused(tmp_path):
    path = write_model(tmp_path, **{"risk: low": "risk: high"})
    with pytest.raises(ModelConfigError, match=r"access\.approve names no one"):
        load_model_config(path)
