"""A rollout through real flows: shadow, canary, champion, and every way back."""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deployments.config.loading import load_model_config
from flows.monitor import monitor
from flows.promote import promote
from flows.retrain import retrain
from flows.rollback import rollback
from flows.rollout import rollout
from flows.score import score
from tasks.adapters import evaluation, lake, ledger, orchestration, registry, reports, traffic
from tasks.adapters.orchestration.runs import run_as
from tasks.policy.evidence.ledger import Past
from tasks.policy.evidence.versions import Promotion
from tasks.policy.governance.access import Principal
from tasks.policy.governance.requests import RunRequest
from tasks.policy.records.base import Window, utc
from tasks.policy.records.errors import AccessRefused, PromotionRefused, RegistryError, RolloutRefused, TrafficError
from tasks.policy.records.events import REQUEST, RunMode, about
from tasks.policy.rollout.state import ANNOUNCED, RolloutState
from tasks.record.history import load_validation
from tasks.rollout import scoring, steps
from tasks.rollout.steps import carry_on, publish_rollouts
from tests.support.small_model import rows, write_model
from tests.support.small_rollout import begin_rollout, serve, state, with_rollout

pytestmark = pytest.mark.usefixtures("prefect_server")

SHADOW = with_rollout("{feedback: false}")
CANARY = with_rollout("{shares: [0.2, 0.5], min_units: 30, verdict: {margin: 0.5}}")
APPROVED = {"window_days: 2": "promotion: {mode: approval}\nwindow_days: 2"}


def logged(model: str, day: int) -> list[tuple[str, str]]:
    window = Window(utc(f"2024-01-{day - 2:02d}"), utc(f"2024-01-{day:02d}"))
    log = lake.read_predictions(load_model_config(model), window)
    return list(zip(log["model_version"].to_pylist(), log["role"].to_pylist(), strict=True))


def champion() -> str:
    return registry.aliases("small")[registry.CHAMPION]


def test_a_shadow_becomes_champion_by_its_verdict(tmp_path, begin):
    model = begin_rollout(begin, tmp_path, **SHADOW)
    assert (champion(), traffic.read_split("small").mode) == ("1", "shadow")
    serve(model, 27)
    assert Counter(logged(model, 27)) == {("1", "champion"): 300, ("2", "shadow"): 300}
    passed = state()
    assert (passed.status, passed.verdict.conclusion) == ("passed", "non_inferior")
    assert champion() == "1", "only promote moves the alias"
    promotion = promote(model, until=utc("2024-01-27"))
    assert isinstance(promotion, Promotion)
    assert (champion(), state().end.end, traffic.read_split("small").challenger) == ("2", "promoted", None)
    kinds = [entry.kind for entry in ledger.entries("small")]
    assert [kind for kind in kinds if kind.startswith("rollout.")] == [
        "rollout.started", "rollout.looked", "rollout.moved", "rollout.ended", "rollout.announced",
    ]  # fmt: skip
    assert promote(model, until=utc("2024-01-27")) == promotion
    serve(model, 29)
    assert Counter(logged(model, 29)) == {("2", "champion"): 300}


def test_a_canary_serves_growing_shares_and_no_unit_leaves_it(tmp_path, begin):
    model = begin_rollout(begin, tmp_path, **CANARY)
    serve(model, 27)
    assert (state().current.name, traffic.read_split("small").share) == ("canary 20 %", 0.2)
    split = traffic.read_split("small")
    serve(model, 29)
    shares = Counter(role for _, role in logged(model, 29))
    assert 0.1 < shares["challenger"] / 300 < 0.3
    assert sum(shares.values()) == 300, "each row has one answer"
    assert state().current.name == "canary 50 %"
    grown = traffic.read_split("small")
    early = [unit for unit in range(2000) if split.role_of(unit) == "challenger"]
    assert all(grown.role_of(unit) == "challenger" for unit in early)


