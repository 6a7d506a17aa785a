"""Prefect's command line with `local_guard` before its server and SQLite made safe for several processes.

Run with `python -m`.

Prefect begins most of its transactions deferred. SQLite rejects a deferred transaction at once (503, database is
locked), whatever the busy timeout, if another one wrote between its read and its write. Prefect's client then retries
two seconds later: two concurrent replays each spent two fifths of their time this way. An immediate transaction waits
for its turn. Prefect fixes this query by query (PrefectHQ/prefect#23051); #10188 is open. PostgreSQL is unaffected.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from prefect.cli import app
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.dependencies import set_database_config
from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

from tasks.adapters.dashboards.local_guard import guard_uvicorn


class ImmediateSqlite(AioSqliteConfiguration):
    """Prefect's SQLite configuration, with every transaction begun immediate, as for writing."""

    @asynccontextmanager
    async def begin_transaction(
        self, session: AsyncSession, with_for_update: bool = False
    ) -> AsyncGenerator[AsyncSessionTransaction, None]:
        async with super().begin_transaction(session, with_for_update=True) as transaction:
            yield transaction


def main() -> None:
    address = str(PREFECT_SERVER_DATABASE_CONNECTION_URL.value())
    if address.startswith("sqlite"):
        set_database_config(ImmediateSqlite(connection_url=address))
    guard_uvicorn()
    app()


if __name__ == "__main__":
    main()
