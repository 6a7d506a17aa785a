"""Sentences and tables of a rollout, while it runs and after each of its ends; values by hand."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tasks.policy.comparison.evidence import Evidence, unknown_evidence
from tasks.policy.comparison.guardrails import ArmStatistics, Breach, GuardrailEvidence, LabelledEvidence, LabelledGain
from tasks.policy.comparison.plan import RolloutForecast, VerdictPolicy
from tasks.policy.comparison.verdict import Conclusion, RolloutVerdict
from tasks.policy.economics.costs import Budget
from tasks.policy.evidence.replay import ReplayWindow, RolloutProgress
from tasks.policy.records.base import Window, from_json, to_json, utc
from tasks.policy.records.profile import LARGEST
from tasks.policy.reporting.rollout import headline, horizon_warning, plan_sentences, uplift
from tasks.policy.reporting.rollout_looks import days_left, expected_boundaries, look_points
from tasks.policy.reporting.rollout_replay import progress, rollout_events
from tasks.policy.reporting.rollout_rows import guardrail_rows, share_changes, step_visits
from tasks.policy.rollout.stages import RolloutPolicy
from tasks.policy.rollout.state import Rollout, RolloutLook, RolloutMove, RolloutState

START = utc("2024-03-01")
DAY = timedelta(days=1)
POLICY = RolloutPolicy(mode="canary")
SHADOW = RolloutPolicy(feedback=False)
FORECAST = RolloutForecast(units=12_400, days=12.0, looks=4, margin=0.01, sigma=0.39, exposed_usd=118.0)
PLAN = Rollout("d" * 16, "8", "7", SHADOW.steps, None, "salt", START, FORECAST)


def look(
    number: int, gain: float, half_width: float, conclusion: Conclusion = "undecided", step: int = 0
) -> RolloutLook:
    """Return the look at the end of window `number` of 3 days, with 3,100 rows and a quarter of the information each."""
    window = Window(START + 3 * (number - 1) * DAY, START + 3 * number * DAY)
    arms = (
        ArmStatistics("7", 1000, latency_p95_s=0.010, timed=50),
        ArmStatistics("8", 1000, 2, latency_p95_s=0.012, timed=50),
    )
    return RolloutLook(
        rollout=PLAN.decision_id,
        step=step,
        window=window,
        at=window.end,
        guardrails=GuardrailEvidence(window, *arms),
        evidence=Evidence(window.end, gain, half_width / 2, 3100 * number, 3100 * number, True, 0.45, 0.45 - gain),
        verdict=RolloutVerdict(
            conclusion, gain - half_width, gain + half_width, number / 4, number, 4, f"gain {gain:+.3g}"
        ),
    )  # fmt: skip


LOOKS = (look(1, 0.002, 0.04), look(2, 0.004, 0.02))
RUNNING = RolloutState(PLAN, looks=LOOKS)
CANARY = RolloutState(replace(PLAN, steps=POLICY.steps))


def moved(state: RolloutState, *moves: RolloutMove) -> RolloutState:
    """Fold moves as the ledger's fold does."""
    for move in moves:
        state = replace(state, status=move.status, step=move.step, since=move.at, moves=(*state.moves, move))
    return state


def move(day: int, status: str, step: int = 0, reason: str = "because", **more: str) -> RolloutMove:
    return RolloutMove(PLAN.decision_id, PLAN.version, status, step, START + day * DAY, (reason,), **more)


PROMOTED = moved(
    replace(RUNNING, looks=(*LOOKS, look(3, 0.006, 0.012, "non_inferior"))), move(9, "ended", reason="gain is above -0.01", end="promoted")
)  # fmt: skip


def test_running_shadow_says_what_is_known_and_how_long_it_takes():
    assert headline(RUNNING) == (
        "Version 8 is in shadow beside champion 7: no verdict yet, 2 of 4 looks, about 6 days to go."
    )
    assert headline(RolloutState(PLAN)) == (
        "Version 8 is in shadow beside champion 7: no verdict yet, 0 of 4 looks, about 12 days to go."
    )
    assert headline(RolloutState(replace(PLAN, forecast=None))) == (
        "Version 8 is in shadow beside champion 7: no verdict yet, no look yet."
    )


