"""Find work queues that no worker polls: a run sent there stays Late, and Prefect gives no reason."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Protocol

from deployments.apply.definitions import Definitions

POLL_TIMEOUT = timedelta(seconds=60)
"""A worker polls every 10 s; like Prefect, treat a queue as unpolled after 60 s without a poll."""
DEFAULT_QUEUE = "default"


class Polls(Protocol):
    """Access to the poll times that a server records."""

    def last_polled(self, pool: str, queue: str) -> datetime | None:
        """Return when an online worker last polled this queue; None if none did."""


def list_unpolled_queues(
    state: Polls, definitions: Definitions, followed: Collection[str] = (), now: datetime | None = None
) -> list[str]:
    """List the used queues that no worker polls, one sentence each.

    Pools in `followed` are skipped, because their worker is about to start.
    """
    used: dict[tuple[str, str], list[str]] = {}
    for item in definitions.deployments:
        pool = item["work_pool"]
        used.setdefault((pool["name"], pool.get("work_queue_name", DEFAULT_QUEUE)), []).append(item["name"])
    moment = now or datetime.now(UTC)
    return [
        _sentence(pool, queue, deployments)
        for (pool, queue), deployments in sorted(used.items())
        if pool not in followed and not _is_recent(state.last_polled(pool, queue), moment)
    ]


def _is_recent(polled: datetime | None, now: datetime) -> bool:
    return polled is not None and now - polled <= POLL_TIMEOUT


def _sentence(pool: str, queue: str, deployments: Collection[str]) -> str:
    only = "" if queue == DEFAULT_QUEUE else f" --work-queue {queue}"
    return (
        f"no worker polls queue {queue} of work pool {pool}, so runs of {', '.join(deployments)} would wait; start a worker "
        f"on its host: perennial work --pool {pool}{only}"
    )
