"""The YAML file of a new model: what matters only, each guess with its reason, and a question mark where a person decides.

`completed` replaces the question marks by stand-ins, so that the file can be checked and back-tested before anyone has
answered. Stand-ins are never written to the model's file.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from deployments.config.messages import QUESTION
from deployments.config.model import MONTH_DAYS
from tasks.adapters.inspection.columns import share_of_rows
from tasks.adapters.inspection.proposal import Proposal
from tasks.adapters.inspection.times import HOLDOUT_DAYS, HOLDOUT_ROWS, Division, Guess, holdout_days
from tasks.adapters.sources import sql
from tasks.adapters.sources.files import without_credentials
from tasks.policy.records.errors import ModelConfigError
from tasks.policy.records.text import printable

CANARY_DAYS, CANARY_ROWS = 60, 20_000
"""Default of `rollout.max_days`, and rows in that time below which a canary usually ends without a verdict."""
LEAST_LOOKS, MOST_DAYS = 6, 3660
"""Windows that a rollout may last at least, and the largest `rollout.max_days`."""
FEEDBACK = (
    "can an answer change what is observed later, as an offer or a credit limit does? false: a shadow on the same rows decides; "
    "true: a new version must answer a part of the rows, of which there are few here"
)
FEW_ROWS = 2500
"""History rows below which the default `training.min_rows` of 1,000 could refuse a first model."""
STAND_INS: dict[tuple[str, ...], Any] = {
    ("owner",): "nobody yet",
    ("purpose",): "A back-test before anyone has answered.",
    ("risk",): "low",
    ("columns", "label_delay_hours"): 0,
    ("rollout", "feedback"): True,
    ("budget", "value_usd_per_metric_unit_per_day"): None,
}
"""What the back-test assumes for questions that are still open."""


@dataclass(frozen=True)
class People:
    """What only people know; None where it is still open."""

    owner: str | None = None
    purpose: str | None = None
    risk: str | None = None
    value_usd: float | None = None
    feedback: bool | None = None
    """Whether an answer can change what is observed later; asked where `few_for_canary`."""


def write_draft(path: Path, text: str) -> None:
    """Write a new file. Raises ModelConfigError if it exists or cannot be written; nothing is ever overwritten."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ModelConfigError(
            f"{path}: exists already, expected a new file; choose another name, or delete it first"
        ) from None
    except OSError as error:
        raise ModelConfigError(
            f"{path}: cannot be written ({error.strerror}); expected a folder you may write to"
        ) from None


def draft(proposal: Proposal, people: People, folder: Path, now: datetime) -> str:
    """Return the text of the model's file, to be stored in `folder`.

    Names and values of the table are in its comments, so no line may contain a line break: what follows one would be read
    as settings, which can name code to import.
    """
    lines = [*_head(proposal, people, folder), *_columns(proposal), *_windows(proposal, now), *_rest(proposal, people)]
    return "".join(f"{printable(line)}\n" for line in lines)


def _head(proposal: Proposal, people: People, folder: Path) -> Iterator[str]:
    place = proposal.table.source.get("path") or proposal.table.source["url_env"]
    sampled = f", of which {len(proposal.table.sample):,} were looked at" if proposal.table.is_sampled else ""
    name = str(place).split("?")[0].rstrip("/").rpartition("/")[2]
    yield f"# Written by `perennial new` from {name}: {proposal.table.rows:,} rows{sampled}. Comments say why."
    yield f'# A value "{QUESTION}" is a question that only you can answer; `perennial check` lists them all.'
    yield f"name: {proposal.model}"
    yield _line("owner", people.owner, "who is asked when a decision or an incident requires a person")
    yield _line("purpose", people.purpose, "what the prediction is used for, in one sentence")
    yield _line(
        "risk", people.risk, "what a wrong model costs: low, medium or high; high asks a person before each promotion"
    )
    yield _line("task", proposal.task.value, proposal.task.reason)
    yield f"source: {_flow(source_block(proposal, folder))}{_source_comment(proposal)}"


