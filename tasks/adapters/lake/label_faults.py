"""Counts of unusable labels by window, stored in the lake beside the labels.

Label values are never stored, because they may identify a person. A search over a complete window replaces its counts;
a search over a part of a window can only increase them.
"""

from collections import Counter
from collections.abc import Collection
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from deployments.config.model import ModelConfig
from tasks.adapters.delta.table import LandedTable, retry_on_conflict
from tasks.adapters.lake.casts import MOMENT, moment
from tasks.adapters.lake.label_spellings import UNKNOWN, whole_numbers
from tasks.adapters.lake.schemas import stored_label_columns
from tasks.adapters.lake.window_scan import overlap, parse_window
from tasks.adapters.storage import lease
from tasks.adapters.storage.workspace import workspace
from tasks.policy.records.base import Window

NO_WHOLE_NUMBER = "not an integer, as earlier labels are"
CONFLICT = "contradicting"
"""Two different labels of one id with the same label time."""
SCHEMA = pa.schema([("fault", pa.string()), ("labels", pa.int64()), ("seen_at", MOMENT)])


def land_label_faults(
    config: ModelConfig, searched: Window, labels: pa.Table, broken: pa.Table, as_of: datetime
) -> None:
    """Store the unusable labels that a search found in each landed window, as counts by fault.

    `labels` and `broken` are the results of `schemas.sort_labels`; `searched` is the time range of the search.
    """
    rows = LandedTable.open(_uri(config, "rows"))
    names = dict.fromkeys(file.window for file in rows.files()) if rows else {}
    windows = [window for window in map(parse_window, names) if overlap(window, searched)]
    problems = _problems(config, labels, broken, as_of)
    found = {window: _counts(problems, window) for window in windows}

    def attempt() -> None:
        table, parts = LandedTable.open(_uri(config, "label_faults")), {}
        for window, counts in found.items():
            before = _latest(table, window, as_of)
            complete = searched.start <= window.start and window.end <= searched.end
            now = counts if complete else {fault: max(counts[fault], before[fault]) for fault in counts | before}
            if now != before:
                stored = now or {"": 0}
                columns = [list(stored), list(stored.values()), [as_of] * len(stored)]
                parts[window.name] = pa.table(dict(zip(SCHEMA.names, columns, strict=True)), SCHEMA)
        if parts:
            lease.check(config.name)
            (table or LandedTable.open_or_create(_uri(config, "label_faults"), SCHEMA)).append(parts, {}, {})

    retry_on_conflict(attempt, _uri(config, "label_faults"))


def read_label_faults(
    config: ModelConfig, span: Window, as_of: datetime, excluding: Collection[str] = ()
) -> dict[str, int]:
    """Return the number of unusable labels by fault, as known at `as_of`, in landed windows that overlap `span`.

    Windows named in `excluding` are left out.
    """
    table, total = LandedTable.open(_uri(config, "label_faults")), Counter[str]()
    names = dict.fromkeys(file.window for file in table.files()) if table else {}
    for window in map(parse_window, names):
        if overlap(window, span) and window.name not in excluding:
            total += _latest(table, window, as_of)
    return dict(total)


Counts = tuple[tuple[str, int], ...]


def sorted_faults(found: dict[str, int]) -> tuple[Counts, Counts, int]:
    """Split counts by fault into (unusable labels by fault, missing-value words, number of contradicting labels)."""
    unusable = tuple((kind, count) for kind, count in found.items() if kind != CONFLICT and kind not in UNKNOWN)
    words = tuple((kind, count) for kind, count in found.items() if kind in UNKNOWN)
    return unusable, words, found.get(CONFLICT, 0)


def cast_to_stored_type(config: ModelConfig, labels: pa.Table, broken: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Cast the classes of `labels` to the type in which the model's labels are stored; return (labels, broken).

    1 and "1" are the same class, and a table column has one type. If integers are stored, text that is not an integer
    is unusable and moves to `broken`.
    """
    table, name = LandedTable.open(_uri(config, "labels")), config.columns.label
    stored = table.kind_of(name) if table else None
    found = labels.schema.field(name).type
    if stored is None or stored == found or {stored, found} != {pa.string(), pa.int64()}:
        return labels, broken
    index = labels.column_names.index(name)
    if stored == pa.string():
        return labels.set_column(index, name, labels[name].cast(stored)), broken
    numbers, unknown = whole_numbers(labels[name]), pc.is_null(labels[name])
    labels = labels.set_column(index, name, numbers)
    usable = pc.or_(unknown, pc.is_valid(numbers))
    no_integer = labels.filter(pc.invert(usable))
    no_integer = no_integer.append_column("fault", pa.array([NO_WHOLE_NUMBER] * len(no_integer), pa.string()))
    unusable = [broken.drop_columns([name]), no_integer.drop_columns([name])]
    return labels.filter(usable), pa.concat_tables(unusable)


def _problems(config: ModelConfig, labels: pa.Table, broken: pa.Table, as_of: datetime) -> pa.Table:
    """Return time, fault and label time of each unusable label that was known at `as_of`."""
    (key, label, known), time = stored_label_columns(config), config.columns.time
    if not labels.num_rows or pc.count_distinct(labels[key]).as_py() == labels.num_rows:
        labels = labels.slice(0, 0)  # common case: ids are unique, so no labels contradict each other
    grouped = labels.group_by([key, known]).aggregate([(label, "count_distinct"), (time, "min")])
    several = grouped.filter(pc.greater(grouped[f"{label}_count_distinct"], 1))
    faults = pa.table(
        {"time": several[f"{time}_min"], "fault": [CONFLICT] * several.num_rows, "label_at": several[known]},
        pa.schema([("time", MOMENT), ("fault", pa.string()), ("label_at", MOMENT)]),
    )
    unusable = broken.select([time, "fault", known]).rename_columns(["time", "fault", "label_at"])
    both = pa.concat_tables([faults, unusable], promote_options="permissive")
    return both.filter(pc.fill_null(pc.less_equal(both["label_at"], moment(as_of)), True))


def _counts(problems: pa.Table, window: Window) -> Counter[str]:
    inside = pc.and_(
        pc.greater_equal(problems["time"], moment(window.start)), pc.less(problems["time"], moment(window.end))
    )
    return Counter(problems["fault"].filter(inside).to_pylist())


def _latest(table: LandedTable | None, window: Window, as_of: datetime) -> Counter[str]:
    """Return the window's latest counts by fault that were stored up to `as_of`."""
    if table is None:
        return Counter()
    files = [file for file in table.files() if file.window == window.name]
    for file in sorted(files, key=lambda one: -one.version):
        rows = table.opened(file).table()
        if rows["seen_at"][0].as_py() <= as_of:
            pairs = zip(rows["fault"].to_pylist(), rows["labels"].to_pylist(), strict=True)
            return Counter({fault: count for fault, count in pairs if count})
    return Counter()


def _uri(config: ModelConfig, table: str) -> str:
    return workspace().table(config.name, table)
