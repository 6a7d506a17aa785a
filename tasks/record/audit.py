"""Facts go into the ledger here, and come out again: is it whole, what was done, and what served at a time?

    python -m tasks.record.audit verify [MODEL…] [--expect MODEL:SEQUENCE:HASH]
    python -m tasks.record.audit show MODEL [--kind champion.promoted] [--last 20]
    python -m tasks.record.audit state MODEL --at 2013-06-05

`verify` ends with 1 when it finds a problem, also where the registry is not as the ledger's facts left it. Note the head it
prints somewhere else: given back as `--expect`, it finds even a ledger whose end was cut off by someone who covered it up.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.policy.records.base import from_json, utc
from tasks.policy.records.errors import PerennialError
from tasks.policy.records.evidence import Judgement, LedgerEntry, Promotion, ValidationReport
from tasks.policy.records.text import printable
from tasks.policy.reporting.decision import headline

if TYPE_CHECKING:
    from tasks.adapters.ledger.chain import Head

CHAMPION_KINDS = ("champion.promoted", "champion.rolled_back")


# two retries: an object store may be out of reach for a moment; a fact of a decision is recorded once, however often tried
@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=2, timeout_seconds=120)
def record_fact(
    model: str,
    kind: str,
    body: object,
    at: datetime,
    decision_id: str | None = None,
    actor: str = "perennial",
    once: bool = True,
) -> LedgerEntry:
    """Append a fact to the model's ledger and return its entry; with `once`, a decision has one such fact."""
    from tasks.adapters.ledger import chain as ledger

    entry = ledger.append(model, kind, body, at, decision_id, actor, once)
    get_run_logger().info("ledger: %s is entry %d of %s, hash %s", kind, entry.sequence, model, entry.hash[:12])
    return entry


def champion_at(model: str, moment: datetime) -> tuple[LedgerEntry, Promotion] | None:
    """The move that made the champion of that moment; None when there was none yet."""
    from tasks.adapters.ledger import chain as ledger

    moves = [entry for entry in ledger.entries(model) if entry.kind in CHAMPION_KINDS and entry.at <= moment]
    return (moves[-1], from_json(Promotion, moves[-1].body)) if moves else None


def describe_entry(entry: LedgerEntry) -> str:
    """Format an entry as one printable line, with its first reason where it has one."""
    reason = _first_reason(entry)
    decision = f" decision {entry.decision_id}" if entry.decision_id else ""
    reason = f": {reason}" if reason else ""
    return printable(f"{entry.sequence:>6} {entry.at:%Y-%m-%d %H:%M} {entry.kind} by {entry.actor}{decision}{reason}")


def _first_reason(entry: LedgerEntry) -> str:
    if entry.kind == "window.judged":
        judgement = from_json(Judgement, entry.body)
        return headline(judgement.decision, judgement.champion)
    if entry.kind in ("challenger.validated", "challenger.refused"):
        return from_json(ValidationReport, entry.body).reasons[0]
    if entry.kind in CHAMPION_KINDS:
        promotion = from_json(Promotion, entry.body)
        return f"version {promotion.champion} serves, {promotion.previous or 'none'} served before"
    return ""


def _verify(arguments: argparse.Namespace) -> int:
    from tasks.adapters.ledger import chain as ledger

    noted = [_noted_head(text) for text in arguments.expect]
    names = sorted({*(arguments.model or ledger.models()), *(model for model, _ in noted)})
    if not names:
        print("no ledger here yet")
    found_problem = False
    for name in names:
        checked = ledger.verify(name, *(head for model, head in noted if model == name))
        # a model that somebody names has a past; one whose ledger is gone must not pass
        problems = checked.problems or (() if checked.entries else ("there is no ledger of this model here",))
        found_problem |= bool(problems)
        head = f"{name}:{checked.head.sequence}:{checked.head.hash}" if checked.head else "none"
        print(f"{name}: {'DAMAGED' if problems else 'whole'}, {checked.entries} entries, head {head}")
        for problem in problems:
            print(printable(f"  {problem}"))
        changed = () if problems else _changed_in_the_registry(name)
        found_problem |= bool(changed)
        for change in changed:
            print(printable(f"  registry: {change}"))
    return int(found_problem)


