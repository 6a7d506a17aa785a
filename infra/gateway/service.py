"""Answer the rows of a request: who answers which row, what happens when a version fails, and what is logged.

A row belongs to the version of its unit. Where the challenger fails, or its prediction is not finite, the champion answers
in its place, so no client ever sees that a challenger is tried. A shadow predicts after the answer was sent, in a
thread of this process, so that it delays no client and its latency compares with the champion's.
"""

import logging
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from http import HTTPStatus

from infra.gateway.answer_log import Answer, AnswerLog, CorrectedAnswer
from infra.gateway.metrics import Metrics
from infra.gateway.requests import Row, is_null, read_id, read_time, read_unit
from infra.gateway.shadows import ShadowQueue
from infra.gateway.trees import Prediction
from infra.gateway.versions import FAILURES, Follower, ServedVersion, Serving
from tasks.policy.comparison.predictions import MISSING_PREDICTION, NOT_A_PROBABILITY
from tasks.policy.records.base import CLOCKS_APART
from tasks.policy.records.errors import FeatureError, RequestRefused
from tasks.policy.rollout.traffic import Role

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class RowIdentity:
    """What identifies a row in the log."""

    id: str | None
    unit: str | None
    time: datetime


@dataclass(slots=True)
class Exchange:
    """One request on its way: its rows, the answers so far, in the order of the rows, and what will be logged."""

    request_id: str
    rows: Sequence[Row]
    identities: Sequence[RowIdentity]
    serving: Serving
    predictions: list[Prediction | None]
    answers: list[Answer] = field(default_factory=list)

    @property
    def versions(self) -> str:
        """The versions that answered, for a header."""
        return ",".join(sorted({answer.model_version for answer in self.answers if answer.error is None}))


