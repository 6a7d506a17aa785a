"""Triggers that count from the last training: calendars (cron and RRULE) and arrived labels."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
import yaml
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError

from tasks.policy.decision.retraining import RetrainingPolicy, decide_retraining
from tasks.policy.evidence.monitoring import Decision
from tasks.policy.records.base import Window, utc
from tasks.policy.triggers.calendar import next_date
from tests.policy.triggers.judged_windows import evidence, history, report, window

MONTHLY = "{trigger: calendar, rrule: 'FREQ=MONTHLY;BYMONTHDAY=1'}"
TENTH = "{trigger: calendar, cron: 0 3 10 * *}"


def policy(text: str, **limits: object) -> RetrainingPolicy:
    return RetrainingPolicy.model_validate({"when": yaml.safe_load(text), **limits})


def calendar(text: str, trained: str, end: str = "2013-05-06", late_days: float = 0, **known: object) -> Decision:
    """Return the decision on the five days until `end`, judged this many days late, for a model trained on `trained`."""
    until = utc(end)
    seen = replace(evidence(0), window=Window(until - timedelta(days=5), until))
    limits = {"cooldown_days": known.pop("cooldown_days", 0)}
    past = history(retrained_at=(utc(trained),), **known)
    rule = policy(text, **limits)
    return decide_retraining("small", rule, rule.case(seen, past, until + timedelta(days=late_days)))


@pytest.mark.parametrize(
    ("rule", "trained", "retrain", "following"),
    [
        (MONTHLY, "2013-04-30", True, ""),
        (MONTHLY, "2013-05-01", False, "2013-06-01"),
        (TENTH, "2013-04-10T02:59", True, ""),
        (TENTH, "2013-04-10T03:00", False, "2013-05-10 03:00 UTC"),
        ("{trigger: calendar, rrule: 'FREQ=DAILY;INTERVAL=10'}", "2013-05-01", True, ""),  # day 4870 is 2013-05-02
        ("{trigger: calendar, rrule: 'FREQ=DAILY;INTERVAL=10'}", "2013-05-02", False, "2013-05-12"),
    ],
)
def test_date_since_last_training_triggers(rule, trained, retrain, following):
    decision = calendar(rule, trained)
    assert decision.retrain is retrain
    assert decision.would_change == ((f"would retrain from {following}",) if following else ())


def test_calendar_uses_the_named_zone():
    """06:00 in New York on 5 May 2013 is 10:00 UTC, after this window's end; in UTC it is before."""
    rule = "{trigger: calendar, cron: 0 6 5 5 *%s}"
    assert calendar(rule % "", "2013-05-01", end="2013-05-05T08:00").retrain
    there = calendar(rule % ", timezone: America/New_York", "2013-05-01", end="2013-05-05T08:00")
    assert not there.retrain
    assert there.would_change == ("would retrain from 2013-05-05 10:00 UTC",)


def test_late_run_takes_each_date_once():
    assert not calendar(TENTH, "2013-05-01", end="2013-05-06", late_days=5).retrain  # the window ended before the date
    assert calendar(TENTH, "2013-05-01", end="2013-05-11", late_days=20).retrain


def test_one_date_leads_to_one_retrain():
    """Over a year of windows there are as many retrains as dates, whether trainings end at once or weeks later."""
    rule = policy(TENTH)
    for delay_days in (0, 2, 12):
        retrained: list[datetime] = [utc("2013-01-01")]
        asked: list[datetime] = []
        end = utc("2013-01-06")
        while end < utc("2014-01-01"):
            done = tuple(moment for moment in retrained if moment <= end)
            seen = replace(evidence(0), window=Window(end - timedelta(days=5), end))
            past = history(retrained_at=done, asked_at=tuple(asked))
            if decide_retraining("small", rule, rule.case(seen, past, end + timedelta(hours=1))).retrain:
                asked.append(end)
                retrained.append(end + timedelta(days=delay_days))
            end += timedelta(days=5)
        assert len(asked) == 12


def test_missed_date_stays_due():
    waiting = calendar(MONTHLY, "2013-04-30", cooldown_days=10)
    assert (waiting.retrain, waiting.blocked_by) == (False, "cooldown")
    assert calendar(MONTHLY, "2013-04-30", end="2013-05-11", cooldown_days=10).retrain


def test_ended_rule_is_reported():
    decision = calendar("{trigger: calendar, rrule: 'FREQ=YEARLY;COUNT=2'}", "2013-05-01")
    assert not decision.retrain
    assert "has no date after 2013-05-01" in decision.reasons[0]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("cron: 0 3 * *", "with 4 fields, expected five"),
        ("cron: 0 3 31 2 *", "Bad day-of-month"),
        ("cron: 0 3 * * *, timezone: Mars/Base", "timezone is 'Mars/Base', expected a name of the IANA database"),
        ("rrule: every monday", "FREQ=MONTHLY"),
        ("rrule: INTERVAL=2", "cannot be read"),
        ("rrule: FREQ=MINUTELY", "expected FREQ=HOURLY or longer"),
        ("rrule: FREQ=DAILY;INTERVAL=0", "INTERVAL from 1"),
        ("rrule: FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "never has a date"),
        ("rrule: \"DTSTART:20130101T000000\\nRRULE:FREQ=DAILY\"", "time without a zone"),
        ("cron: 0 3 * * *, rrule: FREQ=DAILY", "both given"),
    ],
)  # fmt: skip
def test_invalid_calendar_is_refused(rule, words):
    with pytest.raises(ValidationError, match=words):
        policy(f"{{trigger: calendar, {rule}}}")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 730 * 24 * 60), st.sampled_from(["30 1 * * *", "30 2 * * *"]))
