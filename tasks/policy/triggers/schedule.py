"""Triggers that count time or rows since the last training: a timer, new rows, new labels.

Days since a training are measured by the clock of the runs, which start seconds or minutes late. A limit therefore
counts as reached slightly early. Otherwise a run that starts two seconds sooner after its window than the previous one
would miss a limit of whole windows and delay the retrain by a window.
"""

import math
from datetime import datetime, timedelta
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from tasks.policy.evidence.monitoring import History
from tasks.policy.records.base import Window
from tasks.policy.records.reports import PerformanceReport
from tasks.policy.triggers.base import Case, Trigger, TriggerResult

LATE = 0.1
"""Allowed variation of the start of runs, as a share of a window, before limits are missed."""
ROUNDING = 1e-9
"""Floating-point tolerance: 0.07 · 100 is 7.000000000000001, and 7 rows are enough."""


class Every(Trigger):
    """A number of days has passed since the last training."""

    example: ClassVar[str] = "{trigger: every, days: 30}"
    trigger: Literal["every"]
    days: float = Field(30, gt=0)
    """Days since the last training."""

    def describe(self) -> str:
        return f"{self.days:g} days have passed"

    def judge(self, case: Case) -> TriggerResult:
        last = last_training(case.history)
        if last is None:
            return self.result(False, "timer: the time of the last training is unknown")
        due = last + timedelta(days=self.days)
        elapsed = (case.as_of - last) / timedelta(days=1)
        reason = f"{elapsed:.1f} days since the last training on {last:%Y-%m-%d}, {self.days:g} are needed"
        holds = is_reached(due, case.as_of, case.evidence.window)
        return self.result(holds, reason, "" if holds else f"would retrain from {day(due)}")


class NewRows(Trigger):
    """Rows that arrived since the champion's training reach a fraction of its training rows."""

    example: ClassVar[str] = "{trigger: new_rows, fraction: 0.05}"
    trigger: Literal["new_rows"]
    fraction: float = Field(0.05, gt=0)
    """New rows as a fraction of the champion's training rows."""

    def describe(self) -> str:
        return f"new rows reach {self.fraction:.0%} of the training rows"

    def judge(self, case: Case) -> TriggerResult:
        history = case.history
        if history.training_rows <= 0:
            return self.result(False, "new rows: the number of the champion's training rows is unknown")
        counted = history.trained_until is None or case.evidence.window.start >= history.trained_until
        rows = history.rows_since_training + (case.evidence.rows if counted else 0)
        needed = math.ceil(self.fraction * history.training_rows - ROUNDING)
        holds = rows >= needed
        reason = (
            f"{rows:,} rows arrived since training on {history.training_rows:,} ({rows / history.training_rows:.1%}), "
            f"{self.fraction:.1%} are needed"
        )
        return self.result(holds, reason, "" if holds else f"would retrain from {needed:,} new rows")


class Arrival(Trigger):
    """Enough rows with labels have arrived since the last training, by number or as a share of the training rows."""

    example: ClassVar[str] = "{trigger: arrival, labelled_rows: 50000}"
    trigger: Literal["arrival"]
    labelled_rows: int | None = Field(None, ge=1)
    """New rows with labels that are needed. Set this or `share`."""
    share: float | None = Field(None, gt=0)
    """The same as a share of the champion's training rows."""

    @model_validator(mode="after")
    def _sets_one(self) -> "Arrival":
        if (self.labelled_rows is None) == (self.share is None):
            given = "neither" if self.share is None else "both"
            raise ValueError(f"labelled_rows and share: {given} given, expected one, such as labelled_rows: 50000")
        return self

    def describe(self) -> str:
        if self.labelled_rows is not None:
            return f"{self.labelled_rows:,} new rows with labels have arrived since the last training"
        return f"new rows with labels reach {self.share:.0%} of the training rows"

    def judge(self, case: Case) -> TriggerResult:
        """Count known labels after the end of the latest challenger's training data; quarantined windows have none."""
        since, trained_on = _learned_until(case), case.history.training_rows
        if since is None:
            return self.result(False, "arrival: the end of the training data is unknown")
        if self.share is not None and trained_on <= 0:
            return self.result(False, "arrival: the number of the champion's training rows is unknown")
        needed = self.labelled_rows or math.ceil((self.share or 0) * trained_on - ROUNDING)
        rows = round(sum(_labelled_after(since, report) for report in _latest_reports(case)))
        of = f" of {trained_on:,} training rows" if self.share is not None else ""
        reason = (
            f"{rows:,} rows with labels arrived since the end of the latest training data, {day(since)}; "
            f"{needed:,} are needed" + (f", {self.share:.0%}{of}" if self.share is not None else "")
        )
        would_retrain = f"would retrain from {needed:,} new rows with labels, {needed - rows:,} more"
        return self.result(rows >= needed, reason, "" if rows >= needed else would_retrain)


def last_training(history: History) -> datetime | None:
    """Time at which the latest challenger was created, promoted or not; before the first, the end of the champion's rows."""
    return max(history.retrained_at, default=history.trained_until)


def is_reached(due: datetime, as_of: datetime, window: Window) -> bool:
    """Whether a limit counted from an earlier run is reached, with a tolerance for runs that start late."""
    return as_of + LATE * (window.end - window.start) >= due


def day(moment: datetime) -> str:
    """The date, with the time unless it is midnight: a limit due at noon is not reached in the morning."""
    return f"{moment:%Y-%m-%d}" if moment.time() == datetime.min.time() else f"{moment:%Y-%m-%d %H:%M} UTC"


def _learned_until(case: Case) -> datetime | None:
    """End of the latest training data; a rejected challenger counts too, because its rows were tried."""
    tried = [until for made, until in case.history.learned if made < case.as_of]
    return max(tried, default=case.history.trained_until)


def _latest_reports(case: Case) -> list[PerformanceReport]:
    own = (case.evidence.performance,) if case.evidence.performance else ()
    earlier = [report for report in case.history.performances if report.window < case.evidence.window]
    return [*earlier, *own]


def _labelled_after(since: datetime, report: PerformanceReport) -> float:
    """Labelled rows after `since`; a window that began before it counts in proportion to its part after it."""
    window = report.window
    return report.labelled_rows * min(1.0, max(0.0, (window.end - since) / (window.end - window.start)))
