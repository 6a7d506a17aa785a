"""Guardrails: each has a challenger that it alone stops, and a good challenger passes them all."""

from dataclasses import replace

import numpy as np
import pytest

from tasks.policy.comparison.arms import ServedArm
from tasks.policy.comparison.evidence import Evidence, unknown_evidence
from tasks.policy.comparison.guardrails import (
    ArmStatistics,
    GuardrailEvidence,
    Guardrails,
    LabelledEvidence,
    LabelledGain,
    gain_in_slice,
    judge_guardrails,
    level_of_look,
    paired_calibration_gain,
    served_calibration_gain,
    slow_answers,
)
from tasks.policy.comparison.predictions import (
    calibration_errors,
    calibration_residuals,
    prediction_histogram,
    shares_in,
)
from tasks.policy.records.base import Window, from_json, to_json, utc
from tasks.policy.statistics.intervals import PairedPredictions

WINDOW = Window(utc("2024-03-01"), utc("2024-03-02"))
ROWS = 2000
POLICY = Guardrails()


def predictions(seed: int, rows: int = ROWS, turn: float = 0.0) -> np.ndarray:
    """Return probabilities of class 1; `turn` moves all of them in the same direction."""
    return 1 / (1 + np.exp(-np.random.default_rng(seed).normal(turn, 1.5, rows)))


def answers(version: str, y_pred: np.ndarray, validated: np.ndarray, **changes) -> ArmStatistics:
    """Return what a version answered, against what it predicted at validation."""
    before = prediction_histogram(version, validated)
    _, counts = np.unique(y_pred, return_counts=True)
    found = ArmStatistics(
        version,
        len(y_pred),
        most_common_share=counts.max() / len(y_pred),
        latency_p95_s=0.02,
        histogram=shares_in(before.edges, y_pred),
        validation=before,
        timed=ROWS,
    )
    return replace(found, **changes)


CHAMPION = answers("3", predictions(1), predictions(2))
GOOD = answers("4", predictions(3), predictions(4))
CALIBRATED = LabelledGain("calibration", "calibration error", 0.03, 0.031, -0.001, 0.004, ROWS, 1e6)
SLICES = tuple(
    LabelledGain(f"origin={name}", "log_loss", 0.5, 0.5 - gain, gain, 0.01, 500, 1e6, accepted=0.05)
    for name, gain in (("EWR", 0.01), ("JFK", -0.04), ("LGA", -0.05))
)
LABELLED = LabelledEvidence(1, CALIBRATED, SLICES)
EVIDENCE = GuardrailEvidence(WINDOW, CHAMPION, GOOD, LABELLED)
WORSE_AT_JFK = replace(SLICES[1], gain=-0.15, challenger=0.65)


def breached(evidence: GuardrailEvidence, **policy) -> set[str]:
    return {breach.guardrail for breach in judge_guardrails(Guardrails(**policy), evidence)}


def challenged(**changes) -> GuardrailEvidence:
    return replace(EVIDENCE, challenger=replace(GOOD, **changes))


def labelled(**changes) -> GuardrailEvidence:
    return replace(EVIDENCE, labelled=replace(LABELLED, **changes))


PLANTED = {
    "errors": challenged(refused=200),
    "latency": challenged(latency_p95_s=0.08, slow=ROWS),
    "missing": challenged(missing=1),
    "constant": replace(EVIDENCE, challenger=answers("4", np.full(ROWS, 0.5), np.full(ROWS, 0.5))),
    "confidence": replace(EVIDENCE, challenger=answers("4", predictions(3, turn=2.0), predictions(4))),
    "calibration": labelled(calibration=replace(CALIBRATED, challenger=0.2, gain=-0.17)),
    "slices": labelled(slices=(SLICES[0], WORSE_AT_JFK, SLICES[2])),
}


@pytest.mark.parametrize("guardrail", PLANTED)
def test_each_guardrail_alone_stops_its_challenger(guardrail):
    assert breached(PLANTED[guardrail]) == {guardrail}


