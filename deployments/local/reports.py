"""Serve the workspace's reports and replay pages over HTTP on this machine, because dashboards cannot open file links.

`make serve` starts it: `python -m deployments.local.reports PORT`. It listens on localhost only. `local_guard`
requires the log-in and rejects cross-site requests.
"""

import os
import sys
from datetime import UTC, datetime
from functools import partial
from html import escape
from http import HTTPStatus
from pathlib import Path
from stat import S_ISDIR

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from deployments.local.credentials import REPORTS_LOG_IN
from tasks.adapters.dashboards.local_guard import Application, LocalGuard
from tasks.adapters.storage.workspace import Workspace, workspace
from tasks.policy.records.errors import PerennialError

FLEET = "/reports/fleet.html"
ASSETS = "assets"


class Folder(StaticFiles):
    """Static files of a folder; links out of it are not followed, and a folder without an index page is listed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(directory=folder, html=True, check_dir=False)

    async def check_config(self) -> None:
        """Skip Starlette's check that the folder exists: a new workspace has no reports yet."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        try:
            response = await super().get_response(path, scope)
        except HTTPException as refused:
            folder = self._folder(path) if refused.status_code == HTTPStatus.NOT_FOUND else None
            if folder is None:
                raise
            response = _listing(folder, scope["path"])
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    def _folder(self, path: str) -> Path | None:
        try:
            found, status = self.lookup_path(path)
        except (OSError, ValueError):  # not a valid file name
            return None
        return Path(found) if status and S_ISDIR(status.st_mode) else None


def report_pages(space: Workspace, log_in: str | None = None) -> Application:
    """Build the application; of the workspace it serves only reports and replay pages.

    `/` lists the pages, and FLEET shows the current state of all models.
    """
    pages = Starlette(
        routes=[
            Route("/", partial(_index, space), methods=["GET"]),
            Route(FLEET, _fleet, methods=["GET"]),
            Mount("/reports", Folder(space.reports)),
            Mount("/replay", Folder(space.home / "replay")),
        ]
    )
    return LocalGuard(pages, log_in)


def _listing(folder: Path, address: str) -> Response:
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    return _page(address, [(f"{address.rstrip('/')}/{name}", name) for name in names])


def _index(space: Workspace, _request: Request) -> Response:
    items = [(FLEET, "fleet: the current state of every model, those that require action first")]
    if (space.home / "replay" / "index.html").is_file():
        items.append(("/replay/", "what the loop did: the replay page"))
    folders = space.reports.iterdir() if space.reports.is_dir() else ()
    models = sorted(path.name for path in folders if path.is_dir() and path.name != ASSETS)
    items += [
        (f"/reports/{model}/", f"{model}: data checks and drift, window by window, and rollouts") for model in models
    ]
    return _page("Reports", items, "" if models else "<p>No reports yet: make demo, or monitor a model.</p>")


def _page(title: str, items: list[tuple[str, str]], below: str = "") -> Response:
    links = "".join(f'<li><a href="{escape(href)}">{escape(text)}</a></li>' for href, text in items)
    return HTMLResponse(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Perennial reports</title>'
        "<style>body{font:16px system-ui;max-width:40rem;margin:3rem auto;padding:0 1rem}</style>"
        f"<h1>{escape(title)}</h1><ul>{links}</ul>{below}</html>"
    )


def _fleet(_request: Request) -> Response:
    # imported here because it loads Prefect and MLflow's client, which the other pages do not need
    from deployments.config.folders import available_models
    from tasks.record.fleet import fleet_html, survey_files

    try:
        return HTMLResponse(fleet_html(survey_files(available_models(), datetime.now(UTC))))
    except PerennialError as error:  # an unreadable ledger or registry must not end the server
        return HTMLResponse(f"<pre>{escape(str(error))}</pre>", HTTPStatus.SERVICE_UNAVAILABLE)


def main(port: int) -> None:
    pages = report_pages(workspace(), os.environ.get(REPORTS_LOG_IN))
    uvicorn.run(pages, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main(int(sys.argv[1]))
