"""Unusual windows: missing, duplicate, late, empty or hostile data gets a verdict, never a crash."""

import json
import re
from datetime import timedelta
from functools import partial
from pathlib import Path

import great_expectations as gx
import great_expectations.expectations as gxe
import numpy as np
import pyarrow as pa
import pytest

from tasks.adapters.lake.tables import land_rows, read_batches
from tasks.adapters.profiling.profile import freeze_reference, profile_batches
from tasks.data.profile import profile_snapshot
from tasks.monitoring.drift import DriftReference, report_drift
from tasks.monitoring.quality import QualityReference, judge_quality, usual_rows
from tasks.policy.evidence.monitoring import History, WindowEvidence
from tasks.policy.monitoring.attribution import Shift
from tasks.policy.records.base import Window, to_json
from tasks.policy.records.errors import WorkspaceError
from tasks.policy.records.reports import QualityReport
from tests.support.monitored_model import (
    COUNT,
    HISTORY,
    WINDOW,
    amounts,
    broken,
    drift_of,
    judge,
    model,
    profile,
    quality_of,
    reader,
    reference,
    rows,
    shifted,
)  # fmt: skip

US = pa.timestamp("us", "UTC")
EVIL = "</script><img src=x onerror=alert(1)>\"'"


@pytest.fixture
def judged(tmp_path):
    return partial(judge, tmp_path)


def test_missing_column_fails_and_drifts(judged):
    """Evidently passes it without a data definition."""
    quality, drift = judged(amount=None)
    assert broken(quality) == {("column present once", "amount")} and quality.failing_rows == COUNT
    assert drift_of(drift, "amount").verdict == "drifted"


@pytest.mark.parametrize("role", ["id", "at"])
def test_a_missing_id_or_time_column_fails(judged, role):
    assert ("column present once", role) in broken(judged(**{role: None}).quality)


def test_two_columns_of_one_name_fail(judged, tmp_path):
    config = model()
    table = rows().append_column("amount", pa.array(amounts()))
    profiled = profile(config, reference(config), table, sample_path=tmp_path / "sample")
    assert ("column present once", "amount") in broken(quality_of(config, reference(config), table))
    report_drift(config, profiled, DriftReference(reference(config)))


def test_columns_named_by_numbers_are_monitored(judged):
    config = model({"numeric": ["0", "1"], "categorical": [], "boolean": []})
    frozen = reference(config, **{"0": np.arange(10_000.0), "1": np.arange(10_000.0)})
    _, drift = judged(config, frozen, **{"0": np.arange(0, 10_000.0, 5), "1": np.zeros(COUNT)})
    assert (drift_of(drift, "0").verdict, drift_of(drift, "1").verdict) == ("stable", "drifted")


def test_an_empty_window_fails_whatever_else_passes(judged):
    quality, drift = judged(count=0, at=pa.array([], pa.timestamp("us", "UTC")))
    assert quality.verdict == "fail" and {("enough rows", None), ("fresh rows", "at")} <= broken(quality)
    assert drift.verdict == "insufficient" and drift.drifted_share == 0


def test_one_row_fails_and_drifts_nothing(judged):
    quality, drift = judged(count=1)
    assert ("enough rows", None) in broken(quality) and drift.verdict == "insufficient"
    assert {feature.verdict for feature in drift.features} == {"insufficient"}


def test_the_count_of_rows_is_compared_with_recent_windows(judged):
    assert judged(recent_rows=(5000, 4990, 100)).quality.verdict == "pass"  # median 4990, 0.4 of it is 1996
    quality = judged(recent_rows=(5100, 5100, 100)).quality
    assert broken(quality) == {("usual number of rows", None)}
    assert quality.reasons[0] == (
        "Must have greater than or equal to 2040 and less than or equal to 12750 rows; found 2000 (usual number of rows)"
    )
    assert broken(judged(recent_rows=(700,)).quality) == {("usual number of rows", None)}


