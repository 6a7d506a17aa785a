"""Decide whether labels can be trusted: a gate for labels, before they are used in judgements and training.

| check | finding |
|---|---|
| labels arrived | labels are due, and none has arrived, or far fewer than usual |
| usable labels | infinite values, text that is not a number, classes that `columns.classes` does not list |
| one label a row | two different labels of one id at one time |
| known classes | a third class of two; among several, classes that are very rare in the reference |
| varying labels | one label in all rows, where reference and predictions vary (warns only, unless set) |
| plausible labels | single numbers far beyond those in training: -999, or rows in another unit |
| usual scale, usual level | a label in another unit: its spread or median jumped, that of predictions did not |
| classes in place | exchanged classes: with the names swapped, the predictions would be right (warns only) |
| labels in step | numbers that correlate with the predictions on another scale or with the other sign (warns only) |
| your own | an expectation of `quality.suite` that reads the label; its severity decides |

A failed check blocks: performance with such labels triggers nothing, and nothing is trained on them. Swapped classes
and rescaled numbers look like a reversed concept, so they are only reported. A ratio alone does not prove a change of
unit: labels fail from `max_scale_ratio` on, which exceeds what prices, seasons and demand do from one window to the
next.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy  # its parts load on first use
from numpy.typing import NDArray

from tasks.policy.data_quality.label_jumps import compare_levels, label_levels
from tasks.policy.data_quality.label_rules import MIN_LABELS, LabelRules
from tasks.policy.data_quality.quality import Finding
from tasks.policy.records.base import Window
from tasks.policy.records.profile import LabelProfile
from tasks.policy.records.reports import LabelReport, QualityCheck, Verdict
from tasks.policy.statistics.metrics import confusion, predicted_codes

Floats = NDArray[np.float64]
WORDS = "unknown labels"
"""The check that only reports which words for a missing value were found."""
EXPECTED = 0.99
"""Share of correct predictions from which a single label in all rows counts as expected, such as no sun at night."""
IN_STEP, OUT_OF_SCALE = 0.8, 1.5
"""Correlation of labels and predictions from which they move together, and slope from which the scale differs."""
CHANCE = 1e-9
"""Probability below which the labels of a window are not explained by chance with the reference's shares."""


@dataclass(frozen=True, slots=True)
class LabelFacts:
    """Facts on a window's labels. `y_true` and `y_pred` have the shapes of `metrics`, for labelled rows only."""

    window: Window
    column: str
    rows: int
    due: bool
    y_true: Floats
    y_pred: Floats
    classes: tuple[str, ...] = ()
    usual_share: float | None = None
    """Share of rows that usually have a label once all are due; None while not known."""
    faults: tuple[tuple[str, int], ...] = ()
    """Number of unusable labels by kind of fault."""
    words: tuple[tuple[str, int], ...] = ()
    """Number of labels that are words for a missing value, by word."""
    conflicts: int = 0
    reference: LabelProfile | None = None
    own: tuple[Finding, ...] = ()
    """Results of the owner's expectations on the labels (`quality.suite`)."""
    own_suite_sha256: str | None = None


def judge_labels(facts: LabelFacts, rules: LabelRules) -> LabelReport | None:
    """The verdict on a window's labels; None while none has arrived and none is overdue."""
    sentences = {check: f"{check.observed}, expected {check.expected}" for check in _checks(facts, rules)}
    sentences |= {one.as_check(): f"{one.sentence}, from quality.suite" for one in facts.own}
    if not len(facts.y_true) and not facts.due and all(check.verdict == "pass" for check in sentences):
        return None
    broken = sorted((check for check in sentences if check.verdict != "pass"), key=lambda check: check.verdict)
    verdict: Verdict = broken[0].verdict if broken else "pass"
    reasons = tuple(f"labels ({facts.column}): {sentences[check]}" for check in broken)
    return LabelReport(facts.window, verdict, tuple(sentences), reasons, facts.own_suite_sha256)


