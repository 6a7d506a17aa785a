"""Great Expectations over measurements: it judges them all, tells nothing private, and its page needs no network."""

import re

import pytest

from tasks.adapters.gates.great_expectations import judge, measurement_frame, write_page
from tasks.policy.data_quality.quality import Measurement

EVIL = "<img src=x onerror=alert(1)></script><script>alert(2)</script>\"'"


def measurement(check: str, column: str | None, excess: float, failing: int = 0) -> Measurement:
    return Measurement(check, column, excess, "at most 1", f"found {excess:g}", failing)


def test_each_requirement_is_judged_from_both_sides_of_its_limit():
    kept, met, past = (
        measurement("nulls", "a", -0.1),
        measurement("nulls", "b", 0.0),
        measurement("nulls", "c", 1e-9, 5),
    )
    alone = measurement("rows", None, -3)
    assert judge([kept, met, past, alone], "suite").broken == (past,)
    assert judge([kept, met, alone], "suite").broken == ()


def test_an_infinite_distance_is_past_the_limit():
    late = measurement("fresh rows", None, float("inf"))
    assert judge([late, measurement("nulls", "a", -1)], "suite").broken == (late,)


def test_a_measurement_that_is_no_number_is_refused_because_it_would_pass():
    with pytest.raises(ValueError, match="nulls of a is not a number"):
        judge([measurement("nulls", "a", float("nan"))], "suite")


def test_a_requirement_that_does_not_concern_a_column_leaves_its_cell_empty():
    frame = measurement_frame([measurement("nulls", "a", -1), measurement("range", "b", -1)])
    assert frame.shape == (2, 2) and int(frame.isna().sum().sum()) == 2


def test_the_page_is_one_file_without_network_and_without_markup_from_names(tmp_path):
    judgement = judge([measurement("nulls", EVIL, 1.0, 7), measurement("rows", None, -1)], f"suite {EVIL}")
    path = write_page(tmp_path / "quality.html", judgement, f"title {EVIL}", "fail", [f"reason {EVIL}"], {EVIL: EVIL})
    page = (tmp_path / "quality.html").read_text(encoding="utf-8")
    assert path == str(tmp_path / "quality.html")
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page)
    assert "<script" not in page and "<img" not in page and "@import" not in page and "url(" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "Expectations" in page and len(page) < 200_000
