"""Problems of a model's data that would show only after weeks, one line each with the fix: `perennial check --data`.

A lint is a suspicion about values that can be read; what cannot be read is an error of the source. A clean table has none.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from deployments.config.model import ModelConfig
from tasks.adapters.boosters.known import LIBRARIES
from tasks.adapters.inspection import identity, labels, times, zones
from tasks.adapters.inspection.columns import ColumnFacts, describe_columns, sentinel_of, share_of_rows
from tasks.adapters.inspection.personal import looks_personal
from tasks.adapters.lake.label_spellings import canonical_labels, spelling_key, unknown_words
from tasks.policy.records.text import printable

MOST_CATEGORIES = 1000
LATE_SHARE = 0.001
STAND_IN_TIMES = tuple(
    pd.Timestamp(text, tz="UTC") for text in ("1900-01-01", "1970-01-01", "2099-12-31", "2100-01-01", "9999-12-31")
)
SHOWN = 4


def find_lints(config: ModelConfig, rows: pa.Table, now: datetime) -> tuple[str, ...]:
    """Return the lints of a table with the columns that the model uses, as its source has them."""
    options = config.source.options
    columns = describe_columns(
        rows, config.source.kind == "csv", str(options.get("decimal_point", ".")), str(options.get("time_format", ""))
    )
    columns = {name: facts for name, facts in columns.items() if name in config.columns.used}
    time = columns.get(config.columns.time)
    found = [*_names(config, rows), *_refused_names(config), *_features(config, columns), *_personal(config, columns)]
    if time is not None and time.kind == "time":
        found += [*_ids(config, columns), *_times(config, columns, now), *_label_times(config, columns)]
        found += _counters(config, columns)
    return tuple(map(printable, (*found, *_labels(config, rows), *_leaks(config, columns))))


def _ids(config: ModelConfig, columns: Mapping[str, ColumnFacts]) -> Iterator[str]:
    names, moments = list(config.columns.id_columns), columns[config.columns.time].values
    frame = pd.DataFrame({name: columns[name].values for name in names if name in columns})
    history = moments < pd.Timestamp(config.period.history_until)
    number = (moments - pd.Timestamp(config.period.history_until)) // pd.Timedelta(days=config.window_days)
    repeated = int(frame[history].duplicated().sum())
    later = int(frame.assign(_window=number)[~history].duplicated().sum())
    missing = int(frame.isna().any(axis=1).sum())
    if repeated or later:
        fix = _fix_of_repeats(config, columns, int(frame.duplicated().sum()))
        where = f"{repeated:,} rows of the history" if repeated else f"{later:,} rows of a later window"
        yield f"columns.id {', '.join(names)}: {where} repeat the id of another row; {fix}"
    if missing:
        yield f"columns.id {', '.join(names)}: {missing:,} rows have no id; fill it in the source"


def _counters(config: ModelConfig, columns: Mapping[str, ColumnFacts]) -> Iterator[str]:
    moments = columns[config.columns.time].values
    for name in config.columns.features.numeric:
        if name in columns and name not in config.quality.columns and identity.rises_with(columns[name], moments):
            yield (
                f"{name}: rises or falls with {config.columns.time}, so later rows have values that no model has learned and the "
                "quality checks refuse; remove it from columns.features, or set its range in quality.columns"
            )
    for name in config.columns.features.tabular:
        if name in columns and name not in config.quality.columns and times.follows_calendar(columns[name], moments):
            yield (
                f"{name}: is the same for all rows of a day and rarely changes, so new values will come and the quality checks "
                "refuse them; write quality.columns: {" + name + ": {on_failure: warn}}"
            )


def _fix_of_repeats(config: ModelConfig, columns: Mapping[str, ColumnFacts], repeats: int) -> str:
    roles = config.columns
    with_time = tuple(dict.fromkeys((*roles.id_columns, roles.time)))
    if not identity.count_repeats(columns, with_time):
        return f"write columns.id: [{', '.join(with_time)}]"
    able = {name: each for name, each in columns.items() if each.kind != "time" or name == roles.time}
    better = identity.choose_id(able, roles.time, roles.label).value
    better = (better,) if isinstance(better, str) else better
    if better and set(better) != set(roles.id_columns):
        return f"write columns.id: [{', '.join(better)}]"
    entity, rows = identity.repeated_entity(able, roles.time, roles.label) or ("", repeats)
    if rows < repeats:
        return (
            f"{entity} with {roles.time} repeats in {rows:,} rows: remove these in the source, and write "
            f"columns.id: [{entity}, {roles.time}]"
        )
    return "remove the repeated rows in the source"


def _names(config: ModelConfig, rows: pa.Table) -> Iterator[str]:
    used = [name for name in rows.column_names if name in config.columns.used]
    by_case: dict[str, list[str]] = {}
    for name in used:
        by_case.setdefault(name.casefold(), []).append(name)
    for same in by_case.values():
        if len(same) > 1:
            yield (
                f"columns {' and '.join(same)} differ in upper and lower case only, which Delta tables refuse; "
                "rename one in the source"
            )
    for name in used:
        if name != name.strip() or any(ord(letter) < ord(" ") for letter in name):
            yield f"column {name!r} has blanks at an end or control characters in its name; rename it in the source"


def _refused_names(config: ModelConfig) -> Iterator[str]:
    """Report features that a boosting library refuses by name, where code of the user's own hands the names to one."""
    training = config.training
    way = "function" if training.function else "command" if training.command else "flow" if training.flow else None
    if way is None:
        return
    names = config.columns.features.names
    refused = {
        library.package: [name for name in names if set(name) & set(library.refused_in_names)] for library in LIBRARIES
    }
    by_blank = Counter(name.replace(" ", "_") for name in names)
    refused["lightgbm"] += [name for name in names if by_blank[name.replace(" ", "_")] > 1]
    found = [name for name in names if any(name in each for each in refused.values())]
    if found:
        yield (
            f"columns.features {', '.join(map(repr, found))}: {' and '.join(name for name, each in refused.items() if each)} "
            f"refuse such names in a data frame, and training.{way} is given them as they are; rename them in the source, or "
            "train on an array (to_numpy())"
        )


