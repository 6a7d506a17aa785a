"""The log-in of `perennial serve` protects every service."""

from pathlib import Path

import pytest

from deployments.local.credentials import read_credentials
from deployments.local.reports import report_pages
from tasks.adapters.storage.workspace import workspace as described
from tasks.policy.records.errors import LogInError
from tests.support.served_pages import served_pages

PAIR = "keeper:correct horse battery"


def log_in(folder: Path, text: str = PAIR, mode: int = 0o600) -> Path:
    path = folder / "log-in"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_login_reaches_every_service_and_no_file(tmp_path, workspace):
    found = read_credentials(log_in(tmp_path))
    environment = found.environment(described())
    assert environment["PREFECT_SERVER_API_AUTH_STRING"] == environment["PREFECT_API_AUTH_STRING"] == PAIR
    settings = Path(environment["MLFLOW_AUTH_CONFIG_PATH"]).read_text()
    assert "default_permission = NO_PERMISSIONS" in settings
    assert not [
        path for path in workspace.rglob("*") if path.is_file() and "correct horse" in path.read_text(errors="replace")
    ]
    assert "correct horse" not in repr(found)


def test_changed_login_replaces_mlflow_accounts(tmp_path, workspace):
    for name in ("accounts.db", "accounts.db-wal", "accounts.db-shm"):
        read_credentials(log_in(tmp_path)).environment(described())
        (workspace / "mlflow" / name).write_text("a password of the last start")
        read_credentials(log_in(tmp_path, "keeper:another staple entirely")).environment(described())
        assert [path.name for path in (workspace / "mlflow").iterdir()] == ["basic_auth.ini"]


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (PAIR, 0o644, "others may read it"),
        ("keeper", 0o600, "expected one line, user:password"),
        ("keeper:short", 0o600, "at least 12"),
        (PAIR + "\nsecond:correct horse battery", 0o600, "expected one line"),
    ],
)
def test_readable_or_weak_login_is_refused(tmp_path, text, mode, words):
    with pytest.raises(LogInError, match=words):
        read_credentials(log_in(tmp_path, text, mode))
    with pytest.raises(LogInError, match="cannot be read"):
        read_credentials(tmp_path / "nowhere")


def test_pages_require_the_login():
    with served_pages(report_pages(described(), PAIR)) as pages:
        for auth in (None, ("keeper", "wrong"), ("other", "correct horse battery")):
            assert pages.get("/", auth=auth).status_code == 401
            assert pages.head("/reports/", auth=auth).status_code == 401
        assert pages.get("/", auth=("keeper", "correct horse battery")).status_code == 200