def test_running_canary_says_its_share():
    assert headline(moved(CANARY, move(3, "running", 1))) == (
        "Version 8 serves 10 % of the traffic (canary, step 2 of 3) beside champion 7: no verdict yet, 0 of 4 looks, "
        "about 12 days to go."
    )
    test = RolloutState(replace(PLAN, steps=RolloutPolicy(mode="ab").steps), step=1, looks=LOOKS)
    assert headline(test).startswith("Version 8 serves 5 % of the traffic (A/B test, step 2 of 2) beside champion 7: ")


@pytest.mark.parametrize(
    ("status", "end", "expected"),
    [
        ("held", None, "Version 8 is held in step shadow until a person resumes or aborts it. Because."),
        ("awaiting_approval", None, "Version 8 passed step shadow and waits for approval before it serves; champion 7 serves all traffic. Because."),
        ("passed", None, "Version 8 passed its rollout and will replace champion 7. Because."),
        ("ended", "promoted", "Version 8 replaced champion 7 after 9 days. Because."),
        ("ended", "returned", "Version 8 was returned after 9 days; champion 7 serves all traffic. Because."),
        ("ended", "inconclusive", "The rollout of version 8 ended without a verdict after 9 days; champion 7 serves all traffic. Because."),
        ("ended", "aborted", "The rollout of version 8 was aborted by Ada after 9 days; champion 7 serves all traffic. Because."),
        ("ended", "superseded", "The rollout of version 8 was superseded after 9 days. Because."),
    ],
)  # fmt: skip
def test_every_status_has_a_sentence(status, end, expected):
    assert headline(moved(RUNNING, move(9, status, end=end, by="Ada"))) == expected


def test_promoted_rollout_quotes_the_verdict_that_proved_it():
    state = replace(RUNNING, looks=(*LOOKS, look(4, 0.006, 0.005, "non_inferior")))
    assert headline(moved(state, move(12, "ended", reason="the validation passed", end="promoted"))) == (
        "Version 8 replaced champion 7 after 12 days. Gain +0.006."
    )
    assert headline(state).endswith("no worse than the champion, 4 of 4 looks, at the planned end.")


def test_days_left_follow_the_pace_of_the_labels():
    assert days_left(RUNNING) == pytest.approx(6)  # half of the information in 6 days
    assert days_left(replace(RUNNING, looks=(look(4, 0, 0.01),))) == 0


def test_boundaries_follow_from_the_interval():
    boundary = look_points(RUNNING)[1].boundary
    assert boundary.passes_above == pytest.approx(0.02 - 0.01)  # half width minus margin
    assert boundary.harm_below == pytest.approx(-0.02)
    without = replace(RUNNING, plan=replace(PLAN, forecast=None))
    assert look_points(without) == ()
    narrow = look_points(replace(RUNNING, looks=(look(4, 0.0, 0.002),)))[0].boundary
    assert narrow.harm_below == narrow.passes_above == pytest.approx(-0.008)  # passing takes precedence
    again = replace(LOOKS[1], at=LOOKS[1].at + DAY)
    assert len(look_points(replace(RUNNING, looks=(*LOOKS, again)))) == 2  # nothing was tested the last time
    untested = replace(LOOKS[0], verdict=replace(LOOKS[0].verdict, low=-LARGEST, high=LARGEST))
    unknown = replace(LOOKS[0], evidence=unknown_evidence(START, paired=True, reason="no labelled rows yet"))
    assert look_points(replace(RUNNING, looks=(untested, unknown))) == ()
    assert progress(replace(RUNNING, looks=(untested,))).gain is None


