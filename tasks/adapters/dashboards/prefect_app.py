"""Prefect's command line, with its server behind `local_guard` and fit for several processes on SQLite. `python -m` this.

Prefect begins most of its transactions deferred. One that reads, and writes after another one wrote
in between, is refused at once (503, database is locked) whatever the busy timeout, and Prefect's client asks again two
seconds later: two replays at once each spent two fifths of their time so. Begun immediate, a transaction waits its turn.
Prefect mends this one query at a time (PrefectHQ/prefect#23051); #10188 is open. PostgreSQL has no such trouble.
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
    """Prefect's, but every transaction that is begun may write."""

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
