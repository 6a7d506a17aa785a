"""Describe the decision on a window for the model's owner: the first sentence of the page, the log and the alert."""

import re

from tasks.policy.evidence.monitoring import Decision
from tasks.policy.reporting.replay_story import METRIC_NAMES, version_name

_METRICS = re.compile(rf"\b({'|'.join(METRIC_NAMES)})\b")


def headline(decision: Decision, champion: str) -> str:
    """The decision and its first reason.

    >>> from tasks.policy.records.base import Window, utc
    >>> decision = Decision("d1", "m", Window(utc("2024-01-01"), utc("2024-01-02")), False, ("log_loss 0.4 is below 0.5",))
    >>> headline(decision, "17")
    'Keep champion v17. Log loss 0.4 is below 0.5.'
    """
    return f"{action_words(decision, champion)}. {as_sentence(decision.reasons[0])}"


def action_words(decision: Decision, champion: str) -> str:
    """`Keep champion v17`, `Retrain champion v17`, `Return to v12 from champion v17`."""
    if decision.go_back_to:
        return f"Return to {version_name(decision.go_back_to)} from champion {version_name(champion)}"
    return f"{'Retrain' if decision.retrain else 'Keep'} champion {version_name(champion)}"


def as_sentence(text: str) -> str:
    """A reason as a full sentence: plain names of metrics, a capital letter first, a full stop last."""
    plain = _METRICS.sub(lambda found: METRIC_NAMES[found[0]].short, text)
    return f"{plain[:1].upper()}{plain[1:]}{'' if plain.endswith(('.', '!', '?')) else '.'}"
