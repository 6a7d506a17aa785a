"""The audit commands, on a ledger with promotions and a rollback."""

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from deployments.cli import main
from tasks.adapters import ledger
from tasks.policy.decision.retraining import RetrainingPolicy, decide_retraining
from tasks.policy.evidence.ledger import Fact, LedgerEntry
from tasks.policy.evidence.monitoring import Judgement, WindowEvidence
from tasks.policy.evidence.versions import Promotion
from tasks.policy.records.base import to_json, utc
from tasks.record import audit
from tasks.record.audit import champion_at
from tests.policy.triggers.judged_windows import drift, evidence, history, window

pytestmark = pytest.mark.usefixtures("quiet")
MODEL = "flight_delay"


def promote(version: str, previous: str | None, day: str, action: str = "promoted", actor: str = "Ada") -> LedgerEntry:
    kind = "champion.rolled_back" if action == "rolled_back" else "champion.promoted"
    body = Promotion(MODEL, f"decision-{version}-{day}", version, previous, action, (f"because of {version}",))
    return ledger.append(MODEL, Fact(kind, body, utc(day), body.decision_id, actor))


@pytest.fixture
def recorded() -> list[LedgerEntry]:
    """Record version 1 from May, version 2 from June, and version 1 again from 20 June."""
    return [
        promote("1", None, "2013-05-01"),
        promote("2", "1", "2013-06-01"),
        promote("1", "2", "2013-06-20", "rolled_back", "Grace"),
    ]


def test_fact_is_recorded_once_per_task(recorded):
    assert promote("2", "1", "2013-06-01") == recorded[1]
    assert len(ledger.entries(MODEL)) == 3


@pytest.mark.parametrize(
    ("day", "version"),
    [("2013-05-01", "1"), ("2013-05-31T23:59", "1"), ("2013-06-01", "2"), ("2013-06-20", "1"), ("2014-01-01", "1")],
)
def test_state_shows_the_champion_at_a_time(recorded, capsys, day, version):
    assert main(["audit", "state", MODEL, "--at", day]) == 0
    assert f"flight_delay: version {version} served at" in capsys.readouterr().out


def test_state_before_the_first_promotion(recorded, capsys):
    assert champion_at(MODEL, utc("2013-04-30")) is None
    assert main(["audit", "state", MODEL, "--at", "2013-04-30"]) == 1
    assert "no champion at 2013-04-30" in capsys.readouterr().out


def test_state_names_person_and_reason(recorded, capsys):
    main(["audit", "state", MODEL, "--at", "2013-07-01T02:00+02:00"])
    printed = capsys.readouterr().out
    assert "version 1 served at 2013-07-01 00:00 UTC, rolled_back on 2013-06-20 00:00 by Grace (entry 3" in printed
    assert "because of 1" in printed


def test_show_lists_decisions_with_first_reason(recorded, capsys):
    rule = RetrainingPolicy.model_validate({"when": {"trigger": "mean_shift", "sigma": 3}})
    seen: WindowEvidence = evidence(0, drift=drift(0, pressure=4.0))
    decision = decide_retraining(MODEL, rule, rule.case(seen, history(), window(0).end))
    judgement = Judgement(window(0).end, "1", seen, decision)
    ledger.append(MODEL, Fact("window.judged", judgement, window(0).end, decision.decision_id))
    assert main(["audit", "show", MODEL, "--last", "1"]) == 0
    line = capsys.readouterr().out
    assert f"4 2013-05-06 00:00 window.judged by perennial decision {decision.decision_id}" in line
    assert "Retrain champion v1. The mean of pressure moved by 4.00 reference σ" in line
    assert main(["audit", "show", MODEL, "--kind", "champion.rolled_back"]) == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_verify_passes_an_intact_ledger_and_prints_the_head(recorded, capsys):
    assert main(["audit", "verify"]) == 0
    assert capsys.readouterr().out == f"flight_delay: intact, 3 entries, head flight_delay:3:{recorded[2].hash}\n"