def _changed_in_the_registry(model: str) -> tuple[str, ...]:
    """What others changed about the model's aliases and versions, and tags that are not what the ledger recorded.

    The ledger is checked where the registry is not, too: nothing is asked of one whose database is not here.
    """
    from tasks.adapters.ledger import chain as ledger
    from tasks.adapters.storage.workspace import SQLITE, workspace
    from tasks.policy.rollout.versions import changed_outside, edited, registered

    address = workspace().mlflow
    if address.startswith(SQLITE) and not Path(address.removeprefix(SQLITE)).is_file():
        return ()
    from tasks.adapters.registry import versions as registry

    entries, now = ledger.entries(model), registry.state(model)
    tags = registry.all_tags(model)
    known = [version for number, version in registered(entries).items() if now.holds(version) and number in tags]
    differing = ((version, edited(version, tags[version.version])) for version in known)
    changed = [
        f"version {version.version}: tags {', '.join(names)} are not what the ledger recorded, which counts"
        for version, names in differing
        if names
    ]
    return (*changed_outside(entries, now), *changed)


def _noted_head(text: str) -> tuple[str, "Head"]:
    from tasks.adapters.ledger.chain import Head

    model, sequence, noted = (*text.split(":"), "", "")[:3]
    if not (sequence.isdigit() and len(noted) == 64):
        raise SystemExit(f"--expect is {text!r}, expected MODEL:SEQUENCE:HASH as verify prints it")
    return model, Head(int(sequence), noted)


def _show(arguments: argparse.Namespace) -> int:
    from tasks.adapters.ledger import chain as ledger

    for entry in ledger.entries(arguments.model, kind=arguments.kind, last=arguments.last):
        print(describe_entry(entry))
    return 0


def _state(arguments: argparse.Namespace) -> int:
    found = champion_at(arguments.model, arguments.at)
    if found is None:
        print(f"{arguments.model}: no champion at {arguments.at:%Y-%m-%d %H:%M} UTC")
        return 1
    entry, promotion = found
    said = (
        f"{arguments.model}: version {promotion.champion} served at {arguments.at:%Y-%m-%d %H:%M} UTC, "
        f"{promotion.action} on {entry.at:%Y-%m-%d %H:%M} by {entry.actor} "
        f"(entry {entry.sequence}, decision {promotion.decision_id})"
    )
    print(printable(said), *(printable(f"  {reason}") for reason in promotion.reasons), sep="\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tasks.record.audit", description="Read and check the ledger.")
    commands = parser.add_subparsers(required=True, metavar="verify|show|state")
    verify = commands.add_parser("verify", help="check the whole chain; ends with 1 when anything is wrong")
    verify.add_argument("model", nargs="*", help="models to check, all when left out")
    verify.add_argument(
        "--expect", action="append", default=[], metavar="MODEL:SEQUENCE:HASH", help="a head noted before"
    )
    verify.set_defaults(run=_verify)
    show = commands.add_parser("show", help="print a model's facts, oldest first")
    show.add_argument("model")
    show.add_argument("--kind", help="only facts of this kind, such as champion.promoted")
    show.add_argument("--last", type=int, help="only the last so many")
    show.set_defaults(run=_show)
    state = commands.add_parser("state", help="print which version served at a time, and why")
    state.add_argument("model")
    state.add_argument("--at", type=utc, required=True, help="ISO date or time, UTC unless it names a zone")
    state.set_defaults(run=_state)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    try:
        outcome = int(chosen.run(chosen))
        sys.stdout.flush()
        return outcome
    except BrokenPipeError:  # `| head` has read enough; what Python flushes at its end goes nowhere then
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # 128 + SIGPIPE, as other commands end; never mistaken for a verdict
    except PerennialError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