def _checks(facts: LabelFacts, rules: LabelRules) -> Iterator[QualityCheck]:
    labels = len(facts.y_true)
    if facts.due and facts.rows:
        yield _arrived(facts, rules)
    if facts.words:
        yield _words(facts)
    yield from _unusable(facts, rules)
    if not labels:
        return
    if facts.classes:
        yield _known_classes(facts, rules)
        if labels >= MIN_LABELS:
            yield from _places(facts)
    elif labels >= MIN_LABELS:
        yield from _in_step(facts)
    if facts.reference and labels >= MIN_LABELS:
        yield _varying(facts, facts.reference, rules)
        if facts.reference.levels:
            yield from _unit(facts, facts.reference, rules)
    if facts.reference and facts.reference.span:
        yield _plausible(facts, facts.reference.span, rules)


def _arrived(facts: LabelFacts, rules: LabelRules) -> QualityCheck:
    labels = len(facts.y_true)
    verdict, expected = _arrival(facts, rules)
    expected += " (quality.labels.min_usual_share)" if verdict != "pass" else ""
    observed = f"{labels:,} of {facts.rows:,} rows of {facts.window.name} have a label, although all are due"
    return QualityCheck("labels arrived", facts.column, verdict, expected, observed, facts.rows - labels)


def _arrival(facts: LabelFacts, rules: LabelRules) -> tuple[Verdict, str]:
    """Fail if labels are overdue: fewer than the required share, beyond chance. None at all always fails."""
    labels = len(facts.y_true)
    if not rules.min_usual_share:
        return "pass", "none, as min_usual_share is 0"
    if facts.usual_share is None:
        return ("pass" if labels else "fail"), "some"
    least = rules.min_usual_share * facts.usual_share
    unlikely = scipy.stats.binom.cdf(labels, facts.rows, facts.usual_share) < CHANCE ** (1 / 3)
    expected = f"at least {least:.1%} of the rows, as usually {facts.usual_share:.0%} have one by then"
    overdue = labels < least * facts.rows and unlikely
    return ("fail" if overdue else "pass"), expected


def _words(facts: LabelFacts) -> QualityCheck:
    named = ", ".join(f"{word!r} {count:,} times" for word, count in facts.words)
    observed = f"{named}: read as unknown; list it in columns.classes if it is a class"
    return QualityCheck(WORDS, facts.column, "pass", "a class, or nothing", observed)


def _unusable(facts: LabelFacts, rules: LabelRules) -> Iterator[QualityCheck]:
    def counted(name: str, count: int, found: str, expected: str, suffix: str) -> QualityCheck:
        total = len(facts.y_true) + count
        share = count / max(total, 1)
        verdict: Verdict = "pass" if not count else "fail" if share > rules.max_unusable_share else "warn"
        observed = f"{count:,} of {total:,} labels {found} ({share:.1%}), {suffix}" if count else "none"
        limit = f"{expected} at most {rules.max_unusable_share:.1%}"
        limit += " (quality.labels.max_unusable_share)" if verdict != "pass" else ""
        return QualityCheck(name, facts.column, verdict, limit, observed, count)

    kinds = ", ".join(f"{count:,} {fault}" for fault, count in facts.faults)
    unusable = sum(count for _, count in facts.faults)
    yield counted("usable labels", unusable, "are unusable", "unusable labels:", f"{kinds}; they are left out")
    found, expected = "contradict each other", "contradictory labels:"
    yield counted("one label a row", facts.conflicts, found, expected, "the last one counts")


