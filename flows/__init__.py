"""Prefect flows. Each one composes the stages of `tasks`."""

import tasks  # noqa: F401  (telemetry off before Prefect loads)
