"""Build windows, reports and histories for tests, each in one line."""

from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any

from tasks.policy.evidence.monitoring import History, WindowEvidence
from tasks.policy.records.base import Window, utc
from tasks.policy.records.reports import (
    DriftReport,
    DriftVerdict,
    FeatureDrift,
    Maturity,
    MetricValue,
    PerformanceReport,
    QualityReport,
    Verdict,
)
from tasks.policy.statistics.metrics import HIGHER_IS_BETTER

START = utc("2013-05-01")
DAYS = 5


@cache
def window(number: int) -> Window:
    """Return the window of five days with this number; number 0 starts on 2013-05-01."""
    start = START + timedelta(days=DAYS * number)
    return Window(start, start + timedelta(days=DAYS))


def valued(name: str, value: float, half: float = 0.01, rows: int = 1000) -> MetricValue:
    return MetricValue(name, value, value - half, value + half, rows, HIGHER_IS_BETTER[name])


@cache
def report(number: int, maturity: Maturity = "closed", labels: int = 1000, half: float = 0.01, **values: float):
    """Return a window's performance, such as `report(3, accuracy=0.91)`."""
    metrics = tuple(valued(name, value, half, labels) for name, value in values.items())
    return PerformanceReport(
        window=window(number),
        as_of=window(number).end,
        model_version="1",
        rows=1000,
        labelled_rows=labels,
        maturity=maturity,
        metrics=metrics,
        primary=next(iter(values), "accuracy"),
    )


def quality(number: int, verdict: Verdict = "pass", *reasons: str) -> QualityReport:
    return QualityReport(window(number), verdict, 1000, (), 0, reasons)


def drift(number: int, rows: int = 1000, verdict: DriftVerdict | None = None, **mean_shifts: float) -> DriftReport:
    """Return a window's drift; a feature whose mean moved by more than 1 σ counts as drifted."""
    verdicts = {name: verdict or ("drifted" if abs(shift) > 1 else "stable") for name, shift in mean_shifts.items()}
    features = tuple(
        FeatureDrift(name, "numeric", verdicts[name], "wasserstein", abs(shift), 0.1, 0.0, 0.0, mean_shift_sigma=shift)
        for name, shift in mean_shifts.items()
    )
    share = sum(feature.verdict == "drifted" for feature in features) / max(1, len(features))
    return DriftReport(window(number), verdict or "stable", features, share, 10_000, rows, ())


def evidence(number: int, **parts: Any) -> WindowEvidence:
    """Return a window that passed its quality checks, with the given reports."""
    found = {"quality": quality(number), "rows": 1000, **parts}
    return WindowEvidence(window(number), **found)


def history(*reports: PerformanceReport, **known: Any) -> History:
    return replace(History(performances=reports), **known)
