"""The flows: each composes stages and reads as prose."""

import tasks  # noqa: F401  (telemetry off before Prefect loads)
