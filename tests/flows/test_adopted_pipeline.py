"""An adopted scikit-learn pipeline, trained elsewhere on raw pandas columns, that Perennial retrains and rolls back to."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import joblib
import mlflow
import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from deployments.cli import main
from deployments.config.loading import load_model_config
from flows.adopt import adopt
from flows.monitor import monitor
from flows.promote import promote
from flows.retrain import retrain
from flows.rollback import rollback
from flows.score import score
from tasks.adapters import ledger, registry
from tasks.policy.evidence.versions import Promotion
from tasks.policy.records.base import from_json, utc
from tasks.policy.records.errors import AccessRefused, AdoptionRefused, ForeignModelError, MoveFailed, TooEarly
from tasks.policy.rollout.versions import registered
from tests.support.ways_in import example

pytestmark = pytest.mark.usefixtures("prefect_server")

YAML = """\
name: churn
owner: crm@example.com
purpose: Chooses the customers who get a call.
risk: low
task: binary
source: {kind: parquet, path: rows.parquet}
columns:
  id: customer
  time: at
  label: left
  label_delay_hours: 12
  features: {numeric: [tenure, spend], categorical: [plan], boolean: [discount]}
window_days: 2
period: {start: 2024-01-01T00:00:00Z, history_until: 2024-01-21T00:00:00Z, end: 2024-02-06T00:00:00Z}
performance: {metric: roc_auc}
retraining:
  when: {trigger: metric_breach, metric: roc_auc, limit: 0.75, k: 1, m: 2}
  cooldown_days: 4
training: {window_days: 4, min_rows: 300, parameters: {n_estimators: 40, max_depth: 3}}
validation: {holdout_days: 1.5, min_rows: 100}
rollout: {mode: none}
"""
START, CHANGE, ROWS_PER_DAY = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 25, tzinfo=UTC), 200
HISTORY_END = utc("2024-01-21")


def customers(days: int = 36) -> pd.DataFrame:
    """Return customers: short tenure makes them leave, from CHANGE on low spending does."""
    random, count = np.random.default_rng(4), days * ROWS_PER_DAY
    at = pd.date_range(START, periods=count, freq=timedelta(days=1) / ROWS_PER_DAY)
    tenure, spend = random.gamma(3.0, 100.0, count), random.normal(50, 10, count)
    plan, discount = random.choice(["basic", "plus", "pro"], count), random.random(count) < 0.3
    cause = np.where(at < CHANGE, (300 - tenure) / 80, (50 - spend) / 5)
    risk = cause + (plan == "basic") - discount + random.normal(0, 0.5, count)
    return pd.DataFrame(
        {
            "customer": [f"c{number}" for number in range(count)],
            "at": at,
            "tenure": tenure,
            "spend": spend,
            "plan": plan,
            "discount": discount,
            "left": np.where(risk > 0.2, "yes", "no"),
        }
    )


FEATURES = ["tenure", "spend", "plan", "discount"]


def pipeline(rows: pd.DataFrame) -> Pipeline:
    """Fit the team's pipeline as they do: raw columns of a data frame, scaled and one-hot encoded."""
    columns = make_column_transformer(
        (StandardScaler(), ["tenure", "spend"]), (OneHotEncoder(handle_unknown="ignore"), ["plan", "discount"])
    )
    return make_pipeline(columns, LogisticRegression()).fit(rows[FEATURES], rows["left"])


@pytest.fixture
def model(tmp_path: Path) -> str:
    rows = customers()
    rows.to_parquet(tmp_path / "rows.parquet")
    own = pipeline(rows[rows["at"] < utc("2024-01-15")])
    joblib.dump(own, tmp_path / "model.joblib")
    skops.io.dump(own, tmp_path / "model.skops")
    path = tmp_path / "churn.yaml"
    path.write_text(YAML, encoding="utf-8")
    return str(path)


def beside(model: str, name: str) -> str:
    return str(Path(model).with_name(name))


