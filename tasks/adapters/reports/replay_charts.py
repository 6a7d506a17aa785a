"""A replay's series as Plotly traces on one time axis: the building blocks of the replay page's charts.

The palette is that of Okabe and Ito (2008). Shapes, dashes and hatches differ too, so no information is in colour alone.
Text is escaped here, because Plotly interprets tags in its labels.
"""

import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from html import escape
from itertools import groupby
from math import isfinite
from typing import Any

from tasks.adapters.reports.page import Chart
from tasks.policy.evidence.replay import EventKind, Replay, ReplayWindow, RolloutProgress
from tasks.policy.records.base import Window
from tasks.policy.records.reports import MetricValue
from tasks.policy.reporting.replay_story import EVENT_WORDS, ReplayedRollout, scaled, version_name

MARKS: dict[EventKind, tuple[str, str]] = {
    "promoted": ("triangle-up", "better"),
    "retrained": ("circle", "loop"),
    "refused": ("x", "never"),
    "budget_refused": ("diamond-open", "muted"),
    "rolled_back": ("triangle-down", "back"),
    "quarantined": ("square", "warn"),
    "recalled": ("diamond", "back"),
    "shadowed": ("circle-open", "better"),
    "advanced": ("triangle-right", "better"),
    "returned": ("triangle-left", "back"),
    "inconclusive": ("hourglass", "muted"),
    "superseded": ("cross", "muted"),
}
"""Symbol and colour of each kind of event, in the order of their lanes."""

ROLLOUT_MARKS: dict[str, tuple[str, str]] = {
    "promoted": ("triangle-up", "better"),
    "returned": ("triangle-left", "back"),
    "inconclusive": ("hourglass", "muted"),
    "superseded": ("cross", "muted"),
    "aborted": ("x", "never"),
}
"""Symbol and colour of a rollout's last look by how it ended; before its end, looks are blue circles."""

REIGN_TINTS = 4
"""Number of tints that alternate between champions; adjacent ones always differ, and each band shows its version."""

FEW_WINDOWS = 4
"""Up to this many windows, a line alone may be too short to see."""

LONGEST_TAG = 24
"""Maximum characters of a name inside a chart; longer names are truncated, with the full name on hover."""

Reign = tuple[str, Window, int]
"""A champion's name, its uninterrupted time of service, and the number of windows in it."""


def figure(
    replay: Replay, traces: Sequence[Chart], shapes: Sequence[Chart] = (), title: str = "", **yaxis: Any
) -> Chart:
    """Return a figure over the replay's full time, with a thin line wherever the champion changed."""
    span = [replay.windows[0].window.start.isoformat(), replay.windows[-1].window.end.isoformat()]
    handovers = [
        _shape(reign.start, reign.start, type="line", line={"color": "rule", "width": 1, "dash": "dot"})
        for _, reign, _ in reigns(replay)[1:]
    ]
    layout = {
        "xaxis": {"range": span, "type": "date", "hoverformat": " "},
        "yaxis": {"title": plotly_text(title), **yaxis},
        "shapes": [*shapes, *handovers],
    }
    return {"data": list(traces), "layout": layout}


def trace(windows: Sequence[ReplayWindow], y: Iterable[Any], hover: Iterable[str], **style: Any) -> Chart:
    """Return one point per window, at its middle; `customdata` links a click to the window's decision in the table."""
    return {
        "x": [_middle(window.window) for window in windows],
        "y": [None if isinstance(value, float) and not isfinite(value) else value for value in y],
        "hovertext": list(hover),
        "hoverinfo": "text",
        "customdata": [window.decision_id for window in windows],
        **style,
    }


def baseline(windows: Sequence[ReplayWindow], y: Sequence[Any], colour: str, dash: str, shape: str = "linear") -> Chart:
    """Return a baseline's line; its values are shown when hovering over the loop's points."""
    line = {"color": colour, "width": 1.8, "dash": dash, "shape": shape}
    mode = "lines" if len(windows) > FEW_WINDOWS else "lines+markers"
    return trace(windows, y, [], type="scatter", mode=mode, line=line) | {"hoverinfo": "skip"}


def bars(windows: Sequence[ReplayWindow], y: Sequence[float], hover: Sequence[str], fills: Sequence[str],
         hatches: Sequence[str]) -> Chart:  # fmt: skip
    """Return one bar per window, almost as wide as the window, filled and hatched by its verdict."""
    widths = [_width_ms(window.window) * 0.8 for window in windows]
    marker = {"color": list(fills), "pattern": {"shape": list(hatches), "fgcolor": "paper", "size": 5, "solidity": 0.4}}
    return trace(windows, y, hover, type="bar", width=widths, marker=marker)


def band(replay: Replay) -> Chart:
    """Return the interval around the loop's metric: one closed outline per run of windows with an interval."""
    x: list[str | None] = []
    y: list[float | None] = []
    for run in _measured_runs(replay.windows):
        forth = list(_edge(run, upper=True, replay=replay))
        back = list(_edge(run, upper=False, replay=replay))[::-1]
        x += [*(moment for moment, _ in forth + back), None]
        y += [*(value for _, value in forth + back), None]
    style = {"type": "scatter", "mode": "lines", "line": {"width": 0}, "fill": "toself", "fillcolor": "band"}
    return {"x": x, "y": y, "hoverinfo": "skip", **style}


