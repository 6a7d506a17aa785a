"""Models that share a monthly budget, on a real ledger: order, refusals and concurrency."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from deployments.cli import main
from deployments.config.fleet import load_fleet_config
from deployments.config.folders import available_models
from deployments.config.loading import load_model_config
from flows.fleet import fleet
from flows.retrain import retrain
from tasks.adapters import ledger
from tasks.adapters.storage.workspace import workspace
from tasks.policy.economics.budget import Grant
from tasks.policy.evidence.ledger import Fact
from tasks.policy.evidence.monitoring import Decision, Judgement, WindowEvidence
from tasks.policy.records.base import Window, from_json, utc
from tasks.policy.records.errors import LedgerError, ModelConfigError
from tasks.training.shared_budget import claim_shared_budget
from tests.support.small_model import write_model

FIRST = utc("2024-01-21")
PRICES = "\nbudget: {value_usd_per_metric_unit_per_day: 100, fixed_usd_per_retrain: 40}\ntraining:\n"
NAMES = ("alpha", "beta", "gamma")


def share(folder: Path, text: str) -> None:
    (folder / "fleet.yaml").write_text(text, encoding="utf-8")


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three models in a folder of their own whose retrains cost 40 USD each; the budget covers two."""
    folder = tmp_path / "models"
    for name in NAMES:
        Path(write_model(folder, **{"name: small": f"name: {name}", "\ntraining:\n": PRICES})).rename(
            folder / f"{name}.yaml"
        )
    share(folder, f"shared_budget: {{max_usd_per_month: 90, models: [{', '.join(NAMES)}]}}")
    monkeypatch.setenv("PERENNIAL_MODELS", str(folder))
    return folder


def ask(model: str, value_usd: float) -> str:
    """Record a judgement that requests a retrain with this expected benefit; return its decision id."""
    window = Window(utc("2024-01-19"), FIRST)
    decision = Decision(
        f"decision-{model}", model, window, True, ("why",), expected_value_usd=value_usd, expected_cost_usd=40.0
    )
    ledger.append(
        model,
        Fact("window.judged", Judgement(FIRST, "1", WindowEvidence(window, 0), decision), FIRST, decision.decision_id),
    )
    return decision.decision_id


def claim(model: str, decision: str) -> str | None:
    with disable_run_logger():
        return claim_shared_budget.fn(load_model_config(model), decision, None, FIRST)


def granted() -> list[str]:
    return [name for name in NAMES for _ in ledger.entries(name, kind="budget.granted")]


def test_most_beneficial_models_go_first(models):
    decisions = {name: ask(name, value) for name, value in zip(NAMES, (50.0, 500.0, 100.0), strict=True)}
    refusal = claim("alpha", decisions["alpha"])
    assert "is expected to bring 10.00 USD net for 40.00 USD" in refusal
    assert (
        "beta is expected to bring 460.00 USD net" in refusal and "gamma is expected to bring 60.00 USD net" in refusal
    )
    assert claim("gamma", decisions["gamma"]) is None
    assert claim("beta", decisions["beta"]) is None
    assert granted() == ["beta", "gamma"]
    assert "80.00 USD are promised" in claim("alpha", decisions["alpha"])
    assert claim("beta", decisions["beta"]) is None  # a resumed run does not pay twice
    assert granted() == ["beta", "gamma"]


def test_all_requests_are_granted_within_budget(models):
    share(models, "shared_budget: {max_usd_per_month: 120}")
    decisions = {name: ask(name, 1.0) for name in NAMES}
    assert [claim(name, decisions[name]) for name in NAMES] == [None, None, None]
    assert from_json(Grant, ledger.entries("gamma", kind="budget.granted")[0].body).left_usd == 0


def test_models_outside_the_shared_budget_are_not_checked(models):
    share(models, "shared_budget: {max_usd_per_month: 0, models: [beta]}")
    assert claim("alpha", "decision-1") is None
    assert claim("beta", "decision-2") is not None
    (models / "fleet.yaml").unlink()
    assert claim("beta", "decision-2") is None
    assert not granted()


def damage(models: Path, name: str, own_limit: str = "") -> None:
    """Damage a ledger's first entry, with this limit for the model's own budget."""
    ask(name, 1000.0)
    (workspace().home / "ledger" / name / "00000001.json").write_text("{")
    file = models / f"{name}.yaml"
    file.write_text(file.read_text().replace("fixed_usd_per_retrain: 40", f"fixed_usd_per_retrain: 40{own_limit}"))


