"""Models that run code: never without trust; with it, without credentials and within bounds of memory and time."""

import gc
import json
import os
import socket
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import psutil
import pytest

from tasks.adapters import foreign
from tasks.adapters.foreign import sandbox
from tasks.policy.records.errors import ForeignModelError
from tests.support.foreign_models import config_of, expected, pipeline, stored
from tests.support.trained_models import make_rows

TEAM = '''
"""A module of the team whose model is adopted."""
import os, time
from pathlib import Path

import numpy as np


class Model:
    """Predicts 0.25, after what `behaviour` says."""

    classes_ = np.array([0, 1])

    def __init__(self, behaviour, place=""):
        self.behaviour, self.place = behaviour, place

    def predict_proba(self, frame):
        print("a line that must not end up between the answers")
        if self.behaviour == "dies once" and not os.path.exists(self.place):
            Path(self.place).touch()
            os._exit(3)
        if self.behaviour == "dies":
            os._exit(3)
        if self.behaviour == "sleeps" and len(frame) < 300:
            time.sleep(600)
        if self.behaviour == "wrong shape":
            return np.ones((3, 3))
        if self.behaviour == "raises":
            raise KeyError("a value")
        return np.tile([0.75, 0.25], (len(frame), 1))
'''


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The team's module, importable here and in the child."""
    (tmp_path / "team_models.py").write_text(TEAM, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path) + os.pathsep + os.environ.get("PYTHONPATH", ""))
    sys.modules.pop("team_models", None)
    import team_models

    return team_models.Model


class Attack:
    """Runs code when it is unpickled."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self):
        return exec, (self.code,)


def attack(folder: Path, code: str) -> str:
    joblib.dump(Attack(code), folder / "model.pkl")
    return str(folder / "model.pkl")


def take(address: str, trust: bool = True) -> foreign.ForeignScorer:
    return foreign.take_in(config_of(trust=trust), address, make_rows()).scorer


@pytest.mark.attack("whoever sends a pickle")
@pytest.mark.parametrize(
    "name", ["model.pkl", "model.joblib", "model.json", "model.onnx", "model.skops", "model.ubj", "model"]
)
def test_malicious_pickle_without_trust_never_runs(name, tmp_path):
    marker = tmp_path / "marker"
    address = attack(tmp_path, f"open({str(marker)!r}, 'w').close()")
    Path(address).rename(tmp_path / name)
    with pytest.raises(ForeignModelError):
        take(str(tmp_path / name), trust=False)
    assert not marker.exists()


@pytest.mark.attack("whoever sends a pickle to someone who trusts it")
def test_trusted_model_sees_no_credentials(tmp_path, monkeypatch):
    for name in (
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "MLFLOW_TRACKING_PASSWORD",
        "WAREHOUSE_URL",
        "PREFECT_API_KEY",
        "GITHUB_TOKEN",
    ):
        monkeypatch.setenv(name, "a secret")
    marker = tmp_path / "marker"
    code = (
        "import os, json; e = dict(os.environ)\n"
        f"json.dump({{'environment': e, 'parent': os.getppid(), 'home': os.listdir(os.path.expanduser('~'))}}, open({str(marker)!r}, 'w'))"
    )
    with pytest.raises(ForeignModelError, match=r"it cannot predict rows|fails|loaded"):
        take(attack(tmp_path, code))
    found = json.loads(marker.read_text())
    assert "a secret" not in json.dumps(found)
    assert set(found["environment"]) <= {
        *sandbox.PASSED, "HOME", "TMPDIR", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK",
        "MPLCONFIGDIR", "PWD", "OLDPWD", "SHLVL", "_", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK",
    }  # fmt: skip
    assert Path.home() != Path(found["environment"]["HOME"]) and found["home"] == []


@pytest.mark.attack("whoever sends a pickle to someone who trusts it")
def test_trusted_model_reads_neither_its_parent_nor_hidden_folders(tmp_path, monkeypatch):
    if not sandbox.isolation():
        pytest.skip("Linux user namespaces do not work here")
    home, marker = tmp_path / "home", tmp_path / "marker"
    (home / ".aws").mkdir(parents=True)
    (home / ".aws" / "credentials").write_text("a secret")
    monkeypatch.setenv("HOME", str(home))
    code = f"""
import glob, json, subprocess
found = []
for path in [*glob.glob('/proc/*/environ'), '/proc/{os.getpid()}/environ', {str(home / ".aws/credentials")!r}]:
    try:
        found.append(open(path, 'rb').read().decode('latin-1'))
    except OSError as error:
        found.append(type(error).__name__)
unmounted = subprocess.run(['umount', {str(home / ".aws")!r}], capture_output=True).returncode
json.dump([found, unmounted], open({str(marker)!r}, 'w'))
"""
    monkeypatch.setenv("A_PASSWORD", "hunter2")
    with pytest.raises(ForeignModelError):
        take(attack(tmp_path, code))
    found, unmounted = json.loads(marker.read_text())
    assert "a secret" not in str(found) and unmounted != 0
    assert (home / ".aws" / "credentials").read_text() == "a secret"


@pytest.mark.attack("whoever sends a pickle to someone who trusts it")
def test_trusted_model_reaches_no_network(tmp_path):
    if not sandbox.isolation():
        pytest.skip("Linux user namespaces do not work here")
    marker = tmp_path / "marker"
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"""
import socket
try:
    socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), timeout=5)
    text = 'reached'