def test_verify_exits_with_1_and_names_the_damage(recorded, workspace, capsys):
    path = workspace / "ledger" / MODEL / "00000002.json"
    path.write_text(path.read_text().replace("Ada", "Eve"))
    assert main(["audit", "verify", MODEL]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("flight_delay: DAMAGED, 3 entries")
    assert "entry 3 does not follow entry 2" in printed


def test_verify_with_expected_head_detects_truncation(recorded, workspace, capsys):
    folder = workspace / "ledger" / MODEL
    (folder / "00000003.json").unlink()
    (folder / "head.json").write_text(to_json(ledger.Head(2, recorded[1].hash)))
    assert main(["audit", "verify"]) == 0
    assert main(["audit", "verify", "--expect", f"{MODEL}:3:{recorded[2].hash}"]) == 1
    assert "the head recorded elsewhere names entry 3" in capsys.readouterr().out


@pytest.mark.slow("starts the command as a process")
def test_closed_pipe_ends_without_traceback(recorded):
    command = [sys.executable, "-m", "deployments", "audit", "show", MODEL]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as shown:
        assert shown.stdout and shown.stderr
        shown.stdout.close()  # as `| head` does
        assert shown.stderr.read() == b""
    assert shown.returncode == 141


@pytest.mark.parametrize("noted", ["flight_delay:3:abc", "flight_delay", "flight_delay:x:" + "0" * 64])
def test_malformed_head_is_refused(noted, capsys):
    assert main(["audit", "verify", "--expect", noted]) == 2
    assert "MODEL:SEQUENCE:HASH" in capsys.readouterr().err


def test_expected_head_of_a_missing_ledger_is_a_problem(capsys):
    assert main(["audit", "verify", "--expect", "air_time:3:" + "0" * 64]) == 1
    assert "air_time: DAMAGED, 0 entries" in capsys.readouterr().out


def test_named_model_without_ledger_is_a_problem(recorded, capsys):
    assert main(["audit", "verify", MODEL, "no_such_model"]) == 1
    printed = capsys.readouterr().out
    assert "flight_delay: intact, 3 entries" in printed
    assert "no_such_model: DAMAGED, 0 entries, head none\n  this model has no ledger here" in printed


def test_every_expected_head_is_checked(recorded, capsys):
    good, bad = f"{MODEL}:3:{recorded[2].hash}", f"{MODEL}:2:" + "0" * 64
    assert main(["audit", "verify", MODEL, "--expect", good]) == 0
    assert main(["audit", "verify", MODEL, "--expect", "air_time:3:" + "0" * 64]) == 1
    assert main(["audit", "verify", "--expect", bad, "--expect", good]) == 1
    printed = capsys.readouterr().out
    assert "air_time: DAMAGED" in printed
    assert (
        "the head recorded elsewhere names entry 2 with hash 000000000000…, but that entry has another hash" in printed
    )


def test_damaged_ledger_is_one_clear_line(recorded, workspace):
    folder = workspace / "ledger" / MODEL
    (folder / "00000001.json").unlink()
    command = [sys.executable, "-m", "deployments", "audit"]
    root = Path(audit.__file__).parents[2]
    verified = subprocess.run([*command, "verify"], capture_output=True, text=True, cwd=root, check=False)
    assert (verified.returncode, "entry 1 is missing" in verified.stdout) == (1, True)
    shown = subprocess.run([*command, "show", MODEL], capture_output=True, text=True, cwd=root, check=False)
    assert shown.returncode == 2
    assert "Traceback" not in shown.stderr
    assert "run perennial audit verify flight_delay" in shown.stderr


def test_entry_on_disk_is_plain_json(recorded, workspace):
    entry = json.loads((workspace / "ledger" / MODEL / "00000001.json").read_text())
    assert entry["kind"] == "champion.promoted"
    assert utc(entry["at"]) == utc("2013-05-01") + timedelta(0)
    assert json.loads(entry["body"])["champion"] == "1"


def test_typed_text_prints_no_extra_lines_or_escapes(capsys):
    promote("1", None, "2013-05-01", actor="Ada\n     2 2013-05-02 00:00 champion.promoted by Grace\x1b[2J")
    for command in (["show", MODEL], ["state", MODEL, "--at", "2013-06-01"]):
        assert main(["audit", *command]) == 0
        printed = capsys.readouterr().out
        assert "\x1b" not in printed
        assert not [line for line in printed.splitlines() if line.startswith("     2")]
