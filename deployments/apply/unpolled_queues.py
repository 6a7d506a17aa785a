"""Which queues no worker polls: a run sent there stays Late, and Prefect gives no reason."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Protocol

from deployments.apply.definitions import Definitions

LATELY = timedelta(seconds=60)
"""A worker asks every 10 seconds; Prefect too takes a queue for deserted after a minute without a poll."""
DEFAULT_QUEUE = "default"


class Polls(Protocol):
    """What a server knows of its workers' polls."""

    def last_polled(self, pool: str, queue: str) -> datetime | None:
        """When an online worker last polled this queue."""


def unattended(
    state: Polls, definitions: Definitions, followed: Collection[str] = (), now: datetime | None = None
) -> list[str]:
    """A sentence for each used queue that no worker polls; a worker of a `followed` pool is about to start."""
    used: dict[tuple[str, str], list[str]] = {}
    for item in definitions.deployments:
        pool = item["work_pool"]
        used.setdefault((pool["name"], pool.get("work_queue_name", DEFAULT_QUEUE)), []).append(item["name"])
    moment = now or datetime.now(UTC)
    return [
        _sentence(pool, queue, deployments)
        for (pool, queue), deployments in sorted(used.items())
        if pool not in followed and not _lately(state.last_polled(pool, queue), moment)
    ]


def _lately(polled: datetime | None, now: datetime) -> bool:
    return polled is not None and now - polled <= LATELY


def _sentence(pool: str, queue: str, deployments: Collection[str]) -> str:
    only = "" if queue == DEFAULT_QUEUE else f" --work-queue {queue}"
    return (
        f"no worker polls queue {queue} of work pool {pool}, so runs of {', '.join(deployments)} would wait; start a worker "
        f"on its host: perennial work --pool {pool}{only}"
    )