def _features(config: ModelConfig, columns: Mapping[str, ColumnFacts]) -> Iterator[str]:
    features = config.columns.features
    for name in features.names:
        facts = columns.get(name)
        if facts is None:
            continue
        if facts.is_constant:
            yield f"{name}: {'has one value only' if facts.distinct else 'is empty'}; remove it from columns.features"
        if sentinel := sentinel_of(facts):
            number, share = sentinel
            fix = (
                f'write source.options: {{null_values: "{number:.0f}"}}'
                if config.source.kind == "csv"
                else "write null instead in the source"
            )
            yield f"{name}: {number:.0f} in {share_of_rows(share)} of the rows looks like a missing value; {fix}"
        many = facts.distinct > MOST_CATEGORIES or facts.distinct > 0.5 * len(facts.values) > 20
        if name in features.categorical and many and not facts.is_constant:
            yield (
                f"{name}: has {facts.distinct:,} categories in {len(facts.values):,} rows; "
                "group them in the source, or remove it from columns.features"
            )


def _personal(config: ModelConfig, columns: Mapping[str, ColumnFacts]) -> Iterator[str]:
    listed = list(config.columns.personal)
    for name, facts in columns.items():
        kind = (
            None
            if name in listed or name in (config.columns.label, config.columns.time)
            else looks_personal(name, facts.values)
        )
        if kind:
            listed.append(name)
            yield f"{name}: looks like {kind}; list it: columns.personal: [{', '.join(listed)}]"


def _times(config: ModelConfig, columns: Mapping[str, ColumnFacts], now: datetime) -> Iterator[str]:
    for name in dict.fromkeys((config.columns.time, config.columns.label_time)):
        facts = columns.get(name or "")
        if facts is None or facts.kind != "time":
            continue
        for moment in STAND_IN_TIMES:
            count = int((facts.values.dt.normalize() == moment).sum())
            if count > 1 and (facts.values.dropna() - moment).abs().median() > pd.Timedelta(days=3650):
                yield (
                    f"{name}: {count:,} rows have the time {moment:%Y-%m-%d}, which looks like a missing value; "
                    "write null instead in the source"
                )
        future = int(((facts.values > pd.Timestamp(now)) & ~facts.values.dt.normalize().isin(STAND_IN_TIMES)).sum())
        if future:
            yield (
                f"{name}: {future:,} rows lie in the future; "
                f"fix the source, or their zone: source.options: {{time_zone: …}}"
            )
        zone = (
            None
            if facts.has_zone or config.source.options.get("time_zone") != "UTC"
            else zones.looks_local(facts.values.dt.tz_localize(None))
        )
        if zone:
            yield (
                f"{name}: no row falls into the hour that clocks skip in {zone}, so times look local; "
                f"write source.options: {{time_zone: {zone}}}"
            )


