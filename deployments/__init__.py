"""Model configuration: one YAML file per model, with the code that checks and deploys the files."""

import tasks  # noqa: F401  (disables telemetry and normalises the environment before Prefect loads)
