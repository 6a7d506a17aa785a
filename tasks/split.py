"""Which labelled rows a challenger learns from, and which are kept back to judge it.

The latest `holdout_days` before `as_of` are never trained on; the training window ends where they begin. Quarantined
windows are in neither.
"""

from datetime import datetime, timedelta

from prefect import task
from prefect.cache_policies import NO_CACHE

from deployments.model_config import ModelConfig
from tasks.policy.records import Window, from_json
from tasks.policy.reports import QualityReport, Snapshot


@task(cache_policy=NO_CACHE)
def split_labelled_rows(config: ModelConfig, as_of: datetime) -> tuple[Snapshot, Snapshot]:
    """(training, holdout): consecutive windows of labelled rows, as labels were known at `as_of`."""
    from tasks.adapters import lake, ledger

    failed = ledger.entries(config.name, kind="window.quarantined")
    quarantined = tuple(from_json(QualityReport, entry.body).window.name for entry in failed)
    cut = as_of - timedelta(days=config.validation.holdout_days)
    start = config.period.start
    if config.training.window_days:
        start = max(start, cut - timedelta(days=config.training.window_days))
    training = lake.labelled_snapshot(config, Window(start, cut), as_of, excluding=quarantined)
    holdout = lake.labelled_snapshot(config, Window(cut, as_of), as_of, excluding=quarantined)
    return training, holdout