def source_block(proposal: Proposal, folder: Path) -> dict[str, Any]:
    """Return the `source` block: a local path as the file in `folder` names it, a query with the bounds of a window."""
    block = {name: value for name, value in proposal.table.source.items() if name != "options"}
    if "path" in block and "://" not in block["path"]:
        place = Path(block["path"]).resolve()
        inside = place.is_relative_to(folder.resolve())
        block["path"] = str(place.relative_to(folder.resolve()) if inside else place)
    if "query" in block and ":start" not in block["query"] and proposal.time.value:
        block["query"] = _bounded(block, proposal.time.value, bool(proposal.table.place.table))
    options = proposal.source_options
    return block | ({"options": options} if options else {})


def _bounded(block: Mapping[str, Any], time: str, is_table: bool) -> str:
    """Return a query that returns the rows of one window; the time column is quoted as the database does."""
    column = sql.quoted(block["url_env"], time, f"--url-env {block['url_env']}")
    query = block["query"] if is_table else f"SELECT * FROM ({block['query'].rstrip('; ')}) AS found"  # noqa: S608  # own query, own file
    return f"{query} WHERE {column} >= :start AND {column} < :end"


def _source_comment(proposal: Proposal) -> str:
    notes = []
    path = str(proposal.table.source.get("path", ""))
    if without_credentials(path) != path:
        notes.append("the address may hold a key, so keep this file private")
    if proposal.source_options.get("time_zone") == "UTC":
        notes.append("times have no zone: UTC is assumed; else write its IANA name, such as Europe/Berlin")
    return f"  # {'; '.join(notes)}" if notes else ""


def _columns(proposal: Proposal) -> Iterator[str]:
    ids = proposal.id.value
    yield "columns:"
    yield _line("  id", (list(ids) if len(ids) > 1 else ids[0]) if ids else None, _reason(proposal.id))
    yield _line("  time", proposal.time.value, _reason(proposal.time))
    yield _line("  label", proposal.label.value, _reason(proposal.label))
    if proposal.positive.value:
        yield _line("  positive_label", proposal.positive.value, proposal.positive.reason)
    if proposal.label_time.value:
        yield _line("  label_time", proposal.label_time.value, proposal.label_time.reason)
    else:
        hours = proposal.label_delay_hours.value
        yield _line(
            "  label_delay_hours",
            int(hours) if hours is not None and hours % 1 == 0 else hours,
            _delay_comment(proposal.label_delay_hours),
        )
    yield "  features:"
    for kind, names in proposal.features.items():
        yield f"    {kind}: {_flow(list(names))}"
    for name, (number, share) in proposal.sentinels.items():
        found = f"{number:.0f} in {share_of_rows(share)} of the rows looks like a missing value"
        yield f"    # {name}: {found}; write null instead in the source"
    if proposal.personal:
        why = "; ".join(f"{name} looks like {kind}" for name, kind in proposal.personal.items())
        yield f"  personal: {_flow(list(proposal.personal))}  # {why}"
    for name, why in proposal.left_out.items():
        if name not in proposal.personal:
            yield f"  # left out: {name} {why}"


def _delay_comment(guess: Guess) -> str:
    return guess.reason if guess.value is not None else f"hours until a label is known; {guess.reason}; 0: at once"


def _windows(proposal: Proposal, now: datetime) -> Iterator[str]:
    found = proposal.division
    if found is None:
        yield f'window_days: "{QUESTION}"  # length of a window in days'
        yield f'period: {{start: "{QUESTION}", history_until: "{QUESTION}"}}  # the first model learns from the rows between'
        return
    few = "; too few to judge each window" if found.rows_per_window < 200 else ""
    rows = f"about {found.rows_per_window:,.0f} rows each, {found.windows} windows{few}"
    yield f"window_days: {found.window_days:.6g}  # {rows}" if found.window_days else f"window: month  # {rows}"
    yield "period:"
    yield f"  start: {_moment(found.start)}"
    yield f"  history_until: {_moment(found.history_until)}  # the first model learns from earlier rows; later ones are served"
    if is_recorded(found, now):
        yield f"  end: {_moment(found.end)}  # the rows end here; delete this line once new ones arrive"


def is_recorded(division: Division, now: datetime) -> bool:
    """Whether the rows ended more than two windows ago, so that the table is a record and no live source."""
    window = (division.end - division.start) / division.windows
    return division.end + 2 * window < now