def trusting(model: str) -> str:
    path = Path(model)
    path.write_text(
        path.read_text(encoding="utf-8").replace("training: {", "training: {trust: true, "), encoding="utf-8"
    )
    return model


def adopted(model: str, name: str = "model.skops", **given: object) -> Promotion:
    return adopt(model, source=beside(model, name), until=HISTORY_END, requested_by="ada@example.com", **given)


def at(day: int) -> datetime:
    return START + timedelta(days=day)


@pytest.mark.parametrize("name", ["model.skops", "model.joblib"])
def test_adopted_pipeline_lives_through_the_whole_loop(model, name):
    """Adopted, it scores; the concept changes; a challenger is trained, beats it on the same rows and is rolled back."""
    if name == "model.joblib":
        trusting(model)
    first = adopted(model, name)
    config = load_model_config(model)
    assert (first.champion, first.previous) == ("1", None)
    assert registry.aliases("churn") == {"champion": "1"}
    (version,) = registered(ledger.entries("churn")).values()
    tags = dict(version.tags)
    assert tags["adopted_from"].endswith(name) and len(tags["original_sha256"]) == 64
    entries = {entry.kind: entry for entry in ledger.entries("churn")}
    assert entries["champion.promoted"].actor == "ada@example.com"
    assert "which rows it was trained on is not known here" in first.reasons[-1]
    assert score(model, until=at(22)).model_version == "1"
    assert not monitor(model, until=at(23)).decision.retrain
    asked = promoted = None
    for day in (25, 27, 29, 31):
        score(model, until=at(day))
        asked = monitor(model, until=at(day))
        if not asked.decision.retrain:
            continue
        validation = retrain(model, until=asked.as_of, decision_id=asked.decision.decision_id)
        assert validation.champion == "1" and validation.rows >= 100
        if validation.verdict == "pass":  # one that was trained too soon after the change is refused
            promoted = promote(model, until=asked.as_of, decision_id=asked.decision.decision_id)
            break
    assert promoted is not None and promoted.previous == "1"
    assert score(model, until=at(33)).model_version == promoted.champion
    back = rollback(model, reason="the new one is slow", until=at(33), requested_by="ada@example.com")
    assert back.champion == "1"
    assert score(model, until=at(35)).model_version == "1"
    assert config.training.trust == (name == "model.joblib")


def test_predictions_are_those_of_the_team(model):
    adopted(model)
    rows = customers().head(500)
    scorer = registry.version_files.load_scorer(registry.version("churn", "champion"))
    own = skops.io.load(beside(model, "model.skops"), trusted=[])
    assert np.allclose(scorer.predict(rows), own.predict_proba(rows[FEATURES])[:, 1])
    assert np.allclose(scorer.predict_encoded(scorer.encoding.encode(rows)), scorer.predict(rows), atol=1e-4)


def test_adoption_is_repeatable_and_only_the_first(model):
    first = adopted(model)
    assert adopted(model) == first
    with pytest.raises(AdoptionRefused, match="version 1 serves, and Perennial has promoted it"):
        adopted(model, "model.skops", decision_id="another-decision")
    assert registry.aliases("churn") == {"champion": "1"}


def test_interrupted_adoption_is_completed_only_with_the_same_model(model, monkeypatch):
    """Interrupted after it registered the version, it is repeated; the file was replaced meanwhile."""
    with monkeypatch.context() as patch:
        patch.setattr("flows.adopt.validate_challenger", interrupted)
        with pytest.raises(InterruptedError):
            adopted(model)
    first = Path(beside(model, "model.skops")).read_bytes()
    skops.io.dump(pipeline(customers(10)), beside(model, "model.skops"))
    old, new = hashlib.sha256(first).hexdigest(), file_hash(beside(model, "model.skops"))
    with pytest.raises(
        ForeignModelError, match=rf"holds a model of SHA-256 {new} now, .* {old} as version 1; .*decision_id"
    ):
        adopted(model)
    assert registry.aliases("churn") == {}
    Path(beside(model, "model.skops")).write_bytes(first)
    assert adopted(model).champion == "1"


