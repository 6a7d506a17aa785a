"""Planted challengers: each is no worse than its champion by the primary metric, or is, and one gate alone stops it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from deployments.config.model import ModelConfig
from tasks.adapters.evaluation.challenger import ScoredRows, compare, score_rows
from tasks.adapters.model_gates.measure import metric_evidence
from tasks.adapters.models import estimators
from tasks.adapters.profiling.profile import freeze_reference
from tasks.adapters.registry import registration
from tasks.policy.evidence.validation import GateEvidence, GateMeasure, ValidationReport
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.model_gates.judgement import GATES
from tasks.policy.records.base import Window, utc
from tasks.policy.rollout.validation import decide_validation
from tests.support.trained_models import HOLDOUT, TRAINING, make_config, make_snapshot, prepare_registry

BEFORE = Window(utc("2024-01-01"), utc("2024-02-01"))
SERVED = tuple(
    GateMeasure(name, value=0.0) for name in GATES if name not in ("calibration", "churn", "fairness", "robustness")
)
"""Measures of a service without fault."""


@pytest.fixture(autouse=True)
def _registry(workspace: Path) -> None:
    prepare_registry(workspace)


def model(task: str, metric: str, features: dict[str, list[str]], **changes: Any) -> ModelConfig:
    columns = {"id": "id", "time": "time", "label": "label", "features": features} | changes.pop("columns", {})
    training = {"parameters": {"n_estimators": 80, "max_depth": 4}, "min_rows": 200, "early_stopping_rounds": None}
    return make_config(
        task,
        columns=columns,
        performance={"metric": metric},
        training=training,
        validation={"min_rows": 100},
        **changes,
    )


def table(window: Window, **columns: NDArray[Any]) -> pa.Table:
    count = len(next(iter(columns.values())))
    step = (window.end - window.start) / count
    times = pa.array([window.start + number * step for number in range(count)], pa.timestamp("us", "UTC"))
    return pa.table({"id": [f"{window.name}-{number}" for number in range(count)], "time": times, **columns})


def registered(config: ModelConfig, decision_id: str, rows: pa.Table) -> ModelVersion:
    window = BEFORE if decision_id == "old" else TRAINING
    snapshot = make_snapshot(window, len(rows))
    profile = freeze_reference(rows.to_batches(), config, window, snapshot.content_hash)
    fitted = estimators.fit(config, rows)
    return registration.register(config, registration.TrainedModel(fitted, snapshot, profile), decision_id)


def validated(config: ModelConfig, old: pa.Table, new: pa.Table, holdout: pa.Table) -> ValidationReport:
    """Train champion and challenger on their rows, measure the metric's gates on the holdout, and decide."""
    champion, challenger = registered(config, "old", old), registered(config, "new", new)
    scored = score_rows(config, (challenger, champion), holdout)
    assert isinstance(scored, ScoredRows)
    found = metric_evidence(config, challenger, champion, scored)
    evidence = GateEvidence((*found.measures, *SERVED), found.slices, found.curves)
    compared = compare(config, challenger, champion, HOLDOUT, holdout)
    return decide_validation(config.validation, replace(compared, gates=evidence))


def failed(report: ValidationReport) -> list[str]:
    """Which gates the first reasons name, as many as failed."""
    assert report.gates is not None
    known = (*GATES, "found slice")
    return sorted({reason.split(":")[0] for reason in report.reasons if reason.split(":")[0] in known and (
        "limit" in reason or "more than the accepted" in reason)})  # fmt: skip