@pytest.mark.parametrize(
    ("mode", "published"), [(RunMode.LIVE, ["rollout-small", "plot-rollout-small"] * 2), (RunMode.REPLAY, [])]
)
def test_a_replay_publishes_its_rollouts_at_the_end_only(tmp_path, begin, monkeypatch, mode, published):
    model = begin_rollout(begin, tmp_path, **CANARY)
    keys: list[str] = []
    for kind in ("create_markdown_artifact", "create_image_artifact"):
        monkeypatch.setattr(reports.rollout, kind, lambda *_, key, **__: keys.append(key))
    for day in (27, 29):
        for name in ("score", "monitor"):
            run_as(mode, name, model=model, until=utc(f"2024-01-{day:02d}"))
    assert keys == published
    page = reports.page.rollout_path("small", state().plan)
    page.unlink()
    publish_rollouts(load_model_config(model))
    assert keys == [*published, "rollout-small", "plot-rollout-small"]
    assert page.exists()


def test_a_mismatched_sample_ends_the_rollout_without_a_verdict(tmp_path, begin, monkeypatch):
    """Three of four units of the challenger bypass the split."""
    model = begin_rollout(begin, tmp_path, **CANARY)
    serve(model, 27)
    assigned = scoring._assigned

    def quarter(config, rows, split):
        mask = assigned(config, rows, split)
        return mask & (np.arange(len(mask)) % 4 == 0) if split.serves_challenger else mask

    monkeypatch.setattr(scoring, "_assigned", quarter)
    announced, announce = [], orchestration.events.announce

    def listen(event, name, payload):
        announced.append((event, payload.get("reasons", [""])[0]))
        announce(event, name, payload)

    monkeypatch.setattr(orchestration.events, "announce", listen)
    serve(model, 29)
    reason = state().end.reasons[0]
    assert (state().end.end, reason[:22]) == ("inconclusive", "sample ratio mismatch:")
    assert (state().looks[-1].verdict, traffic.read_split("small").challenger) == (None, None)
    assert ("rollout.ended", reason) in announced
    assert "ample ratio mismatch" in reports.page.rollout_path("small", state().plan).read_text()
    with pytest.raises(PromotionRefused, match="sample ratio mismatch"):
        promote(model, until=utc("2024-01-29"))


def test_units_depend_on_version_and_start_and_not_on_the_file(tmp_path, begin):
    """A decision's id holds the file's path, so other machines would assign other units."""
    model = begin_rollout(begin, tmp_path / "here", **CANARY)
    there = load_model_config(write_model(tmp_path / "there", **CANARY))
    assert there.fingerprint != load_model_config(model).fingerprint
    plan, version = state().plan, registry.version("small", "2")
    validation = load_validation(there, plan.decision_id)

    def salt(day: int, **changes: str) -> str:
        request = RunRequest(
            "promote", model, Principal("person", "Ada"), "Ada", utc(f"2024-01-{day}"), utc("2024-02-01")
        )
        return steps._plan(there, request, replace(version, **changes), validation).salt

    assert salt(25, decision_id="f" * 16) == plan.salt
    assert len({plan.salt, salt(27), salt(25, version="3")}) == 3, "a second trial of a version draws new units"


def test_the_champion_is_judged_on_its_own_rows(tmp_path, begin):
    model = begin_rollout(begin, tmp_path, **CANARY)
    serve(model, 27)
    score(model, until=utc("2024-01-29"))
    judgement = monitor(model, until=utc("2024-01-29"))
    own = Counter(role for _, role in logged(model, 29))["champion"]
    report = judgement.evidence.performance
    assert (report.model_version, report.rows) == ("1", own)


def test_no_retrain_is_asked_for_while_a_rollout_runs(tmp_path, begin):
    due = {"{trigger: metric_breach, metric: mae, limit: 1.0, k: 2, m: 3}": "{trigger: every, days: 1}"}
    model = begin_rollout(begin, tmp_path, **SHADOW, **due, **{"cooldown_days: 4": "cooldown_days: 0"})
    score(model, until=utc("2024-01-27"))
    decision = monitor(model, until=utc("2024-01-27")).decision
    assert (decision.retrain, decision.blocked_by) == (False, "rollout")
    promote(model, until=utc("2024-01-27"))
    score(model, until=utc("2024-01-29"))
    assert monitor(model, until=utc("2024-01-29")).decision.retrain


