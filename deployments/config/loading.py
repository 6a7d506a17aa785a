"""Read a model's YAML file: by `load_model_config`, or by the model's name, which is all that a scheduled run has.

In the models' folders, a file must be named after its model and exist in one folder only. A file passed by path may
have any name. Every error states the file, the field, the value found and what is accepted.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from deployments.config.blocks.data import Source
from deployments.config.folders import FLEET, model_folders, model_path
from deployments.config.messages import explain_all, open_questions
from deployments.config.model import ModelConfig
from deployments.config.yaml_file import UnreadableYaml, read_yaml
from tasks.policy.data_quality.expectations import condition_columns, named_columns
from tasks.policy.records.errors import ModelConfigError


def load_model_config(name_or_path: str | Path) -> ModelConfig:
    """Read and check one model's YAML file.

    Raises ModelConfigError with the file, the field, the value found and what is accepted.
    """
    path = model_path(name_or_path)
    try:
        content = read_yaml(path)
    except UnreadableYaml as error:
        raise ModelConfigError(f"{path.name}: {error}") from None
    except OSError as error:
        raise ModelConfigError(f"{path.name}: cannot be read ({error.strerror}); expected a YAML file") from None
    if not isinstance(content, dict):
        raise ModelConfigError(
            f"{path.name}: holds {type(content).__name__}, expected a mapping that starts with name:"
        )
    if questions := open_questions(path.name, content, ModelConfig):
        raise ModelConfigError("\n".join(questions))
    try:
        config = ModelConfig.model_validate(content, context={"folder": path.parent})
    except ValidationError as error:
        raise ModelConfigError("\n".join(explain_all(path.name, error.errors(), ModelConfig))) from None
    config = config.model_copy(update={"source": _located(path, "source", config.source)})
    if config.labels:
        own = config.labels.model_copy(update={"source": _located(path, "labels.source", config.labels.source)})
        config = config.model_copy(update={"labels": own})
    if config.predictions:
        place = _located(path, "predictions.source", config.predictions.source)
        config = config.model_copy(update={"predictions": config.predictions.model_copy(update={"source": place})})
    if config.quality.suite and config.quality.suite.endswith(".json"):
        suite = (path.parent / config.quality.suite).resolve()
        _check_suite(path.name, config, suite)
        config = config.model_copy(update={"quality": config.quality.model_copy(update={"suite": str(suite)})})
    return config.read_from(path)


def load_named_model(name_or_path: str | Path) -> ModelConfig:
    """Read one model like `load_model_config`. Also raises ModelConfigError if runs would not find it by its name."""
    config, path = load_model_config(name_or_path), model_path(name_or_path)
    files = _model_files()
    for file in files:
        if file.resolve() == path:
            _refuse_other_name(file, config.name, files)
            _refuse_twin(file, files)
    return config


def _model_files() -> list[Path]:
    folders = dict.fromkeys(folder.resolve() for folder in model_folders())
    return [path for folder in folders for path in sorted(folder.glob("*.yaml")) if path.stem != FLEET]


def _refuse_other_name(file: Path, name: str, files: list[Path]) -> None:
    if file.stem == name:
        return
    owner = next((other for other in files if other.stem == name), None)
    rename = f"rename it to {name}.yaml, or " if owner is None else f"{owner} is the file of {name}; "
    raise ModelConfigError(
        f"{file}: name is {name}, expected {file.stem}, as runs find a model by the name of its file; {rename}"
        f"write name: {file.stem}"
    )


def _refuse_twin(file: Path, files: list[Path]) -> None:
    others = [other for other in files if other.resolve() != file.resolve()]
    alike = next((other for other in others if other.stem != file.stem and _key(other) == _key(file)), None)
    if alike:
        raise ModelConfigError(
            f"{file} and {alike}: their names differ only in - and _, and Prefect's artifacts of both would have one name; "
            "expected names that differ in more; rename one of the two models, in the file and in the file's name"
        )
    twin = next((other for other in others if other.stem == file.stem), None)
    if twin:
        raise ModelConfigError(
            f"{file} and {twin}: both are the file of {file.stem}, expected one, as runs would read only the first; "
            "rename one of the two models, in the file and in the file's name"
        )


def _key(file: Path) -> str:
    """The model's name in the keys of artifacts, which have no underscores."""
    return file.stem.replace("_", "-")


def _located(file: Path, setting: str, source: Source) -> Source:
    """Return the source with its path relative to the model's file made absolute."""
    if not source.path or "://" in source.path:
        return source
    try:
        absolute = str((file.parent / source.path).resolve())
    except (OSError, RuntimeError):  # from Python 3.13 on, a loop of links is only detected on opening the path
        raise ModelConfigError(
            f"{file.name}: {setting}.path is {source.path}, a loop of links, expected a file or folder; fix the link"
        ) from None
    return source.model_copy(update={"path": absolute})


def _check_suite(file: str, config: ModelConfig, suite: Path) -> None:
    """Check a suite file. Raises ModelConfigError if it is not a suite or names a column that it cannot be given."""
    at = f"{file}: quality.suite is {config.quality.suite}"
    try:
        listed = json.loads(suite.read_text(encoding="utf-8"))["expectations"]
        named = [(str(one.get("type", "")), _columns_of(one)) for one in listed]
    except OSError as error:
        raise ModelConfigError(
            f"{at}, which cannot be read ({error.strerror}); expected a file beside {file}"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelConfigError(
            f"{at}, which holds no suite; expected the output of json.dumps(suite.to_json_dict()) of Great Expectations"
        ) from None
    columns = config.columns
    landed = {columns.key, columns.time, *columns.features.names, *columns.protected, *columns.extra}
    for number, (kind, names) in enumerate(named, start=1):
        on_table = kind.startswith("expect_table_")
        if strange := sorted(names - landed - ({columns.label} if not on_table else set())):
            raise ModelConfigError(
                f"{at}, which names column {strange[0]!r} in expectation {number} ({kind}); expected columns that are "
                f"stored with the rows: {', '.join(sorted(landed))}; {_remedy(config, strange[0])}"
            )


def _remedy(config: ModelConfig, name: str) -> str:
    """What to do about a column that an expectation names and that is not stored with the rows."""
    if name == config.columns.label:
        return "labels come later than their rows, so leave the label out of this list of columns"
    if name == config.columns.label_time:
        return "the time of a label comes with the label and is not stored with its row; remove this expectation"
    return "list it under columns.extra"


def _columns_of(expectation: dict[str, Any]) -> frozenset[str]:
    """The columns that an expectation of Great Expectations names, those of its row condition and its lists included."""
    arguments = expectation["kwargs"]
    lists = (*(arguments.get("column_list") or ()), *(arguments.get("column_set") or ()))
    read = named_columns(str(expectation.get("type", "")), arguments)
    return condition_columns(arguments.get("row_condition")).union(read, lists)
