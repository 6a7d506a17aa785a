"""Which labelled rows a challenger learns from, and which are kept back to judge it.

The latest `holdout_days` that have landed and whose labels are due by `as_of` are never trained on, nor is what came
after them; the training window ends where they begin. Where each label has a time of its own, they are due after as long
as all but a few took so far: days with the first labels only would teach and judge on another mix than they end with.
Windows that are quarantined, or whose labels cannot be trusted, are in neither. So a retrain by hand, days after the last
window or months after the history, is judged on as many days as one that a window's end asked for.
"""

from datetime import datetime, timedelta

from deployments.config.model import ModelConfig
from tasks.adapters import lake, ledger
from tasks.adapters.orchestration.stage import stage
from tasks.policy.records.base import Window
from tasks.policy.records.errors import TooEarly
from tasks.policy.records.evidence import windows_to_exclude
from tasks.policy.records.reports import Snapshot


@stage
def split_labelled_rows(config: ModelConfig, as_of: datetime) -> tuple[Snapshot, Snapshot]:
    """(training, holdout): consecutive windows of labelled rows, as labels were known at `as_of`.

    Raises TooEarly where all recorded data lies in the holdout.
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


def _label_delay(config: ModelConfig, as_of: datetime) -> timedelta:
    """After which time a row's label can be counted on."""
    least = config.columns.label_delay
    seen = lake.label_lag(config, as_of, config.performance.closed_at) if config.columns.has_label_time else None
    return max(least, seen or least)


def _why_withheld(config: ModelConfig, delay: timedelta) -> str:
    if delay == config.columns.label_delay:
        return config.withheld
    share = f"{config.performance.closed_at:.0%} of the labels{'' if config.task == 'regression' else ' of each class'}"
    return (
        f"are not trained on ({delay / timedelta(days=1):.3g} days, in which {share} came by {config.columns.label_time}, "
        f"and validation.holdout_days: {config.validation.holdout_days:g}); wait, or begin period.start earlier"
    )
