"""The format of CSV files: types by the kinds in the YAML, and empty fields as missing values.

Types are not inferred from the first block: "007" stays text, and a later value never has the wrong type.
"""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.dataset as pa_dataset

from deployments.config.model import ModelConfig

MISSING_WORDS = pa.array(pa_csv.ConvertOptions().null_values)


def csv_format(config: ModelConfig) -> pa_dataset.CsvFileFormat:
    """Return how Arrow reads the model's CSV files: their types, delimiter, decimal point, null values and encoding."""
    options, columns = config.source.options, config.columns
    # times as text: inference would fix one precision, and label times may be empty in the first block; `to_utc` parses
    types = {name: pa.string() for name in (*columns.protected, *columns.id_columns, *_times(config))}
    types |= {name: pa.float64() for name in columns.features.numeric}
    types |= {name: pa.string() for name in (*columns.features.categorical, *columns.features.other)}
    types |= {name: pa.string() for name in columns.features.boolean}  # yes and no, t and f: `conform_rows` parses them
    # labels as text: inference would give no type if the first block has no label, and one label that is not a number
    # must not prevent reading the others
    types[columns.label] = pa.string()
    return pa_dataset.CsvFileFormat(
        parse_options=pa_csv.ParseOptions(
            delimiter=str(options.get("delimiter", ",")),
            quote_char=str(options.get("quote_char", '"')),
            newlines_in_values=True,  # otherwise a quoted line break fails in files of more than one block
        ),
        convert_options=pa_csv.ConvertOptions(
            column_types=types,
            decimal_point=str(options.get("decimal_point", ".")),
            null_values=[*pa_csv.ConvertOptions().null_values, *_own_null_values(config)],
        ),
        read_options=pa_csv.ReadOptions(encoding=str(options.get("encoding", "utf8"))),
    )


def _own_null_values(config: ModelConfig) -> list[str]:
    options = config.source.options
    return str(options["null_values"]).split(",") if "null_values" in options else []


def _times(config: ModelConfig) -> tuple[str, ...]:
    columns = config.columns
    return (columns.time,) if columns.label_time is None else (columns.time, columns.label_time)


def empty_is_missing(config: ModelConfig, rows: pa.Table) -> pa.Table:
    """Replace empty text by null, and also NA and the like in times and booleans; as a category NA may be a value."""
    for index, field in enumerate(rows.schema):
        if pa.types.is_string(field.type):
            text = rows.column(index)
            has_words = field.name in _times(config) or field.name in config.columns.features.boolean
            missing = pc.is_in(text, MISSING_WORDS) if has_words else pc.equal(text, "")
            if field.name == config.columns.label:
                missing = pc.or_(missing, pc.is_in(text, pa.array(_own_null_values(config), pa.string())))
            rows = rows.set_column(index, field, pc.if_else(missing, pa.scalar(None, pa.string()), text))
    return rows
