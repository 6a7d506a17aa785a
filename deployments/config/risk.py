"""Defaults for a model's risk: retraining policy, approval, evidence and rollout. Settings in the file take precedence.

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
        "rollout": {"min_units": 100},
    },
    "medium": {
        "retraining": {"when": PERENNIAL, "cooldown_days": 5, "max_retrains_per_month": 4},
        "promotion": {"mode": "automatic"},
        "validation": {"confidence": 0.95, "min_rows": 500},
        "rollout": {"min_units": 300},
    },
    "high": {
        "retraining": {"when": PERENNIAL, "cooldown_days": 10, "max_retrains_per_month": 2},
        "promotion": {"mode": "approval", "accept_warnings": False},
        "validation": {"confidence": 0.99, "min_rows": 1000},
        "rollout": {"min_units": 1000, "shares": [0.05, 0.25, 0.5], "verdict": {"confidence": 0.99}},
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
            completed[section] = _merged(defaults, given)
    return completed


def _merged(defaults: Mapping[str, Any], given: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the settings of the file, completed with the defaults, also inside blocks."""
    if isinstance(given.get("verdict"), str):  # a method alone
        given = {**given, "verdict": {"method": given["verdict"]}}
    blocks = {
        name: _merged(value, given[name])
        for name, value in defaults.items()
        if isinstance(value, Mapping) and isinstance(given.get(name), Mapping)
    }
    return {**defaults, **given, **blocks}
