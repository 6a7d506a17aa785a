"""Which column, or which columns together, identify a row."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from tasks.adapters.inspection.columns import ColumnFacts
from tasks.adapters.inspection.times import Guess

NAME = re.compile(r"(^|_)(id|uuid|guid|key|no|nbr|number|nr|code|ref|row|index)$|^id_")
THING = re.compile(
    r"(^|_)(account|client|customer|user|store|shop|dept|department|product|item|sku|station|site|device|sensor|machine|meter)$"
)
MOST_ENTITIES = 6
LEAST_RISING, MOST_RANKED, RISING = 50, 10_000, 0.999
"""Values that a counter has at least, rows in which it is looked for, and its rank correlation with the time."""
SMALL_SHARE = 0.05
"""Share of rows up to which an entity's repeats at one time are taken for an error of the source."""


def choose_id(columns: Mapping[str, ColumnFacts], time: str | None, label: str | None) -> Guess:
    """Choose one column that differs in every row, else an entity with the row's time, else two with the time.

    A few rows that repeat entity and time are a question: a feature in the id would only hide them.
    """
    able = _able(columns, time, label)
    single = [facts for facts in able if facts.is_unique and (facts.kind == "text" or numbers_rows(facts))]
    single.sort(key=lambda facts: (not NAME.search(facts.snake), facts.kind != "text"))
    if single:
        return Guess(single[0].name, "different in every row", tuple(each.name for each in single[1:]))
    if time is None:
        return Guess(None, "no column differs in every row", tuple(facts.name for facts in able[:MOST_ENTITIES]))
    entities = _entities(able)
    names = tuple(facts.name for facts in entities)
    if columns[time].is_unique and not any(map(_is_named, entities)):
        return Guess(time, "each row has a time of its own", names)
    repeated, rows = repeated_entity(columns, time, label) or (None, 0)
    for chosen in _combinations(entities, repeated):
        if not count_repeats(columns, (*chosen, time)):
            return Guess((*chosen, time), "together different in every row")
    if repeated is not None:
        reason = f"{repeated} with {time} repeats in {rows:,} rows; remove the duplicates, or name another column"
        return Guess(None, reason, tuple(each.name for each in entities if _may_be_key(each) and each.name != repeated))
    return Guess(None, "no columns together differ in every row", names)


def repeated_entity(columns: Mapping[str, ColumnFacts], time: str, label: str | None) -> tuple[str, int] | None:
    """Return the column that identifies the rows of a time but for a small share of them, and the number of these rows.

    None if a column identifies all of them, or none does so nearly.
    """
    entities = _entities(_able(columns, time, label))
    counts = {facts.name: count_repeats(columns, (facts.name, time)) for facts in entities}
    named = {facts.name: counts[facts.name] for facts in entities if _is_named(facts)}
    likely = {facts.name: counts[facts.name] for facts in entities if _may_be_key(facts)}
    for group in (named, likely, counts):
        near = {name: rows for name, rows in group.items() if rows <= SMALL_SHARE * len(columns[name].values)}
        if near:
            entity = min(near, key=lambda name: near[name])
            return (entity, near[entity]) if near[entity] else None
    return None


def numbers_rows(facts: ColumnFacts) -> bool:
    """Whether whole numbers only tell the rows apart: they differ in each, and are named so or rise from row to row."""
    rising = facts.values.is_monotonic_increasing or facts.values.is_monotonic_decreasing
    return facts.is_unique and facts.is_whole and bool(NAME.search(facts.snake) or rising)


def rises_with(facts: ColumnFacts, times: pd.Series) -> bool:
    """Whether a number only rises or only falls with the row's time, as a counter does: no later row has a value seen before."""
    if facts.kind != "numeric" or facts.distinct < LEAST_RISING:
        return False
    places = np.linspace(0, len(times) - 1, min(len(times), MOST_RANKED)).astype(int)
    chosen = pd.DataFrame(
        {"time": times.iloc[places].to_numpy(), "value": facts.values.iloc[places].to_numpy(float)}
    ).dropna()
    ranks = chosen.rank()
    return bool(len(chosen) > LEAST_RISING and abs(ranks["time"].corr(ranks["value"])) >= RISING)


def count_repeats(columns: Mapping[str, ColumnFacts], names: tuple[str, ...]) -> int:
    """Return the number of rows that have the same values in these columns as an earlier row."""
    return int(pd.DataFrame({name: columns[name].values for name in names}).duplicated().sum())


def _combinations(entities: Sequence[ColumnFacts], repeated: str | None) -> Iterator[tuple[str, ...]]:
    """Yield the entities that may be in an id: one, or two that both look like keys.

    Beside an entity that identifies almost all rows, only a column with the name of a key may stand: any other text would
    tell the repeated rows apart by what changed in them.
    """
    if repeated is not None:
        yield from ((repeated, facts.name) for facts in entities if _is_named(facts) and facts.name != repeated)
        return
    yield from ((facts.name,) for facts in entities)
    yield from combinations([facts.name for facts in entities if _may_be_key(facts)], 2)


def _able(columns: Mapping[str, ColumnFacts], time: str | None, label: str | None) -> list[ColumnFacts]:
    return [facts for name, facts in columns.items() if name not in {time, label} and _may_identify(facts)]


def _entities(able: Sequence[ColumnFacts]) -> list[ColumnFacts]:
    return sorted(able, key=lambda facts: (not NAME.search(facts.snake), -facts.distinct))[:MOST_ENTITIES]


def _is_named(facts: ColumnFacts) -> bool:
    return bool(NAME.search(facts.snake) or THING.search(facts.snake))


def _may_be_key(facts: ColumnFacts) -> bool:
    return facts.kind == "text" or _is_named(facts)


def _may_identify(facts: ColumnFacts) -> bool:
    whole = facts.kind == "text" or facts.is_whole
    return whole and not facts.is_prose and facts.null_share == 0 and facts.distinct >= 1