def reign_bars(replay: Replay) -> Chart:
    """Return the serving versions as coloured bands along time."""
    runs = reigns(replay)
    tints = {name: f"reign{i % REIGN_TINTS}" for i, name in enumerate(dict.fromkeys(name for name, _, _ in runs))}
    return {
        "type": "bar",
        "orientation": "h",
        "base": [reign.start.isoformat() for _, reign, _ in runs],
        "x": [_width_ms(reign) for _, reign, _ in runs],
        "y": ["champion"] * len(runs),
        "text": [plotly_text(version_name(name)) for name, _, _ in runs],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "textfont": {"color": "ink"},
        "hovertext": [
            f"<b>{plotly_text(version_name(name))}</b><br>{plotly_text(reign.name)}" for name, reign, _ in runs
        ],
        "hoverinfo": "text",
        "width": 0.82,
        "marker": {"color": [tints[name] for name, _, _ in runs], "line": {"color": "paper", "width": 2}},
    }


def lane(replay: Replay, kind: EventKind) -> Chart:
    """Return the markers of one kind of event; hovering over one shows its sentence."""
    windows = [window for window in replay.windows if any(event.kind == kind for event in window.events)]
    texts = [[event.text for event in window.events if event.kind == kind] for window in windows]
    hover = [label(window, *sentences) for window, sentences in zip(windows, texts, strict=True)]
    symbol, colour = MARKS[kind]
    marker = {"color": colour, "symbol": symbol, "size": 10}
    return trace(windows, [EVENT_WORDS[kind]] * len(windows), hover, type="scatter", mode="markers", marker=marker)


def rollout_line(
    rollouts: Sequence[ReplayedRollout], value: Callable[[RolloutProgress], float | None], **style: Any
) -> Chart:
    """Return a line through a value at each look, with a gap between rollouts; its numbers are on the gain's points."""
    x: list[str | None] = []
    y: list[float | None] = []
    for rollout in rollouts:
        x += [*(_middle(window.window) for window, _ in rollout.windows), None]
        y += [*(value(progress) for _, progress in rollout.windows), None]
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": style, "hoverinfo": "skip"}


def quarantine_shades(replay: Replay) -> list[Chart]:
    """Shade every window whose data failed the quality gate: nothing was measured or decided there."""
    refused = [window.window for window in replay.windows if window.quality == "fail"]
    style = {"type": "rect", "fillcolor": "shade", "line": {"width": 0}, "layer": "below"}
    return [_shape(window.start, window.end, **style) for window in refused]


def reigns(replay: Replay) -> list[Reign]:
    """Return the champions in the order in which they served."""
    runs = [(name, list(run)) for name, run in groupby(replay.windows, key=lambda window: window.champion)]
    return [(name, Window(run[0].window.start, run[-1].window.end), len(run)) for name, run in runs]


def plotly_text(text: str) -> str:
    """Escape text for Plotly, which interprets tags and entities but would show escaped quotes."""
    return escape(text, quote=False)


def label(window: ReplayWindow, *lines: str) -> str:
    """Return a point's hover label: its window in bold, then the lines, wrapped and escaped."""
    wrapped = (plotly_text(part) for line in lines for part in textwrap.wrap(line, 46) or [""])
    return "<br>".join([f"<b>{plotly_text(window.window.name)}</b>", *wrapped])


def peaks(values: Sequence[float | None], count: int) -> list[int]:
    """Return the positions of the largest values, largest first, none close to a larger one."""
    apart = max(1, len(values) // 10)
    chosen: list[int] = []
    order = sorted((i for i, value in enumerate(values) if value), key=lambda i: -(values[i] or 0.0))
    for i in order:
        if len(chosen) < count and all(abs(i - other) >= apart for other in chosen):
            chosen.append(i)
    return chosen


def name_tag(windows: Sequence[ReplayWindow], position: int, y: float | None, name: str | None) -> Chart:
    """Place a name above a point; near an end of the axis it is aligned inwards, so it is not cut off."""
    edge = len(windows) / 5
    anchor = "left" if position < edge else "right" if position >= len(windows) - edge else "center"
    name = name or ""
    text = plotly_text(name if len(name) <= LONGEST_TAG else f"{name[: LONGEST_TAG - 1]}…")
    place = {"x": _middle(windows[position].window), "y": y, "xanchor": anchor, "yanchor": "bottom", "yshift": 4}
    return {"text": text, "showarrow": False, "font": {"color": "ink", "size": 11}, **place}


def _measured_runs(windows: Sequence[ReplayWindow]) -> Iterator[list[tuple[Window, MetricValue]]]:
    for measured, run in groupby(windows, key=lambda window: _bounded(window.metric)):
        if measured:
            yield [(window.window, window.metric) for window in run if window.metric is not None]


def _bounded(metric: MetricValue | None) -> bool:
    return metric is not None and isfinite(metric.low) and isfinite(metric.high)


def _edge(run: Sequence[tuple[Window, MetricValue]], upper: bool, replay: Replay) -> Iterator[tuple[str, float]]:
    """Yield the upper or lower edge of a run's interval; a single window's edge spans its width."""
    for window, metric in run:
        value = scaled(metric.high if upper else metric.low, replay)
        if len(run) == 1:
            yield window.start.isoformat(), value
            yield window.end.isoformat(), value
        else:
            yield _middle(window), value


def _shape(start: datetime, end: datetime, **style: Any) -> Chart:
    """Return a Plotly shape over the full height between two times."""
    where = {"xref": "x", "x0": start.isoformat(), "x1": end.isoformat(), "yref": "paper", "y0": 0, "y1": 1}
    return {**where, **style}


def _middle(window: Window) -> str:
    return (window.start + (window.end - window.start) / 2).isoformat()


def _width_ms(window: Window) -> float:
    return (window.end - window.start).total_seconds() * 1000
