"""Guardrails of a rollout: limits that return all traffic to the champion in the run that finds them breached.

A share breaches its limit only where few rows do not explain it: an exact lower bound must lie above the limit. Before
labels mature, only the guardrails that need none are judged.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import special

from tasks.policy.comparison.arms import ServedArm, equal_rows
from tasks.policy.comparison.evidence import Evidence
from tasks.policy.comparison.plan import LEAST_UNITS
from tasks.policy.comparison.predictions import calibration_errors
from tasks.policy.evidence.validation import PredictionHistogram
from tasks.policy.records.base import Settings, Window
from tasks.policy.statistics import distances
from tasks.policy.statistics.intervals import PairedPredictions

LEVEL = 0.001
"""One-sided level of a guardrail without labels at each look: 60 daily looks at a challenger exactly at its limit raise
at most 6 % false alarms, and far fewer where it resembles the champion."""
LEVEL_WITH_LABELS = 0.025
"""One-sided level of a guardrail with labels over all looks and slices together."""
MIN_ROWS = 100
"""Fewest rows that show a constant model, or a calibration error."""
SLOW_SHARE = 0.05
"""Share of the answers above the 95th percentile."""
MIN_TIMED, LATENCY_NOISE_S = 7, 0.01
"""Fewest timed answers of each version that can show a slow one, and the seconds by which it must be slower at least: a
pause of the interpreter or the network takes as long."""


class Guardrails(Settings):
    """Limits on a challenger while it is rolled out; any breach ends the rollout and quarantines the version."""

    max_error_share: float = Field(0.01, ge=0, le=1, examples=[0.001])
    """Largest share of rows that the challenger fails to answer or refuses, beyond those that the champion refuses."""
    max_latency_ratio: float = Field(2.0, gt=1, examples=[1.5])
    """Largest ratio of the challenger's 95th percentile latency to the champion's. The gateway times each request; `score`
    times 20 batches of each window, the same ones with both versions in turn, so a window with a single row is enough. More
    than 5 % of the challenger's answers must exceed this ratio, by at least 10 ms each and by more than chance."""
    max_missing_share: float = Field(0.0, ge=0, le=1, examples=[0.001])
    """Largest share of predictions that are missing or not finite."""
    max_constant_share: float = Field(0.99, gt=0, le=1, examples=[0.9])
    """Largest share of rows with the same prediction, where the champion's predictions are not as constant."""
    max_confidence_psi: float = Field(0.5, gt=0, examples=[0.25])
    """Largest population stability index of the predictions against those at validation, beyond the champion's own."""
    max_calibration_loss: float = Field(0.05, gt=0, le=1, examples=[0.02])
    """Largest increase of the expected calibration error over the champion's, once labels mature."""
    slices: bool = Field(True, examples=[False])
    """Whether the metric is also compared in each of `validation.slices` and `columns.protected`."""


@dataclass(frozen=True, slots=True)
class ArmStatistics:
    """What one version's answers in one window looked like, without labels.

    `histogram` has the shares of predictions in the bins of the version's own predictions at validation.
    """

    version: str
    rows: int
    refused: int = 0
    missing: int = 0
    most_common_share: float = 0.0
    latency_p95_s: float | None = None
    histogram: tuple[float, ...] = ()
    validation: PredictionHistogram | None = None
    """The version's own predictions at validation; None if its report does not have them."""
    timed: int = 0
    """Requests, or batches, behind `latency_p95_s`."""
    slow: int = 0
    """Those among them that were slower than accepted; see `slow_answers`. 0 for the champion."""


@dataclass(frozen=True, slots=True)
class LabelledGain:
    """The challenger's gain on labelled rows, positive if better: in a slice such as `origin=JFK`, or in calibration."""

    name: str
    metric: str
    champion: float
    challenger: float
    gain: float
    standard_error: float
    rows: int
    degrees_of_freedom: float
    accepted: float = 0.0
    """Loss that is accepted, in units of the metric."""

    @property
    def p_value(self) -> float:
        """One-sided p-value that the loss is no larger than accepted, by Student's t."""
        beyond = -self.gain - self.accepted
        if self.standard_error <= 0:
            return 0.0 if beyond > 0 else 1.0
        return float(special.stdtr(self.degrees_of_freedom, -beyond / self.standard_error))


