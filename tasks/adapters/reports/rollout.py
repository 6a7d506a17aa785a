"""The page of a rollout: one HTML file with two SVG plots, and the same content as an artifact in the dashboard.

The plots show the gain with its interval and boundaries at each look, and the challenger's share over time. They need no
script. The page shows them in its theme; as an image they have the colours of the light theme.
"""

import base64
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from html import escape
from pathlib import Path

from markupsafe import Markup
from prefect.artifacts import create_image_artifact, create_markdown_artifact

from deployments.config.model import ModelConfig
from tasks.adapters.reports import page
from tasks.adapters.reports.artifacts import bullets, key, table
from tasks.adapters.storage.links import link, version_link
from tasks.policy.records.text import plain
from tasks.policy.reporting import rollout as story, rollout_rows
from tasks.policy.reporting.replay_story import share_text
from tasks.policy.reporting.rollout_looks import Boundary, LookPoint, days_left, expected_boundaries, look_points
from tasks.policy.rollout.stages import RolloutPolicy
from tasks.policy.rollout.state import RolloutState

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 900, 70, 112, 24, 28
GAIN_HEIGHT, SHARE_HEIGHT = 340, 128
CHARACTER = 6.8
"""Mean width of a character at the plots' size of text."""
WIDEST = 4.0
"""Limit of the gain's axis in multiples of the narrowest interval: the first looks' intervals are many times wider."""
SYMBOLS = {"undecided": "", "non_inferior": "passed", "superior": "passed", "worse": "worse"}
TICKS = (
    timedelta(hours=1), timedelta(hours=3), timedelta(hours=12), timedelta(days=1), timedelta(days=2), timedelta(days=5),
    timedelta(days=10), timedelta(days=30), timedelta(days=90), timedelta(days=365),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Frame:
    """The area of a plot: its time and value axes, and their place in the SVG."""

    start: datetime
    end: datetime
    low: float
    high: float
    height: int

    @property
    def bottom(self) -> int:
        return self.height - BOTTOM

    def x(self, at: datetime) -> float:
        return LEFT + (at - self.start) / (self.end - self.start) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return TOP + (self.high - value) / (self.high - self.low) * (self.bottom - TOP)

    def at(self, at: datetime, value: float) -> str:
        return f"{self.x(at):.1f},{self.y(value):.1f}"


def publish_rollout_page(config: ModelConfig, state: RolloutState) -> Path:
    """Write the rollout's HTML page, publish its artifact and the gain's plot as an image; return the page's path.

    Raises WorkspaceError if the page cannot be written.
    """
    path = write_page(config, state)
    first = plain(story.headline(state))
    create_markdown_artifact(markdown(config, state, path), key=key("rollout", config.name), description=first)
    if state.looks:
        title = f"{config.name}: gain of version {state.plan.version} over champion {state.plan.champion}"
        plot = image(gain_plot(state, config.rollout), title)
        create_image_artifact(plot, key=key("plot-rollout", config.name), description=plain(title))
    return path


def write_page(config: ModelConfig, state: RolloutState) -> Path:
    """Write the rollout's HTML page and return its path. Raises WorkspaceError if it cannot be written."""
    return page.write(render(config, state), page.rollout_path(config.name, state.plan), "rollout")


def render(config: ModelConfig, state: RolloutState) -> str:
    """Render the page as HTML."""
    return page.render(
        "rollout.html.j2",
        config=config,
        state=state,
        story=story,
        points=look_points(state),
        visits=rollout_rows.step_visits(state),
        expected=expected_boundaries(state, config.rollout),
        guardrails=rollout_rows.guardrail_rows(state, config.rollout.guardrails),
        uplift=story.uplift(state, config.rollout, config.performance.metric, config.budget),
        version_link=version_link,
        share_text=share_text,
        gain_plot=Markup(gain_plot(state, config.rollout)),  # noqa: S704  # all text in it is escaped
        share_plot=Markup(share_plot(state)),  # noqa: S704
    )


def markdown(config: ModelConfig, state: RolloutState, path: Path) -> str:
    """Return the dashboard's artifact: the first sentence, the plan, then steps, looks and guardrails as tables."""
    policy, plan = config.rollout, state.plan
    warning = story.horizon_warning(state, policy)
    points, guardrails = look_points(state), rollout_rows.guardrail_rows(state, policy.guardrails)
    unevaluated = state.looks[-1].unevaluated if state.looks else ()
    parts = [
        f"# {config.name}: rollout of version {plain(plan.version)}",
        f"**{plain(story.headline(state))}**",
        f"**Warning:** {plain(warning)}" if warning else "",
        bullets(story.uplift(state, policy, config.performance.metric, config.budget)),
        f"[Page with plots]({link(str(path))}) · "
        f"[MLflow: version {plain(plan.version)}]({version_link(config.name, plan.version)})",
        f"## Plan\n\n{bullets(story.plan_sentences(state, policy, config.performance.metric))}",
        f"## Steps\n\n{table(('step', 'share', 'from', 'until', 'what ended it'), list(_step_rows(state)))}",
        f"## Gain at each look\n\n{_looks(points)}" if points else "",
        f"## Guardrails in the last window\n\n{_guardrails(guardrails)}" if guardrails else "",
        f"## Not judged\n\n{bullets(unevaluated)}" if unevaluated else "",
        f"Decision `{plain(plan.decision_id)}`, started {plan.started_at:%Y-%m-%d %H:%M} UTC.",
    ]
    return "\n\n".join(part for part in parts if part)


def _step_rows(state: RolloutState) -> Iterator[tuple[str, ...]]:
    for visit in rollout_rows.step_visits(state):
        ended_by = "; ".join((*visit.remarks, visit.ended_by))
        end = f"{visit.end:%Y-%m-%d %H:%M}" if visit.end else ""
        yield visit.name, share_text(visit.share), f"{visit.start:%Y-%m-%d %H:%M}", end, ended_by


def _looks(points: Sequence[LookPoint]) -> str:
    rows = [
        (
            f"{point.look} of {point.planned_looks}",
            f"{point.at:%Y-%m-%d}",
            f"{point.rows:,}",
            f"{point.gain:+.3g} ({point.low:+.3g} to {point.high:+.3g})",
            f"{point.boundary.passes_above:+.3g}",
            f"{point.boundary.harm_below:+.3g}",
            story.CONCLUSIONS[point.conclusion],
        )
        for point in points
    ]
    return table(("look", "date", "rows", "gain (interval)", "passes above", "returned below", "verdict"), rows)


def _guardrails(rows: Sequence[rollout_rows.GuardrailRow]) -> str:
    return table(
        ("guardrail", "challenger", "champion", "limit", "verdict"),
        [
            (row.name, row.challenger, row.champion, row.limit, f"{row.verdict}{': ' * bool(row.reason)}{row.reason}")
            for row in rows
        ],
    )


def gain_plot(state: RolloutState, policy: RolloutPolicy) -> str:
    """Draw the gain with its interval at each look, equality, the margin, and the boundaries of pass and harm."""
    points, margin = look_points(state), state.plan.forecast.margin if state.plan.forecast else 0.0
    start, end = _span(state)
    known, expected = [point.boundary for point in points], expected_boundaries(state, policy)
    frame = Frame(start, end, *_gain_range(points, margin), GAIN_HEIGHT)
    parts = [*_value_axis(frame, _value_ticks(frame.low, frame.high)), *_time_axis(frame)]
    parts += _zones(frame, [*known[:-1], *(expected or known[-1:])])
    parts += [_line(frame, 0.0, "equal", "equal")]
    if margin:
        parts.append(_line(frame, -margin, "margin", f"margin -{margin:.3g}"))
    parts += [
        *_boundary_lines(frame, known if len(known) > 1 or not expected else []),
        *_boundary_lines(frame, expected, " expected"),
    ]
    parts += _step_lines(frame, state)
    if len(points) > 1:
        parts.append(f'<polyline class="path" points="{" ".join(frame.at(p.at, p.gain) for p in points)}"/>')
    parts += [_look(frame, point) for point in points]
    if not points:
        parts.append(_text(LEFT + 8, frame.y(0) - 8, "no look with labels"))
    return _svg(parts, GAIN_HEIGHT, f"Gain at {len(points)} looks. {story.headline(state)}")


def share_plot(state: RolloutState) -> str:
    """Draw the challenger's share of the traffic over time, with the name of each step."""
    start, end = _span(state)
    frame = Frame(start, end, 0.0, 1.0, SHARE_HEIGHT)
    changes = rollout_rows.share_changes(state)
    # the last share lasts: until now, or a little longer so that a step that has just begun is to be seen
    until = end if state.end else max(_now(state), changes[-1][0] + (end - start) / 30)
    ends = [*(at for at, _ in changes[1:]), until]
    corners = [
        corner
        for (at, share), until in zip(changes, ends, strict=True)
        for corner in (frame.at(at, share), frame.at(until, share))
    ]
    floor = f"{frame.at(ends[-1], 0)} {frame.at(changes[0][0], 0)}"
    parts = [*_value_axis(frame, (0.0, 0.5, 1.0), percent=True), *_time_axis(frame)]
    parts.append(f'<polygon class="share" points="{" ".join(corners)} {floor}"/>')
    parts.append(f'<polyline class="share-line" points="{" ".join(corners)}"/>')
    names = [visit.name for visit in rollout_rows.step_visits(state)]
    names += [state.end.end or ""] if state.end else []
    for name, (at, share), until in zip(names, changes, ends, strict=True):
        x, y = frame.x(at), frame.y(share) - 7 if share < 0.8 else frame.y(share) + 16
        if until == ends[-1] or frame.x(until) - x > CHARACTER * len(name):
            parts.append(_text(x + 5, y, name, css="strong"))
    words = ", then ".join(f"{name} {share_text(share)}" for name, (_, share) in zip(names, changes, strict=True))
    return _svg(parts, SHARE_HEIGHT, f"Share of the traffic: {words}.")


def image(svg: str, title: str) -> str:
    """Return a plot as the address of an image, with its title."""
    style = (page.TEMPLATES / "rollout_plot.css").read_text(encoding="utf-8")
    heading = (
        f'<rect width="100%" height="100%" fill="#ffffff"/><text x="12" y="16" class="strong">{escape(title)}</text>'
    )
    opening, rest = svg.split(">", 1)
    styled = f'{opening} font-family="system-ui, sans-serif"><style>{style}</style>{heading}{rest}'
    return "data:image/svg+xml;base64," + base64.b64encode(styled.encode()).decode()


def _now(state: RolloutState) -> datetime:
    """Return the time of the last look or move."""
    return max([state.plan.started_at, *(look.at for look in state.looks), *(move.at for move in state.moves)])


def _span(state: RolloutState) -> tuple[datetime, datetime]:
    """Return the time axis: until the planned end while the rollout runs, until shortly after its end later."""
    start, now = state.plan.started_at, _now(state)
    left = days_left(state) if state.is_active else None
    shown = now - start + timedelta(days=left or 0.0)
    return start, start + max(shown * 1.06, timedelta(hours=1))


def _gain_range(points: Sequence[LookPoint], margin: float) -> tuple[float, float]:
    """Return the value axis: every gain, equality, the margin, and the intervals as far as WIDEST allows."""
    narrowest = min([(point.high - point.low) / 2 for point in points], default=0.0)
    limit = WIDEST * max(narrowest, margin) or 1.0
    lows = [max(point.low, point.gain - limit) for point in points]
    highs = [min(point.high, point.gain + limit) for point in points]
    around = (2 if points else 4) * margin
    low, high = min([0.0, -around, *lows]), max([0.0, around / 2, *highs])
    padding = 0.06 * (high - low) or 1.0
    return low - padding, high + padding


def _zones(frame: Frame, boundaries: Sequence[Boundary]) -> Iterator[str]:
    """Shade where a gain passes and where it is returned."""
    if len(boundaries) < 2:
        return
    first, last = boundaries[0].at, boundaries[-1].at
    passes = " ".join(frame.at(each.at, each.passes_above) for each in boundaries)
    harms = " ".join(frame.at(each.at, each.harm_below) for each in boundaries)
    for css, line, edge in (("pass-zone", passes, frame.high), ("harm-zone", harms, frame.low)):
        if line:
            corners = f"{line} {frame.at(last, edge)} {frame.at(first, edge)}"
            yield f'<polygon class="{css}" clip-path="url(#area)" points="{corners}"/>'


def _boundary_lines(frame: Frame, boundaries: Sequence[Boundary], style: str = "") -> Iterator[str]:
    """Draw both boundaries through their looks; those of a single look are short lines."""
    if len(boundaries) == 1:
        shift = (frame.end - frame.start) / 60
        only = boundaries[0]
        boundaries = [replace(only, at=only.at - shift), replace(only, at=only.at + shift)]
    passes = " ".join(frame.at(each.at, each.passes_above) for each in boundaries)
    harms = " ".join(frame.at(each.at, each.harm_below) for each in boundaries)
    for css, line in (("pass", passes), ("harm", harms)):
        if line:
            yield f'<polyline class="{css}{style}" clip-path="url(#area)" points="{line}"/>'


def _step_lines(frame: Frame, state: RolloutState) -> Iterator[str]:
    """Mark the start of each step, and the end; a name that would touch the next one is left out."""
    moments = [(visit.start, visit.name) for visit in rollout_rows.step_visits(state)]
    left = days_left(state) if state.is_active else None
    if left:
        moments.append((_now(state) + timedelta(days=left), "planned end"))
    elif state.end:
        moments.append((state.end.at, state.end.end or "ended"))
    following = [frame.x(at) for at, _ in moments[1:]] + [float(WIDTH)]
    for number, ((at, name), until) in enumerate(zip(moments, following, strict=True)):
        x = frame.x(at)
        if number:
            yield f'<line class="moment" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{frame.bottom}"/>'
        if until - x > 4 + CHARACTER * len(name):
            yield _text(x + 3, TOP - 8, name, css="strong")


def _look(frame: Frame, point: LookPoint) -> str:
    """Draw one look: its interval, and a circle while undecided, a triangle upwards if it passed, downwards if worse."""
    x, y = frame.x(point.at), frame.y(point.gain)
    top, bottom = max(frame.y(point.high), TOP), min(frame.y(point.low), frame.bottom)
    mark = {
        "": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>',
        "passed": f'<path d="M{x:.1f} {y - 7:.1f}l7 12h-14z"/>',
        "worse": f'<path d="M{x:.1f} {y + 7:.1f}l7 -12h-14z"/>',
    }[SYMBOLS[point.conclusion]]
    caps = "".join(
        f'<line x1="{x - 5:.1f}" x2="{x + 5:.1f}" y1="{end:.1f}" y2="{end:.1f}"/>'
        for end in (frame.y(point.high), frame.y(point.low))
        if TOP <= end <= frame.bottom
    )
    words = (
        f"look {point.look} of {point.planned_looks}, {point.at:%Y-%m-%d}: gain {point.gain:+.3g} ({point.low:+.3g} to "
        f"{point.high:+.3g}) on {point.rows:,} rows; {story.CONCLUSIONS[point.conclusion]}"
    )
    bar = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'
    return f'<g class="look {SYMBOLS[point.conclusion]}"><title>{escape(words)}</title>{bar}{caps}{mark}</g>'


def _line(frame: Frame, value: float, css: str, words: str) -> str:
    y = frame.y(value)
    line = f'<line class="{css}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return line + _text(WIDTH - RIGHT + 6, y + 4, words, css="strong")


def _value_axis(frame: Frame, ticks: Sequence[float], percent: bool = False) -> Iterator[str]:
    for tick in ticks:
        y = frame.y(tick)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield _text(LEFT - 8, y + 4, share_text(tick) if percent else f"{tick:+.3g}" if tick else "0", "end")


def _value_ticks(low: float, high: float) -> list[float]:
    """Return about six round values."""
    rough = (high - low) / 6
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _time_axis(frame: Frame) -> Iterator[str]:
    step = next((step for step in TICKS if (frame.end - frame.start) / step <= 9), TICKS[-1])
    midnight = frame.start.replace(hour=0, minute=0, second=0, microsecond=0)
    tick = midnight + math.ceil((frame.start - midnight) / step) * step
    while tick <= frame.end:
        words = f"{tick:%H:%M}" if step < timedelta(days=1) and tick.hour else f"{tick.day} {tick:%b}"
        yield f'<line class="grid" x1="{frame.x(tick):.1f}" x2="{frame.x(tick):.1f}" y1="{TOP}" y2="{frame.bottom}"/>'
        yield _text(frame.x(tick), frame.bottom + 18, words, "middle")
        tick += step


def _text(x: float, y: float, words: str, anchor: str = "start", css: str = "") -> str:
    style = f' class="{css}"' if css else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(words)}</text>'


def _svg(parts: Sequence[str], height: int, words: str) -> str:
    inside = f'x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{height - TOP - BOTTOM}"'
    area = f'<clipPath id="area"><rect {inside}/></clipPath>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" role="img" aria-label="{escape(words)}" '
        f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">{area}{"".join(parts)}</svg>'
    )