def test_boundaries_are_expected_to_narrow_until_the_planned_end():
    first, third, last = expected_boundaries(RUNNING, SHADOW)
    assert first == look_points(RUNNING)[1].boundary
    assert (third.at, last.at) == (LOOKS[1].at + 3 * DAY, LOOKS[1].at + 6 * DAY)
    error = 0.01 * 0.5**0.5  # at the planned end: half of the information has a standard error of 0.01
    # Lan-DeMets bounds of 4 equal looks at 0.025 one-sided: O'Brien-Fleming 2.359 and 2.014, Pocock 2.358 and 2.350
    assert third.passes_above == pytest.approx(2.359 * error / 0.75**0.5 - 0.01, abs=1e-5)
    assert (last.passes_above, last.harm_below) == (
        pytest.approx(2.014 * error - 0.01, abs=1e-5), pytest.approx(-2.350 * error, abs=1e-5),
    )  # fmt: skip
    planned = expected_boundaries(RolloutState(PLAN), SHADOW)
    assert [each.at for each in planned] == [START + days * DAY for days in (3, 6, 9, 12)]
    assert planned[-1].passes_above == pytest.approx(2.014 * 0.39 / 12_400**0.5 - 0.01, abs=1e-5)
    anytime = SHADOW.model_copy(update={"verdict": VerdictPolicy(method="confidence_sequence")})
    assert expected_boundaries(RUNNING, anytime) == expected_boundaries(PROMOTED, SHADOW) == ()


def test_plan_states_units_days_and_money():
    steps, needs, stake = plan_sentences(CANARY, POLICY, "log_loss")
    assert steps == "Steps: shadow, then canary 10 %, then canary 50 %, then promotion."
    assert needs == (
        "A challenger as good as the champion needs 12,400 rows and about 12 days, with 4 looks, to show with 80 % power "
        "that it loses less than 0.01 log loss."
    )
    assert stake == (
        "A challenger that is worse by this margin would cost 118.00 USD on the traffic that it serves until then."
    )
    assert plan_sentences(RUNNING, SHADOW, "mae")[2].startswith("No traffic is at stake")
    unknown = replace(CANARY, plan=replace(CANARY.plan, unit="customer", forecast=replace(FORECAST, exposed_usd=None)))
    assert "12,400 units (customer)" in plan_sentences(unknown, POLICY, "mae")[1]
    assert "budget.value_usd_per_metric_unit_per_day" in plan_sentences(unknown, POLICY, "mae")[2]


def test_a_plan_longer_than_max_days_is_a_warning():
    assert horizon_warning(RUNNING, SHADOW) is None
    assert horizon_warning(PROMOTED, RolloutPolicy(max_days=10)) is None
    warning = horizon_warning(RUNNING, RolloutPolicy(max_days=10))
    assert warning.startswith("Expect this rollout to end inconclusive: 12,400 units are needed")
    assert "max_days is 10" in warning


def test_steps_say_what_ended_them():
    state = moved(
        CANARY,
        move(3, "running", 1, "no worse in shadow"),
        move(5, "held", 1, "checking a complaint", by="Ada"),
        move(6, "running", 1, "complaint resolved", by="Ada"),
        move(8, "ended", 1, "latency is 3 times the champion's", end="returned"),
    )
    shadow, canary = step_visits(state)
    assert (shadow.name, shadow.duration, shadow.ended_by) == ("shadow", "3 days", "No worse in shadow.")
    assert (canary.name, canary.share, canary.duration) == ("canary 10 %", 0.1, "5 days")
    assert canary.ended_by == "returned: latency is 3 times the champion's"
    assert canary.remarks == (
        "2024-03-06 held by Ada: checking a complaint", "2024-03-07 resumed by Ada: complaint resolved",
    )  # fmt: skip
    assert share_changes(state) == ((START, 0.0), (START + 3 * DAY, 0.1), (START + 8 * DAY, 0.0))
    assert share_changes(PROMOTED)[-1] == (START + 9 * DAY, 1.0)
    assert step_visits(CANARY)[0].end is None


def test_guardrails_show_value_limit_and_verdict():
    assert [
        (row.name, row.challenger, row.champion, row.limit) for row in guardrail_rows(RUNNING, SHADOW.guardrails)
    ] == [
        ("rows failed or refused", "0.2 %", "0 %", "1 % more"),
        ("latency, 95th percentile", "12 ms", "10 ms", "2 times, and 10 ms more"),
        ("missing predictions", "0 %", "0 %", "0 %"),
        ("same prediction", "0 %", "0 %", "99 %"),
        ("shift of the predictions (PSI)", "", "", "0.5 more"),
        ("calibration error", "", "", "0.05 more"),
        ("metric in the worst slice", "", "", ""),
    ]
    verdicts = [row.verdict for row in guardrail_rows(RUNNING, SHADOW.guardrails)]
    assert verdicts == ["within limit"] * 4 + ["not measured"] * 3
    assert guardrail_rows(RolloutState(PLAN), SHADOW.guardrails) == ()