@dataclass(frozen=True, slots=True)
class LabelledEvidence:
    """What mature labels show about the guardrails. `look` counts the looks at labels in this rollout, from 1."""

    look: int
    calibration: LabelledGain | None = None
    """Gain in the expected calibration error; None for a regression, or where it is not defined."""
    slices: tuple[LabelledGain, ...] = ()


@dataclass(frozen=True, slots=True)
class GuardrailEvidence:
    """Both versions' answers in the windows of the current step, and what their labels show once they mature."""

    window: Window
    champion: ArmStatistics
    challenger: ArmStatistics
    labelled: LabelledEvidence | None = None


@dataclass(frozen=True, slots=True)
class Breach:
    """A guardrail that the challenger breached, and why, in a sentence."""

    guardrail: str
    reason: str


def gain_in_slice(name: str, metric: str, evidence: Evidence, accepted: float) -> LabelledGain | None:
    """The gain of a slice from its evidence; None where the slice does not define it."""
    if evidence.undefined or evidence.units < LEAST_UNITS:
        return None
    degrees = evidence.degrees_of_freedom or float(evidence.units - 1)
    values = evidence.champion, evidence.challenger, evidence.gain, evidence.standard_error
    return LabelledGain(name, metric, *values, evidence.rows, degrees, accepted)


def paired_calibration_gain(pairs: PairedPredictions, clusters: NDArray[np.generic]) -> LabelledGain | None:
    """Decrease of the expected calibration error on the same rows; None with fewer than `MIN_ROWS`."""
    arms = [ServedArm(pairs.y_true, y_pred, clusters, clusters) for y_pred in (pairs.champion, pairs.challenger)]
    return _calibration_gain(arms, paired=True)


def served_calibration_gain(champion: ServedArm, challenger: ServedArm) -> LabelledGain | None:
    """The same between the rows that each version answered; None with fewer than `MIN_ROWS` in an arm.

    Both are measured on equally many rows of each window: the error of a perfect model falls with its rows.
    """
    return _calibration_gain(equal_rows(champion, challenger), paired=False)


def _calibration_gain(arms: Sequence[ServedArm], paired: bool) -> LabelledGain | None:
    rows, units = len(arms[0].y_true), min(len(np.unique(arm.clusters)) for arm in arms)
    if rows < MIN_ROWS or units < LEAST_UNITS:
        return None
    old, new = (calibration_errors(arm.y_true, arm.y_pred, arm.clusters) for arm in arms)
    error = float((old - new)[1:].std()) if paired else math.hypot(old[1:].std(), new[1:].std())
    champion, challenger = float(old[0]), float(new[0])
    name = "expected calibration error"
    return LabelledGain("calibration", name, champion, challenger, champion - challenger, error, rows, units - 1.0)


def judge_guardrails(policy: Guardrails, evidence: GuardrailEvidence) -> tuple[Breach, ...]:
    """The guardrails that the challenger breached, in the order of the settings; empty if it breached none."""
    champion, challenger, labelled = evidence.champion, evidence.challenger, evidence.labelled
    found = [
        judge_errors(policy, champion, challenger),
        judge_latency(policy, champion, challenger),
        judge_missing(policy, challenger),
        judge_constant(policy, champion, challenger),
        judge_confidence(policy, champion, challenger),
    ]
    if labelled is not None:
        found.append(judge_calibration(policy, challenger.version, labelled))
        found += judge_slices(policy, challenger.version, labelled)
    return tuple(breach for breach in found if breach is not None)