def few_for_canary(proposal: Proposal) -> bool:
    """Whether too few rows come for two versions to be compared on different ones."""
    found = proposal.division
    if found is None:
        return False
    days = (found.end - found.start).total_seconds() / 86400
    return found.rows_per_window * found.windows * CANARY_DAYS / days < CANARY_ROWS


def _rest(proposal: Proposal, people: People) -> Iterator[str]:
    if proposal.calendar:
        rules = {name: {"on_failure": "warn"} for name in proposal.calendar}
        yield f"quality: {{columns: {_flow(rules)}}}  # they follow the calendar, so that new values are no fault"
    yield f"performance: {{metric: {proposal.metric}}}" if proposal.metric else f'performance: {{metric: "{QUESTION}"}}'
    found = proposal.division
    if found:
        share = (found.history_until - found.start) / (found.end - found.start)
        history = int(share * found.windows * found.rows_per_window)
        if history < FEW_ROWS:
            yield f"training: {{min_rows: {max(10, history // 3)}}}  # the history has about {history:,} rows"
        days = (found.history_until - found.start).total_seconds() / 86400
        yield from _holdout(days, history, days / max(1, share * found.windows))
    yield from _rollout(proposal, people)
    unit = proposal.metric or "metric"
    yield "budget:"
    yield _line(
        "  value_usd_per_metric_unit_per_day",
        people.value_usd,
        f"what one unit of {unit} more is worth a day, in $; null if nobody knows",
    )


def _rollout(proposal: Proposal, people: People) -> Iterator[str]:
    """A rollout is looked at once a window, so long windows need more days than the default."""
    found, settings, notes = proposal.division, {}, []
    if few_for_canary(proposal):
        settings["feedback"] = _flow(QUESTION if people.feedback is None else people.feedback)
        notes.append(FEEDBACK)
    window = found.window_days or MONTH_DAYS if found else 0.0
    if window * LEAST_LOOKS > CANARY_DAYS:
        settings["max_days"] = f"{min(MOST_DAYS, window * LEAST_LOOKS):.4g}"
        notes.append(f"{LEAST_LOOKS} windows, each of which is one look")
    if settings:
        yield f"rollout: {{{', '.join(f'{name}: {value}' for name, value in settings.items())}}}  # {'; '.join(notes)}"


def _holdout(days: float, rows: int, window: float) -> Iterator[str]:
    held = max(holdout_days(days, rows), window if days < 15 else 0.0)
    expected = int(rows * held / days)
    least = f", min_rows: {max(10, min(300, int(0.75 * expected)))}" if expected < HOLDOUT_ROWS else ""
    if held != HOLDOUT_DAYS or least:
        yield f"validation: {{holdout_days: {held:.3g}{least}}}  # about {expected:,} of the history's {rows:,} rows"


def _line(name: str, value: Any, reason: str) -> str:
    return f"{name}: {_flow(QUESTION if value is None else value)}  # {reason}"


def _reason(guess: Guess) -> str:
    return guess.reason if guess.value is not None else f"{guess.reason}: {', '.join(map(str, guess.others)) or 'none'}"


def _flow(value: Any) -> str:
    """Return a value as YAML on one line; text with line breaks or control characters is written with escapes."""
    if value == QUESTION:
        return f'"{QUESTION}"'
    text = _yaml(value, allow_unicode=True)
    return text if printable(text) == text else _yaml(value, allow_unicode=False)


def _yaml(value: Any, allow_unicode: bool) -> str:
    text: str = yaml.dump(
        value,
        Dumper=_Escaped,
        default_flow_style=True,
        width=math.inf,
        allow_unicode=allow_unicode,
        sort_keys=False,
    )
    return text.removesuffix("\n").removesuffix("\n...")


class _Escaped(yaml.SafeDumper):
    """Writes text that is not printable in double quotes, the only style of YAML that has escapes."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        if data.isprintable():
            return super().represent_str(data)
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"')


_Escaped.add_representer(str, _Escaped.represent_str)


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def completed(text: str) -> dict[str, Any]:
    """Return the content of a draft with stand-ins for the questions that people answer."""
    content: dict[str, Any] = yaml.safe_load(text)
    for place, value in STAND_INS.items():
        block: Any = content
        for part in place[:-1]:
            block = block.get(part) if isinstance(block, Mapping) else None
        if isinstance(block, dict) and block.get(place[-1]) == QUESTION:
            block[place[-1]] = value
    return content
