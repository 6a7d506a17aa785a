"""Whether conditions hold that count time or rows since the last training: timer, calendar, new rows, arrived labels.

A calendar's date is answered by one retrain: by any training after it, or by a request after it that is under way. It is
held against the window's end, so that a monitor run that comes late neither skips a date nor counts one twice.
Days since a training are counted by the clock of the runs, which start some seconds or minutes late, so a limit counts
as reached a little earlier: else a run that starts two seconds sooner after its window than the last one would miss a
limit of whole windows, and with it a window.
"""

import math
from datetime import datetime, timedelta

from tasks.policy.records.base import Window
from tasks.policy.records.evidence import History
from tasks.policy.records.reports import PerformanceReport
from tasks.policy.triggers.conditions import Arrival, Calendar, Every, NewRows
from tasks.policy.triggers.result import Case, Finding, one_finding

LATE = 0.1
"""Share of a window by which runs may start late, each by another time, before limits are missed."""
ROUNDING = 1e-9
"""0.07 · 100 is 7.000000000000001 to a computer; 7 rows are enough."""


def last_training(history: History) -> datetime | None:
    """When a challenger was last made, promoted or not; before the first, where the champion's rows end."""
    return max(history.retrained_at, default=history.trained_until)


def is_reached(due: datetime, as_of: datetime, window: Window) -> bool:
    """Whether a limit that counts from an earlier run has come, within what runs may start late."""
    return as_of + LATE * (window.end - window.start) >= due


def judge_every(rule: Every, case: Case) -> Finding:
    last = last_training(case.history)
    if last is None:
        return one_finding(rule.trigger, False, "timer: when the model was last trained is not known", "")
    due = last + timedelta(days=rule.days)
    elapsed = (case.as_of - last) / timedelta(days=1)
    reason = f"{elapsed:.1f} days since the last training on {last:%Y-%m-%d}, {rule.days:g} are asked for"
    holds = is_reached(due, case.as_of, case.evidence.window)
    return one_finding(rule.trigger, holds, reason, "" if holds else f"would retrain from {day(due)}")


def judge_calendar(rule: Calendar, case: Case) -> Finding:
    last, end = last_training(case.history), case.evidence.window.end
    if last is None:
        return one_finding(rule.trigger, False, "calendar: when the model was last trained is not known", "")
    asked = max((moment for moment in case.history.asked_at if moment < end), default=last)
    following = rule.next_date(max(last, asked))
    since = f"the retrain asked for on {day(asked)}" if asked > last else f"training on {day(last)}"
    if following is None:
        return one_finding(rule.trigger, False, f"calendar: {rule.text} has no date after {day(max(last, asked))}", "")
    holds = following <= end
    reason = f"{day(following)} of {rule.text} {'has come' if holds else 'is next'} since {since}"
    return one_finding(rule.trigger, holds, reason, "" if holds else f"would retrain from {day(following)}")


def day(moment: datetime) -> str:
    """The day, with the time where it is not its start: a limit that falls due at noon has not come in the morning."""
    return f"{moment:%Y-%m-%d}" if moment.time() == datetime.min.time() else f"{moment:%Y-%m-%d %H:%M} UTC"


def judge_new_rows(rule: NewRows, case: Case) -> Finding:
    history = case.history
    if history.training_rows <= 0:
        return one_finding(rule.trigger, False, "new rows: how many rows the champion was trained on is not known", "")
    counted = history.trained_until is None or case.evidence.window.start >= history.trained_until
    rows = history.rows_since_training + (case.evidence.rows if counted else 0)
    needed = math.ceil(rule.fraction * history.training_rows - ROUNDING)
    holds = rows >= needed
    reason = (
        f"{rows:,} rows landed since training on {history.training_rows:,} ({rows / history.training_rows:.1%}), "
        f"{rule.fraction:.1%} are asked for"
    )
    return one_finding(rule.trigger, holds, reason, "" if holds else f"would retrain from {needed:,} new rows")


def judge_arrival(rule: Arrival, case: Case) -> Finding:
    """Labels known by now of rows later than what the latest challenger learned from; quarantined windows have none."""
    since, trained_on = _learned_until(case), case.history.training_rows
    if since is None:
        return one_finding(rule.trigger, False, "arrival: until when the model has learned is not known", "")
    if rule.share is not None and trained_on <= 0:
        return one_finding(rule.trigger, False, "arrival: how many rows the champion was trained on is not known", "")
    needed = rule.labelled_rows or math.ceil((rule.share or 0) * trained_on - ROUNDING)
    rows = round(sum(_labelled_after(since, report) for report in _latest_reports(case)))
    of = f" of {trained_on:,} training rows" if rule.share is not None else ""
    reason = (
        f"{rows:,} rows with labels arrived since the rows of the latest training, which end {day(since)}; "
        f"{needed:,} are asked for" + (f", {rule.share:.0%}{of}" if rule.share is not None else "")
    )
    wish = f"would retrain from {needed:,} new rows with labels, {needed - rows:,} more"
    return one_finding(rule.trigger, rows >= needed, reason, "" if rows >= needed else wish)


def _learned_until(case: Case) -> datetime | None:
    """A refused challenger counts too: its rows were tried."""
    tried = [until for made, until in case.history.learned if made < case.as_of]
    return max(tried, default=case.history.trained_until)


def _latest_reports(case: Case) -> list[PerformanceReport]:
    own = (case.evidence.performance,) if case.evidence.performance else ()
    earlier = [report for report in case.history.performances if report.window < case.evidence.window]
    return [*earlier, *own]


def _labelled_after(since: datetime, report: PerformanceReport) -> float:
    """Of a window that began before `since`, the share of it that lies after."""
    window = report.window
    return report.labelled_rows * min(1.0, max(0.0, (window.end - since) / (window.end - window.start)))
