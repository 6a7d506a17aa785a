"""The replay as one HTML page, from the outcome to its causes and its cost, and as a table for the terminal.

Each chart has a title that names the quantity, one line on how to read it, a legend, and a sentence that describes it
for readers who cannot see it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import isfinite
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from tasks.adapters.reports import page, replay_charts as charts
from tasks.policy.evidence.replay import Replay, ReplayWindow, RolloutProgress
from tasks.policy.reporting import replay_story as story
from tasks.policy.reporting.decision import as_sentence
from tasks.policy.reporting.replay_story import (
    EVENT_WORDS,
    confidence_text,
    counted,
    effect_text,
    metric_name,
    scaled,
    share_text,
    shown,
    unit_of,
    version_name,
)

LINK_SCHEMES = ("", "http", "https", "file")

NAMED_PEAKS = 6
"""Number of worst features named in the chart; the others are named on hover."""

SHADOW_HEIGHT = 6.0
"""Height in percent of the bars of a challenger that serves nothing; a bar of 0 would not be seen."""

BASELINE_KEYS = (("line never", "never retrained"), ("line every", "retrained every window"))


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart; `keys` are pairs of style class and label, `height` is in pixels."""

    name: str
    title: str
    note: str
    keys: tuple[tuple[str, str], ...]
    summary: str
    height: int
    figure: page.Chart


def write_page(replays: Sequence[Replay], path: Path, links: Mapping[str, str] | None = None) -> Path:
    """Write the page atomically to `path` and return it. `links` are texts and addresses for its header.

    Raises ValueError for a link with another scheme than http(s) or file, WorkspaceError if the file cannot be written.
    """
    for words, address in (links or {}).items():
        if urlsplit(address).scheme.lower() not in LINK_SCHEMES:
            raise ValueError(f"link {words!r} points to {address!r}; expected http(s)://, file:// or a relative path")
    drawn = [_panels(replay) for replay in replays]
    figures = {f"{panel.name}-{i}": panel.figure for i, group in enumerate(drawn) for panel in group}
    html = page.render(
        "replay.html.j2",
        figures,
        story=story,
        as_sentence=as_sentence,
        replays=replays,
        panels=drawn,
        links=links or {},
    )
    return page.write(html, path, "replay")


