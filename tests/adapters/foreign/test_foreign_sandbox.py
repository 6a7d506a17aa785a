"""Models that run code: never without trust; with it, without credentials and within bounds of memory and time."""

import gc
import json
import os
import pickle
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import joblib
import numpy as np
import psutil
import pytest

from tasks.adapters import foreign
from tasks.adapters.foreign import confine, sandbox
from tasks.policy.records.errors import ForeignModelError
from tests.support.foreign_models import config_of, expected, pipeline, stored
from tests.support.trained_models import make_rows

TEAM = '''
"""A module of the team whose model is adopted."""
import os, time

import numpy as np


class Model:
    """Predicts 0.25, after what `behaviour` says."""

    classes_ = np.array([0, 1])

    def __init__(self, behaviour, place=""):
        self.behaviour, self.place = behaviour, place

    def predict_proba(self, frame):
        print("a line that must not end up between the answers")
        if self.behaviour == "dies once" and not os.path.exists(self.place):
            os._exit(3)
        if self.behaviour == "dies":
            os._exit(3)
        if self.behaviour == "sleeps" and len(frame) < 300:
            time.sleep(600)
        if self.behaviour.startswith("nulls: ") and frame.isna().any(axis=None):
            {"end": lambda: os._exit(3), "wait": lambda: time.sleep(600), "fill memory": lambda: bytearray(6 * 2**30)}[
                self.behaviour.removeprefix("nulls: ")
            ]()
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
        return exec, (self.code, {})


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


TRUSTED = pytest.mark.attack("whoever sends a pickle to someone who trusts it")
confined = pytest.mark.skipif(not sandbox.isolation(), reason="Linux user namespaces do not work here")


def ran(code: str) -> dict:
    """Run code in the process of a model; return what it stored in `found`."""
    report = f"import json\nfound = {{}}\n{code}\nprint('found:', json.dumps(found), flush=True)"
    box = sandbox.Sandbox("joblib", {"model.pkl": pickle.dumps(Attack(report))}, "binary")
    try:
        box.describe()
        box._child._errors.seek(0)
        return json.loads(box._child._errors.read().decode().partition("found:")[2])
    finally:
        box.close()


TRY = """
def tried(act):
    try:
        return act()
    except OSError as error:
        return type(error).__name__
"""


@TRUSTED
def test_trusted_model_sees_no_credentials(monkeypatch):
    for name in (
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "MLFLOW_TRACKING_PASSWORD",
        "WAREHOUSE_URL",
        "PREFECT_API_KEY",
        "GITHUB_TOKEN",
    ):
        monkeypatch.setenv(name, "a secret")
    found = ran("import os\nfound = {'environment': dict(os.environ), 'home': os.listdir(os.path.expanduser('~'))}")
    assert "a secret" not in json.dumps(found)
    assert set(found["environment"]) <= {
        *sandbox.PASSED, "HOME", "TMPDIR", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK",
        "MPLCONFIGDIR", "PWD", "OLDPWD", "SHLVL", "_", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK",
    }  # fmt: skip
    assert Path.home() != Path(found["environment"]["HOME"]) and found["home"] == []


@TRUSTED
@confined
def test_trusted_model_reads_neither_its_parent_nor_hidden_paths(tmp_path, monkeypatch):
    """Also in a home folder with a space in its name, and in files that a variable names."""
    home = tmp_path / "a home"
    (home / ".aws").mkdir(parents=True)
    secrets = [
        home / ".aws" / "credentials",
        home / ".netrc",
        home / ".git-credentials",
        home / ".pgpass",
        home / "notes.txt",
        tmp_path / "key.json",
    ]
    for path in secrets:
        path.write_text("a secret")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    monkeypatch.setenv("A_PASSWORD", "hunter2")
    found = ran(f"""{TRY}
import glob, subprocess
paths = [*glob.glob('/proc/*/environ'), '/proc/{os.getpid()}/environ', *{[str(path) for path in secrets]!r}]
found['read'] = [tried(lambda: open(path, 'rb').read().decode('latin-1')) for path in paths]
unmount = ['umount', {str(home / ".aws")!r}]
found['unmounted'] = [subprocess.run(c, capture_output=True).returncode for c in (unmount, ['unshare', '-Urm', *unmount])]
""")
    assert "a secret" not in str(found) and "hunter2" not in str(found) and len(found["read"]) > len(secrets)
    assert 0 not in found["unmounted"]
    assert {path.read_text() for path in secrets} == {"a secret"}


@TRUSTED
@confined
def test_trusted_model_writes_nothing_outside_its_home(tmp_path):
    beside, site = tmp_path / "x.pth", Path(np.__file__).parents[1] / "evil_perennial.pth"
    places = [
        beside,
        site,
        Path.home() / "evil_perennial",
        Path("/tmp/evil_perennial"),
        Path("/dev/shm/evil_perennial"),
    ]
    found = ran(f"""{TRY}
import os, subprocess
found['wrote'] = [tried(lambda: open(path, 'w').write('x')) for path in {[str(path) for path in places]!r}]
found['own'] = tried(lambda: open(os.path.expanduser('~/x'), 'w').write('x'))
for command in (['mount', '-o', 'remount,bind,rw', '/'], ['unshare', '-Urm', 'mount', '-o', 'remount,bind,rw', '/']):
    subprocess.run(command, capture_output=True)
found['after'] = tried(lambda: open({str(beside)!r}, 'w').write('x'))
found['system'] = tried(lambda: open('/proc/sys/kernel/core_pattern', 'w').write('x'))
""")
    assert set(found["wrote"][:4]) == {"OSError"} and found["after"] == found["system"] == "OSError"
    assert found["own"] == 1
    assert not any(path.exists() for path in places)


@TRUSTED
@confined
@pytest.mark.parametrize("where", ["elsewhere", "inside the workspace", "around the workspace"])
def test_trusted_model_sees_nothing_of_the_workspace(where, workspace, tmp_path, monkeypatch):
    """Also where its own files, or a module that it imports, lie in the workspace."""
    for name in ("mlflow.db", "ledger/1.json", "prefect.db"):
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_text("state")
    lake = tmp_path / "a lake"
    lake.mkdir()
    (lake / "rows").write_text("state")
    monkeypatch.setenv("PERENNIAL_LAKE", str(lake))
    if where == "inside the workspace":
        (workspace / "tmp").mkdir()
        monkeypatch.setattr(sandbox.tempfile, "tempdir", str(workspace / "tmp"))
    if where == "around the workspace":
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    paths = [str(workspace / name) for name in ("mlflow.db", "ledger/1.json", "prefect.db", "new")] + [
        str(lake / "rows")
    ]
    found = ran(f"""{TRY}
found['read'] = [tried(lambda: open(path).read()) for path in {paths!r}]
found['wrote'] = [tried(lambda: open(path, 'w').write('x')) for path in {paths!r}]
""")
    assert "state" not in found["read"] and found["wrote"][3] == "OSError"
    assert {Path(path).read_text() for path in paths if not path.endswith("new")} == {"state"}
    assert not (workspace / "new").exists()


@TRUSTED
@confined
def test_processes_and_files_are_bounded(monkeypatch):
    monkeypatch.setattr(sandbox, "PROCESSES", 400)
    monkeypatch.setattr(sandbox, "HOME_BYTES", 10 * 2**20)
    found = ran("""
import os, resource, signal, time
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
found['limit'] = resource.getrlimit(resource.RLIMIT_NPROC)[0]
forked = []
try:
    for _ in range(3000):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        forked.append(child)
except OSError as error:
    found['refused'] = type(error).__name__
found['forked'] = len(forked)
for child in forked:
    os.kill(child, signal.SIGKILL)
written = 0
try:
    for number in range(20):
        with open(os.path.expanduser(f'~/{number}'), 'wb') as file:
            written += file.write(bytes(2**20))
except OSError as error:
    found['full'] = type(error).__name__
found['written'] = written
""")
    assert found["limit"] >= 400
    assert found["full"] == "OSError" and found["written"] <= 10 * 2**20
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if release < confine.OWN_PROCESS_LIMIT and os.getuid() == 0:
        pytest.skip("before Linux 6.14, no limit of processes holds for root")
    assert found["refused"] in ("BlockingIOError", "OSError") and found["forked"] < 1000


def test_limit_of_processes_does_not_reach_the_machine(monkeypatch):
    """Before Linux 6.14, root would change the limit of the whole machine."""
    written = []
    monkeypatch.setattr(
        confine, "Path", lambda path: SimpleNamespace(write_text=lambda text, **_: written.append(text))
    )
    for release in ("5.15.0-91-generic", "6.13.9", "6.14.0-rc1", "7.0.1"):
        monkeypatch.setattr(confine.os, "uname", lambda release=release: SimpleNamespace(release=release))
        confine.limit_processes(500)
    assert written == ["500", "500"]


@TRUSTED
@confined
def test_trusted_model_reaches_no_network():
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = ran(f"""{TRY}
import socket
found['reached'] = tried(lambda: str(socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), timeout=5)))
""")
    assert found["reached"] in ("ConnectionRefusedError", "OSError")


@confined
def test_process_that_cannot_be_confined_runs_no_model(tmp_path, monkeypatch):
    confined_at = sandbox._confined
    monkeypatch.setattr(sandbox, "_confined", lambda hidden, home: confined_at(hidden, tmp_path / "nowhere"))
    box = sandbox.Sandbox("joblib", {"model.pkl": pickle.dumps(Attack("print('ran')"))}, "binary")
    with pytest.raises(
        ForeignModelError, match=r"ended with code 97 \(not confined: .*mount tmpfs at .*nowhere: No such file"
    ):
        box.describe()


@TRUSTED
def test_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "MEMORY_BYTES", 3 * 2**30)
    with pytest.raises(ForeignModelError, match="MemoryError"):
        take(attack(tmp_path, "rows = bytearray(6 * 2**30)"))


@TRUSTED
def test_cpu_time_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "CPU_S", 2)
    with pytest.raises(ForeignModelError, match="cannot be loaded: its process ended"):
        take(attack(tmp_path, "while True: pass"))


@TRUSTED
def test_loading_that_never_ends_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "LOAD_S", 6.0)
    begun = time.monotonic()
    with pytest.raises(ForeignModelError, match="took longer than 6 s to load the model, so its process was ended"):
        take(attack(tmp_path, "import os, time\nif os.fork() == 0:\n  os.setsid()\n  time.sleep(600)\ntime.sleep(600)"))
    assert time.monotonic() - begun < 40
    assert not children()


@TRUSTED
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


def test_dead_process_is_started_again_once(tmp_path, team, monkeypatch):
    rows = make_rows().select(["x", "noise"])
    once = sandbox.Sandbox(
        "joblib",
        {"m": Path(stored(tmp_path, team("dies once", str(tmp_path / "died")), "m.joblib")).read_bytes()},
        "binary",
    )
    once.describe()
    started = sandbox._Child.__init__
    monkeypatch.setattr(
        sandbox._Child, "__init__", lambda *given: ((tmp_path / "died").touch(), started(*given))[1]
    )  # the model itself can write nothing
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


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (
            "nulls: end",
            r"given rows with nulls, the model's process ended with code 3, twice; .*; fill nulls inside the model",
        ),
        (
            "nulls: wait",
            "given rows with nulls, the model took longer than 5 s for one call.*; fill nulls inside the model",
        ),
        (
            "nulls: fill memory",
            r"given rows with nulls, the model needs more memory than the 3 GiB of its process \(MemoryError\).*; fill nulls",
        ),
    ],
)
def test_model_that_reaches_a_limit_for_nulls_is_refused(behaviour, message, tmp_path, team, monkeypatch):
    monkeypatch.setattr(sandbox, "CALL_S", 5.0)
    monkeypatch.setattr(sandbox, "MEMORY_BYTES", 3 * 2**30)
    with pytest.raises(ForeignModelError, match=f"binary_model: .*m.joblib: {message}"):
        take(stored(tmp_path, team(behaviour), "m.joblib"))


def test_model_that_raises_for_nulls_accepts_none(tmp_path, team, caplog):
    assert not take(stored(tmp_path, team("nulls: a KeyError"), "m.joblib")).inputs.accepts_nulls
    assert (
        "taken to accept no nulls, as it raised RuntimeError: the model raised KeyError: 'a KeyError' for them"
        in caplog.text
    )
    assert take(stored(tmp_path, team("none"), "m.joblib")).inputs.accepts_nulls


def children() -> list[psutil.Process]:
    time.sleep(0.2)
    return [child for child in psutil.Process().children(recursive=True) if "child.py" in command(child)]


def command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended meanwhile
        return ""


def test_process_stays_alive_and_ends_with_its_scorer(tmp_path):
    gc.collect()  # ends the processes of scorers that earlier tests left
    before = {child.pid for child in children()}
    model, rows = pipeline(), make_rows()
    scorer = take(stored(tmp_path, model, "model.joblib"))
    first = {child.pid for child in children()} - before
    for _ in range(5):
        assert scorer.predict(rows) == pytest.approx(expected(model, "binary", rows))
    assert {child.pid for child in children()} - before == first and first
    del scorer
    gc.collect()
    assert not first & {child.pid for child in children()}


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
