"""Small SVG plots in data URLs: image artifacts show them in the dashboard, offline and without scripts.

An SVG used as the source of an image runs no script and loads nothing, and all text in it is escaped.
"""

import base64
import math
from collections.abc import Sequence
from html import escape

from tasks.policy.evidence.validation import ReliabilityCurve
from tasks.policy.records.reports import FeatureDrift, PerformanceReport
from tasks.policy.training.search import SearchTrial, best_so_far

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 300, 70, 20, 44, 42
INK, MUTED, LINE, BAND, ALARM, CALM = "#1c2024", "#5d666e", "#0067a5", "#cfe3f1", "#c84e00", "#a9b7c0"
BARS = 8


def metric_plot(reports: Sequence[PerformanceReport], title: str) -> str | None:
    """Plot each window's primary metric with its interval, and the best past level; None for fewer than two windows."""
    measured = [(report.window, value) for report in reports if (value := report.metric(report.primary))]
    if len(measured) < 2:
        return None
    level = reports[-1].baseline
    lows, highs = [value.low for _, value in measured], [value.high for _, value in measured]
    low, high = min([*lows, *([level.value] if level else [])]), max([*highs, *([level.value] if level else [])])
    span = high - low or 1.0
    step = (WIDTH - LEFT - RIGHT) / (len(measured) - 1)

    def at(index: int, value: float) -> str:
        return f"{LEFT + index * step:.1f},{TOP + (high - value) / span * (HEIGHT - TOP - BOTTOM):.1f}"

    outline = [at(index, value) for index, value in enumerate(highs)]
    outline += [at(index, lows[index]) for index in reversed(range(len(lows)))]
    line = [at(index, value.value) for index, (_, value) in enumerate(measured)]
    parts = [f'<polygon points="{" ".join(outline)}" fill="{BAND}"/>']
    if level:
        ends = at(0, level.value), at(len(measured) - 1, level.value)
        parts.append(f'<polyline points="{" ".join(ends)}" stroke="{MUTED}" stroke-dasharray="5 4" fill="none"/>')
    parts.append(f'<polyline points="{" ".join(line)}" stroke="{LINE}" stroke-width="2.5" fill="none"/>')
    parts += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{LINE}"/>' for x, y in (point.split(",") for point in line)]
    parts += [_text(LEFT - 8, TOP + 4, f"{high:.4g}", "end"), _text(LEFT - 8, HEIGHT - BOTTOM + 4, f"{low:.4g}", "end")]
    first, last = measured[0][0], measured[-1][0]
    parts += [
        _text(LEFT, HEIGHT - 14, f"{first.start:%Y-%m-%d}"),
        _text(WIDTH - RIGHT, HEIGHT - 14, f"{last.end:%Y-%m-%d}", "end"),
    ]
    if level:
        parts.append(_text(WIDTH / 2, HEIGHT - 14, f"dashed: best past level {level.value:.4g}", "middle"))
    return _address(title, parts, HEIGHT)


def drift_plot(features: Sequence[FeatureDrift], title: str) -> str | None:
    """Plot the features with the largest effects relative to their own limits; None without features."""
    worst = sorted(features, key=lambda feature: feature.effect_size / feature.threshold, reverse=True)[:BARS]
    if not worst:
        return None
    most = max(2.0, *(feature.effect_size / feature.threshold for feature in worst))
    left, row = 200, 26
    unit = (WIDTH - left - 110) / most
    parts = []
    for index, feature in enumerate(worst):
        ratio, y = feature.effect_size / feature.threshold, TOP + index * row
        colour = ALARM if feature.verdict == "drifted" else CALM
        parts.append(_text(left - 8, y + 13, feature.feature[:28], "end", INK))
        parts.append(f'<rect x="{left}" y="{y}" width="{max(1.0, ratio * unit):.1f}" height="16" fill="{colour}"/>')
        parts.append(_text(left + ratio * unit + 6, y + 13, f"{feature.effect_size:.3g} of {feature.threshold:g}"))
    bottom = TOP + len(worst) * row
    parts.append(f'<path d="M{left + unit:.1f} {TOP - 6}V{bottom}" stroke="{INK}" stroke-dasharray="4 3"/>')
    parts.append(_text(left + unit, bottom + 16, "limit", "middle"))
    return _address(title, parts, bottom + 28)


