"""A model that brings several things at once: its champion, its labels, its features, its metric and its trigger."""

from datetime import timedelta
from pathlib import Path

import pytest
import skops.io
import sqlalchemy
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from deployments.cli import main
from flows.adopt import adopt
from flows.promote import promote
from flows.retrain import retrain
from tasks.adapters import registry
from tasks.policy.records.base import utc
from tests.flows.test_own_metric import MODULE, YAML, judged, loans
from tests.support.ways_in import example

pytestmark = pytest.mark.usefixtures("prefect_server")

PIPELINE = """

from sklearn.compose import make_column_transformer
from sklearn.preprocessing import FunctionTransformer


def ratio(columns):
    return columns.assign(share=columns["debt"] / (columns["income"].abs() + 1)).to_numpy()


def prepared():
    return make_column_transformer((FunctionTransformer(ratio), ["income", "debt"]))
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "several_lender.py").write_text(MODULE + PIPELINE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("LABELS_URL", f"sqlite:///{tmp_path / 'labels.db'}")
    rows = loans()
    rows.drop(columns="defaulted").to_parquet(tmp_path / "rows.parquet")
    outcomes = rows.rename(columns={"loan": "row_id", "defaulted": "outcome"})[["row_id", "outcome"]]
    outcomes["known_at"] = rows["at"] + timedelta(hours=6)
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'labels.db'}")
    outcomes.to_sql("outcomes", engine, index=False)
    engine.dispose()
    history = rows[rows["at"] < utc("2024-01-15")]
    own = make_pipeline(StandardScaler(), LogisticRegression()).fit(history[["income", "debt"]], history["defaulted"])
    skops.io.dump(own, tmp_path / "model.skops")
    text = YAML.replace("lender:", "several_lender:").replace(
        "label_delay_hours: 12 hours", "label_delay_hours: 6 hours"
    )
    text = text.replace("training: {", 'training: {pipeline: "several_lender:prepared", ')
    path = tmp_path / "loans-2024.yaml"
    path.write_text(f"{text}{example('labels')}alerts: {{critical: [slack-webhook/lenders]}}\n", encoding="utf-8")
    return str(path)


def test_they_work_together(model, capsys):
    assert main(["check", model]) == 0
    printed = capsys.readouterr().out
    assert "several_lender:prepared" in printed and "critical alerts to slack-webhook/lenders" in printed

    source = str(Path(model).with_name("model.skops"))
    first = adopt(model, source=source, until=utc("2024-01-21"), requested_by="ada@example.com")
    assert first.champion == "1"
    assert not judged(model, 24).decision.retrain

    judged(model, 26)
    losing = judged(model, 28)
    assert losing.evidence.performance.metric("profit").value < 0
    assert losing.decision.triggers == ("losing_money",)

    validation = retrain(model, until=utc("2024-01-31"), decision_id=losing.decision.decision_id)
    assert (validation.verdict, validation.champion) == ("pass", "1")
    assert validation.differences[0].name == "profit" and validation.differences[0].low > 0
    promoted = promote(model, until=utc("2024-01-31"), decision_id=losing.decision.decision_id)
    assert registry.aliases("loans-2024")["champion"] == promoted.champion == "2"
    judged(model, 32)
    assert judged(model, 34).evidence.performance.metric("profit").value > 0