def test_quarantined_windows_do_not_set_the_usual_row_count():
    def past(days: int, count: int, verdict: str) -> WindowEvidence:
        window = Window(WINDOW.start - timedelta(days=days), WINDOW.start - timedelta(days=days - 5))
        return WindowEvidence(window, count, QualityReport(window, verdict, count, (), 0, ()))

    later = WindowEvidence(WINDOW.next(), 9, None)
    history = History(evidence=(past(15, 100, "pass"), past(10, 3, "fail"), past(5, 120, "warn"), later))
    assert usual_rows(history, WINDOW) == (100, 120)


def test_duplicated_and_missing_ids_fail(judged):
    names = [f"x{number}" for number in range(COUNT)]
    assert broken(judged(id=["x0", *names[:-1]]).quality) == {("id unique", "id")}
    assert broken(judged(id=[None, *names[1:]]).quality) == {("id present", "id")}
    assert broken(judged(id=list(range(COUNT))).quality) == set()


def test_old_rows_fail_and_rows_of_the_last_day_do_not(judged):
    def until(hours: float) -> list:
        return [min(moment, shifted(WINDOW.end, -hours)) for moment in rows()["at"].to_pylist()]

    assert judged(at=until(23.9)).quality.verdict == "pass"
    assert broken(judged(at=until(24.1)).quality) == {("fresh rows", "at")}


