"""Bind a model's ledger to its first file, and to that file's settings for risk and access.

Otherwise a second file with the same name and a lower risk could promote what the first requires approval for. A change
of path, risk, access or approval takes effect once an authorised person accepts it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from tasks.policy.evidence.ledger import LedgerEntry
from tasks.policy.governance.people import is_unnamed, plain
from tasks.policy.records.base import from_json

BOUND = "model.bound"


@dataclass(frozen=True, slots=True)
class FileBinding:
    """`file` is a bare name if the file is in a models' folder, independent of the host, else an absolute path."""

    file: str
    risk: str
    digest: str
    """Digest of the file's settings for risk, access and promotion."""
    answerable: tuple[str, ...] = ()
    """People who may accept a change: access.override, else access.approve; any named person if empty."""


def bound_to(entries: Iterable[LedgerEntry]) -> FileBinding | None:
    """The current binding; None in a ledger from before bindings were recorded."""
    bodies = [entry.body for entry in entries if entry.kind == BOUND]
    return from_json(FileBinding, bodies[-1]) if bodies else None


def why_not_bound(bound: FileBinding | None, found: FileBinding | None) -> str | None:
    """Why a file may not be used for this model; None if it matches the ledger's binding."""
    if bound is None or found is None or (bound.file, bound.digest) == (found.file, found.digest):
        return None
    if bound.file != found.file:
        changed = f"its ledger is bound to {bound.file} (risk {bound.risk}), not to {found.file} (risk {found.risk})"
    elif bound.risk != found.risk:
        changed = f"{found.file} has risk: {found.risk}, but its ledger is bound to risk: {bound.risk}"
    else:
        changed = f"access or promotion in {found.file} differs from the settings that its ledger is bound to"
    return (
        f"{changed}; restore the earlier file, or have {_who(bound)} accept the change: "
        "perennial accept --model FILE --by NAME --reason '…'"
    )


def why_not_accept(bound: FileBinding, by: str) -> str | None:
    """Why this person may not accept a change; None if they may."""
    if is_unnamed(by):
        return f"by is {by or 'empty'}, expected the name of the person who accepts the change"
    if bound.answerable and plain(by) not in {plain(name) for name in bound.answerable}:
        return f"{by} may not accept a change of the file, expected {_who(bound)}"
    return None


def _who(bound: FileBinding) -> str:
    return " or ".join(bound.answerable) or "a named person"
