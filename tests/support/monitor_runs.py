"""A `MonitorRun` as the stages of `monitor` receive it, without a flow."""

from datetime import datetime

from deployments.config.model import ModelConfig
from tasks.adapters import ledger
from tasks.policy.evidence.ledger import Past
from tasks.policy.evidence.monitoring import History, MonitorRun
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.base import Window


def run_of(
    window: Window, as_of: datetime, history: History | None = None, champion: ModelVersion | None = None
) -> MonitorRun:
    """Return a run with an empty ledger."""
    return MonitorRun(window, as_of, champion, history or History(), Past())


def recorded_run(config: ModelConfig, champion: ModelVersion, history: History, as_of: datetime) -> MonitorRun:
    """Return a run with the current entries of the model's ledger."""
    return MonitorRun(config.window_until(as_of), as_of, champion, history, Past(ledger.entries(config.name)))
