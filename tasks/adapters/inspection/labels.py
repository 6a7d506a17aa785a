"""Which column is the label, and which task it sets. A wrong label is worse than a question, so doubt leaves it open."""

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.metrics import roc_auc_score

from tasks.adapters.inspection.columns import ColumnFacts
from tasks.adapters.inspection.times import Guess
from tasks.adapters.lake.label_spellings import canonical_spelling
from tasks.adapters.profiling.leakage import determines
from tasks.policy.statistics.metrics import Floats

STRONG = re.compile(
    r"(^|_)(label|target|y|outcome|churn|churned|default(ed)?|fraud|is_fraud|converted|conversion|clicked|response|class)$"
)
POSSIBLE = re.compile(
    r"(^|_)(left|status|result|category|priority|rating|score|price|amount|demand|sales|load|duration|late|cancel+ed|returned|resolved|value|revenue|quantity|count|cnt|volume|next_\w+)$"
)
LEAST_SCORE, LEAST_LEAD = 3.0, 1.0
MOST_CLASSES = 50
LEAK_AUC, LEAST_LABELS = 0.9995, 50
SUMMED_ROWS, EXACTLY = 5_000, 1e-6
"""Rows on which a label is tested for being a sum of features, and the share of its deviation that may be unexplained."""
FEW_VALUES = 15
"""Whole numbers of up to this many values, all of which are frequent, may be classes."""


def choose_label(columns: Mapping[str, ColumnFacts], time: str | None, model: str) -> Guess:
    """Choose the label by its name, by the model's name, and by values that are missing for the latest rows only."""
    row = columns[time] if time else None
    scores = {}
    for name, facts in columns.items():
        if name == time or not may_be_label(facts):
            continue
        last = 0.5 * (name == list(columns)[-1])  # where many tables have their label
        known_later = 3.0 * (
            row is not None and (missing_late(facts, row) or bool(has_time_of_its_own(columns, row, facts)))
        )
        scores[name] = last + known_later + _score(facts, model)
    ranked = sorted(scores, key=lambda name: -scores[name])
    if not ranked:
        return Guess(None, "no column can be a label")
    best, others = ranked[0], ranked[1:]
    lead = scores[best] - (scores[others[0]] if others else 0.0)
    if scores[best] < LEAST_SCORE or lead < LEAST_LEAD:
        return Guess(None, "several columns could be what the model predicts", tuple(ranked[:5]))
    return Guess(best, _why(columns, row, columns[best], model), tuple(others[:4]))


def may_be_label(facts: ColumnFacts) -> bool:
    """Whether a column has the values of a label: numbers, yes and no, or a few categories; never an id or prose."""
    if facts.distinct < 2 or facts.kind not in ("numeric", "boolean", "text"):
        return False
    if facts.is_unique and facts.is_whole:
        return False
    return facts.kind != "text" or (facts.distinct <= MOST_CLASSES and not facts.is_prose)


def _score(facts: ColumnFacts, model: str) -> float:
    named = 4.0 * bool(STRONG.search(facts.snake)) + 1.5 * bool(POSSIBLE.search(facts.snake))
    return named + 4.0 * _like(facts.snake, model)


def has_time_of_its_own(columns: Mapping[str, ColumnFacts], row: ColumnFacts, facts: ColumnFacts) -> str | None:
    """Return a time that is missing in the same rows as this column and never lies before the row's time."""
    missing = facts.values.isna()
    for name, other in columns.items() if missing.any() else ():
        if other.kind == "time" and name != row.name:
            known = other.values.notna()
            if (known == ~missing).all() and (other.values[known] >= row.values[known]).all():
                return name
    return None


def _like(column: str, model: str) -> bool:
    """Whether the model is named after the column, such as `churn` after `churned`."""
    stems = [re.sub(r"(ed|e?s|ing|d)$", "", part) for part in re.split(r"[_-]", model) if len(part) > 2]
    parts = [re.sub(r"(ed|e?s|ing|d)$", "", part) for part in column.split("_")]
    return bool(set(stems) & set(parts))


def missing_late(facts: ColumnFacts, time: ColumnFacts) -> bool:
    """Whether values are missing mostly among the latest rows, as labels that are not known yet."""
    nulls = facts.values.isna()
    if not 0.0005 < nulls.mean() < 0.6:
        return False
    order = time.values.rank(pct=True)
    latest = order > 1 - max(0.5 * float(nulls.mean()), 0.005)
    return bool(
        nulls[latest].mean() > 0.8
        and nulls[~latest].mean() < 0.6 * nulls[latest].mean()
        and nulls[order < 0.5].mean() < 0.3
    )


def _why(columns: Mapping[str, ColumnFacts], row: ColumnFacts | None, facts: ColumnFacts, model: str) -> str:
    if row is not None and missing_late(facts, row):
        return "unknown for the latest rows only"
    if row is not None and (own := has_time_of_its_own(columns, row, facts)):
        return f"unknown in the same rows as {own}, which lies after {row.name}"
    return f"the model is named after it: {model}" if _like(facts.snake, model) else "named like a label"


