"""Joint drift in the drift stage: reported in reasons and page, but decides nothing."""

from pathlib import Path

import numpy as np
import pytest

from tasks.adapters.profiling.binned_rows import draw_rows
from tasks.monitoring.drift import DriftReference, report_drift
from tests.support.monitored_model import HISTORY, model, profile, reference, rows


def related(count: int, sign: float, seed: int) -> dict[str, np.ndarray]:
    """Return amounts and ages with unchanged distributions, correlated or anti-correlated."""
    random = np.random.default_rng(seed)
    common, noise = random.normal(size=(2, count))
    return {"amount": 100 + 20 * common, "age": 50 + 10 * (0.8 * sign * common + 0.6 * noise)}


@pytest.mark.parametrize(("sign", "verdict"), [(1.0, "stable"), (-1.0, "drifted")])
def test_changed_relation_is_reported_without_feature_drift(tmp_path, sign, verdict):
    config = model(drift={"plots": 1, "threshold": 0.15})
    frozen = reference(config, **related(10_000, 1.0, 1))
    coded_rows = draw_rows(config, frozen, rows(10_000, 99, HISTORY, **related(10_000, 1.0, 1)))
    table = rows(4000, 0, **related(4000, sign, 2))
    profiled = profile(config, frozen, table, sample_path=tmp_path / "sample.parquet")
    report = report_drift(config, profiled, DriftReference(frozen, coded=coded_rows))
    assert report.joint.verdict == verdict
    assert report.verdict == "stable" and report.drifted_share == 0
    (together,) = [reason for reason in report.reasons if reason.startswith(f"joint drift: {verdict}")]
    assert ("no single feature moved past its limit" in together) == (verdict == "drifted")
    assert f"joint drift: {verdict}" in Path(report.report_uri).read_text(encoding="utf-8").lower()


def test_joint_drift_is_skipped_if_disabled_or_without_rows(tmp_path):
    for config, coded_rows in ((model(drift={"joint": False}), True), (model(), False)):
        frozen = reference(config)
        coded = draw_rows(config, frozen, rows(10_000, 99, HISTORY)) if coded_rows else None
        profiled = profile(config, frozen, rows(2000), sample_path=tmp_path / "sample.parquet")
        report = report_drift(config, profiled, DriftReference(frozen, coded=coded))
        assert report.joint is None
        assert not any("together" in reason for reason in report.reasons)
