"""Which column, or which columns together, identify a row."""

import re
from collections.abc import Mapping
from itertools import combinations

import pandas as pd

from tasks.adapters.inspection.columns import ColumnFacts
from tasks.adapters.inspection.times import Guess

NAME = re.compile(r"(^|_)(id|uuid|guid|key|no|number|nr|code|ref|row|index)$|^id_")
MOST_ENTITIES = 6


def choose_id(columns: Mapping[str, ColumnFacts], time: str | None, label: str | None) -> Guess:
    """Choose one column that differs in every row, else an entity with the row's time, else two with the time."""
    apart = {time, label}
    able = [facts for name, facts in columns.items() if name not in apart and _may_identify(facts)]
    single = [facts for facts in able if facts.is_unique and (facts.kind == "text" or NAME.search(facts.snake))]
    single.sort(key=lambda facts: (not NAME.search(facts.snake), facts.kind != "text"))
    if single:
        return Guess(single[0].name, "different in every row", tuple(each.name for each in single[1:]))
    if time is None:
        return Guess(None, "no column differs in every row", tuple(facts.name for facts in able[:MOST_ENTITIES]))
    entities = sorted(able, key=lambda facts: (not NAME.search(facts.snake), -facts.distinct))[:MOST_ENTITIES]
    for size in (1, 2):
        for chosen in combinations([facts.name for facts in entities], size):
            if not _repeat(columns, (*chosen, time)):
                return Guess((*chosen, time), "together different in every row")
    return Guess(None, "no columns together differ in every row", tuple(facts.name for facts in entities))


def _may_identify(facts: ColumnFacts) -> bool:
    whole = facts.kind == "text" or facts.is_whole
    return whole and not facts.is_prose and facts.null_share == 0 and facts.distinct >= 1


def _repeat(columns: Mapping[str, ColumnFacts], names: tuple[str, ...]) -> bool:
    return bool(pd.DataFrame({name: columns[name].values for name in names}).duplicated().any())
