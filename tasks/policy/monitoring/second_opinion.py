"""Compare Evidently's measurement of a bounded sample with the verdict on all rows.

The verdict on all rows is the one that counts. Evidently uses its own methods, so limits are converted to its scale:
its Wasserstein distance is in σ of the sample, its PSI and KL include their noise floor (`distances`), and its KS test
returns a p-value. A disagreement that resampling does not explain becomes a warning and is always reported.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scipy import special

from tasks.policy.monitoring.drift import drifted_share
from tasks.policy.records.reports import (
    DriftReport,
    DriftVerdict,
    FeatureDrift,
    FeatureOpinion,
    OwnTest,
    SecondOpinion,
    UncomputedTest,
)
from tasks.policy.statistics.distances import noise_floor
from tasks.policy.statistics.numbers import beside
from tasks.policy.statistics.power import Method

SMALLEST_P = 1e-300
LISTED = 5
UNKNOWN = (
    "it counts as drift, so drift is not ruled out in this window; repair the item or the data that it reads, or set "
    "fails_as: warn"
)
"""Consequence of a test that counts as drift and was not computed."""
QUANTILE = 2.576
"""Normal quantile for a two-sided interval of 99 %."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Conversion between an effect size and Evidently's score.

    >>> round(Scale("wasserstein", 5000, 5000, sigma_ratio=0.5).threshold(0.1), 3)
    0.05
    """

    method: Method
    rows: int
    reference_rows: int
    bins: int = 1
    """Bins or categories that PSI and KL compare."""
    sigma_ratio: float = 1.0
    """σ of the frozen reference divided by that of its sample."""

    def threshold(self, effect: float) -> float:
        """Evidently's score for this effect."""
        if self.method == "ks":
            return float(special.kolmogorov(effect * self._root_rows))
        return effect * self.sigma_ratio if self.method == "wasserstein" else effect + self._floor

    def effect(self, score: float) -> float:
        """The effect that corresponds to a score of Evidently."""
        if self.method == "ks":
            return float(special.kolmogi(max(score, SMALLEST_P))) / self._root_rows
        return score / self.sigma_ratio if self.method == "wasserstein" else max(0.0, score - self._floor)

    @property
    def _root_rows(self) -> float:
        return math.sqrt(self.rows * self.reference_rows / (self.rows + self.reference_rows))

    @property
    def _floor(self) -> float:
        return noise_floor(self.bins, self.rows, self.reference_rows) * (1.0 if self.method == "psi" else 0.5)


def combine_features(
    report: DriftReport, features: Sequence[FeatureOpinion], rows: int, reference_rows: int, max_share: float
) -> SecondOpinion:
    """Evidently's verdict on the window; features are weighted by importance, as for the verdict on all rows."""
    known = {drift.feature: drift for drift in report.features}
    seen = [replace(known[one.feature], verdict=one.verdict) for one in features]
    share = drifted_share(seen)
    verdict: DriftVerdict = "drifted" if share >= max_share else "stable"
    return SecondOpinion(verdict if seen else "insufficient", rows, reference_rows, share, tuple(features))


def with_second_opinion(report: DriftReport, opinion: SecondOpinion, max_share: float) -> DriftReport:
    """Add Evidently's result to the report's reasons, and a warning for each disagreement beyond sampling error."""
    known = {drift.feature: drift for drift in report.features}
    serious = [one for one in opinion.features if one.is_beyond_sampling_error]
    warnings = [_warn(one, known[one.feature], opinion.rows, report.rows) for one in serious[:LISTED]]
    if len(serious) > LISTED:
        warnings.append(f"Evidently also disagrees beyond sampling error on {len(serious) - LISTED} more features")
    summary = describe_opinion(opinion, report, max_share)
    return replace(
        report,
        second_opinion=replace(opinion, summary=summary),
        reasons=(*report.reasons, summary),
        warnings=(*report.warnings, *warnings),
    )


def describe_opinion(opinion: SecondOpinion, report: DriftReport, max_share: float) -> str:
    """Both verdicts on the window in one sentence."""
    if opinion.unavailable:
        return f"Evidently did not measure this window: {opinion.unavailable}"
    apart = sum(one.disagrees for one in opinion.features)
    serious = sum(one.is_beyond_sampling_error for one in opinion.features)
    return (
        f"Evidently on {opinion.rows:,} rows: {opinion.verdict}, a drifted share of {opinion.drifted_share:.2f}; "
        f"on all {report.rows:,} rows: {report.verdict}, {beside(report.drifted_share, max_share, 2, 'f')} "
        f"against {max_share:g}; features measured by Evidently: {len(opinion.features)}, in disagreement: {apart}, "
        f"beyond sampling error: {serious}"
    )


def _warn(one: FeatureOpinion, drift: FeatureDrift, rows: int, all_rows: int) -> str:
    return (
        f"{one.feature}: Evidently on {rows:,} rows: {one.verdict}, {one.method} {one.effect:.3g} "
        f"(99% interval {one.low:.3g} to {one.high:.3g}) against {one.limit:.3g}; "
        f"on all {all_rows:,} rows: {drift.verdict}, {drift.method} {drift.effect_size:.3g} against {drift.threshold:.3g}; "
        "sampling error does not explain the difference"
    )


def with_own_tests(
    report: DriftReport, tests: Sequence[OwnTest], uncomputed: Sequence[UncomputedTest] = ()
) -> DriftReport:
    """Add the user's tests to the report: a failed one warns or makes the window drifted, as the model's file says.

    A test that counts as drift and was not computed shows neither drift nor its absence. It makes a stable window
    insufficient, which triggers nothing and which the diagnosis does not read as "no change". It hides no drift that
    was found, and it does not stop retrains for other reasons: a broken test must not keep a failing model in service.
    """
    failed = [test for test in tests if not test.passed]
    drifted = [_explain(test) for test in failed if test.fails_as == "drifted"]
    warned = [_explain(test) for test in failed if test.fails_as == "warn"]
    unknown = tuple(f"{one.reason}; {UNKNOWN}" for one in uncomputed if one.fails_as == "drifted")
    verdict: DriftVerdict = "drifted" if drifted else report.verdict
    return replace(
        report,
        own_tests=tuple(tests),
        verdict="insufficient" if unknown and verdict == "stable" else verdict,
        reasons=(
            *(f"{sentence}; it counts as drift (drift.evidently)" for sentence in drifted),
            *unknown,
            *report.reasons,
        ),
        warnings=(*report.warnings, *warned, *(one.reason for one in uncomputed if one.fails_as == "warn")),
        unknown_tests=unknown,
    )


def _explain(test: OwnTest) -> str:
    return f"Evidently's {test.metric} fails its test: {test.description}"