def judge_errors(policy: Guardrails, champion: ArmStatistics, challenger: ArmStatistics) -> Breach | None:
    """Whether the challenger fails or refuses more rows than the champion does, by more than the limit."""
    limit = policy.max_error_share
    excess = _least_excess(limit == 0, (challenger.refused, challenger.rows), (champion.refused, champion.rows))
    if excess <= limit:
        return None
    return Breach(
        "errors",
        f"version {challenger.version} failed to answer or refused {_count(challenger.refused, challenger.rows)}, "
        f"the champion {_count(champion.refused, champion.rows)}; accepted: {_percent(limit)} more than the champion "
        "(max_error_share)",
    )


def judge_latency(policy: Guardrails, champion: ArmStatistics, challenger: ArmStatistics) -> Breach | None:
    """Whether more of the challenger's answers are slower than accepted than there are above a 95th percentile."""
    slow, usual = challenger.latency_p95_s, champion.latency_p95_s
    if slow is None or usual is None or min(challenger.timed, champion.timed) < MIN_TIMED:
        return None
    above = (SLOW_SHARE * champion.timed, champion.timed)
    if _least_excess(False, (challenger.slow, challenger.timed), above) <= 0:
        return None
    ratio = f"{slow / usual:.3g} times" if usual > 0 else "more than"
    return Breach(
        "latency",
        f"version {challenger.version} takes {slow:.3g} s at the 95th percentile of {challenger.timed:,} answers, {ratio} "
        f"the champion's {usual:.3g} s; accepted: {policy.max_latency_ratio:g} times (max_latency_ratio)",
    )


def slow_answers(policy: Guardrails, champion_s: NDArray[np.float64], challenger_s: NDArray[np.float64]) -> int:
    """Count the challenger's answers that took longer than accepted, given the seconds of each answer of both versions.

    If the challenger is no slower than accepted, 5 % of its answers are counted at most, but for chance.
    """
    usual = float(np.quantile(champion_s, 1 - SLOW_SHARE))
    return int((challenger_s > max(policy.max_latency_ratio * usual, usual + LATENCY_NOISE_S)).sum())


def judge_missing(policy: Guardrails, challenger: ArmStatistics) -> Breach | None:
    """Whether more of the challenger's predictions are missing or not finite than the limit; a limit of 0 is exact."""
    limit, answered = policy.max_missing_share, challenger.rows - challenger.refused
    if _least_excess(limit == 0, (challenger.missing, answered), (0, 0)) <= limit:
        return None
    return Breach(
        "missing",
        f"{_count(challenger.missing, answered)} that version {challenger.version} answered have a prediction that is "
        f"missing or not finite; accepted: {_percent(limit)} (max_missing_share)",
    )


def judge_constant(policy: Guardrails, champion: ArmStatistics, challenger: ArmStatistics) -> Breach | None:
    """Whether the challenger gives one prediction to more rows than the limit, and the champion does not."""
    share, usual = challenger.most_common_share, champion.most_common_share
    rows, of_champion = _predicted(challenger), _predicted(champion)
    excess = _least_excess(False, (round(share * rows), rows), (round(usual * of_champion), of_champion))
    if rows < MIN_ROWS or share <= policy.max_constant_share or excess <= 0:
        return None
    return Breach(
        "constant",
        f"version {challenger.version} gives the same prediction to {_count(round(share * rows), rows)}, the champion to "
        f"{_count(round(usual * of_champion), of_champion)}; accepted: {_percent(policy.max_constant_share)} "
        "(max_constant_share)",
    )


def judge_confidence(policy: Guardrails, champion: ArmStatistics, challenger: ArmStatistics) -> Breach | None:
    """Whether the challenger's predictions have moved since validation, further than the champion's by the limit.

    A shift that both show is the data's. PSI is, to third order, a χ² divided by the rows, whose variance is
    2(bins - 1) + 4λ (Cohen 1988, ch. 7); its lower bound must lie above the limit.
    """
    own, usual = prediction_shift(challenger), prediction_shift(champion)
    if own is None or usual is None:
        return None
    margin = float(special.ndtri(1 - LEVEL)) * math.sqrt(own[1] + usual[1])
    if own[0] - usual[0] - margin <= policy.max_confidence_psi:
        return None
    return Breach(
        "confidence",
        f"the predictions of version {challenger.version} on {_predicted(challenger):,} rows differ from those at its "
        f"validation by a PSI of {own[0]:.3g}, the champion's by {usual[0]:.3g}; accepted: {policy.max_confidence_psi:g} "
        "more than the champion (max_confidence_psi)",
    )


