"""The outcome of a promotion is scored once, on windows with a defined metric."""

from pathlib import Path

import pyarrow as pa
import pytest
from prefect.logging import disable_run_logger

from tasks.adapters import ledger, registry
from tasks.policy.evidence.ledger import Fact
from tasks.policy.evidence.monitoring import History
from tasks.policy.evidence.versions import Promotion
from tasks.policy.records.base import Window, utc
from tasks.policy.records.reports import PerformanceReport
from tasks.rollout import outcome
from tests.support.monitor_runs import recorded_run
from tests.support.trained_models import land, make_config, make_rows, prepare_registry, register

CONFIG = make_config(performance={"metric": "roc_auc"}, budget={"value_usd_per_metric_unit_per_day": 100})
AS_OF = utc("2024-05-01")


@pytest.fixture(autouse=True)
def _registry(workspace: Path) -> None:
    prepare_registry(workspace)


def served(count: int, without_positives: int) -> History:
    """Return closed windows after the promotion of version 2; in one of them no row is positive."""
    window, reports = Window(utc("2024-03-01"), utc("2024-03-06")), []
    for number in range(count):
        rows = make_rows(rows=300, window=window, seed=number)
        if number == without_positives:
            rows = rows.set_column(rows.column_names.index("label"), "label", pa.array([0] * 300))
        land(CONFIG, window, rows)
        reports.append(PerformanceReport(window, window.end, "2", 300, 300, "closed", (), "roc_auc"))
        window = window.next()
    return History(performances=tuple(reports))


@pytest.mark.parametrize(("windows", "is_recorded"), [(3, False), (4, True)])
def test_window_with_undefined_metric_is_left_out(windows, is_recorded):
    register(CONFIG, "d1")
    champion = register(CONFIG, "d2", seed=1)
    promotion = Promotion(CONFIG.name, "d2", champion.version, "1", "promoted")
    ledger.append(CONFIG.name, Fact("champion.promoted", promotion, utc("2024-03-01"), "d2"))
    history = served(windows, without_positives=1)
    with disable_run_logger():
        found = outcome.evaluate_promotion(
            CONFIG, recorded_run(CONFIG, registry.version(CONFIG.name, "2"), history, AS_OF)
        )
    assert (found is not None) == is_recorded
    assert len(ledger.entries(CONFIG.name, kind="promotion.scored")) == is_recorded