def normal(seed: int, count: int = 3000) -> tuple[np.random.Generator, NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    return random, random.normal(size=count)


def flips(random: np.random.Generator, label: NDArray[Any], share: float) -> NDArray[np.int64]:
    return np.where(random.random(len(label)) < share, 1 - label, label).astype(np.int64)


def simple(seed: int, window: Window, noise: float = 0.1) -> pa.Table:
    random, x = normal(seed)
    return table(window, x=x, noise=random.normal(size=len(x)), label=flips(random, x > 0, noise))


SIMPLE = {"numeric": ["x", "noise"]}


def sales(seed: int, window: Window, spread: float, broken: bool = False) -> pa.Table:
    """Return rows of a regression; where `broken`, the label of the west turns around for large x."""
    random, x = normal(seed, 4000)
    region = random.choice(["east", "north", "west"], len(x))
    label = 2 * x + random.normal(0, spread, len(x))
    lost = (region == "west") & (x > 0.3) if broken else np.zeros(len(x), bool)
    return table(window, x=x, region=region, label=np.where(lost, -label, label))


SALES = {"numeric": ["x"], "categorical": ["region"]}


def test_good_challenger_passes_every_gate():
    old, new = simple(1, BEFORE, noise=0.2), simple(2, TRAINING)
    report = validated(model("binary", "log_loss", SIMPLE), old, new, simple(3, HOLDOUT))
    assert (report.verdict, failed(report)) == ("pass", [])
    assert report.reasons[1].startswith("gates passed: calibration, churn")


def test_worse_challenger_is_stopped_by_the_metric_alone():
    """Trained on noisier labels, it loses three per cent everywhere, which is more than two and less than five."""
    old, new = sales(1, BEFORE, 0.2), sales(2, TRAINING, 1.0)
    report = validated(model("regression", "mae", SALES), old, new, sales(3, HOLDOUT, 1.0))
    assert (report.verdict, failed(report)) == ("fail", [])
    assert "reaches below the non-inferiority margin" in report.reasons[0]


def test_miscalibrated_challenger_is_stopped_by_calibration_alone():
    """Positives are drawn five times: the order of the probabilities stays, and with it the AUC, but they are too high."""
    new = simple(2, TRAINING)
    repeated = np.repeat(np.arange(len(new)), np.where(new["label"].to_numpy() == 1, 5, 1))
    config = model("binary", "roc_auc", SIMPLE)
    report = validated(config, simple(1, BEFORE), new.take(pa.array(repeated)), simple(3, HOLDOUT))
    assert (report.verdict, failed(report)) == ("fail", ["calibration"])


def test_unstable_challenger_is_stopped_by_churn_alone():
    """Each model has learned a wrong label for other shops, the challenger for fewer of them."""

    def shops(seed: int, window: Window, wrong: range | None) -> pa.Table:
        random = np.random.default_rng(seed)
        shop = random.integers(0, 60, 4000)
        label = flips(random, shop % 2, 0.02)
        if wrong is not None:
            label = np.where(np.isin(shop, list(wrong)), 1 - label, label)
        return table(window, shop=np.char.mod("s%02d", shop), label=label)

    config = model("binary", "accuracy", {"categorical": ["shop"]})
    config = config.model_copy(
        update={"training": config.training.model_copy(update={"parameters": {"n_estimators": 150, "max_depth": 7}})}
    )
    old, new = shops(1, BEFORE, range(34)), shops(2, TRAINING, range(34, 60))
    report = validated(config, old, new, shops(3, HOLDOUT, None))
    assert (report.verdict, failed(report)) == ("fail", ["churn"])
    assert report.reasons[0].startswith("churn: predictions that change for the worse, of ")


def test_unfair_challenger_is_stopped_by_fairness_alone():
    """The challenger learns that the groups differ: better for both of them, and much less often positive for one."""

    def people(seed: int, window: Window, knows: bool) -> pa.Table:
        random, x = normal(seed)
        gender = random.choice(["f", "m"], len(x))
        label = (x + np.where(gender == "m", 1.0, -1.0) + random.normal(size=len(x)) > 0).astype(int)
        return table(window, x=x, gender=gender if knows else random.permutation(gender), label=label)

    features = {"numeric": ["x"], "categorical": ["gender"]}
    config = model("binary", "log_loss", features, columns={"protected": ["gender"]})
    report = validated(config, people(1, BEFORE, False), people(2, TRAINING, True), people(3, HOLDOUT, True))
    assert (report.verdict, failed(report)) == ("fail", ["fairness"])
    assert "demographic parity difference of gender" in report.reasons[0]


def test_leaky_challenger_is_stopped_by_robustness_alone():
    """A column that repeats the label looks perfect on the holdout; without it the challenger is lost."""

    def leaking(seed: int, window: Window, leaks: bool) -> pa.Table:
        random, x = normal(seed)
        label = flips(random, x > 0, 0.1)
        copied = label if leaks else random.permutation(label)
        return table(window, x=x, settled=copied.astype(float), label=label)

    config = model("binary", "log_loss", {"numeric": ["x", "settled"]})
    report = validated(config, leaking(1, BEFORE, False), leaking(2, TRAINING, True), leaking(3, HOLDOUT, True))
    assert (report.verdict, failed(report)) == ("fail", ["robustness"])
    assert "settled" in report.reasons[0]


def test_challenger_broken_in_a_slice_is_stopped_by_the_error_tree_alone():
    """It is better on most rows, and lost where two conditions meet; no slice is named in the model's file."""

    report = validated(
        model("regression", "mae", SALES),
        sales(1, BEFORE, 8.0),
        sales(2, TRAINING, 0.2, broken=True),
        sales(3, HOLDOUT, 0.2),
    )
    assert (report.verdict, failed(report)) == ("fail", ["found slice"])
    assert "region is west" in report.reasons[0]