def test_every_setting_has_a_planted_challenger():
    settings = {name.removeprefix("max_").split("_")[0] for name in Guardrails.model_fields}
    assert {name.removesuffix("s") for name in PLANTED} == {name.removesuffix("s") for name in settings}


def test_a_good_challenger_passes_all():
    assert judge_guardrails(POLICY, EVIDENCE) == ()


def test_a_shift_that_both_versions_show_is_the_datas():
    champion = answers("3", predictions(1, turn=2.0), predictions(2))
    challenger = answers("4", predictions(3, turn=2.2), predictions(4))
    assert judge_guardrails(POLICY, replace(EVIDENCE, champion=champion, challenger=challenger)) == ()
    assert breached(replace(EVIDENCE, challenger=challenger)) == {"confidence"}


@pytest.mark.parametrize(
    ("champion", "challenger", "limit", "stopped"),
    [
        ((0, 20), (1, 20), 0.01, False),
        ((0, 20), (2, 20), 0.01, False),
        ((0, 20), (20, 20), 0.01, True),
        ((0, 10_000), (1000, 10_000), 0.01, True),
        ((1000, 10_000), (1000, 10_000), 0.01, False),  # rows that both refuse
        ((0, 10_000), (100, 10_000), 0.01, False),  # at the limit
        ((0, 0), (1000, 1000), 0.01, True),
        ((0, 10_000), (1, 10_000), 0.0, True),  # zero tolerance is exact
        ((1, 10_000), (1, 10_000), 0.0, False),
    ],
)
def test_errors_need_significantly_more_than_limit_and_champion(champion, challenger, limit, stopped):
    evidence = replace(
        EVIDENCE,
        champion=replace(CHAMPION, refused=champion[0], rows=champion[1]),
        challenger=replace(GOOD, refused=challenger[0], rows=challenger[1], histogram=()),
    )
    assert ("errors" in breached(evidence, max_error_share=limit)) == stopped


def timed(champion_s: np.ndarray, challenger_s: np.ndarray) -> GuardrailEvidence:
    """Evidence whose answers took these seconds."""
    old, new = (float(np.quantile(each, 0.95)) for each in (champion_s, challenger_s))
    slow = slow_answers(POLICY, champion_s, challenger_s)
    return replace(
        EVIDENCE,
        champion=replace(CHAMPION, latency_p95_s=old, timed=len(champion_s)),
        challenger=replace(GOOD, latency_p95_s=new, timed=len(challenger_s), slow=slow),
    )


@pytest.mark.parametrize(
    ("challenger_s", "champion_s", "count", "stopped"),
    [
        (0.00009, 0.00002, ROWS, False),  # microseconds
        (0.08, 0.02, 6, False),
        (0.08, 0.02, 7, True),
        (0.08, 0.02, 20, True),
        (0.04, 0.02, ROWS, False),
        (0.011, 0.0, ROWS, True),
    ],
)
def test_latency_needs_a_ratio_a_difference_and_answers(challenger_s, champion_s, count, stopped):
    evidence = timed(np.full(count, champion_s), np.full(count, challenger_s))
    assert breached(evidence) == ({"latency"} if stopped else set())


@pytest.mark.parametrize(("slow", "stopped"), [(10, False), (11, True)])
def test_latency_of_few_batches_needs_most_of_them_slow(slow, stopped):
    """11 of 20 by the bound of the module, worked with scipy's beta quantiles."""
    seconds = np.where(np.arange(20) < slow, 0.2, 0.02)
    assert breached(timed(np.full(20, 0.02), seconds)) == ({"latency"} if stopped else set())


def test_a_challenger_that_is_slow_for_a_tenth_of_many_requests_is_stopped():
    seconds = np.where(np.arange(2000) % 10 == 0, 0.2, 0.02)
    assert breached(timed(np.full(2000, 0.02), seconds)) == {"latency"}
    assert breached(timed(seconds, seconds)) == set()


def test_unmeasured_latency_is_not_judged():
    assert breached(challenged(latency_p95_s=None, timed=0)) == set()