def test_breached_guardrails_come_first_with_their_reason():
    slices = tuple(
        LabelledGain(f"carrier={name}", "log_loss", 0.4, 0.4 - gain, gain, 0.01, 500, 500, accepted=0.05)
        for name, gain in (("AA", 0.02), ("B6", -0.2))
    )
    calibration = LabelledGain("calibration", "ece", 0.02, 0.03, -0.01, 0.01, 1000, 1000)
    found = replace(LOOKS[1].guardrails, labelled=LabelledEvidence(1, calibration, slices))
    breached = replace(LOOKS[1], guardrails=found, breaches=(Breach("slices", "carrier=B6 loses 0.2"),))
    first, *others = guardrail_rows(replace(RUNNING, looks=(*LOOKS, breached)), SHADOW.guardrails)
    assert (first.challenger, first.champion, first.limit) == ("0.6 in carrier=B6", "0.4", "loss of 0.05")
    assert (first.verdict, first.reason) == ("breached", "carrier=B6 loses 0.2")
    assert not any(row.breached for row in others)
    assert ("calibration error", "0.03", "0.02") in [(row.name, row.challenger, row.champion) for row in others]


def test_uplift_is_given_in_metric_and_money_at_the_end():
    assert uplift(RUNNING, SHADOW, "log_loss", Budget()) == ()
    gain, worth, early = uplift(
        PROMOTED, SHADOW, "log_loss", Budget(value_usd_per_metric_unit_per_day=1000, horizon_days=30)
    )
    assert gain == (
        "Version 8 gains 0.006 log loss against champion 7 on 9,300 rows (95 % interval of the gain -0.006 to +0.018)."
    )
    assert worth == (
        "Value: 6.00 USD a day (-6.00 USD to 18.00 USD), 180.00 USD over the 30 days that an improvement is expected to "
        "last (-180.00 USD to 540.00 USD)."
    )
    assert early.startswith("An estimate at an early end is too extreme")
    assert uplift(PROMOTED, SHADOW, "log_loss", Budget())[1].startswith("To express this in USD, set budget.")


def test_progress_summarises_the_latest_look():
    assert progress(None) is None
    assert progress(RUNNING) == RolloutProgress(
        PLAN.decision_id, "8", "7", "shadow", 0.0, "running", "gain +0.004", 0.004, pytest.approx(-0.016),
        pytest.approx(0.024), 0.01, 2, 4,
    )  # fmt: skip
    ended = progress(PROMOTED)
    assert (ended.status, ended.share, ended.reason) == ("promoted", 1.0, "gain is above -0.01")


def test_events_are_those_since_the_last_window():
    shadow = CANARY
    advanced = moved(shadow, move(3, "running", 1, "no worse"))
    returned = moved(advanced, move(6, "ended", 1, "worse", end="returned"))
    assert [event.kind for event in rollout_events(None, shadow)] == ["shadowed"]
    (event,) = rollout_events(shadow, advanced)
    assert (event.kind, event.text) == ("advanced", "version 8 to canary 10 %: no worse")
    (event,) = rollout_events(advanced, returned)
    assert (event.kind, event.text) == ("returned", "version 8: worse")
    assert rollout_events(returned, returned) == rollout_events(None, None) == ()
    newer = replace(shadow, plan=replace(shadow.plan, decision_id="e" * 16, version="9"))
    assert [event.kind for event in rollout_events(advanced, newer)] == ["superseded", "shadowed"]
    assert [event.kind for event in rollout_events(returned, newer)] == ["shadowed"]


def test_a_replayed_window_keeps_its_rollout_and_older_records_have_none():
    window = ReplayWindow(
        window=LOOKS[0].window, rows=10, labelled_rows=9, maturity="closed", champion="7", metric=None, never=None,
        every=None, quality="pass", drift="stable", drifted_share=0.0, worst_feature=None, worst_effect=None,
        diagnosis="none", retrain=False, reasons=(), decision_id="d",
    )  # fmt: skip
    recorded = replace(window, rollout=progress(RUNNING))
    assert from_json(ReplayWindow, to_json(recorded)) == recorded
    older = to_json(window).replace(',"rollout":null', "")
    assert "rollout" not in older
    assert from_json(ReplayWindow, older) == window