def _known_classes(facts: LabelFacts, rules: LabelRules) -> QualityCheck:
    """Check for classes that the model has not seen: of two classes a fault, of several a warning unless most are."""
    count, labels = int((facts.y_true >= len(facts.classes)).sum()), len(facts.y_true)
    share, binary = count / labels, len(facts.classes) == 2 and facts.y_pred.ndim == 1
    setting = "max_unusable_share" if binary else "max_unknown_class_share"
    limit = rules.max_unusable_share if binary else rules.max_unknown_class_share
    verdict: Verdict = "pass" if not count else "fail" if share > limit else "warn"
    renamed = _renamed(facts) if count else None
    if renamed is not None:
        expected = f"{facts.classes[renamed]}, which no longer occurs; fix the source, or list both in columns.classes"
        observed = (
            f"{count:,} of {labels:,} labels are in a class that the model has never seen, on rows where it predicts "
        )
        observed += f"{facts.classes[renamed]} in most cases, as if that class were now spelled differently"
        return QualityCheck("known classes", facts.column, "fail", expected, observed, count)
    named = ", ".join(facts.classes[:5]) + (", …" if len(facts.classes) > 5 else "")
    expected = f"at most {limit:.1%} in classes that the model does not know; it knows {named}"
    observed = f"{count:,} of {labels:,} labels are in classes that the model has never seen ({share:.1%})"
    expected += f" (quality.labels.{setting})" if verdict != "pass" else ""
    return QualityCheck("known classes", facts.column, verdict, expected, observed if count else "all are", count)


def _renamed(facts: LabelFacts) -> int | None:
    """The class that disappeared and is predicted where labels of unknown classes occur; None if there is none."""
    shares = dict(facts.reference.shares) if facts.reference else {}
    unseen, decided = facts.y_true >= len(facts.classes), predicted_codes(facts.y_pred)
    for place, name in enumerate(facts.classes):
        share = shares.get(name, 0.0)
        gone = (1 - share) ** len(facts.y_true) < CHANCE and not (facts.y_true == place).any()
        if gone and unseen.mean() >= share / 2 and (decided[unseen] == place).mean() >= 0.5:
            return place
    return None


def _varying(facts: LabelFacts, reference: LabelProfile, rules: LabelRules) -> QualityCheck:
    labels = len(facts.y_true)
    constant = bool((facts.y_true == facts.y_true[0]).all())
    if facts.classes:
        name = facts.classes[int(facts.y_true[0])] if facts.y_true[0] < len(facts.classes) else ""
        stuck = constant and dict(reference.shares).get(name, 0.0) ** labels < CHANCE
        expected_so = predicted_codes(facts.y_pred) == facts.y_true
        stuck = stuck and bool(expected_so.mean() < EXPECTED)
    else:
        levels, guessed = reference.levels, label_levels(facts.y_pred)
        stuck = constant and bool(levels) and levels[1] < levels[3]
        stuck = stuck and (guessed[4] - guessed[0]) / (levels[4] - levels[0]) > rules.max_scale_ratio**-0.5
    verdict: Verdict = rules.on_constant if stuck else "pass"
    expected = "several, as in the training rows"
    expected += " (quality.labels.on_constant)" if stuck else ""
    observed = f"the same label in all {labels:,} rows" if stuck else "several, or as usual"
    return QualityCheck("varying labels", facts.column, verdict, expected, observed, labels if stuck else 0)


def _unit(facts: LabelFacts, reference: LabelProfile, rules: LabelRules) -> Iterator[QualityCheck]:
    """Compare spread and median with the reference's; a jump does not count if predictions moved half of the way."""
    before, now, predicted = reference.levels, label_levels(facts.y_true), label_levels(facts.y_pred)
    for name, jump, setting in compare_levels(before, now, predicted, rules):
        verdict: Verdict = rules.on_unit_change if jump else "pass"
        expected = "as in the training rows, where 90% of the labels lie between "
        expected += f"{before[0]:.4g} and {before[4]:.4g}"
        expected += f" ({setting}; quality.labels.on_unit_change: warn accepts it)" if jump else ""
        observed = jump or f"90% of the labels between {now[0]:.4g} and {now[4]:.4g}"
        yield QualityCheck(name, facts.column, verdict, expected, observed, len(facts.y_true) if jump else 0)