@pytest.mark.parametrize("count", [7, 20, 200])
def test_an_equal_challenger_under_load_is_not_slow(count):
    """Seconds vary by a factor of 7 up and down, as on a machine whose cores others use."""
    random = np.random.default_rng(count)
    alarms = sum(bool(breached(timed(*random.lognormal(-3.0, 1.0, (2, count))))) for _ in range(2000))
    assert alarms == 0


def test_a_challenger_five_times_as_slow_is_found_in_one_window():
    random = np.random.default_rng(1)
    found = [timed(*(random.lognormal(-3.0, 0.4, (2, 20)) * [[1], [5]])) for _ in range(200)]
    assert sum(breached(each) == {"latency"} for each in found) >= 190


@pytest.mark.parametrize(("missing", "stopped"), [(1, False), (2, False), (40, True)])
def test_missing_predictions_above_zero_tolerance_need_significance(missing, stopped):
    assert breached(challenged(missing=missing), max_missing_share=0.005) == ({"missing"} if stopped else set())


def test_a_constant_challenger_of_a_constant_champion_passes():
    """Rare events: both versions give nearly every row the same probability."""
    constant = np.full(ROWS, 0.01)
    evidence = replace(EVIDENCE, champion=answers("3", constant, constant), challenger=answers("4", constant, constant))
    assert judge_guardrails(POLICY, evidence) == ()


def test_few_equal_predictions_are_not_constant():
    few = answers("4", np.full(99, 0.5), np.full(ROWS, 0.5))
    assert judge_guardrails(POLICY, replace(EVIDENCE, challenger=few)) == ()


def test_few_rows_do_not_show_a_shift():
    """Ten of the shifted predictions are no evidence, two hundred are."""
    few, enough = (answers("4", predictions(3, rows, 2.0), predictions(4)) for rows in (10, 200))
    assert breached(replace(EVIDENCE, challenger=few)) == set()
    assert breached(replace(EVIDENCE, challenger=enough)) == {"confidence"}


def test_guardrails_without_labels_do_not_wait_for_them():
    evidence = replace(PLANTED["errors"], labelled=None)
    assert breached(evidence) == {"errors"}
    assert breached(replace(PLANTED["slices"], labelled=None)) == set()


def test_slices_are_corrected_for_their_number():
    """A loss with a p-value of 0.005 breaches alone, and not as the worst of 20 slices."""
    doubtful = replace(WORSE_AT_JFK, gain=-0.05 - 2.576 * 0.01)
    assert doubtful.p_value == pytest.approx(0.005, rel=0.01)
    assert breached(labelled(slices=(doubtful,))) == {"slices"}
    assert breached(labelled(slices=(doubtful, *[SLICES[0]] * 19))) == set()


def test_each_look_spends_a_part_of_the_level():
    assert sum(level_of_look(look) for look in range(1, 10_000)) == pytest.approx(0.025, rel=1e-3)
    doubtful = replace(WORSE_AT_JFK, gain=-0.05 - 2.4 * 0.01)
    assert breached(labelled(slices=(doubtful,))) == {"slices"}
    assert breached(labelled(slices=(doubtful,), look=2)) == set()


def test_slices_can_be_switched_off():
    assert breached(PLANTED["slices"], slices=False) == set()


def test_sentences_name_number_limit_and_rows():
    reasons = {name: judge_guardrails(POLICY, evidence)[0].reason for name, evidence in PLANTED.items()}
    assert reasons["errors"] == (
        "version 4 failed to answer or refused 200 of 2,000 rows (10 %), the champion 0 of 2,000 rows (0 %); accepted: 1 % "
        "more than the champion (max_error_share)"
    )
    assert reasons["latency"] == (
        "version 4 takes 0.08 s at the 95th percentile of 2,000 answers, 4 times the champion's 0.02 s; accepted: 2 times "
        "(max_latency_ratio)"
    )
    assert reasons["slices"] == (
        "version 4 loses 0.15 log_loss on 500 labelled rows of origin=JFK (0.65, the champion 0.5); accepted: 0.05 "
        "(3 slices compared; validation.slice_margin)"
    )


