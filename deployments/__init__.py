"""Model configuration: one YAML file per model, and the code that reads and applies the files."""

import tasks  # noqa: F401  (disables telemetry and normalises the environment before Prefect loads)