except OSError as error:
    text = 'refused'
open({str(marker)!r}, 'w').write(text)
"""
        with pytest.raises(ForeignModelError):
            take(attack(tmp_path, code))
    assert marker.read_text() == "refused"


@pytest.mark.attack("whoever sends a pickle to someone who trusts it")
def test_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "MEMORY_BYTES", 3 * 2**30)
    with pytest.raises(ForeignModelError, match="MemoryError"):
        take(attack(tmp_path, "rows = bytearray(6 * 2**30)"))


@pytest.mark.attack("whoever sends a pickle to someone who trusts it")
def test_cpu_time_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "CPU_S", 2)
    with pytest.raises(ForeignModelError, match="cannot be loaded: its process ended"):
        take(attack(tmp_path, "while True: pass"))


@pytest.mark.attack("whoever sends a pickle to someone who trusts it")
def test_loading_that_never_ends_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "LOAD_S", 6.0)
    begun = time.monotonic()
    with pytest.raises(ForeignModelError, match="took longer than 6 s to load the model, so its process was ended"):
        take(attack(tmp_path, "import os, time\nif os.fork() == 0:\n  os.setsid()\n  time.sleep(600)\ntime.sleep(600)"))
    assert time.monotonic() - begun < 40
    assert not children()


@pytest.mark.attack("whoever sends a pickle to someone who trusts it")
def test_call_that_never_ends_is_ended_and_the_next_one_starts_anew(tmp_path, team, monkeypatch):
    scorer = take(stored(tmp_path, team("none"), "model.joblib"))
    assert scorer.predict(make_rows(rows=3)) == pytest.approx([0.25] * 3)
    rows = make_rows()
    scorer = foreign.take_in(config_of(trust=True), stored(tmp_path, team("none"), "model.joblib"), rows).scorer
    slow = sandbox.Sandbox(
        "joblib", {"m": Path(stored(tmp_path, team("sleeps"), "slow.joblib")).read_bytes()}, "binary"
    )
    monkeypatch.setattr(sandbox, "CALL_S", 2.0)
    with pytest.raises(ForeignModelError, match="took longer than 2 s for one call"):
        slow.predict(rows.slice(0, 10))
    monkeypatch.setattr(sandbox, "CALL_S", 60.0)
    assert slow.predict(rows.slice(0, 500)).shape == (500, 2)
    slow.close()


def test_dead_process_is_started_again_once(tmp_path, team):
    rows = make_rows().select(["x", "noise"])
    once = sandbox.Sandbox(
        "joblib",
        {"m": Path(stored(tmp_path, team("dies once", str(tmp_path / "died")), "m.joblib")).read_bytes()},
        "binary",
    )
    assert once.predict(rows).shape == (1000, 2)
    once.close()
    always = sandbox.Sandbox("joblib", {"m": Path(stored(tmp_path, team("dies"), "m.joblib")).read_bytes()}, "binary")
    with pytest.raises(ForeignModelError, match=r"ended with code .*, twice; it may need more memory"):
        always.predict(rows)
    always.close()


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [("wrong shape", "it predicts 3 × 3 values for 200 rows"), ("raises", "KeyError: 'a value'")],
)
def test_model_that_answers_wrongly_is_refused(behaviour, message, tmp_path, team):
    with pytest.raises(ForeignModelError, match=message):
        take(stored(tmp_path, team(behaviour), "model.joblib"))


def children() -> list[psutil.Process]:
    time.sleep(0.2)
    return [child for child in psutil.Process().children(recursive=True) if "child.py" in " ".join(child.cmdline())]


def test_process_stays_alive_and_ends_with_its_scorer(tmp_path):
    model, rows = pipeline(), make_rows()
    scorer = take(stored(tmp_path, model, "model.joblib"))
    first = {child.pid for child in children()}
    for _ in range(5):
        assert scorer.predict(rows) == pytest.approx(expected(model, "binary", rows))
    assert {child.pid for child in children()} == first and first
    del scorer
    gc.collect()
    assert not children()


def test_large_request_and_answer_pass_through(tmp_path):
    model, rows = pipeline(), make_rows(rows=200_000)
    scorer = take(stored(tmp_path, model, "model.joblib"))
    assert np.allclose(scorer.predict(rows), expected(model, "binary", rows))


def test_without_namespaces_the_log_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sandbox, "isolation", tuple)
    model, rows = pipeline(), make_rows()
    scorer = take(stored(tmp_path, model, "model.joblib"))
    assert scorer.predict(rows) == pytest.approx(expected(model, "binary", rows))
    assert "can reach the network and read this user's files and processes" in caplog.text
