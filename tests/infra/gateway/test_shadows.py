"""The queue of a shadow: bounded, counted, and at most half of the time."""

import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from infra.gateway.metrics import Metrics
from infra.gateway.shadows import MOST_WAITING, ROUND_S, ShadowQueue


@pytest.fixture
def queue() -> ShadowQueue:
    return ShadowQueue("churn", Metrics())


def exchange(rows: int = 1) -> Any:
    return SimpleNamespace(rows=[{}] * rows, serving=SimpleNamespace(challenger=SimpleNamespace(number="2")))


def shed(queue: ShadowQueue) -> float:
    return float(queue.metrics.shed_rows.labels("churn", "2")._value.get())


def put(queue: ShadowQueue, sizes: Sequence[int]) -> list[Any]:
    waiting = [exchange(size) for size in sizes]
    for each in waiting:
        queue.put(each)
    return waiting


def test_requests_are_predicted_in_their_order(queue):
    waiting, found = put(queue, [1, 2, 3]), []
    queue.predict(found.append)
    assert (found, shed(queue)) == (waiting, 0)


def test_rows_beyond_the_limit_are_left_out_and_counted(queue, caplog):
    first, second, third = put(queue, [MOST_WAITING - 1, 2, 1])
    found: list[Any] = []
    queue.predict(found.append)
    assert (found, shed(queue)) == ([first, third], 2)
    assert caplog.messages == [
        "churn: shadow 2 falls behind, its rows are left out",
        "churn: the shadow has caught up, 2 rows were left out",
    ]
    queue.put(second)
    queue.predict(found.append)
    assert (found[2:], shed(queue)) == ([second], 2)


def test_a_slow_shadow_takes_at_most_half_of_the_time_and_ends_its_round(queue):
    worked = []

    def predict(_: Any) -> None:
        begun = time.perf_counter()
        time.sleep(0.03)
        worked.append(time.perf_counter() - begun)

    put(queue, [1] * 50)
    begun = time.perf_counter()
    queue.predict(predict)
    took = time.perf_counter() - begun
    assert sum(worked) <= took / 2
    assert took < ROUND_S + 2 * max(worked) + 0.2
    assert 1 <= len(worked) < 50


def test_what_still_waits_at_the_end_is_counted(queue):
    put(queue, [5, 6])
    queue.clear()
    assert shed(queue) == 11
    queue.predict(lambda _: pytest.fail("nothing waits"))
