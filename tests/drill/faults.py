"""What can be wrong with a challenger that passed its validation. A fault changes the answers of the real model."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from tests.drill.model import rows

Row = Mapping[str, object]


class Raised(RuntimeError):
    """The model raised instead of answering."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `answer` gets (prediction, row, hash of the row in [0, 1))."""

    name: str
    answer: Callable[[float, Row, float], float]
    stopped_by: str | None
    """The guardrail that must stop it, or `verdict`; None for a challenger that must not be returned."""
    begins_after: int = 0
    """Windows that pass before the fault begins."""
    alone: bool = True
    """Whether nothing else may find it in the window in which it is stopped."""
    is_shadow: bool = False
    """Whether the challenger only shadows the champion, which needs the gateway."""


def apply_fault(name: str, begins: str, prediction: float, row: Row) -> float:
    """Return the answer of the named fault for rows from the time `begins` on, else the prediction."""
    if str(row.get("at", "")) < begins:
        return prediction
    place = int(hashlib.sha256(str(row["row"]).encode()).hexdigest()[:8], 16) / 2**32
    return next(fault for fault in FAULTS if fault.name == name).answer(prediction, row, place)


def _raises(prediction: float, row: Row, place: float) -> float:
    if place < 0.1:
        raise Raised("cannot read this row")
    return prediction


def _slow(prediction: float, row: Row, place: float) -> float:
    time.sleep(0.1)
    return prediction


def _busy(prediction: float, row: Row, place: float) -> float:
    until = time.perf_counter() + 0.1
    while time.perf_counter() < until:
        pass
    return prediction


def _wrong_in_one_region(prediction: float, row: Row, place: float) -> float:
    """Wrong in the north by 1, and elsewhere nearer to the label than any model, so that it is no worse overall."""
    return prediction + 1.0 if row["region"] == "north" else _labels()[str(row["row"])]


@cache
def _labels() -> dict[str, float]:
    table = rows()
    return dict(zip(table["row"], table["y"].astype(float), strict=True))


def _worse(prediction: float, row: Row, place: float) -> float:
    return prediction + 3 * (place - 0.5)


FAULTS = (
    Fault("healthy", lambda prediction, row, place: prediction, None),
    Fault("worse", _worse, "verdict", alone=False),
    Fault("slow", _slow, "latency"),
    Fault("raises on 10 % of rows", _raises, "errors"),
    Fault("answers NaN on 5 % of rows", lambda p, row, place: math.nan if place < 0.05 else p, "missing"),
    Fault("answers a constant", lambda prediction, row, place: 4.0, "constant", alone=False),
    Fault("wrong in one region", _wrong_in_one_region, "slices"),
    Fault("fine for 72 minutes, then shifted", lambda p, row, place: p + 2.0, "confidence", 1, alone=False),
    Fault("raises while it is a shadow", _raises, "errors", is_shadow=True),
    Fault("slow while it is a shadow", _busy, "latency", is_shadow=True),
)
