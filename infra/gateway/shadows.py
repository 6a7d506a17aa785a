"""Requests that wait for a shadow: it predicts in a thread of its own, so that it never delays a client.

The queue is bounded. A shadow that falls behind is not asked about some rows; they are counted, and its latency is judged
on the rows that it predicted.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from infra.gateway.metrics import Metrics

if TYPE_CHECKING:
    from infra.gateway.service import Exchange

logger = logging.getLogger(__name__)
MOST_WAITING = 2000
"""Rows that wait for a shadow; beyond it, further requests are left out."""
SLICE_S = 0.005
"""Seconds of work before a rest. A change of threads takes longer than a small model, so there are few of them."""
ROUND_S = 0.25
"""Seconds of one round of `predict`, so that a stopping gateway does not wait for all of the queue."""


class ShadowQueue:
    """The requests of one model that wait. One thread puts, another one takes: each count is written by one of them."""

    def __init__(self, model: str, metrics: Metrics) -> None:
        self.model, self.metrics = model, metrics
        self._waiting: deque[Exchange] = deque()
        self._put = self._taken = 0
        self._shed = 0
        """Rows left out since the queue was last empty."""

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def put(self, exchange: "Exchange") -> None:
        """Queue a request for its challenger, or leave it out where too many rows wait."""
        rows = len(exchange.rows)
        if self._put - self._taken + rows > MOST_WAITING:
            self._leave_out(exchange)
            return
        self._put += rows
        self._waiting.append(exchange)

    def predict(self, predict: "Callable[[Exchange], None]") -> None:
        """Predict what waits, for `ROUND_S` at most; about half of the time it rests, so that clients go first."""
        begun = since = time.perf_counter()
        while self._waiting and since - begun < ROUND_S:
            exchange = self._waiting.popleft()
            predict(exchange)
            self._taken += len(exchange.rows)
            if (worked := time.perf_counter() - since) >= SLICE_S:
                time.sleep(worked)
                since = time.perf_counter()
        if self._shed and not self._waiting:
            logger.warning("%s: the shadow has caught up, %d rows were left out", self.model, self._shed)
            self._shed = 0

    def clear(self) -> None:
        """Leave out everything that waits."""
        while self._waiting:
            exchange = self._waiting.popleft()
            self._taken += len(exchange.rows)
            self._leave_out(exchange)

    def _leave_out(self, exchange: "Exchange") -> None:
        challenger = exchange.serving.challenger
        number = challenger.number if challenger else ""
        if not self._shed:
            logger.warning("%s: shadow %s falls behind, its rows are left out", self.model, number)
        self._shed += len(exchange.rows)
        self.metrics.shed_rows.labels(self.model, number).inc(len(exchange.rows))
