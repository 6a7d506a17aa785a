"""Provide the log-in of `make serve`: one user and password for every service, from a file only its owner can read.

The first start creates a log-in and stores it in the workspace. `perennial serve --credentials FILE` uses another
one, where FILE contains `user:password`; `--no-login` disables the log-in. Prefect's server and its clients, MLflow,
Evidently and the reports require it. The password is passed in the environment of the services, never on a command
line, where every user of the machine could read it. A password from `--credentials` is never written to the
workspace.
"""

import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tasks.adapters.orchestration.server import LOG_IN
from tasks.adapters.storage.workspace import Workspace, make_folder
from tasks.policy.records.errors import LogInError

SHORTEST_PASSWORD = 12  # MLflow's minimum
REPORTS_LOG_IN = "PERENNIAL_REPORTS_AUTH_STRING"
ACCOUNTS = "accounts.db"


@dataclass(frozen=True)
class Credentials:
    """A user and a password; `repr` omits the password."""

    user: str
    password: str = field(repr=False)

    def environment(self, space: Workspace) -> dict[str, str]:
        """Return the environment that makes every service and client use this log-in.

        Call it before MLflow starts, because it deletes MLflow's accounts for MLflow to recreate.
        """
        pair = f"{self.user}:{self.password}"
        return {
            "PREFECT_SERVER_API_AUTH_STRING": pair,
            "PREFECT_API_AUTH_STRING": pair,
            "MLFLOW_AUTH_CONFIG_PATH": str(self._mlflow_settings(space)),
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.password,
            "MLFLOW_TRACKING_USERNAME": self.user,
            "MLFLOW_TRACKING_PASSWORD": self.password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),  # signs forms; a new key per start is enough
            REPORTS_LOG_IN: pair,
        }

    def _mlflow_settings(self, space: Workspace) -> Path:
        """Write MLflow's auth settings and delete its old accounts; return the settings file.

        Users without an account have no permissions. A password check is cached for 60 s, because each costs 0.4 s.
        MLflow does not update the password of an existing account, so a changed password would not take effect; the
        accounts hold only this user.
        """
        folder: Path = make_folder(space.home / "mlflow")
        for left in folder.glob(f"{ACCOUNTS}*"):  # including SQLite's journal files
            left.unlink()
        path = folder / "basic_auth.ini"
        path.write_text(
            "[mlflow]\n"
            "default_permission = NO_PERMISSIONS\n"
            f"database_uri = sqlite:///{folder / ACCOUNTS}\n"
            f"admin_username = {self.user}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
            "auth_cache_ttl_seconds = 60\n",
            encoding="utf-8",
        )
        return path


def made_credentials(space: Workspace) -> tuple[Credentials, bool]:
    """Return (the workspace's log-in, whether it is new); create it on the first start. Raises LogInError."""
    path = make_folder(space.home) / LOG_IN
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, f"perennial:{secrets.token_urlsafe(18)}\n".encode())
        finally:
            os.close(descriptor)
    except FileExistsError:
        return read_credentials(path), False
    except OSError as error:
        raise LogInError(f"{path}: cannot be written ({error.strerror}); expected a writable workspace") from error
    return read_credentials(path), True


def read_credentials(path: Path) -> Credentials:
    """Read a log-in from a file. Raises LogInError if the file is unreadable, readable by others, or malformed."""
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LogInError(f"{path}: cannot be read ({error}); expected a file with user:password") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise LogInError(f"{path}: others may read it, expected only its owner to; run: chmod 600 {path}")
    user, colon, password = text.partition(":")
    if not colon or not user.isidentifier() or len(text.splitlines()) != 1:
        raise LogInError(f"{path}: expected one line, user:password, with a user of letters, digits and underscores")
    if len(password) < SHORTEST_PASSWORD:
        raise LogInError(f"{path}: the password has {len(password)} characters, expected at least {SHORTEST_PASSWORD}")
    return Credentials(user, password)


def log_in(environment: Mapping[str, str]) -> tuple[str, str] | None:
    """Return (user, password) that the services of this environment require; None without a log-in."""
    user, colon, password = environment.get(REPORTS_LOG_IN, "").partition(":")
    return (user, password) if colon else None
