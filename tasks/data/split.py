"""Split labelled rows into a training window and a holdout for validating the challenger.

The holdout is the latest `holdout_days` that are in the lake and whose labels are due by `as_of`. Neither the holdout
nor later rows are trained on; the training window ends where the holdout begins. Where each label has its own
timestamp, the label delay is the time in which all but a few labels have arrived so far, because days that have only
their first labels have a different label mix than they end with. Quarantined windows, and windows whose labels failed
their checks, are in neither part. The holdout has the same number of days whether a window's end or a person started
the retrain.
"""

from datetime import datetime, timedelta

from deployments.config.model import ModelConfig
from tasks.adapters import lake, ledger
from tasks.adapters.orchestration.stage import stage
from tasks.policy.evidence.ledger import windows_to_exclude
from tasks.policy.records.base import Window
from tasks.policy.records.errors import TooEarly
from tasks.policy.records.reports import Snapshot


@stage
def split_labelled_rows(config: ModelConfig, as_of: datetime) -> tuple[Snapshot, Snapshot]:
    """Return (training, holdout): consecutive windows of labelled rows, with the labels known at `as_of`.

    Raises TooEarly if the recorded data is too short to leave training rows before the holdout.
    """
    excluding = windows_to_exclude(ledger.entries(config.name), as_of)
    landed = lake.landed_until(config, as_of, excluding) or as_of
    delay = _label_delay(config, as_of)
    start, reached = config.period.start, min(as_of, landed + delay)
    withheld = delay + timedelta(days=config.validation.holdout_days)
    cut = reached - withheld
    if cut <= start:
        raise TooEarly(
            f"{config.name}: {reached:%Y-%m-%d} is {(reached - start).days} days after {start:%Y-%m-%d}, where recorded data "
            f"begins (period.start); expected more than the {withheld.days} that {_why_withheld(config, delay)}"
        )
    if config.training.window_days:
        start = max(start, cut - timedelta(days=config.training.window_days))
    training = lake.labelled_snapshot(config, Window(start, cut), as_of, excluding=excluding)
    due = Window(cut, cut + timedelta(days=config.validation.holdout_days))
    holdout = lake.labelled_snapshot(config, due, as_of, excluding=excluding)
    return training, holdout


def span_of(config: ModelConfig, training: Snapshot, start: datetime | None, end: datetime | None) -> Snapshot:
    """Return the labelled rows between two times: by default from `period.start` to the holdout.

    Raises TooEarly for a span that reaches into the holdout, whose rows the model is compared on.
    """
    first, last = start or config.period.start, end or training.window.end
    if first >= last:
        raise TooEarly(f"{config.name}: the profile's rows end on {last:%Y-%m-%d}, expected after {first:%Y-%m-%d}")
    span = Window(first, last)
    if span.end > training.window.end:
        raise TooEarly(
            f"{config.name}: the profile's rows end on {span.end:%Y-%m-%d %H:%M} UTC, expected no later than "
            f"{training.window.end:%Y-%m-%d %H:%M} UTC, where the rows begin that the model is compared on"
        )
    return lake.labelled_snapshot(config, span, training.as_of or span.end, excluding=training.excluding)


def after(config: ModelConfig, holdout: Snapshot, moment: datetime) -> Snapshot:
    """Return the holdout's rows from a time on, which a model that was trained until then has not seen.

    Raises TooEarly if the holdout ends before.
    """
    if holdout.window.start >= moment:
        return holdout
    if holdout.window.end <= moment:
        raise TooEarly(
            f"{config.name}: the latest labelled rows end on {holdout.window.end:%Y-%m-%d %H:%M} UTC, and the model has seen "
            f"rows until {moment:%Y-%m-%d %H:%M} UTC; expected labels of later rows to compare on"
        )
    span = Window(moment, holdout.window.end)
    return lake.labelled_snapshot(config, span, holdout.as_of or span.end, excluding=holdout.excluding)


def _label_delay(config: ModelConfig, as_of: datetime) -> timedelta:
    """Return the delay after which a row's label is expected: the configured one, or the observed one if longer."""
    least = config.columns.label_delay
    seen = lake.label_lag(config, as_of, config.performance.closed_at) if config.columns.has_label_time else None
    return max(least, seen or least)


def _why_withheld(config: ModelConfig, delay: timedelta) -> str:
    if delay == config.columns.label_delay:
        return config.withheld
    share = f"{config.performance.closed_at:.0%} of the labels{'' if config.task == 'regression' else ' of each class'}"
    return (
        f"are not trained on ({delay / timedelta(days=1):.3g} days, in which {share} arrived according to "
        f"{config.columns.label_time}, and validation.holdout_days: {config.validation.holdout_days:g}); wait, or begin "
        "period.start earlier"
    )