def _label_times(config: ModelConfig, columns: Mapping[str, ColumnFacts]) -> Iterator[str]:
    roles = config.columns
    row, label = columns[roles.time].values, columns.get(roles.label)
    own = columns.get(roles.label_time or "") if roles.has_label_time else None
    if own is not None and own.kind == "time":
        after = (own.values - row).dropna()
        early = float((after < pd.Timedelta(0)).mean()) if len(after) else 0.0
        if early > 0:
            yield (
                f"columns.label_time {own.name}: lies before {roles.time} in {early:.1%} of the rows with both; "
                "a label cannot be known before its row: name another column"
            )
        look_back = pd.Timedelta(days=roles.label_lookback_days)
        late = float((after > look_back).mean()) if len(after) else 0.0
        if late > LATE_SHARE:
            days = math.ceil((after.dt.total_seconds() / 86_400).quantile(1 - LATE_SHARE / 2))
            yield (
                f"columns.label_time {own.name}: {late:.1%} of the labels come later than is looked back; "
                f"write columns.label_lookback_days: {min(3660, days):g}"
            )
        return
    if label is None or config.labels is not None:
        return
    found = times.choose_delay(columns, roles.time, roles.label).value
    if found is not None and found > max(roles.label_delay_hours, 1) * 1.5 + config.window_days * 24:
        last = row[label.values.notna()].max()
        yield (
            f"{roles.label}: no row after {last:%Y-%m-%d} has a label; if labels take that long, write "
            f"columns.label_delay_hours: {found:g}, else look for them in the source"
        )


def _labels(config: ModelConfig, rows: pa.Table) -> Iterator[str]:
    name = config.columns.label
    if name not in rows.column_names or config.labels is not None:
        return
    column = rows.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if config.task == "regression":
        yield from _number_labels(name, column, str(config.source.options.get("decimal_point", ".")))
        return
    if not pa.types.is_nested(column.type):
        text = column.cast(pa.string())
        words = sorted(set(pc.unique(unknown_words(text, config.columns.named_classes)).to_pylist()) - {None})
        if words:
            yield (
                f"{name}: the words {', '.join(words[:SHOWN])} are read as an unknown label; "
                "if they are classes, list all classes in columns.classes"
            )
        spelled: dict[str, set[str]] = {}
        for each in pc.unique(canonical_labels(text, config.columns.named_classes)).to_pylist():
            if each is not None:
                spelled.setdefault(spelling_key(each), set()).add(each)
        for variants in spelled.values():
            if len(variants) > 1:
                yield (
                    f"{name}: spells one class as {' and '.join(sorted(variants))}; "
                    "they are read as one, write one spelling in the source"
                )
        listed = {spelling_key(each) for each in config.columns.classes}
        strange = sorted({min(each) for key, each in spelled.items() if key not in listed}) if listed else []
        if strange:
            yield (
                f"{name}: has {', '.join(strange[:SHOWN])}, which columns.classes does not list; "
                "add them, or fix the source"
            )
        if config.task == "binary" and len(spelled) > 2:
            yield f"{name}: has {len(spelled)} classes in a binary model; write task: multiclass, or fix the source"
        if len(spelled) < 2:
            yield f"{name}: has {len(spelled)} classes; name another column in columns.label"
        if len(spelled) > labels.MOST_CLASSES:
            yield f"{name}: has {len(spelled):,} classes; write task: regression if they are numbers"


def _number_labels(name: str, column: pa.ChunkedArray, decimal_point: str) -> Iterator[str]:
    values = column.drop_null().to_pandas()
    if values.dtype == object or isinstance(values.dtype, pd.StringDtype):
        values = values.astype(str).str.strip().str.replace(decimal_point, ".", regex=False)
    numbers = pd.to_numeric(values, errors="coerce").astype(float)
    words = int(numbers.isna().sum())
    infinite = int(numbers.isin([float("inf"), float("-inf")]).sum())
    if words:
        yield f"{name}: {words:,} labels are no numbers and are left out; write null or a number in the source"
    if infinite:
        yield f"{name}: {infinite:,} labels are infinite and are left out; write null or a number in the source"
    if sentinel := sentinel_of(ColumnFacts(name, "numeric", numbers.dropna(), int(numbers.nunique()))):
        yield (
            f"{name}: {sentinel[0]:.0f} in {share_of_rows(sentinel[1])} of the labels looks like a missing value; "
            "write null instead in the source"
        )


def _leaks(config: ModelConfig, columns: Mapping[str, ColumnFacts]) -> Iterator[str]:
    label = columns.get(config.columns.label)
    if (
        label is None
        or config.labels is not None
        or label.distinct < 2
        or (config.task == "regression" and label.kind != "numeric")
    ):
        return
    features = {name: columns[name] for name in config.columns.features.names if name in columns}
    for name, why in labels.find_leaks(features, label, config.task).items():
        yield f"{name}: {why}, so it is probably known only with the label; remove it from columns.features"
