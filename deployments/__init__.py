"""What differs per model: one YAML file each, and the code that reads and applies them."""

import tasks  # noqa: F401  (telemetry off, and the environment read as people mean it, before Prefect loads)