@pytest.mark.parametrize("fault", ["raises", "nan"])
@pytest.mark.parametrize("policy", [SHADOW, CANARY], ids=["shadow", "canary"])
def test_a_challenger_that_cannot_answer_is_returned_in_the_same_run(tmp_path, begin, monkeypatch, fault, policy):
    model = begin_rollout(begin, tmp_path, **policy)
    if policy is CANARY:
        serve(model, 27)
    answer = evaluation.challenger.try_predict_rows

    def broken(version, rows, estimator=None):
        if version.version != "2":
            return answer(version, rows, estimator)
        return "version 2 cannot predict these rows" if fault == "raises" else np.full(len(rows), np.nan)

    monkeypatch.setattr(evaluation.challenger, "try_predict_rows", broken)
    serve(model, 29)
    assert state().end.end == "returned"
    breached = [breach.guardrail for breach in state().looks[-1].breaches]
    assert breached == (["errors"] if fault == "raises" else ["missing"])
    assert traffic.read_split("small").challenger is None
    assert registry.tags("small", "2")["status"] == "quarantined"
    served = [role for _, role in logged(model, 29) if role == "champion"]
    assert len(served) == 300, "the champion answers what the challenger cannot"
    with pytest.raises(PromotionRefused, match="its rollout ended"):
        promote(model, until=utc("2024-01-29"))


def test_a_killed_run_is_resumed_without_a_second_step(tmp_path, begin, monkeypatch):
    model = begin_rollout(begin, tmp_path, **CANARY)
    score(model, until=utc("2024-01-27"))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(traffic, "write_split", killed)
        with pytest.raises(BaseException):  # noqa: B017  whatever Prefect makes of a kill
            monitor(model, until=utc("2024-01-27"))
    assert (state().step, traffic.read_split("small").mode) == (1, "shadow")
    for _ in range(2):
        monitor(model, until=utc("2024-01-27"))
        assert (state().step, traffic.read_split("small").share) == (1, 0.2)
    assert len(state().looks) == 1


def test_a_person_holds_resumes_advances_and_aborts(tmp_path, begin):
    model = begin_rollout(begin, tmp_path, **CANARY)
    rollout(model, action="hold", reason="wait for the campaign", requested_by="Ada", until=utc("2024-01-25"))
    serve(model, 27)
    assert (state().status, state().step) == ("held", 0)
    with pytest.raises(RolloutRefused, match="is held, expected running"):
        rollout(model, action="hold", reason="again", until=utc("2024-01-27"))
    rollout(model, action="resume", reason="campaign over", until=utc("2024-01-27"))
    rollout(model, action="advance", reason="looks fine", requested_by="Ada", until=utc("2024-01-27"))
    assert (state().step, traffic.read_split("small").share) == (1, 0.2)
    rollout(model, action="abort", reason="not now", requested_by="Ada", until=utc("2024-01-27"))
    assert (state().end.end, state().end.by) == ("aborted", "Ada")
    assert traffic.read_split("small").challenger is None
    with pytest.raises(PromotionRefused, match="aborted: not now"):
        promote(model, until=utc("2024-01-27"))


def test_a_person_cannot_promote_without_a_verdict(tmp_path, begin):
    model = begin_rollout(begin, tmp_path, **SHADOW)
    with pytest.raises(RolloutRefused, match="ends with a verdict"):
        rollout(model, action="advance", reason="I like it", until=utc("2024-01-25"))


def test_approval_comes_before_the_first_served_request(tmp_path, begin):
    replaced = {**CANARY, "window_days: 2": "access: {approve: [Grace]}\npromotion: {mode: approval}\nwindow_days: 2"}
    model = write_model(tmp_path, **replaced)
    retrain(model, until=utc("2024-01-21"))
    promote(model, until=utc("2024-01-21"), approved_by="Grace")
    serve(model, 25)
    retrain(model, until=utc("2024-01-25"), reason="a second model", requested_by="Ada")
    promote(model, until=utc("2024-01-25"))
    serve(model, 27)
    assert (state().status, traffic.read_split("small").mode) == ("awaiting_approval", "shadow")
    serve(model, 29)
    assert {role for _, role in logged(model, 29)} == {"champion", "shadow"}, "nothing is served before the approval"
    with pytest.raises(AccessRefused, match="may not approve"):
        rollout(model, action="resume", reason="go on", requested_by="Ada", until=utc("2024-01-29"))
    advanced = promote(model, until=utc("2024-01-29"), approved_by="Grace")
    assert isinstance(advanced, RolloutState)
    assert (state().status, traffic.read_split("small").share) == ("running", 0.2)


