"""The fleet page as self-contained HTML, and the table in the dashboard's artifact.

The page has no script. A report's link is relative to the page, or an http(s), file, s3 or gs address.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from prefect.artifacts import create_markdown_artifact

from tasks.adapters.reports import page
from tasks.adapters.reports.artifacts import table
from tasks.adapters.storage.links import link, relative_link, version_link
from tasks.policy.records.text import plain
from tasks.policy.reporting.decision import action_words, as_sentence, headline
from tasks.policy.reporting.fleet import Fleet, FleetMember
from tasks.policy.reporting.replay_story import share_text
from tasks.policy.reporting.rollout import headline as rollout_headline, looks_words
from tasks.policy.rollout.state import RolloutState

WIDTH, HEIGHT, MARGIN = 180.0, 44.0, 4.0


@dataclass(frozen=True, slots=True)
class Curve:
    """A line chart in an SVG of WIDTH × HEIGHT: its points, the last point, the height of the best past level."""

    points: str
    last: tuple[float, float]
    baseline: float | None
    words: str


def publish_fleet(fleet: Fleet, address: str) -> None:
    """Publish the state of every model as a table; a single artifact, whose history shows the trend."""
    create_markdown_artifact(markdown(fleet, address), key="fleet", description=plain(fleet.headline))


def render(fleet: Fleet, without_file: Sequence[str] = ()) -> str:
    """Render the page. `without_file` lists the models in the ledger that no file describes."""
    return page.render(
        "fleet.html.j2",
        fleet=fleet,
        without_file=without_file,
        curve=curve,
        limits=limits,
        action_words=action_words,
        as_sentence=as_sentence,
        reports=report_links,
        rollouts=[(model, rollout_cells(state), _rollout_page(model, state)) for model, state in fleet.rollouts],
        version_link=version_link,
        size=(WIDTH, HEIGHT),
    )


def curve(member: FleetMember) -> Curve | None:
    """Return the metric over the latest windows; None for fewer than two values."""
    values = [value for _, value in member.series]
    if len(values) < 2:
        return None
    level = member.baseline.value if member.baseline else None
    shown = values if level is None else [*values, level]
    low, high = min(shown), max(shown)
    span = high - low or 1.0

    def height(value: float) -> float:
        return round(HEIGHT - MARGIN - (value - low) / span * (HEIGHT - 2 * MARGIN), 1)

    step = (WIDTH - 2 * MARGIN) / (len(values) - 1)
    points = [(round(MARGIN + index * step, 1), height(value)) for index, value in enumerate(values)]
    first, last = member.series[0][0], member.series[-1][0]
    words = f"{len(values)} windows from {first.start:%Y-%m-%d} to {last.end:%Y-%m-%d}, {min(values):.4g} to {max(values):.4g}"
    return Curve(
        " ".join(f"{x:g},{y:g}" for x, y in points), points[-1], None if level is None else height(level), words
    )


def limits(member: FleetMember) -> tuple[str, str]:
    """Return retrains and spending (USD) of the last 30 days, each with its limit."""
    facts = member.facts
    retrains = f"{member.retrains}" + (f" of {facts.max_retrains}" if facts.max_retrains is not None else ", no limit")
    spent = f"{facts.spent_usd:,.2f} USD"
    return retrains, spent + (f" of {facts.max_usd:,.2f} USD" if facts.max_usd is not None else ", no limit")


def report_links(member: FleetMember) -> tuple[tuple[str, str], ...]:
    """Return text and address of each of the latest window's reports, relative to the page."""
    evidence = member.latest.evidence if member.latest else None
    found = (("drift report", evidence.drift), ("data checks", evidence.quality)) if evidence else ()
    links = ((words, relative_link(report.report_uri)) for words, report in found if report and report.report_uri)
    return tuple((words, address) for words, address in links if _is_page(address))


def rollout_cells(state: RolloutState) -> tuple[str, ...]:
    """Return version, step, share, looks and the sentence of a running rollout."""
    share = share_text(state.current.share)
    return state.plan.version, state.current.name, share, looks_words(state), rollout_headline(state)


def _rollout_page(model: str, state: RolloutState) -> str:
    return relative_link(str(page.rollout_path(model, state.plan)))


def _is_page(address: str) -> bool:
    scheme, separator, _ = address.partition("://")
    return not separator or scheme.lower() in ("http", "https", "file", "s3", "gs")


def markdown(fleet: Fleet, address: str) -> str:
    """Return the dashboard's artifact: a list of what needs attention, then every model as a table."""
    lines = [f"# Fleet: {fleet.headline}", f"[Full page]({link(address)}), as of {fleet.as_of:%Y-%m-%d %H:%M} UTC."]
    if fleet.balance:
        lines.append(plain(f"{fleet.balance.sentence}; {max(0.0, fleet.balance.left_usd):,.2f} USD are left."))
    urgent = [f"- **{plain(each.model)}**: {plain(each.sentence)}" for each in fleet.broken]
    urgent += [
        f"- **{plain(member.facts.model)}**: {plain(need.sentence)}"
        for member in fleet.members
        for need in member.needs
    ]
    if urgent:
        lines += ["## What to look at, most urgent first", "\n".join(urgent)]
    header = ("model", "health", "champion", "metric", "drift", "next check", "retrains", "spent", "last decision")
    unknown = ("action required", *["not known"] * (len(header) - 2))
    rows = [header, tuple("---" for _ in header), *((plain(each.model), *unknown) for each in fleet.broken)]
    rows += map(_row, fleet.members)
    lines += ["## All models", "\n".join("| " + " | ".join(row) + " |" for row in rows)]
    if fleet.rollouts:
        running = [(model, *rollout_cells(state)) for model, state in fleet.rollouts]
        lines += ["## Running rollouts", table(("model", "version", "step", "share", "looks", "rollout"), running)]
    return "\n\n".join(lines)


def _row(member: FleetMember) -> tuple[str, ...]:
    facts, latest, champion = member.facts, member.latest, member.facts.champion
    drift = latest.evidence.drift if latest else None
    retrains, spent = limits(member)
    cells = (
        f"{member.metric.name} {member.metric.value:.4g}" if member.metric else "no labels yet",
        f"{drift.verdict}, {drift.drifted_share:.0%}" if drift else "not measured",
        f"{member.next_check:%Y-%m-%d %H:%M}" if member.next_check else "none",
        retrains,
        spent,
        headline(latest.decision, latest.champion) if latest else "none yet",
    )
    serving = f"[version {champion.version}]({version_link(facts.model, champion.version)})" if champion else "none"
    return plain(facts.model), member.health, serving, *map(plain, cells)