def reliability_plot(curves: Sequence[ReliabilityCurve], title: str) -> str | None:
    """Plot how often predicted probabilities came true, the challenger first; None without a curve.

    A point on the dashed diagonal came true as often as predicted. Bars are 95 % intervals of the challenger's bins.
    """
    if not curves:
        return None
    side, left = HEIGHT - TOP - BOTTOM, (WIDTH - HEIGHT + TOP + BOTTOM) / 2

    def at(predicted: float, observed: float) -> str:
        return f"{left + predicted * side:.1f},{TOP + (1 - observed) * side:.1f}"

    diagonal = f"{at(0, 0)} {at(1, 1)}"
    parts = [f'<polyline points="{diagonal}" stroke="{MUTED}" stroke-dasharray="5 4" fill="none"/>']
    for curve, colour in list(zip(curves, (LINE, CALM), strict=False))[::-1]:
        points = [at(each.predicted, each.observed) for each in curve.bins]
        parts.append(f'<polyline points="{" ".join(points)}" stroke="{colour}" stroke-width="2.5" fill="none"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>' for x, y in (one.split(",") for one in points)]
    for each in curves[0].bins:
        bar = f"{at(each.predicted, each.low)} {at(each.predicted, each.high)}"
        parts.append(f'<polyline points="{bar}" stroke="{LINE}" fill="none"/>')
    for place, (curve, role, colour) in enumerate(zip(curves, ("challenger", "champion"), (LINE, CALM), strict=False)):
        parts.append(_text(16, TOP + 20 + 20 * place, f"{role} {curve.version}", colour=colour))
    parts += [_text(left - 8, TOP + 4, "1", "end"), _text(left - 8, TOP + side + 4, "0", "end")]
    parts.append(
        _text(left + side / 2, HEIGHT - 14, "predicted probability, against the share that occurred", "middle")
    )
    return _address(title, parts, HEIGHT)


def search_plot(trials: Sequence[SearchTrial], title: str) -> str | None:
    """Plot the best loss so far over the trials, and that of the present settings as a line; None for fewer than two."""
    best = best_so_far(trials)
    if len(best) < 2 or not math.isfinite(best[0]):
        return None
    level = best[0]
    shown = [(trial.number, trial.loss) for trial in trials if trial.state == "complete"]
    low, high = min(best), level + max(0.25 * (level - min(best)), abs(level) * 0.01)
    step = (WIDTH - LEFT - RIGHT) / (len(best) - 1)

    def at(number: int, loss: float) -> tuple[float, float]:
        return LEFT + number * step, TOP + (high - loss) / (high - low) * (HEIGHT - TOP - BOTTOM)

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(number, loss) for number, loss in enumerate(best)))
    ends = f"{LEFT},{at(0, level)[1]:.1f} {WIDTH - RIGHT},{at(0, level)[1]:.1f}"
    parts = [f'<polyline points="{ends}" stroke="{MUTED}" stroke-dasharray="5 4" fill="none"/>']
    parts += [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{CALM}"/>'
        for x, y in (at(number, loss) for number, loss in shown if loss <= high)
    ]
    parts.append(f'<polyline points="{line}" stroke="{LINE}" stroke-width="2.5" fill="none"/>')
    parts += [_text(LEFT - 8, TOP + 4, f"{high:.4g}", "end"), _text(LEFT - 8, HEIGHT - BOTTOM + 4, f"{low:.4g}", "end")]
    parts += [_text(LEFT, HEIGHT - 14, "trial 0"), _text(WIDTH - RIGHT, HEIGHT - 14, f"trial {len(best) - 1}", "end")]
    parts.append(
        _text(WIDTH / 2, HEIGHT - 14, f"line: best loss so far; dashed: present settings {level:.4g}", "middle")
    )
    return _address(title, parts, HEIGHT)


def _text(x: float, y: float, words: str, anchor: str = "start", colour: str = MUTED) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="13" fill="{colour}">{escape(words)}</text>'


def _address(title: str, parts: Sequence[str], height: float) -> str:
    heading = f'<text x="16" y="25" font-size="16" font-weight="600" fill="{INK}">{escape(title)}</text>'
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}" '
        f'font-family="system-ui, sans-serif"><rect width="100%" height="100%" fill="#ffffff"/>{heading}{"".join(parts)}</svg>'
    )
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