def summary_table(replays: Sequence[Replay]) -> Table:
    """Return the outcome of every model as a table for the terminal; metrics are means over the same served windows."""
    table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False, title_justify="left", caption_justify="left")
    table.title = f"Replay, {story.period(replays)}"
    table.caption = "Means over the windows where all three are known. ↓ lower is better, ↑ higher is better."
    for heading in ("model", "metric"):
        table.add_column(heading, overflow="fold")
    for heading in ("loop", "never", "every", "retrains", "promoted", "refused", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for replay in replays:
        means, gain = story.comparison(replay), story.gain_over_never(replay)
        values = [story.shown(means.get(baseline), replay) for baseline in ("loop", "never", "every")]
        if gain is not None and gain > 0:
            values[0] = f"[bold green]{values[0]}[/]"
        counts = [replay.count("retrained"), replay.count("promoted"), story.refusals(replay)]
        seconds = f"{story.total_seconds(replay):.0f} s"
        metric = Text(f"{story.metric_in_unit(replay)} {story.better_arrow(replay)}")
        table.add_row(Text(replay.model), metric, *values, *map(str, counts), seconds)
    return table


def _panels(replay: Replay) -> tuple[Panel, ...]:
    """Return the charts of one replay; empty without windows."""
    makers = (_metric, _events, *((_gain, _share) if story.rollouts(replay) else ()), _drift, _worst, _labels, _cost)
    return tuple(make(replay) for make in makers) if replay.windows else ()


def _metric(replay: Replay) -> Panel:
    windows = replay.windows
    values = [w.metric and scaled(w.metric.value, replay) for w in windows]
    never = [None if w.never is None else scaled(w.never, replay) for w in windows]
    every = [None if w.every is None else scaled(w.every, replay) for w in windows]
    estimated = [bool(w.metric and w.metric.estimated) for w in windows]
    marker = {
        "color": "loop",
        "size": 5 if len(windows) < 150 else 3,
        "symbol": ["circle-open" if guess else "circle" for guess in estimated],
    }
    hover = [_metric_label(window, replay) for window in windows]
    line = {"color": "loop", "width": 2.5}
    loop = charts.trace(windows, values, hover, type="scatter", mode="lines+markers", line=line, marker=marker)
    baselines = [charts.baseline(windows, every, "every", "dot"), charts.baseline(windows, never, "never", "dash")]
    shades = charts.quarantine_shades(replay)
    keys = [("line loop", "the loop"), ("band loop", confidence_text(replay)), *BASELINE_KEYS]
    keys += [("ring loop", "estimate until labels arrive")] * any(estimated)
    keys += [("shade", "quarantined")] * bool(shades)
    note = "Per window, higher is better." if replay.higher_is_better else "Per window, lower is better."
    axis_title = unit_of(replay) or metric_name(replay).short
    figure = charts.figure(replay, [charts.band(replay), *baselines, loop], shades, title=axis_title)
    known = sum(value is not None for value in values)
    note = note if known else "No window has a value yet: its labels are open or its data was quarantined."
    summary = f"{metric_name(replay).title}: {known} of {counted(len(windows), 'window')} have a value."
    return Panel("metric", metric_name(replay).title, note, tuple(keys), summary, 312, figure)


def _metric_label(window: ReplayWindow, replay: Replay) -> str:
    served = f"{version_name(window.champion)} served {counted(window.rows, 'row')}"
    metric = window.metric
    if metric is None:
        why = "quarantined" if window.quality == "fail" else f"labels {window.maturity}"
        return charts.label(window, served, f"no value: {why}")
    interval = f"({shown(metric.low, replay)} to {shown(metric.high, replay)})"
    loop = f"loop {shown(metric.value, replay, unit=True)} {interval}{', estimated' if metric.estimated else ''}"
    baselines = f"never retrained {shown(window.never, replay)}, every window {shown(window.every, replay)}"
    return charts.label(window, served, loop, baselines)


def _events(replay: Replay) -> Panel:
    happened = {event.kind for window in replay.windows for event in window.events}
    kinds = [kind for kind in charts.MARKS if kind in happened]
    lanes = ["champion", *(EVENT_WORDS[kind] for kind in kinds)]
    reigns = ", then ".join(version_name(name) for name, _, _ in charts.reigns(replay))
    counts = ", ".join(f"{replay.count(kind)} {EVENT_WORDS[kind]}" for kind in kinds)
    axis: dict[str, Any] = {"type": "category", "categoryorder": "array", "categoryarray": lanes, "showgrid": False}
    traces = [charts.reign_bars(replay), *(charts.lane(replay, kind) for kind in kinds)]
    figure = charts.figure(replay, traces, **axis, range=[len(lanes) - 0.4, -0.6])
    figure["layout"]["hovermode"] = "closest"
    summary = f"Champions: {reigns}. Events: {counts or 'none'}."
    note = "Which version served, and what was done. A thin line runs through all charts where a new one took over."
    return Panel("events", "Champion and events", note, (), summary, 52 + 27 * len(lanes), figure)


def _gain(replay: Replay) -> Panel:
    """Plot the challenger's gain at each look of a rollout, with its interval and boundaries."""
    rollouts = story.rollouts(replay)
    looks = [(window, progress) for each in rollouts for window, progress in each.windows if progress.has_gain]
    gains = [scaled(progress.gain or 0.0, replay) for _, progress in looks]
    above = [scaled((progress.high or 0.0) - (progress.gain or 0.0), replay) for _, progress in looks]
    below = [scaled((progress.gain or 0.0) - (progress.low or 0.0), replay) for _, progress in looks]
    marks = [charts.ROLLOUT_MARKS.get(progress.status, ("circle", "loop")) for _, progress in looks]
    marker = {"color": [colour for _, colour in marks], "symbol": [symbol for symbol, _ in marks], "size": 8}
    bars = {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "color": "loop",
        "thickness": 1.2,
        "width": 3,
    }
    hover = [_rollout_label(window, progress, replay) for window, progress in looks]
    points = charts.trace(
        [window for window, _ in looks], gains, hover, type="scatter", mode="markers", marker=marker, error_y=bars
    )
    lines = [
        charts.rollout_line(rollouts, lambda p: _scaled(p.passes_above, replay), color="better", width=1.8),
        charts.rollout_line(rollouts, lambda p: _scaled(p.harm_below, replay), color="never", width=1.8),
        charts.rollout_line(
            rollouts, lambda p: _scaled(p.margin and -p.margin, replay), color="ink", width=1.2, dash="dash"
        ),
    ]
    figure = charts.figure(replay, [*lines, points], title=unit_of(replay) or metric_name(replay).short)
    margins = [progress.margin for _, progress in looks if progress.margin]
    figure["layout"]["yaxis"] |= {"range": _gain_range(gains, [*above, *below], [scaled(m, replay) for m in margins])}
    figure["layout"]["yaxis"] |= {"zeroline": True, "zerolinecolor": "ink", "zerolinewidth": 1}
    keys = [("line loop", "gain, sequential interval"), ("line pass", "passes above"), ("line harm", "returned below")]
    keys += [("line edge", "accepted margin")] * bool(margins)
    note = "Challenger against champion on the labelled rows of its rollout so far; above 0 is better."
    summary = f"{counted(len(rollouts), 'rollout')} with {counted(len(looks), 'look')}."
    return Panel("gain", "Rollouts: gain", note, tuple(keys), summary, 212, figure)


def _scaled(value: float | None, replay: Replay) -> float | None:
    return None if value is None else scaled(value, replay)


def _gain_range(gains: Sequence[float], halves: Sequence[float], margins: Sequence[float]) -> list[float]:
    """Return the axis: all gains and margins, and intervals up to the typical ones; those of first looks are far wider."""
    typical = 1.5 * sorted(halves)[len(halves) // 2] if halves else 0.0
    reach = max([*map(abs, gains), *margins, 0.0], default=0.0) + typical
    return [-reach or -1.0, reach or 1.0]


def _rollout_label(window: ReplayWindow, progress: RolloutProgress, replay: Replay) -> str:
    where = f"{version_name(progress.version)} against {version_name(progress.champion)}: {progress.step}, {progress.status}"
    look = f"look {progress.look} of {progress.planned_looks}" if progress.look else "no look yet"
    one = story.ReplayedRollout(((window, progress),))
    gain = f"{look}, gain {story.gain_text(one, replay)}" if progress.has_gain else look
    return charts.label(window, where, gain, *([progress.reason] if progress.reason else []))


def _share(replay: Replay) -> Panel:
    """Plot the share of the traffic that a challenger serves in each window of a rollout."""
    rollouts = story.rollouts(replay)
    found = [(window, progress) for each in rollouts for window, progress in each.windows]
    windows = [window for window, _ in found]
    shares = [max(100 * progress.share, SHADOW_HEIGHT) for _, progress in found]
    fills = [charts.ROLLOUT_MARKS.get(progress.status, ("", "loop"))[1] for _, progress in found]
    hatches = ["" if progress.share else "/" for _, progress in found]
    hover = [_rollout_label(window, progress, replay) for window, progress in found]
    bars = charts.bars(windows, shares, hover, fills, hatches)
    figure = charts.figure(replay, [bars], title="% of traffic", range=[0, 108], tickvals=[0, 50, 100])
    statuses = {progress.status for _, progress in found}
    keys = [("box loop", "serves its share")] * any(0 < progress.share < 1 for _, progress in found)
    keys += [("hatch loop", "in shadow")] * any(not p.share and p.status not in story.ROLLOUT_ENDS for _, p in found)
    keys += [("box better", "promoted")] * ("promoted" in statuses) + [("hatch back", "returned")] * (
        "returned" in statuses
    )
    keys += [("hatch muted", "ended without a verdict")] * bool(statuses & {"inconclusive", "superseded"})
    ends = Counter(each.last.status.replace("_", " ") for each in rollouts)
    summary = f"Rollouts: {', '.join(f'{count} {status}' for status, count in ends.items())}."
    return Panel(
        "share", "Rollouts: share", "Share of the traffic after each window.", tuple(keys), summary, 142, figure
    )


def _drift(replay: Replay) -> Panel:
    windows = replay.windows
    fills = ["never" if w.drift == "drifted" else "calm" for w in windows]
    hatches = ["/" if w.drift == "insufficient" else "" for w in windows]
    shares = [w.drifted_share * 100 for w in windows]
    hover = [charts.label(w, _drift_sentence(w), f"diagnosis: {w.diagnosis.replace('_', ' ')}") for w in windows]
    bars = charts.bars(windows, shares, hover, fills, hatches)
    figure = charts.figure(replay, [bars], title="% of features", range=[0, max(10.0, *shares) * 1.1], nticks=4)
    past = sum(w.drift == "drifted" for w in windows)
    keys = [("box never", "drifted")] * bool(past) + [("box calm", "stable")] * ("stable" in {w.drift for w in windows})
    keys += [("hatch calm", "too few rows")] * any(hatches)
    note = "Share of features that moved from the champion's reference."
    summary = f"{past} of {counted(len(windows), 'window')} drifted."
    return Panel("drift", "Drifted features", note, tuple(keys), summary, 162, figure)


def _drift_sentence(window: ReplayWindow) -> str:
    if window.drift == "insufficient":
        return f"too few rows to tell drift from chance ({window.rows:,})"
    return f"{window.drift}: {share_text(window.drifted_share)} of features drifted"


def _worst(replay: Replay) -> Panel:
    windows = replay.windows
    effects = [w.worst_effect if w.worst_effect is not None and isfinite(w.worst_effect) else None for w in windows]
    top = max((effect for effect in effects if effect is not None), default=0.0)
    hover = [charts.label(w, f"{w.worst_feature or 'no feature'}: {effect_text(w.worst_effect)}") for w in windows]
    named = charts.peaks(effects, NAMED_PEAKS)
    line = charts.trace(windows, effects, hover, type="scatter", mode="lines+markers", **_stroke("muted"))
    figure = charts.figure(replay, [line], title="effect size", range=[0, top * 1.45 or 1], nticks=4)
    figure["layout"]["annotations"] = [charts.name_tag(windows, i, effects[i], windows[i].worst_feature) for i in named]
    worst = next((w for w in windows if top and w.worst_effect == top), None)
    summary = f"Largest: {worst.worst_feature}, {effect_text(top)}, in {worst.window.name}." if worst else "No effect."
    note = "The one that moved most in its window; 0 is unchanged."
    return Panel("worst", "Worst feature", note, (), summary, 172, figure)


def _labels(replay: Replay) -> Panel:
    windows = replay.windows
    fills = ["calm" if w.maturity == "closed" else "warn" for w in windows]
    hatches = [{"closed": "", "maturing": "/", "open": "x"}[w.maturity] for w in windows]
    shares = [w.labelled_rows / w.rows * 100 if w.rows else 0.0 for w in windows]
    hover = [charts.label(w, f"{w.maturity}: {w.labelled_rows:,} of {w.rows:,} rows have a label") for w in windows]
    bars = charts.bars(windows, shares, hover, fills, hatches)
    figure = charts.figure(replay, [bars], title="% of rows", range=[0, 105], tickvals=[0, 50, 100])
    counts = {kind: sum(w.maturity == kind for w in windows) for kind in ("closed", "maturing", "open")}
    keys = (("box calm", "closed"), ("hatch warn", "maturing"), ("cross warn", "open"))
    summary = f"Windows by maturity: {', '.join(f'{count} {kind}' for kind, count in counts.items())}."
    note = "Label maturity of each window when it was last judged."
    return Panel("labels", "Labels known", note, tuple(key for key in keys if counts[key[1]]), summary, 142, figure)


def _cost(replay: Replay) -> Panel:
    windows = replay.windows
    loop = list(accumulate(sum(event.kind == "retrained" for event in w.events) for w in windows))
    every = list(range(1, len(windows) + 1))
    hover = [
        charts.label(w, f"{counted(made, 'retrain')} so far, {at_every} had it retrained every window")
        for w, made, at_every in zip(windows, loop, every, strict=True)
    ]
    line = charts.trace(windows, loop, hover, type="scatter", mode="lines", line={"color": "loop", "width": 2.5})
    line["line"]["shape"] = "hvh"
    baselines = [
        charts.baseline(windows, every, "every", "dot"),
        charts.baseline(windows, [0] * len(windows), "never", "dash"),
    ]
    figure = charts.figure(replay, [*baselines, line], title="retrains", range=[0, len(windows) * 1.25], nticks=4)
    last = len(windows) - 1
    ends = ((loop[-1], f"the loop {loop[-1]}"), (every[-1], f"every window {every[-1]}"))
    figure["layout"]["annotations"] = [charts.name_tag(windows, last, count, words) for count, words in ends]
    summary = f"{counted(loop[-1], 'retrain')} by the loop, {every[-1]} had it retrained every window."
    keys = (("line loop", "the loop"), *BASELINE_KEYS)
    return Panel("cost", "Cost: retrains so far", "Each one is a fit and a validation.", keys, summary, 182, figure)


def _stroke(colour: str) -> dict[str, dict[str, object]]:
    return {"line": {"color": colour, "width": 1.5}, "marker": {"color": colour, "size": 5}}