def test_approval_promotion_and_reminders_are_requests_of_their_own(tmp_path, begin, monkeypatch):
    """An automation acts once a minute on a request, so both questions of one decision may follow within a minute."""
    model, requests = begin_rollout(begin, tmp_path, **CANARY), []

    def listen(event, name, payload):
        requests.append(about("perennial.model", name, payload)[REQUEST])

    monkeypatch.setattr(orchestration.events, "announce", listen)
    for status, step in (("awaiting_approval", 0), ("passed", 2), ("passed", 2)):
        now = replace(state(), status=status, step=step)
        steps._announce(load_model_config(model), now, "rollout.ready", ("ready",), utc("2024-01-27"))
    asked, ready, reminded = requests
    assert asked != ready
    assert ready == reminded, "a reminder repeats a request"


def test_a_newer_challenger_ends_the_rollout_cleanly(tmp_path, begin):
    model = begin_rollout(begin, tmp_path, **SHADOW)
    retrain(model, until=utc("2024-01-25"), reason="a third model")
    promote(model, until=utc("2024-01-25"))
    assert (state().plan.version, state().status) == ("3", "running")
    assert traffic.read_split("small").challenger == "3"
    ends = [entry for entry in ledger.entries("small") if entry.kind == "rollout.ended"]
    assert len(ends) == 1
    assert '"superseded"' in ends[0].body


def test_a_rollback_ends_the_rollout(tmp_path, begin):
    model = begin_rollout(begin, tmp_path, **SHADOW)
    serve(model, 27)
    promote(model, until=utc("2024-01-27"))
    retrain(model, until=utc("2024-01-27"), reason="a third model")
    promote(model, until=utc("2024-01-27"))
    rollback(model, reason="answers are late", requested_by="Ada", until=utc("2024-01-27"))
    assert (champion(), state().end.end, traffic.read_split("small").challenger) == ("1", "superseded", None)


def test_a_challenger_retired_by_hand_ends_its_rollout(tmp_path, begin):
    model = begin_rollout(begin, tmp_path, **SHADOW)
    registry.tag("small", "2", status="quarantined")
    serve(model, 27)
    assert (state().end.end, champion()) == ("superseded", "1")


