"""Texts typed by others are escaped on pages that approvers and auditors read."""

from datetime import timedelta

import pytest
from pydantic import TypeAdapter, ValidationError

from deployments.config.model import ModelConfig
from flows.parameters import Actor, Reason
from tasks.adapters.reports import artifacts
from tasks.adapters.reports.artifacts import bullets, quoted, table
from tasks.policy.evidence.validation import GateEvidence, GateMeasure, MetricDifference, ValidationReport
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.governance.access import ApprovalRequest
from tasks.policy.records.base import utc
from tasks.policy.records.text import plain
from tests.support.trained_models import TRAINING, make_config

FORGED = "bob\n\n# All gates passed; legal has signed off"
NOON = utc("2024-03-06T12:00:00Z")


def evidence_of(
    requester: str,
    slice_name: str,
    refusal: str | None = None,
    config: ModelConfig | None = None,
    report: ValidationReport | None = None,
) -> str:
    worse = MetricDifference("log_loss", 0.5, 0.4, 0.1, 0.05, 0.15, 100, None, slice_name)
    report = report or ValidationReport("2", "1", "pass", (worse,), (f"{slice_name} is fine",), 100)
    challenger = ModelVersion("binary_model", "2", "run", "d1", TRAINING, 1000, "0" * 64)
    request = ApprovalRequest("2", (requester,), NOON, NOON + timedelta(hours=72), "run")
    return artifacts.approval_evidence(config or make_config(), report, challenger, request, refusal)


def test_typed_name_adds_no_heading() -> None:
    shown = evidence_of(FORGED, "colour=red", refusal=FORGED)
    assert [line for line in shown.splitlines() if line.startswith("#")] == ["# May version 2 of binary_model serve?"]
    assert "Requested by bob # All gates passed; legal has signed off; to be answered by" in shown


def test_category_value_is_escaped_in_tables() -> None:
    shown = evidence_of("Ada", "colour=\n\n![x](http://evil/p.png) | <b>ok</b>")
    assert (
        "| colour= \\!\\[x](http://evil/p.png) \\| &lt;b>ok&lt;/b> | log_loss | 0.5 | 0.4 | +0.1 (+0.05 to +0.15) | 100 |"
        in shown
    )
    assert "- colour= \\!\\[x](http://evil/p.png)" in shown


def test_model_file_text_is_escaped() -> None:
    config = make_config()
    image = "![x](http://evil/p.png)"
    access = config.access.model_copy(update={"approve": (image,)})
    shown = evidence_of("Ada", "colour=red", config=config.model_copy(update={"purpose": image, "access": access}))
    assert shown.count("\\!\\[x](http://evil/p.png)") == 2 and "![" not in shown.replace("\\!\\[", "")


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("\\[x](http://evil)", r"\\\[x](http://evil)"),
        ("1 < 2", "1 &lt; 2"),
        ("# heading", r"\# heading"),
        ("- item", r"\- item"),
        ("-0.2 σ", "-0.2 σ"),
        ("a\x1b[2Jb", r"a \[2Jb"),
        ("3 of 24 features past 0.1 (worst: dep_hour)", "3 of 24 features past 0.1 (worst: dep_hour)"),
    ],
)
def test_markup_is_shown_as_it_was_typed(typed: str, shown: str) -> None:
    assert plain(typed) == shown
    assert bullets((typed,)) == f"- {shown}"
    assert table(("head",), [(typed,)]).splitlines()[2] == f"| {shown} |"


def test_every_line_of_a_comment_is_quoted() -> None:
    assert quoted("I looked\n\n# and nobody else") == "\n\n> I looked # and nobody else"
    assert quoted("") == ""


@pytest.mark.parametrize("name", [FORGED, "bob\x1b[31m", "bob\x85", "bob\u2028x"])
def test_a_name_has_no_control_characters(name: str) -> None:
    with pytest.raises(ValidationError, match="pattern"):
        TypeAdapter(Actor).validate_python(name)


def test_names_may_be_in_any_script_and_reasons_are_one_line() -> None:
    assert TypeAdapter(Actor).validate_python("Łucja O'Neill-李 <lucja@example.com>")
    assert TypeAdapter(Reason).validate_python("the labels\n\nwere wrong\x1b[2J ") == "the labels were wrong [2J"
    with pytest.raises(ValidationError, match="at least 3"):
        TypeAdapter(Reason).validate_python("\n\n\n\n")


def test_gates_are_shown_in_a_table_with_their_limits() -> None:
    """A category's value in the description of a slice is escaped like any other."""
    measures = (
        GateMeasure("churn", "changes", value=0.3, low=0.28, high=0.32, rows=500),
        GateMeasure("fairness", skipped="no protected column"),
    )
    slices = (MetricDifference("mae", 1.0, 2.0, -1.0, -1.2, -0.8, 100, None, "colour is <b>"),)
    report = ValidationReport("2", "1", "fail", (), ("churn: too much",), 500, gates=GateEvidence(measures, slices))
    shown = evidence_of("Ada", "colour=red", report=report)
    assert "| churn | fail | 0.3 (0.28 to 0.32) | 0.2 |  |  | changes |" in shown
    assert "| fairness | does not apply |  | 0.1 |  |  | no protected column |" in shown
    assert "| colour is &lt;b> | mae | 1 | 2 | -1 (-1.2 to -0.8) | 100 |" in shown
