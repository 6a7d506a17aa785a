"""Decide whether a window's logged predictions can be trusted, where a service of the user's own made them.

A log with gaps, with two different answers for one row, or with answers that are none is a data fault: metrics on the rest
would describe rows that were not chosen at random.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tasks.policy.data_quality.quality import Finding

DUPLICATE = "two different predictions were logged for this row"
"""Error of a logged row with two different predictions, neither of which is used."""
LOOKED_AT = "the prediction log"


@dataclass(frozen=True, slots=True)
class LogLimits:
    """Largest shares of a window's rows that may lack a usable prediction."""

    missing: float
    duplicate: float
    invalid: float


@dataclass(frozen=True, slots=True)
class LogCounts:
    """Rows of a window, and those without a prediction, with two different ones, and with an unusable one."""

    rows: int
    missing: int
    duplicates: int
    invalid: int


def check_log(counts: LogCounts, limits: LogLimits) -> Iterator[Finding]:
    """Yield one finding for each kind of fault.

    >>> limits = LogLimits(missing=0.01, duplicate=0.01, invalid=0.01)
    >>> [finding.met for finding in check_log(LogCounts(300, missing=3, duplicates=4, invalid=0), limits)]
    [True, False, True]
    """
    kinds = (
        ("logged prediction", counts.missing, limits.missing, "have no logged prediction", "max_missing_share"),
        (
            "one prediction",
            counts.duplicates,
            limits.duplicate,
            "have two different predictions",
            "max_duplicate_share",
        ),
        ("usable prediction", counts.invalid, limits.invalid, "have an unusable prediction", "max_invalid_share"),
    )
    for check, count, limit, what, setting in kinds:
        yield Finding(
            check=check,
            column=None,
            met=count <= limit * counts.rows,
            expected=f"At most {100 * limit:.3g} % of the rows may {what} (predictions.{setting}).",
            observed=f"{count:,} of {counts.rows:,} rows",
            failing_rows=count,
            looked_at=LOOKED_AT,
        )
