"""Defaults for a model's risk: retraining policy, approval and evidence. Settings in the file take precedence.

A faulty low-risk model is corrected by the next retrain. A faulty high-risk model does harm before that; therefore a
person approves it, intervals are wider and more rows are required.
"""

from collections.abc import Mapping
from typing import Any

PERENNIAL = {"trigger": "perennial"}
DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "low": {
        "retraining": {"when": PERENNIAL},
        "promotion": {"mode": "automatic"},
        "validation": {"confidence": 0.95, "min_rows": 300},
    },
    "medium": {
        "retraining": {"when": PERENNIAL, "cooldown_days": 5, "max_retrains_per_month": 4},
        "promotion": {"mode": "automatic"},
        "validation": {"confidence": 0.95, "min_rows": 500},
    },
    "high": {
        "retraining": {"when": PERENNIAL, "cooldown_days": 10, "max_retrains_per_month": 2},
        "promotion": {"mode": "approval", "accept_warnings": False},
        "validation": {"confidence": 0.99, "min_rows": 1000},
    },
}


def with_risk_defaults(content: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the content of a model's file with the defaults of its risk; validation rejects an unknown risk.

    A `retraining` block in the file is used unchanged, because its limits were chosen together with its condition.
    """
    completed = dict(content)
    for section, defaults in DEFAULTS.get(str(content.get("risk")), {}).items():
        given = content.get(section)
        if given is None:
            completed[section] = dict(defaults)
        elif isinstance(given, Mapping) and section != "retraining":
            completed[section] = {**defaults, **given}
    return completed