def test_evidence_round_trips_as_json():
    assert from_json(GuardrailEvidence, to_json(EVIDENCE)) == EVIDENCE


@pytest.mark.parametrize("draw", range(5))
def test_good_challengers_of_few_rows_pass(draw):
    """A good challenger with 20 to 200 rows a window is not returned by chance."""
    random = np.random.default_rng(draw)
    for rows in (20, 50, 100, 200):
        for seed in range(20):
            challenger = answers("4", predictions(1000 * draw + seed, rows), predictions(4))
            challenger = replace(challenger, refused=int(random.binomial(rows, 0.005)))
            assert judge_guardrails(POLICY, replace(EVIDENCE, challenger=challenger)) == ()


def calibrated(rows: int, seed: int, sharper: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return (labels, predictions); `sharper` than 1 is overconfident."""
    random = np.random.default_rng(seed)
    score = random.normal(size=rows)
    return (random.random(rows) < 1 / (1 + np.exp(-score))).astype(float), 1 / (1 + np.exp(-sharper * score))


def served(rows: int, seed: int, sharper: float = 1.0) -> ServedArm:
    y_true, y_pred = calibrated(rows, seed, sharper)
    return ServedArm(y_true, y_pred, np.array([f"{seed}-{row}" for row in range(rows)]), np.array(["week 1"] * rows))


def test_calibration_error_by_hand():
    """Two bins of two equal predictions: |0.5 - 0.1| and |1 - 0.8|, each half of the rows."""
    residuals = calibration_residuals(np.array([0.0, 1.0, 1.0, 1.0]), np.array([0.1, 0.1, 0.8, 0.8]))
    assert np.abs(residuals.mean(axis=0)).sum() == pytest.approx(0.5 * 0.4 + 0.5 * 0.2)


def test_calibration_error_of_several_classes_is_that_of_the_most_probable():
    y_pred = np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]])
    residuals = calibration_residuals(np.array([0.0, 2.0]), y_pred)
    assert np.abs(residuals.mean(axis=0)).sum() == pytest.approx(0.2)


def test_the_same_predictions_have_no_calibration_gain():
    y_true, y_pred = calibrated(500, 1)
    found = paired_calibration_gain(PairedPredictions(y_true, y_pred, y_pred), np.arange(500) // 5)
    assert (found.gain, found.standard_error, found.p_value) == (0.0, 0.0, 1.0)
    assert (found.rows, found.degrees_of_freedom) == (500, 99)


def test_fewer_rows_do_not_look_miscalibrated():
    """A perfect model of 300 rows has a larger error than one of 9,000, which is not its fault."""
    large, small = served(9000, 1), served(300, 2)
    errors = [calibration_errors(arm.y_true, arm.y_pred, arm.clusters)[0] for arm in (large, small)]
    assert errors[1] > 2 * errors[0]
    found = served_calibration_gain(large, small)
    assert (found.rows, abs(found.gain) < 2 * found.standard_error) == (300, True)
    assert replace(found, accepted=0.0).p_value > 0.05


def test_an_overconfident_arm_is_found():
    found = served_calibration_gain(served(9000, 1), served(1000, 2, sharper=4.0))
    assert breached(labelled(calibration=found)) == {"calibration"}


def test_few_rows_have_no_calibration():
    assert served_calibration_gain(served(9000, 1), served(99, 2)) is None
    elsewhere = replace(served(500, 2), strata=np.array(["week 2"] * 500))
    assert served_calibration_gain(served(500, 1), elsewhere) is None


def test_a_slice_without_evidence_is_not_judged():
    evidence = Evidence(WINDOW.end, -0.2, 0.01, 500, 500, True, 0.5, 0.7)
    assert gain_in_slice("origin=JFK", "log_loss", evidence, 0.05).p_value < 1e-6
    assert gain_in_slice("origin=JFK", "log_loss", replace(evidence, units=9), 0.05) is None
    assert gain_in_slice("origin=JFK", "log_loss", unknown_evidence(WINDOW.end, True, "no rows"), 0.05) is None
