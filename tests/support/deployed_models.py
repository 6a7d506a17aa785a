"""Model configurations for deployment tests: the repository's models, one more, and an index with one line changed."""

from pathlib import Path
from typing import Any

from deployments.apply.definitions import INDEX
from deployments.config.folders import available_models
from deployments.config.loading import load_model_config
from deployments.config.model import ModelConfig


def models(*extra: ModelConfig) -> list[ModelConfig]:
    return [*(load_model_config(name) for name in available_models()), *extra]


def churn(**changes: Any) -> ModelConfig:
    return load_model_config("air_time").model_copy(update={"name": "churn", **changes})


def index_with(folder: Path, old: str, new: str) -> Path:
    text = INDEX.read_text(encoding="utf-8")
    assert old in text
    path = folder / "prefect.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path
