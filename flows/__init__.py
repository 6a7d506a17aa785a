"""The verbs: each flow composes stages and reads as prose."""

import tasks  # noqa: F401  (telemetry off before Prefect loads)
