"""Open many files as one dataset with a common schema; an error names the file whose column has another kind of value.

Arrow applies the schema of the first file to all files. A column that is all null in the first file then cannot be
read, and text in a later file is parsed silently: "007" becomes 7, the id of another row. All Parquet footers are
therefore read first, concurrently. The scan needs them to skip files outside the window and does not read them again.

The type of a partition value in a folder name (`country=01`) is inferred from all folders, but it is text if the YAML
expects text.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pa_dataset
import pyarrow.fs as pa_fs

from deployments.config.model import ModelConfig
from tasks.adapters.sources.csv_files import csv_format
from tasks.policy.records.errors import SourceError

IGNORED = (".", "_")  # prefixes of file names that Arrow ignores
FOOTERS_AT_ONCE = 16  # threads mostly wait for the object store
FAMILIES = {
    "text": (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    "integers": (pa.types.is_integer,),
    "fractions": (pa.types.is_floating, pa.types.is_decimal),
    "booleans": (pa.types.is_boolean,),
}


def file_format(config: ModelConfig) -> pa_dataset.FileFormat:
    """Return the format of the model's files: Parquet, or CSV with the types of the YAML."""
    return pa_dataset.ParquetFileFormat() if config.source.kind == "parquet" else csv_format(config)


def open_files(
    config: ModelConfig, files: pa_fs.FileSystem, path: str, columns: Sequence[str], where: str
) -> pa_dataset.Dataset:
    """Open a file or a folder's files with one type per column of `columns`.

    Raises FileNotFoundError, or SourceError if a column has no common type or a link leads nowhere or to a read file.
    """
    found = files.get_file_info(path)
    if found.type == pa_fs.FileType.NotFound:
        raise FileNotFoundError(path)
    if isinstance(files, pa_fs.LocalFileSystem) and not found.is_file:
        _refuse_links(Path(path), where)
    selected = [path] if found.is_file else pa_fs.FileSelector(path, recursive=True)
    folders = pa_dataset.FileSystemFactoryOptions(partitioning=pa_dataset.HivePartitioning.discover())
    factory = pa_dataset.FileSystemDatasetFactory(files, selected, file_format(config), folders)
    dataset = factory.finish()
    keys = (pa_dataset.get_partition_keys(fragment.partition_expression) for fragment in dataset.get_fragments())
    in_paths = {name for named in keys for name in named}
    as_text = in_paths & _text_columns(config)
    if as_text:
        dataset = factory.finish(_with_types(dataset.schema, dict.fromkeys(as_text, pa.string())))
    stored = [name for name in columns if name not in in_paths]
    if config.source.kind == "parquet" and len(dataset.files) > 1:
        return _unified(config, dataset, stored, where)
    return dataset


def _refuse_links(folder: Path, where: str) -> None:
    """Raise SourceError for a folder or file that is reached twice and for a dangling link.

    Arrow follows every link: a loop would return the same rows forty times, and a dangling link would return none.
    """
    reached: dict[tuple[int, int], Path] = {}
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(IGNORED)]
        files = (Path(place) / name for name in names if not name.startswith(IGNORED))
        for found in (Path(place), *files):
            try:
                at = found.stat()
            except OSError:
                raise SourceError(
                    f"{where}: {found.relative_to(folder)} is a broken link, expected files; remove the link, or "
                    "restore its target"
                ) from None
            before = reached.setdefault((at.st_dev, at.st_ino), found)
            if before != found:
                raise SourceError(
                    f"{where}: {found.relative_to(folder)} is the same as {before.relative_to(folder)}, so its rows would be "
                    "read more than once; expected each file once; remove the link"
                )


def compares_alike(dataset: pa_dataset.Dataset, name: str) -> bool:
    """Return whether a filter on this time column fits the statistics of all files: equal type and time zone."""
    if not isinstance(dataset, pa_dataset.FileSystemDataset) or len(dataset.files) == 1:
        return True
    schemas = (fragment.physical_schema for fragment in dataset.get_fragments())
    kinds = {schema.field(name).type for schema in schemas if schema.get_field_index(name) >= 0}
    stored = {kind.tz if pa.types.is_timestamp(kind) else kind for kind in kinds if not pa.types.is_null(kind)}
    return len(stored) <= 1


