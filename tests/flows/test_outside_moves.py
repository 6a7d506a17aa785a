"""`registry.outside_moves`: a champion that another team sets in MLflow is refused, or checked and recorded."""

from pathlib import Path

import joblib
import mlflow
import numpy as np
import pandas as pd
import pytest
import skops.io
from xgboost import XGBClassifier

from deployments.config.loading import load_model_config
from flows.monitor import monitor
from flows.retrain import retrain
from flows.rollback import rollback
from flows.score import score
from tasks.adapters import ledger, registry
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.evidence.versions import Promotion
from tasks.policy.records.base import from_json
from tasks.policy.records.errors import (
    AdoptionRefused,
    ForeignModelError,
    ModelConfigError,
    ModelFileError,
    PromotionRefused,
    VersionGone,
)
from tasks.record.history import load_past, registry_changes
from tests.flows.test_adopted_pipeline import YAML, adopted, at, customers, pipeline, trusting
from tests.support.ways_in import example

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A model whose adopted champion has scored a window, and which records moves from outside."""
    rows = customers()
    rows.to_parquet(tmp_path / "rows.parquet")
    skops.io.dump(pipeline(rows[rows["at"] < at(14)]), tmp_path / "model.skops")
    path = tmp_path / "churn.yaml"
    (rule,) = (line for line in example("adopt", "yaml", 1).splitlines() if "outside_moves" in line)
    path.write_text(f"{YAML}{rule}\n", encoding="utf-8")
    adopted(str(path))
    score(str(path), until=at(22))
    return str(path)


def theirs(model: str, flavour: str = "skops", rows: pd.DataFrame | None = None) -> str:
    """Register another pipeline as the other team does, and move the alias champion to it; return its number."""
    rows = customers() if rows is None else rows
    folder, own = Path(model).with_name(f"logged-{flavour}"), pipeline(rows[rows["at"] < at(18)])
    if flavour == "nonsense":
        folder.mkdir()
        (folder / "model.bin").write_bytes(b"\x00\x01")
    else:
        mlflow.sklearn.save_model(
            own, str(folder), pip_requirements=[], serialization_format=flavour,
            **({"skops_trusted_types": []} if flavour == "skops" else {}),
        )  # fmt: skip
    client = registry.client()
    run = client.create_run(client.get_experiment_by_name("churn").experiment_id).info
    client.log_artifacts(run.run_id, str(folder), "model")
    number = str(client.create_model_version("churn", f"{run.artifact_uri}/model", run.run_id).version)
    client.set_registered_model_alias("churn", "champion", number)
    return number


def logged_by_theirs(flavour: str, rows: pd.DataFrame) -> str:
    """Register a model by `log_model`, as most teams do, and move the alias champion to it; return its number."""
    old, numeric = rows[rows["at"] < at(18)], ["tenure", "spend"]
    uri = registry.client().tracking_uri
    mlflow.set_tracking_uri(uri)
    try:
        mlflow.set_experiment("churn")
        with mlflow.start_run():
            if flavour == "xgboost":
                own = XGBClassifier(n_estimators=20, max_depth=3).fit(old[numeric], old["left"] == "yes")
                mlflow.xgboost.log_model(
                    own, name="model", model_format="ubj", registered_model_name="churn", pip_requirements=[]
                )
            else:
                mlflow.sklearn.log_model(
                    pipeline(old), name="model", serialization_format="skops", registered_model_name="churn",
                    skops_trusted_types=[], pip_requirements=[],
                )  # fmt: skip
    finally:
        mlflow.set_tracking_uri(None)
    (found,) = registry.client().search_model_versions(
        "name = 'churn'", order_by=["version_number DESC"], max_results=1
    )
    assert found.source.startswith("models:/m-"), "MLflow's id of the logged model, and no folder"
    registry.client().set_registered_model_alias("churn", "champion", found.version)
    return str(found.version)


@pytest.mark.parametrize("flavour", ["sklearn", "xgboost"])
def test_version_that_log_model_registered_is_taken_in(flavour, model, monkeypatch):
    """Its source is MLflow's id of a logged model, which MLflow itself would look up in its global store."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"):  # which `set_tracking_uri` and `set_experiment` set
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    assert logged_by_theirs(flavour, customers()) == "2"
    assert score(model, until=at(24)).model_version == "3"
    assert registry.aliases("churn") == {"champion": "3", "previous": "1"}
    tags = dict(registry.version("churn", "champion").tags)
    assert (tags["original_version"], tags["original_format"]) == ("churn 2", f"MLflow {flavour}")


def refusing(model: str) -> str:
    path = Path(model)
    path.write_text(
        path.read_text(encoding="utf-8").replace("outside_moves: record", "outside_moves: refuse"), encoding="utf-8"
    )
    return model


def test_unknown_version_is_taken_in_checked_and_recorded(model):
    assert theirs(model) == "2"
    assert score(model, until=at(24)).model_version == "3"
    assert registry.aliases("churn") == {"champion": "3", "previous": "1"}
    last = ledger.entries("churn", kind="champion.promoted")[-1]
    move = from_json(Promotion, last.body)
    assert (move.champion, move.previous, last.actor) == ("3", "1", "mlflow")
    assert (
        "alias champion was moved from version 1 to 2" in move.reasons[0] and "taken in as version 3" in move.reasons[0]
    )
    version = registry.version("churn", "champion")
    assert dict(version.tags)["original_version"] == "churn 2"
    config = load_model_config(model)
    assert registry_changes(config, load_past(config)) == ()
    monitor(model, until=at(24))
    score(model, until=at(26))
    assert len(ledger.entries("churn", kind="champion.promoted")) == 2, "the move is recorded once"
    assert rollback(model, reason="the other team asks for it", until=at(26)).champion == "1"