def test_next_date_is_always_later(minutes, rule):
    after = utc("2013-01-01") + timedelta(minutes=minutes)
    for kind, text in (("cron", rule), ("rrule", f"FREQ=DAILY;BYHOUR={rule[3]};BYMINUTE=30")):
        found = next_date(kind, text, "America/New_York", after)
        assert after < found <= after + timedelta(hours=49)


class TestArrival:
    rows = "{trigger: arrival, labelled_rows: 2500}"
    share = "{trigger: arrival, share: 0.25}"

    def decide(self, text: str, *labels: int, **known: object) -> Decision:
        """Return the decision on windows with these label counts; training ended when the first begins, with 10,000 rows."""
        reports = [report(number, labels=count, mae=5.0) for number, count in enumerate(labels)]
        past = history(*reports[:-1], trained_until=window(0).start, training_rows=10_000, **known)
        seen = evidence(len(labels) - 1, performance=reports[-1])
        rule = policy(text)
        return decide_retraining("small", rule, rule.case(seen, past, seen.window.end))

    def test_arrival_counts_labels_not_rows(self):
        assert self.decide(self.rows, 1000, 900, 600).retrain
        decision = self.decide(self.rows, 1000, 900, 599)
        assert not decision.retrain
        assert decision.reasons[0].startswith(
            "2,499 rows with labels arrived since the end of the latest training data"
        )
        assert decision.would_change == ("would retrain from 2,500 new rows with labels, 1 more",)

    def test_share_refers_to_training_rows(self):
        assert self.decide(self.share, 1000, 1000, 500).retrain
        assert not self.decide(self.share, 1000, 1000, 499).retrain

    def test_rows_of_a_refused_challenger_are_used_up(self):
        tried = {"learned": ((window(1).end, window(2).start),), "retrained_at": (window(1).end,)}
        assert not self.decide(self.rows, 1000, 1000, 1000, **tried).retrain
        assert self.decide(self.rows, 1000, 1000, 1000, 1000, 500, **tried).retrain

    def test_straddling_window_counts_in_part(self):
        halfway = {"learned": ((window(0).end, window(0).start + timedelta(days=2.5)),)}
        assert "1,500 rows with labels" in self.decide(self.rows, 1000, 1000, **halfway).reasons[0]

    def test_later_training_is_not_read(self):
        later = {"learned": ((window(9).end, window(9).start),)}
        assert self.decide(self.rows, 1000, 1000, 500, **later).retrain

    def test_late_labels_count_on_arrival(self):
        seen = evidence(2, performance=report(2, labels=600, mae=5.0))
        rule = policy(self.rows)
        open_first = history(report(0, labels=100, mae=5.0), report(1, mae=5.0), trained_until=window(0).start)
        assert not decide_retraining("small", rule, rule.case(seen, open_first, seen.window.end)).retrain
        revised = open_first.revised([report(0, labels=900, mae=5.0)])
        assert decide_retraining("small", rule, rule.case(seen, revised, seen.window.end)).retrain

    @pytest.mark.parametrize(("group", "retrain"), [("any_of", True), ("all_of", False)])
    def test_arrival_works_in_groups(self, group, retrain):
        text = f"{{trigger: {group}, conditions: [{self.rows}, {{trigger: calendar, cron: 0 0 1 1 *}}]}}"
        assert self.decide(text, 1000, 1000, 500).retrain is retrain


LATER, SOONER = timedelta(hours=6, seconds=9), timedelta(hours=6, seconds=5)


@pytest.mark.parametrize("late", [SOONER, LATER])
@pytest.mark.parametrize(
    ("rule", "limits"),
    [
        ("{trigger: every, days: 10}", {}),
        ("{trigger: every, days: 1}", {"cooldown_days": 10}),
        ("{trigger: every, days: 1}", {"max_retrains_per_month": 1}),
    ],
)
def test_window_limit_tolerates_start_times_seconds_apart(rule, limits, late):
    """A window is judged only once: missing the limit by two seconds would cost a full window."""
    windows = 6 if "max_retrains_per_month" in limits else 2
    trained = window(0).end + timedelta(hours=6, seconds=7)
    past, limited, before = history(retrained_at=(trained,)), policy(rule, **limits), windows - 1
    due_case = limited.case(evidence(windows), past, window(windows).end + late)
    assert decide_retraining("small", limited, due_case).retrain
    early = decide_retraining("small", limited, limited.case(evidence(before), past, window(before).end + LATER))
    assert not early.retrain
    days = 30 if "max_retrains_per_month" in limits else 10
    due = f"{trained + timedelta(days=days):%Y-%m-%d %H:%M} UTC"
    assert early.would_change[0].startswith(f"would retrain from {due}")


def test_late_start_beyond_a_tenth_moves_the_limit():
    late = history(retrained_at=(window(0).end + timedelta(hours=13),))
    rule = policy("{trigger: every, days: 5}")
    assert not decide_retraining("small", rule, rule.case(evidence(1), late, window(1).end)).retrain


def test_seven_percent_of_a_hundred_rows_are_seven_rows():
    """0.07 · 100 is 7.000000000000001 in floating point."""
    past = history(training_rows=100, rows_since_training=0)
    rule = policy("{trigger: new_rows, fraction: 0.07}", min_rows=1)
    cases = [rule.case(evidence(1, rows=rows), past, window(1).end) for rows in (6, 7)]
    decisions = [decide_retraining("small", rule, case) for case in cases]
    assert [decision.retrain for decision in decisions] == [False, True]