def _text_columns(config: ModelConfig) -> set[str]:
    columns = config.columns
    other_kinds = {*columns.features.numeric, *columns.features.boolean}
    return {*columns.id_columns, *columns.features.categorical, *columns.protected} - other_kinds


def _with_types(schema: pa.Schema, types: Mapping[str, pa.DataType]) -> pa.Schema:
    for name, kind in types.items():
        place = schema.get_field_index(name)
        schema = schema.set(place, pa.field(name, kind)) if place >= 0 else schema.append(pa.field(name, kind))
    return schema


def _unified(
    config: ModelConfig, dataset: pa_dataset.FileSystemDataset, columns: Sequence[str], where: str
) -> pa_dataset.Dataset:
    fragments = list(dataset.get_fragments())
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        list(pool.map(lambda fragment: fragment.ensure_complete_metadata(), fragments))
    first_with: dict[str, dict[pa.DataType, str]] = {name: {} for name in columns}
    for fragment in fragments:
        schema = fragment.physical_schema
        for name, found in first_with.items():
            place = schema.get_field_index(name)
            if place >= 0:
                found.setdefault(schema.field(place).type, fragment.path)
    types = {name: _common(config, name, found, where) for name, found in first_with.items() if found}
    return pa_dataset.FileSystemDataset(
        fragments, _with_types(dataset.schema, types), dataset.format, dataset.filesystem
    )


def _common(config: ModelConfig, name: str, found: Mapping[pa.DataType, str], where: str) -> pa.DataType:
    """Return a type to which all of a column's types convert without loss. Raises SourceError, naming two files."""
    kinds = [kind for kind in found if not pa.types.is_null(kind)] or [pa.null()]
    if len(kinds) == 1:
        return kinds[0]
    families = {_family(kind) for kind in kinds}
    common = _of_one_family(kinds) if len(families) == 1 else _of_several(config, name, families, kinds)
    if common is not None:
        return common
    one, other = kinds[0], next((kind for kind in kinds if _family(kind) != _family(kinds[0])), kinds[1])
    raise SourceError(
        f"{where}: column {name!r} is {one} in {found[one]} and {other} in {found[other]}, expected one kind of value in "
        "all files, because values are never converted silently; fix the file that differs"
    )


def _of_several(config: ModelConfig, name: str, families: set[str], kinds: Sequence[pa.DataType]) -> pa.DataType | None:
    """Return the common type of several kinds of values that `schemas` treats as equivalent, or None."""
    columns = config.columns
    if families == {"integers", "fractions"} and name not in (*columns.id_columns, *columns.features.categorical):
        return _of_one_family(kinds)
    if families == {"integers", "text"} and name in columns.features.categorical:
        return pa.string()
    if name == columns.label and config.task != "regression" and families <= {"integers", "fractions", "booleans"}:
        return pa.float64() if "fractions" in families else pa.int64()  # `schemas` reads whole numbers as classes
    if families == {"integers", "booleans"} and name in (columns.label, *columns.features.boolean):
        return pa.int64()
    if families in ({"text", "times"}, {"text", "clocks"}) and name in (columns.time, columns.label_time):
        return pa.string()
    return None


def _of_one_family(kinds: Sequence[pa.DataType]) -> pa.DataType | None:
    family = _family(kinds[0])
    if family == "text":
        return pa.large_string() if any(pa.types.is_large_string(kind) for kind in kinds) else pa.string()
    if family in ("times", "clocks"):
        units = {kind.unit for kind in kinds if pa.types.is_timestamp(kind)}
        finest = next((unit for unit in ("ns", "us", "ms") if unit in units), "s")
        return pa.timestamp(finest, "UTC" if family == "times" else None)
    if family in ("integers", "fractions"):
        fields = [pa.schema([("value", _plain(kind))]) for kind in kinds]
        return pa.unify_schemas(fields, promote_options="permissive").field(0).type
    return None


def _family(kind: pa.DataType) -> str:
    plain = _plain(kind)
    for family, checks in FAMILIES.items():
        if any(check(plain) for check in checks):
            return family
    if pa.types.is_timestamp(plain):
        return "times" if plain.tz is not None else "clocks"
    return "clocks" if pa.types.is_date(plain) else str(kind)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