def test_damaged_ledger_reserves_its_models_budget(models):
    damage(models, "beta", ", max_usd_per_month: 45")
    assert claim("alpha", ask("alpha", 50.0)) is None
    assert from_json(Grant, ledger.entries("alpha", kind="budget.granted")[0].body).left_usd == 5
    refusal = claim("gamma", ask("gamma", 50.0))
    assert "45.00 USD are held back, because the ledger of beta does not verify (perennial audit verify)" in refusal


def test_damaged_ledger_without_limit_refuses_all(models):
    damage(models, "beta")
    assert "90.00 USD are held back, because the ledger of beta does not verify" in claim("alpha", ask("alpha", 50.0))
    with pytest.raises(LedgerError, match="entry 1 cannot be read"):
        claim("beta", "decision-beta")


@pytest.mark.slow("starts processes that claim at once")
def test_concurrent_requests_never_exceed_the_budget(models):
    code = (
        "import sys; from tests.flows.test_shared_budget import claim; print(claim(sys.argv[1], sys.argv[2]) is None)"
    )
    asking = [
        subprocess.Popen(
            [sys.executable, "-c", code, name, f"decision-{name}-{number}"],
            env={**os.environ, "PYTHONPATH": str(Path.cwd())}, stdout=subprocess.PIPE, text=True,
        )
        for name in NAMES
        for number in (1, 2)
    ]  # fmt: skip
    answers = [process.communicate(timeout=400)[0].strip() for process in asking]
    assert sorted(answers) == ["False"] * 4 + ["True"] * 2
    assert len(granted()) == 2
    assert not any(ledger.verify(name).problems for name in set(granted()))


def test_refused_retrain_is_reported(models, prefect_server):
    share(models, "shared_budget: {max_usd_per_month: 50, models: [alpha, beta]}")
    retrain("alpha", until=FIRST)
    assert "of 50.00 USD shared by alpha, beta" in retrain("beta", until=FIRST, dry_run=True).headline
    assert not ledger.entries("beta"), "a preview reserves nothing"
    assert retrain("beta", until=FIRST) is None
    assert [entry.kind for entry in ledger.entries("beta")] == ["model.bound", "retraining.refused"]
    refusal = ledger.entries("beta")[1].body
    assert "of 50.00 USD shared by alpha, beta are spent in 30 days" in refusal
    assert announced_reasons("perennial.budget.refused", "beta") == [[refusal]]
    html = Path(fleet(["alpha", "beta"], until=FIRST)).read_text(encoding="utf-8")
    assert "data-balance" in html and "of 50.00 USD shared by alpha, beta are spent in 30 days; " in html
    assert refusal in html


def announced_reasons(event: str, model: str) -> list[list[str]]:
    """Return the reasons of the server's events of one kind about a model."""
    from prefect.client.orchestration import get_client

    deadline, reasons = time.monotonic() + 150, []
    with get_client(sync_client=True) as client:
        while not reasons and time.monotonic() < deadline:  # events arrive after the run has ended
            found = client._client.post("/events/filter", json={"filter": {"event": {"name": [event]}}})
            events = found.raise_for_status().json()["events"]
            reasons = [list(each["payload"]["reasons"]) for each in events if each["payload"]["model"] == model]
            time.sleep(0.5)
    return reasons


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("shared_budget: {max_usd_per_month: -1}", "max_usd_per_month is -1"),
        ("shared_budget: {max_usd: 5}", "shared_budget.max_usd is 5"),
        ("shared_budget: {max_usd_per_month: 5, models: [delta]}", "models has delta, expected names of models here"),
        ("a: [", "is not YAML"),
        ("- a", "expected shared_budget"),
    ],
)
def test_error_in_fleet_file_is_named(models, capsys, text, words):
    share(models, text)
    with pytest.raises(ModelConfigError, match=r"fleet\.yaml: ") as caught:
        load_fleet_config()
    assert words in str(caught.value)
    assert main(["check", "alpha"]) == 1


def test_check_describes_the_shared_budget(models, capsys):
    assert "fleet" not in available_models()
    assert main(["check", "alpha"]) == 0
    assert "together: alpha, beta, gamma may spend at most 90.00 $ on retrains in 30 days." in capsys.readouterr().out
    write_model(models, **{"name: small": "name: fleet"})
    with pytest.raises(ModelConfigError, match="expected another one"):
        load_model_config(models / "small.yaml")
