"""The verdict of each gate on both sides of its limit, and the check of a report before a promotion."""

from dataclasses import replace

import pytest

from tasks.policy.evidence.validation import GateEvidence, GateMeasure, ValidationReport
from tasks.policy.model_gates.judgement import GATES, SETTING, failed_measures, gate_rows, missing_gates, summary
from tasks.policy.model_gates.limits import GateLimits
from tasks.policy.model_gates.service import ServiceTrial, judge_service, not_served, unmeasured
from tasks.policy.records.base import from_json, to_json
from tasks.policy.rollout.validation import PromotionPolicy, decide_validation, why_not_promote
from tests.policy.rollout.test_validation import BETTER, POLICY, compared, gained, version

LIMITS = GateLimits()
SOUND = tuple(GateMeasure(name, name, 1.0, 1.0, 0.0, -0.1, 0.1, 500) for name in GATES)
QUICK = ServiceTrial("1", compared_with="its answers", seconds=((0.001,) * 20,), memory_mb=40.0)


def with_measure(measure: GateMeasure) -> GateEvidence:
    return GateEvidence((*(one for one in SOUND if one.gate != measure.gate), measure))


@pytest.mark.parametrize(("gate", "limit"), [(name, getattr(LIMITS, SETTING[name])) for name in SETTING])
def test_a_gate_fails_where_the_lower_bound_exceeds_the_limit(gate, limit):
    inside = GateMeasure(gate, "it", 1000.0, 1000.0, limit + 0.1, limit, limit + 0.2, 500)
    outside = replace(inside, low=limit + 0.001)
    for measure, verdict in ((inside, "pass"), (outside, "fail")):
        report = decide_validation(POLICY, compared(BETTER, gates=with_measure(measure)))
        assert report.verdict == verdict
    assert report.reasons[0].startswith(f"{gate}: it: challenger 1e+03, champion 1e+03, ")
    assert report.reasons[0].endswith(f"limit {limit:.3g} (validation.{SETTING[gate]})")


@pytest.mark.parametrize("gate", GATES)
def test_what_was_not_measured_fails(gate):
    for measure in (
        GateMeasure(gate, fault="the process ended"),
        GateMeasure(gate),
        GateMeasure(gate, value=float("nan")),
    ):
        assert decide_validation(POLICY, compared(BETTER, gates=with_measure(measure))).verdict == "fail"
    missing = GateEvidence(tuple(one for one in SOUND if one.gate != gate))
    report = decide_validation(POLICY, compared(BETTER, gates=missing))
    assert report.reasons[0] == f"{gate}: not measured, so nothing shows that the challenger is no worse"


def test_numbers_that_are_not_finite_are_stored_as_unknown_and_still_fail():
    unknown = GateMeasure("answers", "difference", value=float("inf"), fault="other answers")
    undefined = gained(float("nan"), float("nan"), float("nan"), slice_name="x > 1")
    report = decide_validation(POLICY, compared(BETTER, gates=GateEvidence((*SOUND, unknown), (undefined,))))
    stored = from_json(ValidationReport, to_json(report))
    assert (stored.gates.measures[-1].value, stored.gates.slices, stored.verdict) == (None, (), "fail")
    forged = replace(stored, verdict="pass")
    assert why_not_promote(POLICY, PromotionPolicy(), version("2"), "1", forged) is not None


def test_gate_that_does_not_apply_says_why_and_passes():
    evidence = with_measure(GateMeasure("fairness", skipped="no protected column"))
    report = decide_validation(POLICY, compared(BETTER, gates=evidence))
    assert report.verdict == "pass"
    assert report.reasons[-1] == "fairness: no protected column"
    assert summary(LIMITS, evidence)[0].endswith("calibration, churn, robustness, no code, loading, answers, "
                                                 "malformed input, latency, memory")  # fmt: skip


def test_found_slice_beyond_the_margin_fails():
    lost = gained(-0.2, -0.3, -0.1, slice_name="x > 1")
    report = decide_validation(POLICY, compared(BETTER, gates=GateEvidence(SOUND, (lost,))))
    assert report.verdict == "fail"
    assert report.reasons[0].startswith("found slice: log_loss of x > 1 loses 0.2")
    unsure = gained(-0.2, -0.3, -0.04, slice_name="x > 1")
    assert decide_validation(POLICY, compared(BETTER, gates=GateEvidence(SOUND, (unsure,)))).verdict == "pass"


