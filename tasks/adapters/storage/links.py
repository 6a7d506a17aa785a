"""Links to a run's results: reports as served by `make serve`, model versions in MLflow.

Dashboards may not open local files, so a link to a report is an http URL even if no server runs yet. Links from a demo
work later, once `make serve` runs. PERENNIAL_REPORTS_URL and PERENNIAL_MLFLOW_URL set the base URLs; `make serve` sets
its own.
"""

import os
from pathlib import Path
from urllib.parse import quote

from tasks.adapters.storage.workspace import workspace

REPORTS_URL = "http://127.0.0.1:4280/reports"
MLFLOW_URL = "http://127.0.0.1:5000"


def link(uri: str) -> str:
    """Return a report's URL: below PERENNIAL_REPORTS_URL for a file in the reports folder, else a file:// URL.

    URLs are returned unchanged.
    """
    if "://" in uri:
        return uri
    path, reports = Path(uri).resolve(), workspace().reports.resolve()
    if not path.is_relative_to(reports):
        return path.as_uri()
    base = os.environ.get("PERENNIAL_REPORTS_URL", REPORTS_URL).rstrip("/")
    return f"{base}/{quote(path.relative_to(reports).as_posix())}"


def relative_link(uri: str) -> str:
    """Return a report's URL relative to the top of the reports folder, so the link works offline.

    URLs are returned unchanged; files outside the reports folder become file:// URLs.
    """
    if "://" in uri:
        return uri
    path, reports = Path(uri).resolve(), workspace().reports.resolve()
    return quote(path.relative_to(reports).as_posix()) if path.is_relative_to(reports) else path.as_uri()


def version_link(model: str, version: str) -> str:
    """Return the URL of a registered version's page in MLflow, which links to its run."""
    tracking = workspace().mlflow
    base = tracking if tracking.startswith("http") else os.environ.get("PERENNIAL_MLFLOW_URL", MLFLOW_URL)
    return f"{_without_password(base).rstrip('/')}/#/models/{quote(model)}/versions/{quote(version)}"


def _without_password(address: str) -> str:
    scheme, separator, rest = address.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