@pytest.mark.parametrize("stage", ["validate_challenger", "publish_promotion"])
def test_alias_that_moved_since_an_interruption_is_not_taken_over(stage, model, monkeypatch):
    """Interrupted before it moved the alias, or after: another team has set it on a version of its own meanwhile.

    Where the file lets moves be recorded, it is completed in the first case; in the second, a new decision is asked for.
    """
    with monkeypatch.context() as patch:
        patch.setattr(f"flows.adopt.{stage}", interrupted)
        with pytest.raises(InterruptedError):
            adopted(model, decision_id="interrupted")
    assert alias_of_the_other_team(model) == "2"
    with pytest.raises(AdoptionRefused, match="is on version 2, which Perennial did not set"):
        adopted(model, decision_id="interrupted")
    path = Path(model)
    path.write_text(path.read_text(encoding="utf-8") + "registry: {outside_moves: record}\n", encoding="utf-8")
    decision_id = "interrupted"
    if stage == "publish_promotion":
        with pytest.raises(MoveFailed, match=r"moved by someone else .*'champion': '2'.*; nothing was changed"):
            adopted(model, decision_id=decision_id)
        decision_id = "decided-again"
    assert registry.aliases("churn") == {"champion": "2"}
    found = adopted(model, decision_id=decision_id)
    assert (found.champion, found.previous) == ("1" if decision_id == "interrupted" else "3", None)
    assert any("alias champion was on version 2, which Perennial did not set" in reason for reason in found.reasons)
    assert registry.aliases("churn") == {"champion": found.champion}
    assert adopted(model, decision_id=decision_id) == found
    assert score(model, until=at(22)).model_version == found.champion