def test_report_is_checked_again_before_a_promotion():
    """A report that says pass with numbers against it, or that leaves a gate out, promotes nothing."""
    passed = decide_validation(POLICY, compared(BETTER, gates=GateEvidence(SOUND)))

    def refusal(report: ValidationReport) -> str | None:
        return why_not_promote(POLICY, PromotionPolicy(), version("2"), "1", report)

    assert refusal(passed) is None
    for forged in (
        with_measure(GateMeasure("calibration", "error", 0.0, 0.3, 0.3, 0.2, 0.4, 500)),
        with_measure(GateMeasure("loading", fault="it does not load")),
        GateEvidence(SOUND[1:]),
        GateEvidence(SOUND, (gained(-0.2, -0.3, -0.1, slice_name="x > 1"),)),
    ):
        assert (refusal(replace(passed, gates=forged)) or "").startswith("validation says pass, but ")
    assert from_json(ValidationReport, to_json(passed)) == passed


def test_reports_from_before_the_gates_keep_their_json():
    report = decide_validation(POLICY, compared(BETTER))
    assert "gates" not in to_json(report)
    assert from_json(ValidationReport, to_json(report)) == report
    assert missing_gates(GateEvidence(SOUND)) == []


def test_default_limits_leave_the_files_fingerprint_alone():
    assert GateLimits().model_dump() == {}
    assert GateLimits(max_churn=0.1).model_dump() == {"max_churn": 0.1}


@pytest.mark.parametrize(
    ("gate", "champion", "challenger", "fails"),
    [
        ("latency", 1.0, 5.9, False),
        ("latency", 1.0, 6.1, True),
        ("latency", 100.0, 299.0, False),
        ("latency", 100.0, 301.0, True),
        ("memory", 10.0, 59.0, False),
        ("memory", 10.0, 61.0, True),
        ("memory", 500.0, 999.0, False),
        ("memory", 500.0, 1001.0, True),
    ],
)
def test_time_and_memory_have_a_ratio_and_an_allowance(gate, champion, challenger, fails):
    measure = GateMeasure(gate, "it", champion, challenger, challenger / champion)
    assert bool(failed_measures(LIMITS, [measure])) == fails


def test_latency_is_that_of_the_quickest_round():
    busy = replace(QUICK, version="2", seconds=((0.1,) * 20, (0.002,) * 20))
    measures = {measure.gate: measure for measure in judge_service(busy, QUICK)}
    assert (measures["latency"].champion, measures["latency"].challenger) == (pytest.approx(1.0), pytest.approx(2.0))
    assert measures["memory"].value == 1.0
    assert failed_measures(LIMITS, measures.values()) == []


@pytest.mark.parametrize(
    ("changes", "gates"),
    [
        ({"deviation": 0.01}, ["answers"]),
        ({"deviation": float("nan")}, ["answers"]),
        ({"answered": ("without column x",)}, ["malformed input"]),
        ({"seconds": ()}, ["latency"]),
        ({"fault": "it does not load"}, ["loading", "answers", "malformed input", "latency", "memory"]),
    ],
)
def test_each_fault_of_a_service_fails_its_own_gate(changes, gates):
    found = judge_service(replace(QUICK, **changes), QUICK)
    assert [reason.partition(":")[0] for reason in failed_measures(LIMITS, found)] == gates


def test_champion_without_measure_fails_what_is_relative_to_it():
    found = judge_service(QUICK, replace(QUICK, version="0", fault="it does not load"))
    assert [reason.partition(":")[0] for reason in failed_measures(LIMITS, found)] == ["latency", "memory"]
    apart = judge_service(QUICK, replace(QUICK, version="0", apart="its service has its files"))
    assert failed_measures(LIMITS, apart) == []
    assert (
        failed_measures(LIMITS, not_served("no files")) == [] and len(failed_measures(LIMITS, unmeasured("ended"))) == 5
    )


def test_table_shows_value_limit_and_verdict():
    evidence = GateEvidence(
        (
            GateMeasure("churn", "changes", value=0.3, low=0.28, high=0.32, rows=500),
            GateMeasure("fairness", skipped="no protected column"),
            GateMeasure("loading", "loads", value=0.0),
        )
    )
    rows = [(row.gate, row.subject, row.value, row.limit, row.verdict) for row in gate_rows(LIMITS, evidence)]
    assert rows == [
        ("churn", "changes", "0.3 (0.28 to 0.32)", "0.2", "fail"),
        ("fairness", "no protected column", "", "0.1", None),
        ("loading", "loads", "0", "none accepted", "pass"),
    ]
