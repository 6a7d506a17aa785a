"""Environments of users: empty settings, proxies, trailing slashes, cloud keys, closed pipes."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from deployments.local.services import Stream
from tasks.adapters.orchestration.server import server_environment
from tasks.adapters.storage.workspace import WORKER_RUN_ID, workspace
from tasks.policy.records.errors import WorkspaceError
from tests.support.small_model import write_model

ROOT = Path(__file__).parents[2]


def seen(code: str, **environment: str) -> str:
    """Return the output of a new process with these settings."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PERENNIAL_", "PREFECT_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=plain | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("empty", ["", "  "])
def test_empty_setting_counts_as_unset(tmp_path, empty):
    code = "from tasks.adapters.storage.workspace import workspace as w; s = w(); print(s.ledger, s.lake, s.mlflow)"
    settings = dict.fromkeys(("PERENNIAL_LEDGER", "PERENNIAL_LAKE", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"), empty)
    home = str(tmp_path)
    assert seen(code, PERENNIAL_HOME=home, **settings) == f"{home}/ledger {home}/lake sqlite:///{home}/mlflow.db"


def test_local_services_bypass_proxies():
    code = "import tasks, os; print(os.environ['NO_PROXY'], os.environ['no_proxy'])"
    found = seen(code, HTTP_PROXY="http://proxy.example:3128", NO_PROXY="corp.example").split()
    assert found[0] == "corp.example,127.0.0.1,localhost,::1"
    assert "127.0.0.1" in found[1]


def test_trailing_slashes_are_removed():
    code = "import tasks, os; print(os.environ['PREFECT_API_URL'], os.environ['MLFLOW_TRACKING_URI'])"
    found = seen(code, PREFECT_API_URL="http://127.0.0.1:4200/api/", MLFLOW_TRACKING_URI="http://127.0.0.1:5000//")
    assert found == "http://127.0.0.1:4200/api http://127.0.0.1:5000"


def test_cloud_key_is_not_passed_to_local_services(workspace, monkeypatch):
    from tasks.adapters.storage.workspace import workspace as described

    monkeypatch.setenv("PREFECT_API_KEY", "pnu_secret")
    monkeypatch.setenv("PREFECT_PROFILE", "cloud")
    monkeypatch.setenv("PREFECT_API_URL", "https://api.prefect.cloud/api/accounts/1/workspaces/2")
    environment = server_environment(described(), 4299)
    assert environment["PREFECT_API_URL"] == "http://127.0.0.1:4299/api"
    assert not {"PREFECT_API_KEY", "PREFECT_PROFILE"} & set(environment)
    assert "pnu_secret" not in environment.values()


@pytest.mark.parametrize("served", [None, "http://127.0.0.1:4299/api"])
def test_command_does_not_send_the_cloud_key_to_local_servers(workspace, monkeypatch, served):
    from prefect.settings import PREFECT_API_KEY, PREFECT_API_URL, temporary_settings

    from flows import parameters

    monkeypatch.setattr(parameters, "served_url", lambda space: served)
    settings = temporary_settings({PREFECT_API_KEY: "pnu_secret"}, restore_defaults={PREFECT_API_URL})
    with settings, parameters.own_server():
        assert PREFECT_API_KEY.value() is None


@pytest.mark.parametrize("home", [None, ".perennial", "some/where"])
def test_worker_run_needs_an_absolute_workspace(monkeypatch, tmp_path, home):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(WORKER_RUN_ID, "0b5c")
    monkeypatch.delenv("PERENNIAL_HOME")
    if home:
        monkeypatch.setenv("PERENNIAL_HOME", home)
    with pytest.raises(
        WorkspaceError, match="expected an absolute path: a worker runs each flow in a temporary folder"
    ):
        workspace()
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "absolute"))
    assert workspace().home == tmp_path / "absolute"


@pytest.mark.parametrize("name", ["per%20cent", "num#ber", "quest?ion"])
def test_invalid_workspace_path_is_refused(monkeypatch, tmp_path, name):
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / name))
    with pytest.raises(WorkspaceError, match=r"contains \?, # or %"):
        workspace()


BESIDE = """
import sys
from rich.console import Console
from deployments.local.services import Stream
stream = Stream(Console(file=sys.stdout, force_terminal=False, width=80), 6)
for number in range(20000):
    stream.line("worker", f"line {number} with \\u03c3")
open(sys.argv[1], "w").write("went on")
"""


@pytest.mark.parametrize("reader", ["head -n 1", "cat > /dev/full"])
def test_output_failures_do_not_end_the_process(tmp_path, reader):
    """A closed pipe or a full disk must not end a long run."""
    done = tmp_path / "done"
    script = tmp_path / "beside.py"
    script.write_text(BESIDE)
    target = f"| {reader}" if reader.startswith("head") else "> /dev/full"
    command = f"{sys.executable} {script} {done} {target}"
    subprocess.run(command, shell=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60, check=False)  # noqa: S602
    assert done.read_text() == "went on"


def test_limited_locale_replaces_characters(tmp_path):
    code = (
        "import sys; from deployments.cli import main\n"
        "try:\n    main(['check', 'nowhere_at_all'])\nfinally:\n    print('\\u03c3 \\u2502')"
    )
    assert seen(code, LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0", PERENNIAL_HOME=str(tmp_path)).endswith(
        "? ?"
    )


def test_failed_stream_stays_silent():
    class Full:
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    from deployments.local import services

    closed = []
    original, services.discard_output = services.discard_output, lambda: closed.append(True)
    try:
        stream = Stream(Console(file=Full()), 6)
        for _ in range(3):
            stream.line("worker", "a line")
    finally:
        services.discard_output = original
    assert stream.is_closed and closed == [True]


@pytest.mark.parametrize("setting", ["PERENNIAL_HOME", "PERENNIAL_LEDGER"])
def test_file_system_without_hard_links_is_refused(monkeypatch, tmp_path, setting):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    assert workspace().home.is_dir()
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setenv(setting, str(tmp_path / "share"))
    with pytest.raises(
        WorkspaceError, match=f"share.* without hard links .* set {setting} to a folder on another file system"
    ):
        workspace()
    assert not [*tmp_path.rglob(".links-*")]


@pytest.mark.slow("each training is a command with a Prefect server of its own")
@pytest.mark.parametrize(
    "user",
    [{"TZ": "Asia/Kathmandu"}, {"HOME": "/proc/nowhere", "TZ": ":America/New_York"}],
    ids=["home is unset", "home cannot be written to"],
)
def test_training_works_with_unusual_home_zone_and_path(tmp_path, user):
    model = write_model(tmp_path / "a model")
    shell = {name: value for name, value in os.environ.items() if name != "HOME" and not name.startswith("PERENNIAL_")}
    shell |= {"PERENNIAL_HOME": str(tmp_path / "a workspace"), **user}
    command = [
        sys.executable,
        "-m",
        "deployments",
        "run",
        "retrain",
        "--model",
        model,
        "--reason",
        "first",
        "--until",
        "2024-01-24T00:00:00Z",
    ]
    done = subprocess.run(command, cwd=ROOT, env=shell, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "validation: version 1: pass; first model: mae 0.185" in done.stderr
    assert "3000 rows of 2024-01-01..2024-01-21 landed" in done.stderr
