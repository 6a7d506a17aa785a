"""Somebody else's service: its predictions are in one table, its late labels in another, and nothing is trained here."""

import re

import numpy as np
import pandas as pd
import pytest

from deployments.cli import main
from flows.monitor import monitor
from flows.promote import promote
from flows.replay import replay
from flows.retrain import retrain
from flows.rollback import rollback
from flows.score import score
from tasks.adapters import ledger, registry
from tasks.policy.comparison.side_by_side import SideBySide
from tasks.policy.records.base import from_json, utc
from tasks.policy.records.errors import NoModelFile, PromotionRefused, ReplayRefused, TrainingRefused
from tests.support.foreign_service import ForeignService, write_foreign_model
from tests.support.ways_in import example

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def service(tmp_path, monkeypatch) -> ForeignService:
    return ForeignService(tmp_path, monkeypatch)


def serve(model: str, *days: str):
    """Run score and monitor at the start of these days; return the judgements."""
    found = []
    for day in days:
        score(model, until=utc(day))
        found.append(monitor(model, until=utc(day)))
    return found


def looks_at_versions() -> list[SideBySide]:
    return [from_json(SideBySide, entry.body) for entry in ledger.entries("small", kind="versions.compared")]


def test_healthy_windows_raise_no_alarm(service, tmp_path):
    model = write_foreign_model(tmp_path, service)
    judgements = serve(model, "2024-01-23", "2024-01-25", "2024-01-27")
    assert [judgement.evidence.quality.verdict for judgement in judgements] == ["pass"] * 3
    assert [judgement.decision.retrain for judgement in judgements] == [False] * 3
    assert judgements[-1].champion == "1"
    assert registry.version("small", "1").observed_as == "2024-01-a"
    assert judgements[-1].evidence.performance.rows == 300
    assert judgements[-1].evidence.performance.latency.p95_s == 0.02
    assert judgements[0].estimate is not None, "the estimate learns from the history's log"
    assert judgements[0].registry_changes == ()


def served(service: ForeignService, tmp_path, day: str = "2024-01-23"):
    """Write the log as it is now, and judge the first window."""
    service.save()
    return serve(write_foreign_model(tmp_path, service), day)[0]


@pytest.mark.parametrize(("lost", "verdict"), [(3, "pass"), (4, "fail")])
def test_gaps_in_the_log_are_a_data_fault(service, tmp_path, lost, verdict, caplog):
    """1 % of the window's 300 rows may lack a prediction."""
    window = service.log.index[service.between("2024-01-21", "2024-01-23")]
    service.log = service.log.drop(window[:lost])
    judgement = served(service, tmp_path)
    assert judgement.evidence.quality.verdict == verdict
    assert f"300 rows, {lost} without a prediction" in caplog.text
    if verdict == "fail":
        assert "At most 1 % of the rows may have no logged prediction" in judgement.evidence.quality.reasons[0]
        assert "4 of 300 rows" in judgement.evidence.quality.reasons[0]
        assert judgement.decision.blocked_by == "quality"
        assert judgement.decision.diagnosis == "upstream_data_fault"


@pytest.mark.parametrize(("doubled", "verdict"), [(3, "pass"), (4, "fail")])
def test_two_answers_for_one_row_are_a_data_fault(service, tmp_path, doubled, verdict):
    window = service.log[service.between("2024-01-21", "2024-01-23")]
    other = window.head(doubled).assign(answer=lambda log: log["answer"] + 1)
    again = window.tail(50)  # says the same, as logs that deliver at least once do
    service.log = pd.concat([service.log, other, again], ignore_index=True)
    judgement = served(service, tmp_path)
    assert judgement.evidence.quality.verdict == verdict
    if verdict == "fail":
        assert "4 of 300 rows" in judgement.evidence.quality.reasons[0]
        assert "have two different predictions" in judgement.evidence.quality.reasons[0]
    else:
        assert judgement.evidence.performance.rows == 297, "neither of the two is used"


