"""Where state lives: one workspace, local by default, each part movable by an environment variable.

| setting | default | holds |
|---|---|---|
| PERENNIAL_HOME | .perennial | everything below, unless moved |
| PERENNIAL_LAKE | $PERENNIAL_HOME/lake | Delta tables; s3://… and gs://… work too |
| PERENNIAL_LEDGER | $PERENNIAL_HOME/ledger | the ledger; s3://… and gs://… work too |
| PERENNIAL_REPORTS | $PERENNIAL_HOME/reports | HTML reports and data checks, a local folder |
| PERENNIAL_ARTIFACTS | $PERENNIAL_HOME/artifacts | model files and run artifacts, unless an MLflow server keeps them |
| MLFLOW_TRACKING_URI | sqlite:///$PERENNIAL_HOME/mlflow.db | runs and the model registry |
| PERENNIAL_MODELS | none | a folder of model files beside those under deployments/ (`model_config.model_folders`) |
| PERENNIAL_SOURCES | none | the only folders that sources may lie in (`source_limits`); `serve` sets it |

Tested on moto's S3 and on an emulator of Google's storage (tests/support/gcs_emulator.py), not against Amazon or Google.
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
OWNER_ONLY = 0o700  # rows, models and the databases of `serve` are for nobody else on the machine
SQLITE = "sqlite:///"
WITHOUT_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
RUN_OF_A_WORKER = "PREFECT__FLOW_RUN_ID"
"""What Prefect's workers set for the process of a run."""


@dataclass(frozen=True)
class Workspace:
    """Addresses of every part of the workspace; URIs without a trailing slash."""

    home: Path
    lake: str
    ledger: str
    reports: Path
    mlflow: str
    artifacts: str

    @property
    def is_served(self) -> bool:
        """Whether an MLflow server keeps the registry, and says where artifacts lie."""
        return self.mlflow.startswith(("http://", "https://"))

    def table(self, model: str, table: str) -> str:
        """URI of one of a model's Delta tables: rows, labels or predictions."""
        return f"{self.lake}/{model}/{table}"

    def report(self, model: str, window: str, name: str) -> Path:
        """Path of one report of one window; its folder is made. Raises WorkspaceError where that fails."""
        path = self.reports / model / window.replace("..", "_") / name
        make_folder(path.parent)
        return path


def keep_private(address: str | Path) -> None:
    """Make the local part of the workspace that an address lies in for its owner only; one that is there stays as it is.

    An error here recurs at the write that follows and is reported there.
    """
    place = Path(str(address).removeprefix("file://"))
    for part in PARTS:
        root = os.environ.get(part, "").removeprefix("file://")
        if root and "://" not in root and place.absolute().is_relative_to(Path(root).absolute()):
            with suppress(OSError):
                Path(root).mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)


def make_folder(folder: Path, mode: int = 0o777) -> Path:
    """The folder, made where it is not there; `mode` is for one that is made. Raises WorkspaceError."""
    keep_private(folder)
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise WorkspaceError(
            f"{folder}: cannot be made ({error.strerror}); expected a writable workspace; "
            "set PERENNIAL_HOME to a folder you may write to, or free disk space"
        ) from error
    return folder


@cache
def _check_links(setting: str, address: str) -> None:
    """Raises WorkspaceError for a folder on a file system without hard links, as on exFAT and some network shares.

    Delta tables, the ledger and leases are written by them: it is how a name is taken once, by one of several writers.
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
                f"{place}: lies on a file system without hard links ({error.strerror}), by which tables and ledger make sure "
                f"that nothing is written twice; set {setting} to a folder on another one (ext4, XFS, APFS, NTFS, NFS) or to a "
                "bucket"
            ) from None  # whatever else it is, such as a folder that may only be read, is told by what is done there


def located(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with every part of the workspace where it is seen from here, for processes in other folders.

    A worker gives each run a folder of its own, where `.perennial` would be another, empty workspace. URIs stay.
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
    """The workspace that the environment describes, read anew at each call. Makes the home folder."""
    given = os.environ.get("PERENNIAL_HOME") or HOME
    if RUN_OF_A_WORKER in os.environ and not Path(given).is_absolute():
        raise WorkspaceError(
            f"PERENNIAL_HOME is {os.environ.get('PERENNIAL_HOME') or 'not set'}, expected an absolute path: a worker gives "
            "each run a folder of its own, which goes with the run, and its model with it; start the worker with "
            "perennial work, or set PERENNIAL_HOME for it or in its pool's env"
        )
    home = Path(given).expanduser().resolve()
    if any(mark in str(home) for mark in "?#%"):
        raise WorkspaceError(
            f"{home}: holds ?, # or %, which mean something in addresses; expected a folder without them"
        )
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