def cut_off(patch, target: object, name: str) -> None:
    """Let this call interrupt the run, as a lost machine does."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    patch.setattr(target, name, killed)


def run_killed(monkeypatch, target: object, name: str, run, model: str, day: int) -> None:
    with monkeypatch.context() as patch:
        cut_off(patch, target, name)
        with pytest.raises(BaseException):  # noqa: B017  whatever Prefect makes of a kill
            run(model, until=utc(f"2024-01-{day:02d}"))


def test_traffic_follows_an_end_whose_run_was_killed(tmp_path, begin, monkeypatch):
    """Otherwise a challenger would go on answering after its rollout ended inconclusive."""
    inconclusive = with_rollout("{feedback: false, min_units: 100000, max_days: 1}")
    model = begin_rollout(begin, tmp_path, **inconclusive)
    score(model, until=utc("2024-01-27"))
    run_killed(monkeypatch, traffic, "write_split", monitor, model, 27)
    assert (state().end.end, traffic.read_split("small").challenger) == ("inconclusive", "2")
    monitor(model, until=utc("2024-01-27"))
    assert traffic.read_split("small").challenger is None


def test_people_are_notified_of_an_end_whose_run_was_killed(tmp_path, begin, monkeypatch):
    """At the next window: nobody runs the killed run again. Nobody is notified twice after that."""
    inconclusive = with_rollout("{feedback: false, min_units: 100000, max_days: 1}")
    model = begin_rollout(begin, tmp_path, **inconclusive)
    score(model, until=utc("2024-01-27"))
    run_killed(monkeypatch, reports.rollout, "publish_rollout_page", monitor, model, 27)
    assert (state().end.end, state().is_announced) == ("inconclusive", False)
    announced, announce = [], orchestration.events.announce

    def listen(event, name, payload):
        announced.append((event, payload.get("champion")))
        announce(event, name, payload)

    monkeypatch.setattr(orchestration.events, "announce", listen)
    with monkeypatch.context() as patch:
        append = ledger.append
        patch.setattr(ledger, "append", lambda name, fact: append(name, fact) if fact.kind != ANNOUNCED else 1 / 0)
        score(model, until=utc("2024-01-29"))
        with pytest.raises(ZeroDivisionError):
            monitor(model, until=utc("2024-01-29"))
    assert ("rollout.ended", "2") in announced
    announced.clear()
    for _ in range(2):
        monitor(model, until=utc("2024-01-29"))
    assert announced.count(("rollout.ended", "2")) == 1
    assert state().is_announced


def test_a_killed_return_is_a_return_at_the_next_window(tmp_path, begin, monkeypatch):
    """The version is quarantined by then, and the next window alone shows no breach."""
    model = begin_rollout(begin, tmp_path, **SHADOW)
    with monkeypatch.context() as patch:
        patch.setattr(evaluation.challenger, "try_predict_rows", lambda *_: "version 2 cannot predict these rows")
        score(model, until=utc("2024-01-27"))
    append = ledger.append

    def append_or_die(name: str, fact) -> object:
        if fact.kind == "rollout.ended":
            raise KeyboardInterrupt
        return append(name, fact)

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "append", append_or_die)
        with pytest.raises(BaseException):  # noqa: B017
            monitor(model, until=utc("2024-01-27"))
    assert (state().status, registry.tags("small", "2")["status"]) == ("running", "quarantined")
    serve(model, 29)
    assert (state().end.end, state().end.window) == ("returned", state().looks[-1].window.name)
    assert len(state().looks) == 1


def test_an_unreachable_registry_does_not_end_a_rollout(tmp_path, begin, monkeypatch):
    model = begin_rollout(begin, tmp_path, **SHADOW)
    score(model, until=utc("2024-01-27"))
    read = registry.version

    def unreachable(name: str, number: str) -> object:
        if number == "2":
            raise RegistryError("the registry does not answer")
        return read(name, number)

    with monkeypatch.context() as patch:
        patch.setattr(registry, "version", unreachable)
        with pytest.raises(RegistryError):
            monitor(model, until=utc("2024-01-27"))
    assert (state().status, state().moves) == ("running", ())
    monitor(model, until=utc("2024-01-27"))
    assert state().status == "passed"


def test_a_challenger_that_serves_already_is_not_judged(tmp_path, begin, monkeypatch):
    """`promote` was killed after it had moved the aliases; a return would quarantine the champion."""
    model = begin_rollout(begin, tmp_path, **SHADOW)
    serve(model, 27)
    run_killed(monkeypatch, sys.modules["flows.promote"], "end_rollout", promote, model, 27)
    assert (champion(), state().status) == ("2", "passed")
    serve(model, 29)
    assert (len(state().looks), state().status) == (1, "passed")
    promote(model, until=utc("2024-01-29"))
    assert (champion(), state().end.end, traffic.read_split("small").challenger) == ("2", "promoted", None)


@pytest.mark.usefixtures("quiet")
def test_a_monitor_run_does_not_undo_an_abort(tmp_path, begin):
    """It read the ledger before the rollout was aborted."""
    model = begin_rollout(begin, tmp_path, **CANARY)
    serve(model, 27)
    before = Past(ledger.entries("small"))
    rollout(model, action="abort", reason="not now", requested_by="Ada", until=utc("2024-01-27"))
    window = Window(utc("2024-01-25"), utc("2024-01-27"))
    carry_on(load_model_config(model), before, window, utc("2024-01-27"), RunMode.LIVE)
    assert traffic.read_split("small").challenger is None


def test_a_repeated_promotion_leaves_a_newer_rollout_alone(tmp_path, begin):
    model = begin_rollout(begin, tmp_path, **SHADOW)
    serve(model, 27)
    older = state().plan.decision_id
    promote(model, until=utc("2024-01-27"), decision_id=older)
    retrain(model, until=utc("2024-01-27"), reason="a third model")
    promote(model, until=utc("2024-01-27"))
    promote(model, until=utc("2024-01-27"), decision_id=older)
    assert (state().plan.version, state().status, champion()) == ("3", "running", "2")
    assert traffic.read_split("small").challenger == "3"


@pytest.mark.usefixtures("quiet")
def test_a_monitor_run_does_not_undo_a_hold(tmp_path, begin):
    """A person holds the rollout while the run judges its window."""
    model = begin_rollout(begin, tmp_path, **CANARY)
    score(model, until=utc("2024-01-27"))
    before = Past(ledger.entries("small"))
    rollout(model, action="hold", reason="a campaign", requested_by="Ada", until=utc("2024-01-27"))
    window = Window(utc("2024-01-25"), utc("2024-01-27"))
    carry_on(load_model_config(model), before, window, utc("2024-01-27"), RunMode.LIVE)
    assert (state().status, state().step, traffic.read_split("small").mode) == ("held", 0, "shadow")


def test_pairs_decide_a_canary_without_feedback(tmp_path, begin):
    """Served rows cannot repeat a verdict that was planned for pairs; their guardrails still count."""
    policy = "rollout: {feedback: false, mode: canary, shares: [0.2], min_units: 30, verdict: {margin: 0.1}}"
    model = begin_rollout(begin, tmp_path, **{"rollout: {mode: none}": policy})
    serve(model, 27)
    proof = state().verdict
    assert (state().current.name, proof.conclusion) == ("canary 20 %", "non_inferior")
    serve(model, 29)
    assert (state().status, state().verdict, state().looks[-1].verdict) == ("passed", proof, None)
    promote(model, until=utc("2024-01-29"))
    assert (champion(), state().end.uplift.paired) == ("2", True)


def test_an_earlier_window_does_not_replace_the_verdict_of_a_later_one(tmp_path, begin):
    model = begin_rollout(begin, tmp_path, **SHADOW)
    serve(model, 29)
    proof = state().verdict
    serve(model, 27)
    late = state().looks[-1]
    assert (late.window.end, late.verdict, late.evidence) == (utc("2024-01-27"), None, None)
    assert late.unevaluated == ("a later window was judged before, and its verdict stands",)
    assert state().verdict == proof


def test_a_return_quarantines_although_the_split_cannot_be_written(tmp_path, begin, monkeypatch):
    """A quarantined version answers nothing, whatever the split says."""
    model = begin_rollout(begin, tmp_path, **SHADOW)
    with monkeypatch.context() as patch:
        patch.setattr(evaluation.challenger, "try_predict_rows", lambda *_: "version 2 cannot predict these rows")
        score(model, until=utc("2024-01-27"))

    def refuse(_: object) -> None:
        raise TrafficError("small: the split cannot be written")

    with monkeypatch.context() as patch:
        patch.setattr(traffic, "write_split", refuse)
        with pytest.raises(TrafficError):
            monitor(model, until=utc("2024-01-27"))
    assert (registry.tags("small", "2")["status"], champion()) == ("quarantined", "1")
    monitor(model, until=utc("2024-01-27"))
    assert (state().end.end, traffic.read_split("small").challenger) == ("returned", None)


@pytest.mark.parametrize(
    "block",
    ["{feedback: false, unit: customer}", "{unit: customer, shares: [0.5], min_units: 30, verdict: {margin: 2}}"],
)
def test_a_unit_is_added_to_a_model_that_serves(tmp_path, begin, block):
    """Earlier windows landed without the column; one of them is scored only after the rollout began."""
    table = rows().assign(customer=lambda found: np.arange(len(found)) % 400)
    model = begin(tmp_path, table)
    serve(model, 25)
    monitor(model, until=utc("2024-01-27"))  # lands the window
    path = Path(model)
    path.write_text(path.read_text().replace("rollout: {mode: none}", f"rollout: {block}"))
    retrain(model, until=utc("2024-01-25"), reason="a second model")
    promote(model, until=utc("2024-01-25"))
    serve(model, 27, 29)
    assert (state().end, state().plan.unit) == (None, "customer")
    assert state().looks[0].guardrails.challenger.rows == 300
    if "feedback" in block:
        assert state().status == "passed"
    else:
        unitless = [role for _, role in logged(model, 27)]
        assert set(unitless) == {"champion", "shadow"}
        assert 90 < Counter(role for _, role in logged(model, 29))["challenger"] < 210
