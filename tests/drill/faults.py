"""What can be wrong with a challenger that passed its validation. A fault changes the answers of the real model."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Row = Mapping[str, object]


class Raised(RuntimeError):
    """The model raised instead of answering."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `answer` gets (prediction, row, hash of the row in [0, 1)); `guardrails` may find it."""

    name: str
    answer: Callable[[float, Row, float], float]
    guardrails: tuple[str, ...]
    begins_after: int = 0
    """Windows of the canary that pass before the fault begins."""


def _raises(prediction: float, row: Row, place: float) -> float:
    if place < 0.1:
        raise Raised("cannot read this row")
    return prediction


def _slow(prediction: float, row: Row, place: float) -> float:
    time.sleep(0.1)
    return prediction


def _worse(prediction: float, row: Row, place: float) -> float:
    return prediction + 3 * (place - 0.5)


FAULTS = (
    Fault("healthy", lambda prediction, row, place: prediction, ()),
    Fault("worse", _worse, ("verdict", "confidence", "slices")),
    Fault("slow", _slow, ("latency",)),
    Fault("raises on 10 % of rows", _raises, ("errors",)),
    Fault("answers NaN on 5 % of rows", lambda p, row, place: math.nan if place < 0.05 else p, ("missing", "errors")),
    Fault("answers a constant", lambda prediction, row, place: 4.0, ("constant", "confidence", "verdict")),
    Fault(
        "wrong in one region",
        lambda prediction, row, place: prediction + 1.0 * (row["region"] == "north"),
        ("slices", "verdict"),
    ),
    Fault("fine for 72 minutes, then shifted", lambda p, row, place: p + 2.0, ("confidence", "verdict", "slices"), 1),
)
