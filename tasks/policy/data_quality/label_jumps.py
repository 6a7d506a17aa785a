"""Find changes of the level or scale of labels, as after a change of their unit."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.policy.data_quality.label_rules import MIN_LABELS, LabelRules

Floats = NDArray[np.float64]
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
BLOCKS = 20
"""Number of consecutive parts of the training rows in which a jump of the label is searched."""


def label_levels(values: Floats) -> tuple[float, ...]:
    """The percentiles of a profile, then the mean distance from the median; empty without values."""
    if not len(values):
        return ()
    levels = np.quantile(values, LEVELS)
    return (*map(float, levels), float(np.abs(values - levels[2]).mean()))


def compare_levels(
    before: Sequence[float], now: Sequence[float], predicted: Sequence[float], rules: LabelRules
) -> Iterator[tuple[str, str, str]]:
    """(check, the jump or an empty string, the setting) of spread and median."""
    width, own, guessed = (levels[4] - levels[0] for levels in (before, now, predicted or before))
    jump, bound = "", rules.max_scale_ratio
    if width > 0 and own > 0:
        ratio, distance, along = own / width, now[5] / before[5], guessed / width
        shared = along >= bound**0.5 if ratio > 1 else along <= bound**-0.5
        beyond = min(ratio, distance) >= bound or max(ratio, distance) <= 1 / bound
        if beyond and not (shared and predicted):
            jump = (
                f"they spread {ratio:.3g} times as wide as the training labels, but predictions do not, "
                "as if the unit had changed"
            )
    yield "usual scale", jump, f"quality.labels.max_scale_ratio: {bound:g}"
    jump, bound = "", rules.max_shift
    if width > 0:
        moved, along = (now[2] - before[2]) / width, ((predicted or before)[2] - before[2]) / width
        shared = along * np.sign(moved) >= bound / 2
        if abs(moved) >= bound and not (shared and predicted):
            jump = f"their median moved from {before[2]:.4g} to {now[2]:.4g}, but predictions did not, as if the unit had changed"
    yield "usual level", jump, f"quality.labels.max_shift: {bound:g}"


def find_jump(values: Floats, rules: LabelRules) -> tuple[int, str] | None:
    """(position, sentence) of a lasting jump of scale or level in numbers ordered by time; None if there is none.

    It must show between all values before and after, and between the adjacent blocks: growth and seasons are gradual.
    """
    if rules.on_unit_change == "warn" or len(values) < 2 * MIN_LABELS:
        return None
    size = max(MIN_LABELS, len(values) // BLOCKS)
    for edge in range(size, len(values) - size + 1, size):
        if _jump(values[edge - size : edge], values[edge : edge + size], rules):
            found = _jump(values[:edge], values[edge:], rules)
            if found:
                return edge, found
    return None


def _jump(before: Floats, after: Floats, rules: LabelRules) -> str:
    """Describe the jump from `before` to `after`; empty if there is none."""
    levels = label_levels(before), label_levels(after)
    if not any(jump for _, jump, _ in compare_levels(*levels, (), rules)):
        return ""
    (low, _, _, _, high, _), (then_low, _, _, _, then_high, _) = levels
    return f"90% lie between {low:.4g} and {high:.4g} before, and between {then_low:.4g} and {then_high:.4g} after"