def judge_calibration(policy: Guardrails, version: str, labelled: LabelledEvidence) -> Breach | None:
    """Whether the challenger's calibration error exceeds the champion's by significantly more than the limit."""
    found, limit = labelled.calibration, policy.max_calibration_loss
    if found is None or replace(found, accepted=limit).p_value > level_of_look(labelled.look):
        return None
    return Breach(
        "calibration",
        f"the expected calibration error of version {version} is {found.challenger:.3g} on {found.rows:,} labelled rows, the "
        f"champion's {found.champion:.3g}; accepted: {limit:g} more than the champion (max_calibration_loss)",
    )


def judge_slices(policy: Guardrails, version: str, labelled: LabelledEvidence) -> list[Breach]:
    """The slices in which the challenger loses significantly more than accepted: Holm (1979) over the slices.

    Holm rejects the smallest p-values one by one, each at the level divided by the slices that are left.
    """
    found: list[Breach] = []
    ordered = sorted(labelled.slices if policy.slices else (), key=lambda item: item.p_value)
    for place, item in enumerate(ordered):
        if item.p_value > level_of_look(labelled.look) / (len(ordered) - place):
            break
        found.append(
            Breach(
                "slices",
                f"version {version} loses {-item.gain:.3g} {item.metric} on {item.rows:,} labelled rows of {item.name} "
                f"({item.challenger:.4g}, the champion {item.champion:.4g}); accepted: {item.accepted:.3g} "
                f"({len(ordered)} slices compared; validation.slice_margin)",
            )
        )
    return found


def level_of_look(look: int) -> float:
    """Level of the k-th look at labels, `LEVEL_WITH_LABELS` / k(k + 1), which sums to it over any number of looks."""
    return LEVEL_WITH_LABELS / (look * (look + 1))


def _predicted(arm: ArmStatistics) -> int:
    """Rows with a finite prediction."""
    return arm.rows - arm.refused - arm.missing


def prediction_shift(arm: ArmStatistics) -> tuple[float, float] | None:
    """(PSI of the predictions against those at validation, its variance); None where one of the two is not known."""
    before, rows = arm.validation, _predicted(arm)
    if before is None or not arm.histogram or not rows or len(arm.histogram) != len(before.shares):
        return None
    table = distances.Table(
        [round(share * before.rows) for share in before.shares], [round(share * rows) for share in arm.histogram]
    )
    psi, each = distances.psi(table), 1 / rows + 1 / before.rows
    return psi, each**2 * (2 * (len(before.shares) - 1) + 4 * psi / each)


def _least_excess(exact: bool, observed: tuple[int, int], usual: tuple[float, int]) -> float:
    """Lower bound of the difference of two shares, each (count, rows): the first share less the second.

    `exact` returns the observed difference. Else the square-and-add bound of Newcombe (1998), Statistics in Medicine
    17:873, from the exact limits of each share (Clopper & Pearson 1934). A share without rows is 0.
    """
    (count, rows), (usual_count, usual_rows) = observed, usual
    if not rows:
        return 0.0
    share, other = count / rows, usual_count / usual_rows if usual_rows else 0.0
    if exact:
        return share - other
    low = float(special.betaincinv(count, rows - count + 1, LEVEL)) if count else 0.0
    high = (
        float(special.betaincinv(usual_count + 1, usual_rows - usual_count, 1 - LEVEL))
        if usual_count < usual_rows
        else other
    )
    return share - other - math.hypot(share - low, high - other)


def _count(count: int, rows: int) -> str:
    return f"{count:,} of {rows:,} rows ({_percent(count / rows if rows else 0.0)})"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
