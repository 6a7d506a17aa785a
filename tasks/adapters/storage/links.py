"""Addresses at which a browser finds what a run wrote: reports where `make serve` shows them, versions in MLflow.

Dashboards may not open files, so a link to a report is an http address even while nothing serves it; links from a demo
work later. PERENNIAL_REPORTS_URL and PERENNIAL_MLFLOW_URL set the addresses; `make serve` sets its own.
"""

import os
from pathlib import Path
from urllib.parse import quote

from tasks.adapters.storage.workspace import workspace

REPORTS_URL = "http://127.0.0.1:4280/reports"
MLFLOW_URL = "http://127.0.0.1:5000"


def link(uri: str) -> str:
    """A report's address: at PERENNIAL_REPORTS_URL if it is among the reports, else unchanged."""
    if "://" in uri:
        return uri
    path, reports = Path(uri).resolve(), workspace().reports.resolve()
    if not path.is_relative_to(reports):
        return path.as_uri()
    base = os.environ.get("PERENNIAL_REPORTS_URL", REPORTS_URL).rstrip("/")
    return f"{base}/{quote(path.relative_to(reports).as_posix())}"


def relative_link(uri: str) -> str:
    """A report's address as seen from a page that lies at the top of the reports, so that it opens offline too."""
    if "://" in uri:
        return uri
    path, reports = Path(uri).resolve(), workspace().reports.resolve()
    return quote(path.relative_to(reports).as_posix()) if path.is_relative_to(reports) else path.as_uri()


def version_link(model: str, version: str) -> str:
    """The page of a registered version in MLflow, from which its run is one click away."""
    tracking = workspace().mlflow
    base = tracking if tracking.startswith("http") else os.environ.get("PERENNIAL_MLFLOW_URL", MLFLOW_URL)
    return f"{_without_password(base).rstrip('/')}/#/models/{quote(model)}/versions/{quote(version)}"


def _without_password(address: str) -> str:
    scheme, separator, rest = address.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
