"""A rollout of the small model: its challenger begins on 25 January 2024, and windows are two days long."""

from collections.abc import Callable
from pathlib import Path

from flows.monitor import monitor
from flows.promote import promote
from flows.retrain import retrain
from flows.score import score
from tasks.adapters import ledger
from tasks.policy.records.base import utc
from tasks.policy.rollout.state import RolloutState, rollout_state


def begin_rollout(begin: Callable[..., str], folder: Path, **replacements: str) -> str:
    """Serve a champion, and start the rollout of a challenger; `replacements` are texts of the model's file. Return its path."""
    model = begin(folder, **replacements)
    serve(model, 25)
    retrain(model, until=utc("2024-01-25"), reason="a second model")
    assert isinstance(promote(model, until=utc("2024-01-25")), RolloutState)
    return model


def with_rollout(block: str) -> dict[str, str]:
    """Return the replacement that gives the model this `rollout:` block."""
    return {"rollout: {mode: none}": f"rollout: {block}"}


def serve(model: str, *days: int) -> None:
    """Score and monitor the windows that end on these days of January."""
    for day in days:
        score(model, until=utc(f"2024-01-{day:02d}"))
        monitor(model, until=utc(f"2024-01-{day:02d}"))


def state() -> RolloutState:
    """Return the small model's latest rollout."""
    found = rollout_state(ledger.entries("small"))
    assert found is not None
    return found