def choose_task(facts: ColumnFacts) -> Guess:
    """Choose binary, multiclass or regression from the label's values."""
    if facts.distinct == 2:
        return Guess("binary", "the label has 2 values")
    if facts.kind == "text" and facts.distinct > MOST_CLASSES:
        return Guess(None, f"the label has {facts.distinct:,} different texts, too many for classes")
    if facts.kind == "text":
        return Guess("multiclass", f"the label has {facts.distinct} values")
    known = facts.values.dropna()
    frequent = known.value_counts(normalize=True).min() > 0.005
    if facts.is_whole and facts.distinct <= FEW_VALUES and frequent and known.max() < FEW_VALUES:
        return Guess("multiclass", f"the label has {facts.distinct} whole values", ("regression",))
    return Guess("regression", f"the label has {facts.distinct:,} different numbers")


def choose_positive(column: pa.ChunkedArray) -> Guess:
    """Choose the class that F1 and probabilities refer to: 1, true or yes, else the rarer one."""
    counts = pc.value_counts(column.cast(pa.string()).drop_null()).to_pylist()
    by_class = {canonical_spelling(each["values"]): each["counts"] for each in counts}
    for name in by_class:
        if name.casefold() in ("1", "true", "yes", "y", "t", "positive"):
            return Guess(name, "the class that says yes")
    rarer = min(by_class, key=lambda name: by_class[name])
    return Guess(rarer, f"the rarer class, {by_class[rarer] / sum(by_class.values()):.1%} of the labels")


def find_leaks(features: Mapping[str, ColumnFacts], label: ColumnFacts, task: str) -> dict[str, str]:
    """Return the features that say what the label is, and how: known before the label they could not be."""
    found = {}
    known = label.values.notna()
    if task == "regression":
        known &= np.isfinite(label.values.astype(float))
    codes = pd.Series(pd.factorize(label.values[known])[0])
    values = label.values[known].astype(float) if task == "regression" else codes
    target = pa.array(values.to_numpy())
    for name, facts in features.items():
        if facts.kind not in ("numeric", "boolean", "text"):
            continue
        filled = facts.values.notna()
        if 0.005 < known.mean() < 0.995 and (filled == known).mean() > 0.995:
            found[name] = "is filled only where the label is"
        elif task == "binary" and _says_by_absence(filled[known], codes):
            found[name] = "is missing for one class only"
        elif determines(pa.chunked_array([_array(facts, known)]), target, task == "regression"):
            found[name] = "determines the label in every labelled row"
        elif task == "binary" and facts.kind == "numeric" and _auc(facts.values[known], codes) >= LEAK_AUC:
            found[name] = "separates the classes almost perfectly"
    if task == "regression":
        others = {name: facts for name, facts in features.items() if name not in found}
        found |= _parts(others, known, target.to_numpy())
    return found


def _parts(features: Mapping[str, ColumnFacts], known: pd.Series, target: Floats) -> dict[str, str]:
    """Return the numeric features of which the label is a weighted sum, with the others that it is made of."""
    numbers = {name: facts for name, facts in features.items() if facts.kind == "numeric"}
    if not numbers:
        return {}
    values = np.column_stack([facts.values[known].to_numpy(float, na_value=np.nan) for facts in numbers.values()])
    complete = np.flatnonzero(np.isfinite(values).all(axis=1))[:SUMMED_ROWS]
    values, target = values[complete], target[complete]
    if len(values) < max(LEAST_LABELS, 3 * len(numbers)) or not target.std():
        return {}
    centred, deviations = values - values.mean(axis=0), values.std(axis=0)
    scaled = centred / np.where(deviations > 0, deviations, 1.0)
    weights = np.linalg.lstsq(scaled, target - target.mean(), rcond=None)[0]
    unexplained = np.abs(target - target.mean() - scaled @ weights).max()
    parts = [name for name, weight in zip(numbers, weights, strict=True) if abs(weight) > EXACTLY * target.std()]
    if unexplained > EXACTLY * target.std() or len(parts) < 2:
        return {}
    return {name: f"adds up to the label with {', '.join(part for part in parts if part != name)}" for name in parts}


def _array(facts: ColumnFacts, rows: pd.Series) -> pa.Array:
    return pa.Array.from_pandas(facts.values[rows])


def _says_by_absence(filled: pd.Series, codes: pd.Series) -> bool:
    """Whether a value is present for (nearly) all labels of one class and none of the other."""
    if not 0.005 < filled.mean() < 0.995 or codes.nunique() != 2:
        return False
    same = float((filled.to_numpy().astype(int) == codes.to_numpy()).mean())
    return max(same, 1 - same) > 0.999


def _auc(values: pd.Series, codes: pd.Series) -> float:
    """The larger of the AUC and its complement; 0.5 without enough values."""
    present = values.notna().to_numpy()
    chosen = codes.to_numpy()[present]
    if present.sum() < LEAST_LABELS or len(set(chosen.tolist())) != 2:
        return 0.5
    auc = float(roc_auc_score(chosen, values.to_numpy(float)[present]))
    return max(auc, 1 - auc)