def test_present_model_is_adopted_by_another_decision(model, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("flows.adopt.validate_challenger", interrupted)
        with pytest.raises(InterruptedError):
            adopted(model)
    skops.io.dump(pipeline(customers(10)), beside(model, "model.skops"))
    assert adopted(model, decision_id="another-decision").champion == "2"
    tags = dict(registry.version("churn", "champion").tags)
    assert tags["original_sha256"] == file_hash(beside(model, "model.skops"))


def test_completed_adoption_is_repeatable_without_its_file(model):
    first = adopted(model)
    Path(beside(model, "model.skops")).unlink()
    assert adopted(model) == first


def interrupted(*_: object) -> None:
    raise InterruptedError


def file_hash(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_profile_is_frozen_from_the_named_rows(model):
    adopted(model, profile_start=utc("2024-01-03"), profile_end=utc("2024-01-10"))
    version = registry.version("churn", "champion")
    assert (version.trained.start, version.trained.end) == (utc("2024-01-03"), utc("2024-01-10"))
    assert registry.version_files.reference_profile(version).rows == 7 * ROWS_PER_DAY


def test_profile_must_end_before_the_compared_rows(model):
    with pytest.raises(TooEarly, match="where the rows begin that the model is compared on"):
        adopted(model, profile_end=utc("2024-01-20T18:00"))


def test_model_no_better_than_a_constant_is_adopted_with_a_warning(model):
    rows = customers()
    rows = rows[rows["at"] < utc("2024-01-15")]
    skops.io.dump(
        pipeline(rows.assign(left=np.where(rows["left"] == "yes", "no", "yes"))), beside(model, "model.skops")
    )
    found = adopted(model)
    assert any("worse than" in reason for reason in found.reasons)
    (verdict,) = ledger.entries("churn", kind="challenger.validated")
    assert '"verdict":"warn"' in verdict.body.replace(" ", "")


def test_untrusted_format_is_not_opened(model):
    with pytest.raises(ForeignModelError, match=r"can run any code when loaded.*training.trust: true"):
        adopted(model, "model.joblib")
    assert registry.aliases("churn") == {}


def alias_of_the_other_team(model: str) -> str:
    """Register the team's pipeline under the model's own name, with the alias champion; return its number."""
    own, folder = skops.io.load(beside(model, "model.skops"), trusted=[]), Path(model).with_name("logged")
    mlflow.sklearn.save_model(
        own, str(folder), pip_requirements=[], serialization_format="skops", skops_trusted_types=[]
    )
    client = registry.client()
    if not client.search_registered_models("name = 'churn'"):
        client.create_registered_model("churn")
    number = str(client.create_model_version("churn", str(folder)).version)
    client.set_registered_model_alias("churn", "champion", number)
    return number


def test_alias_of_another_team_is_not_taken_over(model):
    assert alias_of_the_other_team(model) == "1"
    with pytest.raises(
        AdoptionRefused, match=r"is on version 1, which Perennial did not set.*another name, or let .*record"
    ):
        adopt(model, source="models:/churn@champion", until=HISTORY_END, requested_by="ada@example.com")
    assert registry.aliases("churn") == {"champion": "1"} and not ledger.entries("churn", kind="champion.promoted")


def test_alias_of_another_team_moves_to_the_checked_copy_where_the_file_says_so(model):
    alias_of_the_other_team(model)
    path = Path(model)
    path.write_text(path.read_text(encoding="utf-8") + "registry: {outside_moves: record}\n", encoding="utf-8")
    source = {"source": "models:/churn@champion", "until": HISTORY_END, "requested_by": "ada@example.com"}
    found = adopt(model, **source)
    said = "alias champion was on version 1, which Perennial did not set; it now names the checked copy, version 2"
    assert (found.champion, found.previous) == ("2", None) and said in found.reasons
    assert said in from_json(Promotion, ledger.entries("churn", kind="champion.promoted")[-1].body).reasons
    assert adopt(model, **source, decision_id=found.decision_id) == found
    assert score(model, until=at(22)).model_version == "2"


def test_high_risk_needs_an_approver(model):
    path = Path(model)
    text = path.read_text(encoding="utf-8").replace("risk: low", "risk: high")
    path.write_text(text + "access: {approve: [grace@example.com]}\n", encoding="utf-8")
    with pytest.raises(AccessRefused, match="adopt was refused"):
        adopted(model)
    assert (
        adopt(model, source=beside(model, "model.skops"), until=HISTORY_END, requested_by="grace@example.com").champion
        == "1"
    )


def test_check_says_what_an_adopted_champion_cannot_offer(model, capsys):
    assert main(["check", model]) == 0
    assert "was adopted" not in capsys.readouterr().out
    adopted(trusting(model), "model.joblib")
    assert main(["check", model]) == 0
    printed = capsys.readouterr().out
    assert "champion 1 was adopted (joblib): no SHAP values" in printed
    assert "loads joblib, pickle and MLflow models from elsewhere, which can run any code (training.trust)" in printed


def test_yaml_of_the_page_is_valid(model):
    """The two blocks of the page, put into the file of this test."""
    path = Path(model)
    trust, moves = example("adopt"), example("adopt", number=1)
    assert trust == "training: {trust: true}\n"
    path.write_text(
        path.read_text(encoding="utf-8").replace("training: {", "training: {trust: true, ") + moves, encoding="utf-8"
    )
    config = load_model_config(model)
    assert config.training.trust and config.registry.outside_moves == "record"


def test_new_settings_at_their_defaults_leave_ids_unchanged(model):
    dumped = load_model_config(model).model_dump_json()
    assert "trust" not in dumped and "outside_moves" not in dumped


def test_example_runs_as_printed(model, monkeypatch, capsys):
    """The console example of "Your champion" adopts the model of this test, as does its YAML with a joblib file."""
    monkeypatch.chdir(Path(model).parent)
    monkeypatch.setenv("PERENNIAL_MODELS", str(Path(model).parent))
    line = next(line for line in example("adopt", "console").splitlines() if "--from model.skops" in line)
    words = line.removeprefix("perennial ").split(" #")[0].split()
    assert main([*words, "--until", "2024-01-21"]) == 0
    assert "churn: version 1 is the champion" in capsys.readouterr().out