def test_known_version_is_checked_and_recorded(model):
    theirs(model)
    score(model, until=at(24))
    registry.client().set_registered_model_alias("churn", "champion", "1")
    assert score(model, until=at(26)).model_version == "1"
    assert registry.aliases("churn") == {"champion": "1", "previous": "3"}
    assert (
        "moved from version 3 to 1"
        in from_json(Promotion, ledger.entries("churn", kind="champion.promoted")[-1].body).reasons[0]
    )


def test_monitor_notices_the_move_too(model):
    theirs(model)
    monitor(model, until=at(22))
    assert registry.aliases("churn")["champion"] == "3"


def test_version_that_was_rolled_back_does_not_return(model):
    theirs(model)
    score(model, until=at(24))
    rollback(model, reason="worse", until=at(24))
    registry.client().set_registered_model_alias("churn", "champion", "3")
    with pytest.raises(
        AdoptionRefused, match="version 3, which was rolled back and does not serve again; set it back to version 1"
    ):
        score(model, until=at(26))
    assert registry.aliases("churn")["champion"] == "3"


@pytest.mark.parametrize(
    ("flavour", "message"),
    [("cloudpickle", "which can run any code when loaded"), ("nonsense", "is of no format that can be taken in")],
)
def test_version_that_cannot_be_taken_in_is_not_served_and_the_alias_stays(model, flavour, message):
    number = theirs(model, flavour)
    with pytest.raises(ForeignModelError, match=message):
        score(model, until=at(24))
    assert registry.aliases("churn")["champion"] == number
    assert not ledger.entries("churn", kind="champion.promoted")[1:]
    registry.client().set_registered_model_alias("churn", "champion", "1")
    assert score(model, until=at(24)).model_version == "1"


def test_version_that_runs_code_is_taken_in_with_trust(model):
    theirs(trusting(model), "cloudpickle")
    assert score(model, until=at(24)).model_version == "3"


def test_by_default_the_move_is_refused_until_it_is_set_back(model):
    number = theirs(refusing(model))
    with pytest.raises(VersionGone, match=f"version {number} is not in the ledger"):
        score(model, until=at(24))
    with pytest.raises(PromotionRefused, match="nothing to roll back to"):
        rollback(model, reason="they moved it", until=at(24))
    registry.client().set_registered_model_alias("churn", "champion", "1")
    assert score(model, until=at(24)).model_version == "1"


def test_trust_that_is_withdrawn_stops_serving(tmp_path):
    rows = customers()
    rows.to_parquet(tmp_path / "rows.parquet")
    joblib.dump(pipeline(rows[rows["at"] < at(14)]), tmp_path / "model.joblib")
    path = tmp_path / "churn.yaml"
    path.write_text(YAML, encoding="utf-8")
    model = trusting(str(path))
    adopted(model, "model.joblib")
    assert score(model, until=at(22)).model_version == "1"
    path.write_text(YAML, encoding="utf-8")
    with pytest.raises(
        ModelFileError, match=r"can run any code when loaded, so it does not serve; set training.trust: true"
    ):
        score(model, until=at(24))


@pytest.mark.parametrize("rule", ["record", "refuse"])
def test_version_whose_validation_failed_does_not_serve(model, rule):
    model = model if rule == "record" else refusing(model)
    path = Path(model)
    path.write_text(
        path.read_text(encoding="utf-8").replace("min_rows: 100}", "min_rows: 100, min_gain: 0.9}"), encoding="utf-8"
    )
    failed = retrain(model, until=at(22), decision_id="decision-1")
    assert (failed.verdict, failed.challenger) == ("fail", "2")
    registry.client().set_registered_model_alias("churn", "champion", "2")
    message = r"alias champion is on version 2, whose validation says fail \(.*; set it back to version 1 in MLflow"
    with pytest.raises((AdoptionRefused, PromotionRefused), match=message):
        score(model, until=at(24))
    with pytest.raises(PromotionRefused, match=message):
        monitor(model, until=at(22), dry_run=True)
    assert not ledger.entries("churn", kind="champion.promoted")[1:]
    registry.client().set_registered_model_alias("churn", "champion", "1")
    assert score(model, until=at(24)).model_version == "1"


def test_unknown_version_is_compared_with_a_constant_and_the_warning_recorded(model):
    rows = customers()
    inverted = rows.assign(left=np.where(rows["left"] == "yes", "no", "yes"))
    theirs(model, rows=inverted)
    score(model, until=at(24))
    (verdict,) = ledger.entries("churn", kind="challenger.validated")[1:]
    report = from_json(ValidationReport, verdict.body)
    assert (report.challenger, report.verdict, verdict.actor) == ("3", "warn", "mlflow")
    move = from_json(Promotion, ledger.entries("churn", kind="champion.promoted")[-1].body)
    assert any("worse than" in reason for reason in move.reasons)


@pytest.mark.parametrize("approval", ["risk: high", "promotion: {mode: approval}"])
def test_moves_cannot_be_recorded_where_a_person_must_approve(model, approval):
    path = Path(model)
    text = path.read_text(encoding="utf-8").replace("risk: low", approval if "risk" in approval else "risk: low")
    text += "access: {approve: [grace@example.com]}\n" + (f"{approval}\n" if "promotion" in approval else "")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ModelConfigError, match=r"registry.outside_moves is record, but .*without the approval"):
        load_model_config(model)
    assert load_model_config(refusing(model)).needs_approval