@pytest.mark.parametrize(("days_apart", "hours", "fresh"), [(7, 168, True), (7, 169, False), (1, 25, False)])
def test_accepted_age_is_learned_from_the_reference(days_apart, hours, fresh):
    """A weekly batch lies a full week before its window's end; a limit of 24 h quarantined each of its windows."""
    config, weeks = model(window_days=9), Window(HISTORY.start, HISTORY.start + timedelta(days=70))
    batches = [weeks.start + timedelta(days=days_apart * (row % (70 // days_apart))) for row in range(5000)]
    frozen = freeze_reference(rows(5000, 99, weeks, at=pa.array(batches, US)).to_batches(), config, weeks, "hash")
    window = Window(WINDOW.end - timedelta(days=9), WINDOW.end)
    at = pa.array([WINDOW.end - timedelta(hours=hours)] * COUNT, US)
    profiled = profile_batches(rows(at=at).to_batches(), frozen, config, window)
    judged = partial(judge_quality, profile=profiled, baseline=QualityReference(frozen), read=reader(rows(at=at)))
    assert (("fresh rows", "at") not in broken(judged(config))) == fresh
    own = model(window_days=9, quality={"max_age_hours": 200})
    assert ("fresh rows", "at") not in broken(judged(own))


def test_a_clock_in_another_zone_fails(judged):
    late = [shifted(moment, 5) for moment in rows()["at"].to_pylist()]
    assert broken(judged(at=late).quality) == {("times inside the window", "at")}
    same = pa.array(rows()["at"].to_pylist(), pa.timestamp("us", "UTC")).cast(pa.timestamp("us", "Asia/Tokyo"))
    assert judged(at=same).quality.verdict == "pass"


def test_label_among_features_is_named(judged):
    config = model({"numeric": ["Churned"], "categorical": [], "boolean": []})
    frozen = reference(config, Churned=np.arange(10_000.0))
    quality = judged(config, frozen, Churned=np.arange(0, 10_000.0, 5)).quality
    assert broken(quality) == {("no label among features", None)}


def test_names_and_categories_are_escaped_on_both_pages(judged):
    config = model({"numeric": ["amount"], "categorical": [EVIL], "boolean": []})
    frozen = reference(config, **{EVIL: [EVIL, "b"] * 5000})
    for quality, drift in (
        judged(config, frozen, **{EVIL: [EVIL] * COUNT}),
        judged(config, frozen, **{EVIL: pa.nulls(COUNT)}),
    ):
        for report in (quality, drift):
            assert "<img src=x" not in Path(report.report_uri).read_text(encoding="utf-8")


def test_reports_contain_no_personal_or_id_values(judged, tmp_path):
    """SUMMARY results of Great Expectations contain raw values."""
    config = model(
        {"numeric": ["amount"], "categorical": ["country", "email"], "boolean": []}, columns={"personal": ["email"]}
    )
    frozen = reference(config, email=[f"known{number}@example.org" for number in range(10_000)])
    emails = [f"new{number}@example.org" for number in range(COUNT)]
    quality, drift = judged(config, frozen, email=emails, id=["doubled@example.org"] * COUNT)
    assert quality.verdict == "fail"
    written = "".join(Path(report.report_uri).read_text(encoding="utf-8") for report in (quality, drift))
    assert "@example.org" not in written + str(quality) + str(drift) + to_json(frozen)
    assert b"@example.org" not in (tmp_path / "sample.parquet").read_bytes()


def test_every_check_counts_its_columns(judged):
    """No vacuous pass: each requirement states how many columns it measured."""
    quality, _ = judged()
    looked = {check.name: int(re.findall(r"\d+", check.observed)[0]) for check in quality.checks}
    assert looked["null share"] == 4 and looked["finite values"] == 2 and looked["known categories"] == 2
    assert looked["enough rows"] == looked["fresh rows"] == looked["id unique"] == 1


def test_a_workspace_that_cannot_be_written_is_named(judged, workspace):
    blocked = workspace / "reports" / "churn" / WINDOW.name.replace("..", "_") / "quality.html"
    blocked.mkdir(parents=True)
    with pytest.raises(WorkspaceError, match=r"quality.html: cannot be written"):
        _ = judged().quality


def test_windows_and_references_are_named_in_the_pages(judged):
    quality, drift = judged()
    assert WINDOW.name.replace("..", "_") in quality.report_uri and drift.report_uri.endswith("drift.html")
    assert HISTORY.name in Path(quality.report_uri).read_text(encoding="utf-8")


def test_stages_agree_with_the_stored_snapshot():
    """From the lake through all three stages, as in `monitor`, with the stored reference."""
    config = model()
    frozen, table = reference(config), rows()
    profiled = profile_snapshot(config, land_rows(config, WINDOW, table), frozen)
    again = profile(config, frozen, table)
    assert [one.counts for one in profiled.features] == [one.counts for one in again.features]
    assert (profiled.rows, profiled.duplicate_ids, profiled.newest) == (COUNT, 0, again.newest)
    assert Path(profiled.sample_uri).parent.name == WINDOW.name.replace("..", "_")
    assert judge_quality(config, profiled, QualityReference(frozen), reader(table)).verdict == "pass"
    assert report_drift(config, profiled, DriftReference(frozen)).verdict == "stable"


def test_suite_checks_an_extra_column(tmp_path):
    """A suite on a column that no model reads, on a stored window."""
    suite = gx.ExpectationSuite(
        name="theirs", expectations=[gxe.ExpectColumnValuesToBeInSet(column="desk", value_set=["north", "south"])]
    )
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(suite.to_json_dict()), encoding="utf-8")
    config = model(quality={"suite": str(path)}, columns={"extra": ["desk"]})
    frozen = reference(config)
    for number, (desk, verdict) in enumerate((("north", "pass"), ("east", "fail"))):
        window = WINDOW if not number else WINDOW.next()
        snapshot = land_rows(config, window, rows(window=window, desk=[desk] * COUNT))
        read = partial(read_batches, snapshot)
        profiled = profile_snapshot(config, snapshot, frozen)
        assert judge_quality(config, profiled, QualityReference(frozen), read).verdict == verdict


def test_rule_for_a_non_feature_is_refused():
    """Evidently ignores unknown names in its settings per column."""
    with pytest.raises(ValueError, match=r"quality.columns has amuont, expected names of features"):
        model(quality={"columns": {"amuont": {"max_null_share": 0.5}}})


@pytest.mark.parametrize(("country", "asked"), [(None, 0), ("DE", 1)])
def test_prediction_shift_is_measured_only_with_drift(tmp_path, country, asked):
    config, measured = model(), []

    def shifts():
        measured.append(True)
        return (Shift("country", 0.5, 0.01),)

    replaced = {"country": [country] * COUNT} if country else {}
    profiled = profile(config, reference(config), rows(**replaced), sample_path=tmp_path / "sample")
    report = report_drift(config, profiled, DriftReference(reference(config)), shifts)
    assert len(measured) == asked
    assert (drift_of(report, "country").prediction_shift, "country +0.5" in (report.explanation or "")) == (
        (0.5, True) if asked else (None, False)
    )