def _plausible(facts: LabelFacts, span: tuple[float, float], rules: LabelRules) -> QualityCheck:
    """Check for single labels far beyond those in training: a code for missing, or a few rows in another unit.

    A few labels that outweigh all others decide the metric alone, and would dominate a retrain.
    """
    reach, labels = rules.max_scale_ratio * (span[1] - span[0]), len(facts.y_true)
    far = (facts.y_true < span[0] - reach) | (facts.y_true > span[1] + reach) if reach > 0 else np.zeros(labels, bool)
    distance = np.abs(facts.y_true - np.median(facts.y_true))
    count, weight = int(far.sum()), float(distance[far].sum() / max(distance.sum(), np.finfo(float).tiny))
    share, limit = count / labels, rules.max_unusable_share
    verdict: Verdict = "pass" if not count else "warn" if share <= limit and weight <= 0.5 else rules.on_unit_change
    expected = (
        f"at most {limit:.1%} outside {span[0] - reach:.4g} to {span[1] + reach:.4g}, with less than half of the weight"
    )
    expected += ", because training labels lie between "
    expected += f"{span[0]:.4g} and {span[1]:.4g}"
    expected += " (quality.labels.max_scale_ratio, on_unit_change)" if count else ""
    observed = (
        f"{count:,} of {labels:,} labels lie far outside the training labels ({share:.1%}, with {weight:.0%} of the "
    )
    observed += "weight in the metric)"
    return QualityCheck("plausible labels", facts.column, verdict, expected, observed if count else "all are", count)


def _places(facts: LabelFacts) -> Iterator[QualityCheck]:
    """Check if permuted classes would make the predictions right: the labels' meaning, or the concept, was reversed."""
    known = facts.y_true < len(facts.classes)
    if not known.any():
        return
    counts = confusion(facts.y_true[known], facts.y_pred[known])
    rows = int(counts.sum())
    places = scipy.optimize.linear_sum_assignment(-counts)
    reached, possible = float(np.trace(counts)) / rows, float(counts[places].sum()) / rows
    constant = float(counts.sum(axis=1).max()) / rows
    turned = possible >= 0.6 and reached <= possible / 2 and possible > constant + 0.05
    verdict: Verdict = "warn" if turned else "pass"
    observed = (
        f"{reached:.0%} of the predictions are right, but {possible:.0%} would be with classes swapped: either the meaning of "
        "the classes was swapped, or the relationship reversed"
    )
    expected = "classes with their earlier meaning; check the source before a retrain"
    yield QualityCheck("classes in place", facts.column, verdict, expected, observed if turned else "they are", 0)


def _in_step(facts: LabelFacts) -> Iterator[QualityCheck]:
    """Check if a linear rescaling would make the predictions right: another unit or sign, or a reversed concept."""
    known = np.isfinite(facts.y_true) & np.isfinite(facts.y_pred)
    y_true, y_pred = facts.y_true[known], facts.y_pred[known]
    if len(y_true) < MIN_LABELS or not y_true.std() or not y_pred.std():
        return
    along = float(np.corrcoef(y_true, y_pred)[0, 1])
    slope = along * float(y_true.std() / y_pred.std())
    left = float(y_true.std()) * max(0.0, 1 - along**2) ** 0.5
    error = float(np.sqrt(np.mean((y_true - y_pred) ** 2)))
    turned = abs(along) >= IN_STEP and error > 2 * left and (slope < 0 or max(slope, 1 / slope) >= OUT_OF_SCALE)
    observed = "they are"
    if turned:
        observed = (
            f"labels follow {slope:.3g} times the predictions (correlation {along:.2f}); on that scale "
            f"{1 - left / error:.0%} of the error would disappear: either their unit or sign changed, or the relationship "
            "reversed"
        )
    expected = "labels on the scale of the predictions; check the source before a retrain"
    yield QualityCheck("labels in step", facts.column, "warn" if turned else "pass", expected, observed, 0)
