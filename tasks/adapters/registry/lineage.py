"""Record a trained version's lineage in MLflow's format: rows, code, libraries and configuration.

The lineage makes a version reproducible, and so explainable. Nothing here uses the network or starts an interpreter:
the requirements are the installed versions, which the lock file pins, because MLflow's own inference takes ten seconds.
"""

import os
import subprocess
import warnings
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import pandas as pd
from mlflow.data.delta_dataset_source import DeltaDatasetSource
from mlflow.data.pandas_dataset import PandasDataset
from mlflow.entities import DatasetInput, InputTag
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import save_model
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import AnyType
from pydantic import Field

from deployments.config.model import ModelConfig
from tasks.adapters.boosters.known import library_of
from tasks.adapters.foreign.scorer import ForeignScorer
from tasks.adapters.models.estimators import Fitted
from tasks.adapters.models.files import Scorer
from tasks.adapters.models.resources import threads
from tasks.policy.records.base import Window
from tasks.policy.records.reports import FeatureKind, Snapshot
from tasks.policy.training.race import RaceReport
from tasks.policy.training.recipe import FeatureRecipe
from tasks.policy.training.search import SearchReport

BUILD_COMMIT = "PERENNIAL_COMMIT"
"""Environment variable of an image, which has no git: the commit it was built from (infra/docker/Dockerfile)."""
LIBRARIES = ("xgboost", "scikit-learn", "numpy", "pandas", "pyarrow", "skops", "mlflow")
COLUMN_TYPES: dict[FeatureKind, DataType | AnyType] = {
    "numeric": DataType.double,
    "categorical": DataType.string,
    "boolean": DataType.boolean,
    "other": AnyType(),
}


@dataclass(frozen=True, slots=True)
class TrainingManifest:
    """Everything needed to train the same version again."""

    model: str
    decision_id: str
    config_fingerprint: str
    snapshot: Snapshot
    trained: Window
    training_rows: int
    fitted_rows: int
    held_back_rows: int
    estimator: str
    parameters: dict[str, str]
    rounds: int | None
    seed: int
    threads: int
    sha256: str
    code_version: str
    libraries: dict[str, str]
    recipe: Annotated[FeatureRecipe | None, Field(exclude_if=lambda recipe: recipe is None)] = None
    """Features that were derived; with `parameters` it repeats the training without its search."""
    search: Annotated[str | None, Field(exclude_if=lambda sentence: sentence is None)] = None
    """The result of the search for better settings in a sentence; its trials are in `search_report.json`."""
    holdout: Annotated[Snapshot | None, Field(exclude_if=lambda rows: rows is None)] = None
    """Rows that the serving model was fitted to beside those of `snapshot`; None without a refit."""
    validated_sha256: Annotated[str | None, Field(exclude_if=lambda found: found is None)] = None
    """Hash of the model that was fitted to `snapshot` alone and validated; None without a refit."""
    race: Annotated[RaceReport | None, Field(exclude_if=lambda report: report is None)] = None
    """Who raced, with which losses and at what cost, and who won; None without a race."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """The fitted model that serves, the rows it comes from, and the decision that requested it."""

    fitted: Fitted
    training: Snapshot
    learned: Window
    decision_id: str
    holdout: Snapshot | None = None
    race: RaceReport | None = None
    search: SearchReport | None = None


def manifest(config: ModelConfig, origin: Lineage, sha256: str) -> TrainingManifest:
    fitted, search = origin.fitted, origin.search
    recipe = search.recipe if search else config.training.recipe
    return TrainingManifest(
        model=config.name,
        decision_id=origin.decision_id,
        config_fingerprint=config.fingerprint,
        snapshot=origin.training,
        trained=origin.learned,
        training_rows=fitted.rows,
        fitted_rows=fitted.fitted_rows,
        held_back_rows=fitted.held_back_rows,
        estimator=_estimator(config, fitted.scorer),
        parameters=fitted.parameters,
        rounds=fitted.rounds,
        seed=config.training.seed,
        threads=threads(),
        sha256=sha256,
        code_version=code_version(),
        libraries={name: installed_version(name) for name in libraries(fitted.scorer)},
        recipe=None if recipe is None or recipe.is_empty else recipe,
        search=search.sentence if search else None,
        holdout=origin.holdout,
        race=origin.race,
    )


def libraries(scorer: Scorer) -> tuple[str, ...]:
    """Return the packages that a version needs: the usual ones, and the library of its estimator."""
    library = library_of(scorer.estimator)
    return tuple(dict.fromkeys((*LIBRARIES, *([library.package] if library else []))))


def _estimator(config: ModelConfig, scorer: Scorer) -> str:
    if isinstance(scorer, ForeignScorer):
        return f"{scorer.model_format}:{scorer.estimator.name}"
    return config.training.trainer or f"xgboost:{type(scorer.estimator).__name__}"


@cache
def code_version() -> str:
    """Return the git commit (`+dirty` if changed), in an image its build commit, else the package version."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty=+dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run([*command], capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        tracked = ["git", "-C", str(here), "ls-files", "--error-unmatch", Path(__file__).name]
        subprocess.run(tracked, capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return os.environ.get(BUILD_COMMIT) or f"perennial {installed_version('perennial')}"
    return found


def dataset_input(config: ModelConfig, training: Snapshot) -> DatasetInput:
    """Describe the training rows for MLflow: the Delta table, its version, and the content hash."""
    source = DeltaDatasetSource(path=training.uri, delta_table_version=training.version)
    facts = pd.DataFrame({"rows": [float(training.rows)], "labelled_rows": [float(training.labelled_rows or 0)]})
    dataset = PandasDataset(
        df=facts,
        source=source,
        name=f"{config.name} {training.window.name}",
        digest=training.content_hash[:36],
    )
    return DatasetInput(dataset=dataset._to_mlflow_entity(), tags=[InputTag("mlflow.data.context", "training")])


def signature(config: ModelConfig, scorer: Scorer) -> ModelSignature:
    """Return the columns and types that the model accepts; any column may hold nulls, none may be absent."""
    time = scorer.encoding.derived.time
    moment = [ColSpec(DataType.datetime, time)] if time else []
    inputs = Schema([*(ColSpec(COLUMN_TYPES[kind], name) for name, kind in scorer.encoding.features), *moment])
    width = (-1, len(scorer.classes)) if config.task == "multiclass" else (-1,)
    return ModelSignature(inputs=inputs, outputs=Schema([TensorSpec(pd.Series(dtype=float).to_numpy().dtype, width)]))


def save_for_mlflow(config: ModelConfig, scorer: Scorer, files: Path, target: Path) -> None:
    """Wrap a scorer's files as an MLflow model that `mlflow models serve` can load without running stored code."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example.*")  # production rows stay out of the registry
        save_model(
            path=str(target),
            loader_module=type(scorer).__module__,
            data_path=str(files),
            signature=signature(config, scorer),
            pip_requirements=[f"{name}=={installed_version(name)}" for name in libraries(scorer)],
            mlflow_model=Model(),
        )