@pytest.mark.parametrize("orphans", [0, 3])
def test_late_answers_to_rows_of_the_window_before_are_no_orphans(service, tmp_path, orphans, caplog, capsys):
    """Every answer takes 20 minutes; rows arrive every 9.6 minutes, so two belong to the window before."""
    service.log["answered_at"] += pd.Timedelta(minutes=20)
    strange = service.log[service.between("2024-01-20", "2024-01-22")].groupby(lambda place: place // 150).head(orphans)
    service.log = pd.concat([service.log, strange.assign(row_id="of nobody")], ignore_index=True)
    service.save()
    model = write_foreign_model(tmp_path, service)
    assert main(["check", "--data", model]) == 0
    counted = f"{orphans} entries belong to no row" if orphans else "300 rows"
    assert counted in capsys.readouterr().out
    serve(model, "2024-01-23")
    last = [line for line in caplog.text.splitlines() if "log of 2024-01-21" in line]
    assert len(last) == 1
    assert ("belong to no row" in last[0]) == bool(orphans)
    assert counted in last[0]


def test_retraining_pays_and_nothing_is_trained(service, tmp_path):
    """From 27 January on, y depends on x with the opposite sign."""
    model = write_foreign_model(tmp_path, service)
    *_, before, judgement = serve(model, "2024-01-25", "2024-01-27", "2024-01-29", "2024-01-31", "2024-02-02")
    decision, report = judgement.decision, judgement.evidence.performance
    assert report.metric("mae").value > 1.0
    assert (decision.retrain, decision.blocked_by) == (False, "advise_only")
    assert decision.reasons[0].startswith("retraining pays, by the evidence below; nothing is trained here")
    assert before.decision.diagnosis == "concept_drift"
    with pytest.raises(TrainingRefused, match="nothing is trained here"):
        retrain(model, until=utc("2024-02-02"))
    assert list(registry.all_tags("small")) == ["1"]


def test_a_new_version_in_the_log_is_noticed(service, tmp_path, caplog):
    changed = service.between("2024-01-24", "2024-03-01")
    late = service.rows[service.rows["row"].isin(service.log["row_id"][changed])]
    service.log = pd.concat([service.log[~changed], service.predict(late, "2024-01-b", 1.9)], ignore_index=True)
    service.save()
    model = write_foreign_model(tmp_path, service)
    judgements = serve(model, "2024-01-23", "2024-01-25", "2024-01-27", "2024-01-29")
    assert [judgement.champion for judgement in judgements] == ["1", "1", "2", "2"]
    assert registry.version("small", "2").observed_as == "2024-01-b"
    told = judgements[2].registry_changes
    assert told == (
        "your service answers with version 2 (2024-01-b) since 2024-01-24 00:00 UTC, before with version 1 (2024-01-a)",
    )
    assert judgements[3].registry_changes == ()
    assert looks_at_versions() == [], "one version took over from the other"
    report = judgements[3].evidence.performance
    assert (report.model_version, report.rows) == ("2", 300)
    serve(model, "2024-01-31")
    assert re.search(
        r"mae by version: 0\.\d+ with version 1 \(2024-01-a, 2 windows\), .* with version 2 \(2024-01-b", caplog.text
    )


def test_a_shadow_in_the_log_gets_a_verdict(service, tmp_path):
    """The shadow predicts half of what is right; the champion all of it."""
    shadow = service.predict(service.rows, "2024-01-b", 1.0).assign(role="shadow")
    service.log = pd.concat([service.log.assign(role="champion"), shadow], ignore_index=True)
    service.save()
    block = example("predictions").replace("  version:", "  role: role\n  version:")
    model = write_foreign_model(tmp_path, service, block, **{"{mode: none}": "{mode: none, feedback: false}"})
    serve(model, "2024-01-23", "2024-01-25", "2024-01-27")
    looks = looks_at_versions()
    assert [(look.champion, look.challenger) for look in looks] == [("1", "2")] * 3
    assert looks[-1].verdict.conclusion == "worse"
    assert looks[-1].evidence.challenger > looks[-1].evidence.champion
    assert registry.aliases("small") == {"champion": "1"}


def split_traffic(service: ForeignService, to_second: np.ndarray) -> None:
    """On 22 January the second version, which predicts half of what is right, answers the chosen rows."""
    chosen = service.between("2024-01-22", "2024-01-23") & to_second
    second = service.predict(service.rows, "2024-01-b", 1.0)
    service.log = pd.concat([service.log[~chosen], second[chosen]], ignore_index=True)
    service.save()


def test_a_split_of_the_traffic_gets_a_verdict(service, tmp_path, caplog):
    """Its labels are known a window later, when the first version answers alone again."""
    split_traffic(service, np.random.default_rng(1).random(len(service.rows)) < 0.3)
    serve(write_foreign_model(tmp_path, service), "2024-01-23", "2024-01-25")
    first, second = looks_at_versions()
    assert (first.champion, first.challenger, first.split) == ("1", "2", True)
    assert (first.evidence, first.reason) == (None, "no labels of rows that each version answered have matured")
    assert 140 <= second.evidence.rows <= 150, "from the first to the last answer of the second version"
    assert second.verdict.conclusion == "worse"
    assert "traffic split between versions 1 (2024-01-a) and 2 (2024-01-b): worse at look" in caplog.text
    assert registry.aliases("small") == {"champion": "1"}


def test_versions_of_different_rows_get_no_verdict(service, tmp_path):
    split_traffic(service, (service.rows["colour"] == "red").to_numpy())
    service.log["role"] = np.where(service.log["model_version"] == "2024-01-b", "challenger", "champion")
    service.save()
    block = example("predictions").replace("  version:", "  role: role\n  version:")
    serve(write_foreign_model(tmp_path, service, block), "2024-01-23")
    (look,) = looks_at_versions()
    assert (look.verdict, look.evidence) == (None, None)
    assert "does not assign rows to versions at random: those of the two versions differ in colour" in look.reason


def test_a_challenger_that_is_trained_here_is_compared_with_the_log(service, tmp_path):
    """The service has the coefficient 0.5 instead of 2."""
    service.log = service.predict(service.rows, factor=0.5)
    service.save()
    training = (
        "training: {min_rows: 300, parameters: {n_estimators: 30, max_depth: 3, learning_rate: 0.3}}\nvalidation:"
    )
    model = write_foreign_model(tmp_path, service, **{"validation:": training})
    *_, judgement = serve(model, "2024-01-23", "2024-01-25", "2024-01-27")
    assert judgement.decision.retrain
    validation = retrain(model, until=utc("2024-01-27"))
    assert validation.verdict == "pass"
    overall = validation.differences[0]
    assert overall.champion > 1.0 > 0.5 > overall.challenger
    with pytest.raises(PromotionRefused, match="your own service answers"):
        promote(model, until=utc("2024-01-27"))


def test_what_a_log_cannot_offer_is_said(service, tmp_path, capsys):
    model = write_foreign_model(tmp_path, service)
    assert main(["check", "--data", model]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "the log has 0 of 300 rows without a prediction, 0 with two different ones, 0 with an unusable one" in shown
    assert "the log's versions are 2024-01-a (300)" in shown
    for sentence in (
        "trains nothing",
        "there are no SHAP values",
        "rolls none back",
        "offers no replay",
        "compares the versions in model_version that share the traffic",
        "compares no shadow",
    ):
        assert sentence in shown
    with pytest.raises(ReplayRefused, match="cannot be made again"):
        replay(model)


def test_probabilities_of_a_classifier(service, tmp_path):
    """Calibrated probabilities that y is positive; the labels are words, and the estimate learns from the history's log."""
    positive = service.rows["y"] > 0
    service.write("outcomes", service.outcomes().assign(outcome=np.where(positive, "yes", "no")))
    service.log["answer"] = [str(round(share, 4)) for share in 1 / (1 + np.exp(-10 * service.log["answer"]))]
    replaced = {
        "task: regression": "task: binary",
        "metric: mae}": "metric: log_loss}",
        "metric: mae,": "metric: log_loss,",
    }
    service.save()
    model = write_foreign_model(tmp_path, service, **replaced)
    (judgement,) = serve(model, "2024-01-23")
    assert registry.classes("small", "1") == ("no", "yes")
    assert judgement.evidence.quality.verdict == "pass"
    assert judgement.evidence.performance.metric("log_loss").value < 0.4
    assert judgement.estimate.value < 0.4


def test_the_recommended_policy_works_on_a_log(service, tmp_path):
    """Probes are trained on the rows here, although the service's model is not known."""
    condition = "trigger: metric_breach, metric: mae, limit: 1.0, k: 2, m: 3"
    model = write_foreign_model(tmp_path, service, **{condition: "trigger: perennial"})
    days = ("2024-01-23", "2024-01-25", "2024-01-27", "2024-01-29", "2024-01-31", "2024-02-02")
    judgements = serve(model, *days)
    assert any(judgement.evidence.probes for judgement in judgements)
    assert "advise_only" in [judgement.decision.blocked_by for judgement in judgements]
    assert not any(judgement.decision.retrain for judgement in judgements)


def test_nothing_is_promoted_or_rolled_back(service, tmp_path):
    model = write_foreign_model(tmp_path, service)
    serve(model, "2024-01-23")
    with pytest.raises(PromotionRefused, match="nothing to roll back to"):
        rollback(model, reason="it is bad", until=utc("2024-01-23"))
    with pytest.raises(NoModelFile, match="of your own service, whose predictions are only read"):
        registry.version_files.load_scorer(registry.version("small", "1"))


def test_monitor_reads_a_log_that_was_not_read(service, tmp_path):
    model = write_foreign_model(tmp_path, service)
    judgement = monitor(model, until=utc("2024-01-23"))
    assert judgement.evidence.quality.verdict == "pass"
    assert judgement.evidence.performance.rows == 300
