"""Check the model that was fitted again with the holdout against the one that validation judged.

Only the validated model can be judged on the holdout, because the refitted one has seen these rows. Both have the same
settings and rounds. On rows that it has learned from, the refitted model is expected to be no worse than a model that has
not; if it is, its fit went wrong, and it may not serve.
"""

from dataclasses import replace

from tasks.policy.evidence.validation import MetricDifference, RefitCheck, ValidationReport
from tasks.policy.rollout.validation import ValidationPolicy, worse_than_validated


def decide_refit(policy: ValidationPolicy, measured: MetricDifference | str) -> RefitCheck:
    """The verdict on the refitted model; `measured` is its gain over the validated one, or why there is none."""
    if isinstance(measured, str):
        return RefitCheck("fail", None, (f"the refitted model cannot serve: {measured}",))
    missed = worse_than_validated(policy, measured)
    if missed:
        return RefitCheck("fail", measured, tuple(missed))
    passed = (
        f"refitted with the holdout: {measured.name} {measured.challenger:.4g} on these {measured.rows:,} rows, which it has "
        f"seen, after {measured.champion:.4g} of the model that was validated"
    )
    return RefitCheck("pass", measured, (passed,))


def with_refit(report: ValidationReport, check: RefitCheck | None) -> ValidationReport:
    """The report with the refit's verdict: a refit that fails its check fails the challenger."""
    if check is None:
        return report
    if check.verdict == "fail":
        return replace(report, verdict="fail", reasons=(*check.reasons, *report.reasons), refit=check)
    return replace(report, reasons=(*report.reasons, *check.reasons), refit=check)
