"""Canonical spelling of class labels across file formats and tools; words for missing values become null.

The same class is 1 in Parquet, 1.0 after pandas reads a missing value, " 1" or "1.000e+00" in CSV, and true in JSON.
Whole numbers become plain integers, true and false become lower case, and surrounding blanks are removed. Text that
only looks like a number (`01`, `1e5`, `1.5`) is unchanged. Words that pandas and databases write for missing values are
not classes, unless the model's file lists them in `columns.classes`. Other spellings (Yes and yes, true and 1) are
matched to one class if the match is unambiguous.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

UNKNOWN = frozenset(
    {
        "",
        "#N/A",
        "#N/A N/A",
        "#NA",
        "-1.#IND",
        "-1.#QNAN",
        "-NaN",
        "-nan",
        "1.#IND",
        "1.#QNAN",
        "<NA>",
        "N/A",
        "NA",
        "NULL",
    }
    | {"NaN", "NAN", "NaT", "None", "n/a", "nan", "null", "Null", "\\N", "?"}
)
"""Missing values as read by pandas and as written by databases and ARFF files."""
_WHOLE = re.compile(r"[+-]?(0|[1-9]\d*)(\.0*)?")
_SCIENTIFIC = re.compile(r"[+-]?\d\.\d+[eE][+-]?\d{1,3}")
LARGEST = 2.0**53
BOOLEANS = {"false": "0", "true": "1"}


def canonical_spelling(text: str, decimal_point: str = ".") -> str:
    """Return the canonical spelling of a class."""
    text = text.strip()
    number = text if decimal_point == "." else text.replace(decimal_point, ".")
    if _WHOLE.fullmatch(number):
        return str(int(number.split(".")[0]))
    if _SCIENTIFIC.fullmatch(number) and float(number).is_integer() and abs(float(number)) < LARGEST:
        return str(int(float(number)))
    return text.casefold() if text.casefold() in BOOLEANS else text


def spelling_key(text: str) -> str:
    """Return a key that is equal for spellings that differ only in case or in true for 1 and false for 0."""
    one = canonical_spelling(text).casefold()
    return BOOLEANS.get(one, one)


def is_unknown(text: str, named: Sequence[str] = ()) -> bool:
    """Return whether the text is a word for a missing value and not a class that the model's file lists."""
    return text.strip() in UNKNOWN and text.strip() not in named


def canonical_labels(column: pa.ChunkedArray, named: Sequence[str] = (), decimal_point: str = ".") -> pa.ChunkedArray:
    """Return labels as text in canonical spelling; missing values are null."""
    return _by_value(column, lambda text: None if is_unknown(text, named) else canonical_spelling(text, decimal_point))


def unknown_words(column: pa.ChunkedArray, named: Sequence[str] = ()) -> pa.ChunkedArray:
    """Return each missing-value word found in place of a label; null for labels and for empty values."""
    return _by_value(column, lambda text: text.strip() or None if is_unknown(text, named) else None)


def class_indices(labels: pa.ChunkedArray, classes: Sequence[str]) -> pa.ChunkedArray:
    """Return each label's index in `classes`; null for a missing label, -1 for a label that is not a class."""
    known = {name: index for index, name in enumerate(classes)}
    once = [canonical_spelling(name) for name in classes]
    if len(set(once)) == len(once):
        known |= {name: index for index, name in enumerate(once) if name not in known}
    folded = Counter(map(spelling_key, once))
    unambiguous = {spelling_key(name): index for index, name in enumerate(once) if folded[spelling_key(name)] == 1}

    def index_of(text: str) -> int | None:
        if text in known:
            return known[text]
        if is_unknown(text):
            return None
        return known.get(canonical_spelling(text), unambiguous.get(spelling_key(text), -1))

    return _by_value(labels, index_of, pa.int64())


def seen_classes(labels: pa.ChunkedArray, named: Sequence[str] = (), binary: bool = False) -> tuple[str, ...]:
    """Return the classes in these labels, sorted.

    If `binary` and only two classes remain after spellings in different case are merged, the merged classes are
    returned. Otherwise such a pair may be two classes (a and A), and both are returned.
    """
    counted = pc.value_counts(canonical_labels(labels, named))
    seen = dict(zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True))
    seen.pop(None, None)
    folded: dict[str, str] = {}
    listed = {canonical_spelling(name) for name in named}
    for text in sorted(seen, key=lambda name: (name not in listed, -seen[name], name)):
        folded.setdefault(spelling_key(text), text)
    return tuple(sorted(folded.values() if binary and len(folded) == 2 else seen))


def read_numbers(column: pa.ChunkedArray, decimal_point: str = ".") -> pa.ChunkedArray:
    """Convert CSV text to floats: null for a missing value, NaN for text that is not a number."""

    plain = pc.utf8_trim_whitespace(column)
    plain = plain if decimal_point == "." else pc.replace_substring(plain, decimal_point, ".")

    def number(text: str) -> float | None:
        try:
            return None if is_unknown(text) else float(text)
        except ValueError:
            return float("nan")

    try:
        numbers = plain.cast(pa.float64())  # common case: one vectorized cast
    except pa.ArrowInvalid:
        return _by_value(plain, number, pa.float64())
    return pc.if_else(pc.is_nan(numbers), None, numbers)


def matching_class(text: str, classes: Sequence[str]) -> str | None:
    """Return the class that the text means, or None if it is not one of `classes`."""
    index = class_indices(pa.chunked_array([[text]]), classes)[0].as_py()
    return classes[index] if index is not None and index >= 0 else None


def whole_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Convert classes to integers, to match stored integer labels; null for text that is not an integer."""

    def number(text: str) -> int | None:
        found = BOOLEANS.get(text, text)
        return int(found) if _WHOLE.fullmatch(found) and abs(int(found)) < LARGEST else None

    return _by_value(column, number, pa.int64())


def ambiguous_spellings(classes: Sequence[str], named: Sequence[str] = ()) -> tuple[str, ...]:
    """Return classes that may be another spelling of a class in `classes` and that the model's file does not list."""
    folded, listed = Counter(map(spelling_key, classes)), {canonical_spelling(name) for name in named}
    return tuple(name for name in classes if folded[spelling_key(name)] > 1 and name not in listed)


def _by_value(
    column: pa.ChunkedArray, rule: Callable[[str], object], kind: pa.DataType | None = None
) -> pa.ChunkedArray:
    """Apply the rule once to each distinct text."""
    kind = kind or pa.string()
    coded = pa.chunked_array(column, pa.string()).combine_chunks().dictionary_encode()
    coded = coded if isinstance(coded, pa.DictionaryArray) else pa.concat_arrays(coded.chunks)
    values = pa.array([rule(text) for text in coded.dictionary.to_pylist()], kind)
    return pa.chunked_array([values.take(coded.indices)], kind)


def as_codes(indices: pa.ChunkedArray, unknown: float) -> np.ndarray:
    """Convert indices of `class_indices` to floats: NaN for a missing label, `unknown` for a label that is not a class."""
    codes = pc.fill_null(indices.cast(pa.float64()), np.nan).to_numpy()
    return np.where(codes < 0, unknown, codes)
