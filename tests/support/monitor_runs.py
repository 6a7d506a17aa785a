"""A run of `monitor` as its stages get it, without a flow around them."""

from datetime import datetime

from deployments.config.model import ModelConfig
from tasks.adapters import ledger
from tasks.policy.records.base import Window
from tasks.policy.records.evidence import History, ModelVersion, MonitorRun, Past


def run_of(
    window: Window, as_of: datetime, history: History | None = None, champion: ModelVersion | None = None
) -> MonitorRun:
    """With no ledger behind it."""
    return MonitorRun(window, as_of, champion, history or History(), Past())


def recorded_run(config: ModelConfig, champion: ModelVersion, history: History, as_of: datetime) -> MonitorRun:
    """With what the model's ledger holds now."""
    return MonitorRun(config.window_until(as_of), as_of, champion, history, Past(ledger.entries(config.name)))
