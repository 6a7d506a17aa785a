"""Workspace: locations of all stored state, local by default; an environment variable moves each part.

| setting | default | content |
|---|---|---|
| PERENNIAL_HOME | .perennial | everything below, unless moved |
| PERENNIAL_LAKE | $PERENNIAL_HOME/lake | Delta tables; s3://… and gs://… work too |
| PERENNIAL_LEDGER | $PERENNIAL_HOME/ledger | the ledger; s3://… and gs://… work too |
| PERENNIAL_REPORTS | $PERENNIAL_HOME/reports | HTML reports and data checks, a local folder |
| PERENNIAL_ARTIFACTS | $PERENNIAL_HOME/artifacts | model files and run artifacts, unless an MLflow server stores them |
| MLFLOW_TRACKING_URI | sqlite:///$PERENNIAL_HOME/mlflow.db | runs and the model registry |
| PERENNIAL_MODELS | none | a folder of model files in addition to deployments/ (`deployments.config.folders.model_folders`) |
| PERENNIAL_SOURCES | none | the only folders that sources may be read from (`sources.limits`); `serve` sets it |

Tested on moto's S3 and an emulator of Google Cloud Storage (tests/support/gcs_emulator.py), not against AWS or Google.
"""

import errno
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tasks.policy.records.errors import WorkspaceError

HOME = ".perennial"
PARTS = ("PERENNIAL_LAKE", "PERENNIAL_LEDGER", "PERENNIAL_REPORTS", "PERENNIAL_ARTIFACTS")
OWNER_ONLY = 0o700  # other users of the machine may not read rows, models and the databases of `serve`
SQLITE = "sqlite:///"
WITHOUT_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
WORKER_RUN_ID = "PREFECT__FLOW_RUN_ID"
"""Environment variable that Prefect's workers set in the process of a run."""


@dataclass(frozen=True)
class Workspace:
    """Location of each part of the workspace; URIs have no trailing slash."""

    home: Path
    lake: str
    ledger: str
    reports: Path
    mlflow: str
    artifacts: str

    @property
    def is_served(self) -> bool:
        """Whether an MLflow server holds the registry and decides where artifacts are stored."""
        return self.mlflow.startswith(("http://", "https://"))

    def table(self, model: str, table: str) -> str:
        """Return the URI of a model's Delta table, such as rows, labels or predictions."""
        return f"{self.lake}/{model}/{table}"

    def report(self, model: str, window: str, name: str) -> Path:
        """Return the path of a window's report and create its folder. Raises WorkspaceError if that fails."""
        path = self.reports / model / window.replace("..", "_") / name
        make_folder(path.parent)
        return path


def keep_private(address: str | Path) -> None:
    """Create the local workspace part that contains `address` with mode 700; an existing folder keeps its mode.

    Errors are ignored because the write that follows reports them.
    """
    place = Path(str(address).removeprefix("file://"))
    for part in PARTS:
        root = os.environ.get(part, "").removeprefix("file://")
        if root and "://" not in root and place.absolute().is_relative_to(Path(root).absolute()):
            with suppress(OSError):
                Path(root).mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)


def make_folder(folder: Path, mode: int = 0o777) -> Path:
    """Create the folder if it does not exist, with `mode`, and return it. Raises WorkspaceError."""
    keep_private(folder)
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise WorkspaceError(
            f"{folder}: cannot be created ({error.strerror}); expected a writable workspace; "
            "set PERENNIAL_HOME to a folder you may write to, or free disk space"
        ) from error
    return folder


@cache
def _check_links(setting: str, address: str) -> None:
    """Raise WorkspaceError if the folder is on a file system without hard links, such as exFAT and some network shares.

    Delta tables, the ledger and leases use hard links to create a name exactly once among concurrent writers.
    """
    place = Path(address.removeprefix("file://")).absolute()
    there = next(folder for folder in (place, *place.parents) if folder.is_dir())
    try:
        with tempfile.TemporaryDirectory(prefix=".links-", dir=there) as probe:
            Path(probe, "one").touch()
            Path(probe, "two").hardlink_to(Path(probe, "one"))
    except OSError as error:
        if error.errno in WITHOUT_LINKS:
            raise WorkspaceError(
                f"{place}: lies on a file system without hard links ({error.strerror}), which tables and ledger need to write "
                f"nothing twice; set {setting} to a folder on another file system (ext4, XFS, APFS, NTFS, NFS) or to a bucket"
            ) from None  # later writes report other errors, such as a read-only folder


def located(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with absolute workspace paths, for processes with another working directory.

    A worker gives each run its own folder, where `.perennial` would be a separate, empty workspace. URIs are unchanged.
    """
    settings = dict(environment)
    settings["PERENNIAL_HOME"] = str(Path(settings.get("PERENNIAL_HOME") or HOME).expanduser().resolve())
    for part in PARTS:
        if settings.get(part) and "://" not in settings[part]:
            settings[part] = str(Path(settings[part]).resolve())
    if settings.get("PERENNIAL_MODELS"):
        settings["PERENNIAL_MODELS"] = str(Path(settings["PERENNIAL_MODELS"]).expanduser().resolve())
    tracking = settings.get("MLFLOW_TRACKING_URI", "")
    if tracking.startswith(SQLITE):
        settings["MLFLOW_TRACKING_URI"] = SQLITE + str(Path(tracking.removeprefix(SQLITE)).resolve())
    return settings


def workspace() -> Workspace:
    """Return the workspace that the environment describes, read at each call, and create its home folder.

    Raises WorkspaceError for a relative home in a worker's run, `?`, `#` or `%` in its path, or no hard links.
    """
    given = os.environ.get("PERENNIAL_HOME") or HOME
    if WORKER_RUN_ID in os.environ and not Path(given).is_absolute():
        raise WorkspaceError(
            f"PERENNIAL_HOME is {os.environ.get('PERENNIAL_HOME') or 'not set'}, expected an absolute path: a worker "
            "runs each flow in a temporary folder, which is deleted with everything in it when the run ends; start the worker "
            "with perennial work, or set PERENNIAL_HOME for it or in its pool's env"
        )
    home = Path(given).expanduser().resolve()
    if any(mark in str(home) for mark in "?#%"):
        raise WorkspaceError(f"{home}: contains ?, # or %, which have a meaning in URLs; expected a path without them")
    make_folder(home, OWNER_ONLY)

    def part(setting: str, default: Path) -> str:
        return (os.environ.get(setting) or str(default)).rstrip("/")

    lake, ledger = part("PERENNIAL_LAKE", home / "lake"), part("PERENNIAL_LEDGER", home / "ledger")
    for setting, address in (("PERENNIAL_LAKE", lake), ("PERENNIAL_LEDGER", ledger)):
        if "://" not in address.removeprefix("file://"):
            _check_links(setting if os.environ.get(setting) else "PERENNIAL_HOME", address)
    return Workspace(
        home=home,
        lake=lake,
        ledger=ledger,
        reports=Path(part("PERENNIAL_REPORTS", home / "reports")),
        mlflow=os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}",
        artifacts=part("PERENNIAL_ARTIFACTS", home / "artifacts"),
    )