class ModelService:
    """Answer requests for one model."""

    def __init__(self, follower: Follower, log: AnswerLog, metrics: Metrics) -> None:
        self.follower, self.log, self.metrics = follower, log, metrics
        self.model = follower.config.name
        self.shadows = ShadowQueue(self.model, metrics)
        is_number = follower.config.task == "regression"
        self._range = (-sys.float_info.max, sys.float_info.max) if is_number else (0.0, 1.0)
        self._log_once = lru_cache(maxsize=256)(self._log_failure)

    def answer(self, rows: Sequence[Row], request_id: str) -> Exchange:
        """Predict the rows. Raises RequestRefused for rows that cannot be read, and if the champion fails."""
        serving = self.follower.serving
        if serving is None:
            refusal = f"{self.model}: nothing answers yet: {self.follower.fault}"
            raise RequestRefused(refusal, HTTPStatus.SERVICE_UNAVAILABLE)
        identities = self._identities(rows, serving.split.unit, request_id)
        exchange = Exchange(request_id, rows, identities, serving, [None] * len(rows))
        left: Sequence[int] = range(len(rows))
        try:
            if serving.challenger is not None and serving.split.serves_challenger:
                roles = [serving.split.role_of(row.unit) for row in identities]
                own = [number for number in left if roles[number] == "challenger"]
                if own:
                    self._try_predict(exchange, serving.challenger, own, "challenger")
                    left = [number for number, prediction in enumerate(exchange.predictions) if prediction is None]
            if left:
                self._predict(exchange, serving.champion, left, "champion")
        except RequestRefused:
            self.log.extend(answer for answer in exchange.answers if answer.error is not None)
            raise
        self.log.extend(exchange.answers)
        return exchange

    def shadow(self, exchange: Exchange) -> None:
        """Queue the same rows for the challenger, if it is a shadow."""
        if exchange.serving.challenger is not None and exchange.serving.split.shadows_challenger:
            self.shadows.put(exchange)

    def predict_shadows(self) -> None:
        """Let the challenger predict what waits for it, in another thread than the answers; its failure changes nothing."""
        self.shadows.predict(self._predict_as_shadow)

    def _predict_as_shadow(self, exchange: Exchange) -> None:
        if exchange.serving.challenger is not None:
            exchange.answers = []
            self._try_predict(exchange, exchange.serving.challenger, range(len(exchange.rows)), "shadow")
            self.log.extend(exchange.answers)

    def _try_predict(self, exchange: Exchange, version: ServedVersion, numbers: Sequence[int], role: Role) -> None:
        """Predict what the version can; rows that it cannot answer are left without a prediction."""
        try:
            self._predict(exchange, version, numbers, role)
        except RequestRefused as refusal:
            logger.debug("%s %s: %s", role, version.number, refusal)

    def _predict(self, exchange: Exchange, version: ServedVersion, numbers: Sequence[int], role: Role) -> None:
        """Predict the rows with these numbers; one that is not finite, or no probability, is not served.

        Raises RequestRefused; 400 is the request's fault, 500 the model's. The champion must answer every row.
        """
        arm = self.metrics.arm(self.model, version.number, role)
        begun = time.perf_counter()
        found: Sequence[Prediction | None] = [None] * len(numbers)
        faults: list[str | None] = []
        refusal = None
        try:
            rows = [exchange.rows[number] for number in numbers]
            if version.reads_times:
                times = [exchange.identities[number].time for number in numbers]
                predictions = version.predict(rows, numbers, times)
            else:
                predictions = version.predict(rows, numbers)
            if len(predictions) != len(numbers):
                raise ValueError(f"{len(predictions)} predictions for {len(numbers)} rows")
            found, faults = predictions, [self._fault_of(prediction) for prediction in predictions]
        except RequestRefused as fault:
            refusal = fault
            arm.refused += len(numbers)
        except FAILURES as fault:
            self._log_once(version.number, role, type(fault).__name__)
            refusal = RequestRefused(
                f"version {version.number} failed: {type(fault).__name__}; expected an answer; see the gateway's log",
                HTTPStatus.INTERNAL_SERVER_ERROR,
            )
            arm.failed += len(numbers)
        seconds = time.perf_counter() - begun
        if refusal is None:
            unusable = [fault for fault in faults if fault is not None]
            arm.rows += len(numbers) - len(unusable)
            arm.observe(seconds)
            if unusable:
                arm.failed += len(unusable)
                self._log_once(version.number, role, unusable[0])
                if role == "champion":
                    refusal = RequestRefused(
                        f"version {version.number} failed: {unusable[0]}; see the gateway's log",
                        HTTPStatus.INTERNAL_SERVER_ERROR,
                    )
        else:
            faults = [str(refusal)] * len(numbers)
        step, request_id, answers = exchange.serving.split.step, exchange.request_id, exchange.answers
        for number, prediction, fault_of_row in zip(numbers, found, faults, strict=True):
            row = exchange.identities[number]
            usable = prediction if fault_of_row is None else None
            answer = Answer(
                row.id, row.time, usable, version.number, role, step, request_id, row.unit, seconds, fault_of_row
            )
            answers.append(
                answer if version.state is None else CorrectedAnswer(**vars(answer), online_state=version.state)
            )
            if usable is not None and role != "shadow":
                exchange.predictions[number] = usable
        if refusal is not None:
            raise refusal

    def _fault_of(self, prediction: Prediction) -> str | None:
        """Return why a prediction cannot be served: it is not finite, or not a probability; None if it can."""
        low, high = self._range
        values = (prediction,) if isinstance(prediction, float) else prediction
        for value in values:
            if not low <= value <= high:  # NaN is in no range
                return NOT_A_PROBABILITY if math.isfinite(value) else MISSING_PREDICTION
        return None

    def _log_failure(self, version: str, role: Role, fault: str) -> None:
        """Log a failure with its traceback; of each kind the first, because a challenger may fail for every request."""
        logger.error("%s: %s %s fails: %s", self.model, role, version, fault, exc_info=sys.exc_info()[1])

    def _identities(self, rows: Sequence[Row], unit: str | None, request_id: str) -> list[RowIdentity]:
        """Return id, unit and time of each row. Raises RequestRefused for an id or a time that cannot be read."""
        columns, now, found = self.follower.config.columns, datetime.now(UTC), []
        first = self.follower.config.period.start
        for number, row in enumerate(rows):
            try:
                row_id = read_id(row, columns)
                own = (row_id or request_id) if unit is None else read_unit(row.get(unit), unit)
                given = row.get(columns.time)
                moment = now if is_null(given) else read_time(given, columns.time)
            except FeatureError as error:
                raise RequestRefused(f"row {number}: {error}") from None
            if moment is not now and moment > now + CLOCKS_APART:
                raise RequestRefused(
                    f"row {number}: column {columns.time}: lies in the future, expected a time up to now; fix the clock"
                )
            if moment < first:
                raise RequestRefused(
                    f"row {number}: column {columns.time}: lies before the model's history, expected a time from "
                    f"{first:%Y-%m-%d} on (period.start)"
                )
            found.append(RowIdentity(row_id, own, moment))
        return found
