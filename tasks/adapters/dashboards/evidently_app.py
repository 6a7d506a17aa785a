"""Evidently's UI behind the guard and the log-in that it has no notion of: `python -m` this, with `evidently`'s arguments."""

import os

from evidently.cli import app

from tasks.adapters.dashboards.local_guard import guard_uvicorn

LOG_IN = "PERENNIAL_REPORTS_AUTH_STRING"


def main() -> None:
    guard_uvicorn(os.environ.get(LOG_IN))
    app()


if __name__ == "__main__":
    main()
