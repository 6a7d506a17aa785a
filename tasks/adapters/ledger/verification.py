"""Verify a ledger from the store: every entry, the chain, its head, and heads recorded elsewhere."""

from dataclasses import dataclass

from tasks.adapters.ledger.files import GENESIS, HEAD, NUMBERED, Head, check, listed, read_all, read_head


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of `verify`: number of entries, the computed head, and one sentence per problem."""

    model: str
    entries: int
    head: Head | None
    problems: tuple[str, ...]


def verify(model: str, *expected: Head) -> Verification:
    """Read every entry again and check the whole chain, its head, and the heads recorded elsewhere (`expected`)."""
    head = read_head(model)  # read before the entries, so its entry is listed even if a writer is active
    found = listed(model)
    numbered = sorted(name for name in found if NUMBERED.match(name) and int(name[:8]))
    problems = [f"{name} is not an entry" for name in sorted(found - {*numbered, HEAD})]
    texts = read_all([f"{model}/{name}" for name in numbered])
    hashes: dict[int, str] = {0: GENESIS}
    following = 1
    for name, text in zip(numbered, texts, strict=True):
        sequence = int(name[:8])
        if sequence > following:
            until = sequence - 1
            problems.append(
                f"entry {until} is missing" if until == following else f"entries {following} to {until} are missing"
            )
        following = sequence + 1
        checked = check(model, sequence, text, hashes.get(sequence - 1))
        problems += [f"entry {sequence} {checked.problem}"] if checked.problem else []
        if checked.entry:
            hashes[sequence] = checked.hash
    if numbered and head is None:
        problems.append(
            f"{HEAD} is missing or cannot be read, so nothing here shows that no entry is missing at the end"
        )
    for known, where in ((head, HEAD), *((other, "the head recorded elsewhere") for other in expected)):
        if known and hashes.get(known.sequence) != known.hash:
            fault = "has another hash" if known.sequence in hashes else "is missing"
            problems.append(
                f"{where} names entry {known.sequence} with hash {known.hash[:12]}…, but that entry {fault}"
            )
    last = max(hashes)
    return Verification(model, len(numbered), Head(last, hashes[last]) if last else None, tuple(problems))
