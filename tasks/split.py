"""Which labelled rows a challenger learns from, and which are kept back to judge it.

The latest `holdout_days` whose labels are due by `as_of` are never trained on, nor is what came after them; the training
window ends where they begin. Quarantined windows are in neither.
"""

from datetime import datetime, timedelta

from prefect import task
from prefect.cache_policies import NO_CACHE

from deployments.model_config import ModelConfig
from tasks.policy.errors import PerennialError
from tasks.policy.records import Window, from_json
from tasks.policy.reports import QualityReport, Snapshot


class TooEarly(PerennialError):
    """There is nothing yet that a model could learn from."""


@task(cache_policy=NO_CACHE)
def split_labelled_rows(config: ModelConfig, as_of: datetime) -> tuple[Snapshot, Snapshot]:
    """(training, holdout): consecutive windows of labelled rows, as labels were known at `as_of`.

    Raises TooEarly where all recorded data lies in the holdout.
    """
    from tasks.adapters import lake, ledger

    failed = ledger.entries(config.name, kind="window.quarantined")
    quarantined = tuple(from_json(QualityReport, entry.body).window.name for entry in failed)
    start, cut = config.period.start, as_of - config.kept_from_training
    if cut <= start:
        raise TooEarly(
            f"{config.name}: {as_of:%Y-%m-%d} is {(as_of - start).days} days after {start:%Y-%m-%d}, where recorded data "
            f"begins (period.start); expected more than the {config.kept_from_training.days} that {config.withheld}"
        )
    if config.training.window_days:
        start = max(start, cut - timedelta(days=config.training.window_days))
    training = lake.labelled_snapshot(config, Window(start, cut), as_of, excluding=quarantined)
    holdout = lake.labelled_snapshot(config, Window(cut, as_of), as_of, excluding=quarantined)
    return training, holdout
