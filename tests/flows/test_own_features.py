"""A shop's model that reads text, dates and lists through a scikit-learn pipeline of its own, as the page shows it."""

import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from deployments.config.loading import load_model_config
from deployments.new.checking import check_files
from flows.monitor import monitor
from flows.promote import promote
from flows.retrain import retrain
from flows.score import score
from infra.gateway.versions import ServedVersion
from tasks.adapters import lake, own_training, registry
from tasks.adapters.models.encoding import RawEncoding
from tasks.adapters.registry import version_files
from tasks.policy.records.base import utc
from tasks.policy.records.errors import EstimatorError, ModelConfigError
from tests.support import returns_model
from tests.support.ways_in import example

pytestmark = pytest.mark.usefixtures("prefect_server")
END = utc("2024-01-21")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "shop.py").write_text(example("features", "python"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    path = Path(returns_model.write_model(tmp_path))
    content, shown = yaml.safe_load(path.read_text()), yaml.safe_load(example("features"))
    content["columns"].update(shown["columns"])
    content["training"].update(shown["training"])
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def test_text_dates_and_lists_are_landed_learned_and_monitored(model):
    first = retrain(model, until=END)
    promote(model, until=END)
    assert first.verdict == "pass" and first.constant.gain > 0.2, "amount alone gains less"
    config = load_model_config(model)
    landed = lake.read_rows(lake.landed_rows(config, config.history()))
    types = {name: str(landed.schema.field(name).type) for name in ("comment", "joined_on", "tags")}
    assert types == {"comment": "string", "joined_on": "date32[day]", "tags": "list<element: string>"}

    version = registry.version("returns", "champion")
    profile = {feature.feature: feature for feature in version_files.reference_profile(version).features}
    assert profile["comment"].kind == "other"
    assert profile["comment"].categories == ("present",), "no value of a text is stored"
    assert 0.02 < profile["comment"].counts.null_share < 0.08

    for day in (2, 4):
        score(model, until=END + timedelta(days=day))
        judgement = monitor(model, until=END + timedelta(days=day))
    assert judgement.evidence.quality.verdict == "pass"
    drifted = {feature.feature: feature.verdict for feature in judgement.evidence.drift.features}
    assert "drifted" not in drifted.values()
    assert judgement.evidence.performance.metric("log_loss").value < 0.5

    scorer = version_files.load_scorer(version, config.training.imported, fresh=True)
    rows = landed.slice(0, 20)
    served = ServedVersion.of("1", scorer)
    given = [
        {**row, "joined_on": row["joined_on"].isoformat()}
        for row in rows.select(config.columns.features.names).to_pylist()
    ]
    np.testing.assert_allclose(served.predict(given), scorer.predict(rows))


def test_pipeline_is_fitted_without_the_held_back_rows(model, monkeypatch):
    """Early stopping on rows that the transformer has seen would be too optimistic."""
    config = load_model_config(model)
    table = returns_model.rows()
    path = Path(model).parent / "few.parquet"
    table.to_parquet(path)
    rows = lake.schemas.conform_rows(config, pq.read_table(path), "test")
    label = pa.array(table["returned"])
    rows = rows.append_column("returned", label)
    fitted_to = []
    encoder = own_training.pipeline.PipelineEncoder
    fit_transform = encoder.fit_transform
    monkeypatch.setattr(
        encoder, "fit_transform", lambda self, rows, y: fitted_to.append(len(rows)) or fit_transform(self, rows, y)
    )
    fitted = own_training.trainer.fit(config, rows)
    assert fitted.held_back_rows > 0
    assert fitted_to == [len(rows) - fitted.held_back_rows, len(rows)]
    assert isinstance(fitted.scorer.encoding, RawEncoding)


def test_check_says_what_such_a_model_does_not_offer(model):
    (found,) = check_files([model], data=True)
    assert not found.error
    said = " ".join(found.behaviour)
    assert "trains XGBoost after the pipeline shop:build on all history" in said
    assert "of comment, joined_on and tags only the share of missing values is monitored" in said
    assert "no contributions of single features (SHAP)" in said


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("FunctionTransformer(days_since_2020)", "FunctionTransformer(lambda dates: dates)", "instead of a lambda"),
        ("return ColumnTransformer(", "return str(", "which returned a str without fit, transform, get_params"),
        ("def build():", "def build(rows, config):", "cannot be called with"),
        ("def build():", "def make():", "shop has no function build"),
    ],
)
def test_mistakes_in_the_function_are_named(model, old, new, message):
    module = Path(model).parent / "shop.py"
    text = module.read_text(encoding="utf-8")
    assert old in text
    module.write_text(text.replace(old, new), encoding="utf-8")
    (found,) = check_files([model], data=False)
    assert message in found.error


def test_pipeline_that_leaves_text_is_refused(model):
    module = Path(model).parent / "shop.py"
    text = module.read_text(encoding="utf-8").replace(
        '("amount", "passthrough", ["amount"])', '("a", "passthrough", ["comment"])'
    )
    module.write_text(text, encoding="utf-8")
    with pytest.raises(
        EstimatorError, match=r"training.pipeline is shop:build, which returned values of type object, expected numbers"
    ):
        retrain(model, until=END)


def test_other_features_need_something_that_reads_them(model):
    path = Path(model)
    path.write_text(path.read_text(encoding="utf-8").replace("  pipeline: shop:build\n", ""), encoding="utf-8")
    with pytest.raises(
        ModelConfigError,
        match=r"columns.features.other has 'comment', which XGBoost cannot read, expected training.pipeline",
    ):
        load_model_config(model)
