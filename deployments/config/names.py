"""Check that a model's file can be found by the model's name, because a scheduled run has only the name.

In the models' folders, a file must be named after its model and exist in one folder only. A file passed by path may
have any name.
"""

from pathlib import Path

from deployments.config.model import FLEET, ModelConfig, load_model_config, model_folders, model_path
from tasks.policy.records.errors import ModelConfigError


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
