"""Evidently's UI with the checks of `local_guard` and a log-in, which Evidently lacks. Takes `evidently`'s arguments."""

import os

from evidently.cli import app

from tasks.adapters.dashboards.local_guard import guard_uvicorn

LOG_IN = "PERENNIAL_REPORTS_AUTH_STRING"


def main() -> None:
    guard_uvicorn(os.environ.get(LOG_IN))
    app()


if __name__ == "__main__":
    main()
