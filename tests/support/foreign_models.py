"""Models as other teams train and store them: on raw columns of a data frame, in every format that is taken in."""

from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import skops.io
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from deployments.config.model import ModelConfig
from tests.support.trained_models import make_config, make_rows

FEATURES = ["x", "noise", "colour", "flag"]


def config_of(task: str = "binary", trust: bool = False, **changes: Any) -> ModelConfig:
    training = {"trust": trust, "min_rows": 200}
    return make_config(task, **{"training": training, **changes})


def frame(rows: pa.Table) -> pd.DataFrame:
    found: pd.DataFrame = rows.to_pandas()
    return found


def pipeline(task: str = "binary", rows: pa.Table | None = None) -> Pipeline:
    """Fit a scaler, a one-hot encoder and a linear model on raw columns."""
    table = frame(make_rows(task) if rows is None else rows)
    columns = make_column_transformer(
        (StandardScaler(), ["x", "noise"]), (OneHotEncoder(handle_unknown="ignore"), ["colour", "flag"])
    )
    last = LinearRegression() if task == "regression" else LogisticRegression(max_iter=500)
    return make_pipeline(columns, last).fit(table[FEATURES], table["label"])


def expected(model: Pipeline, task: str, rows: pa.Table) -> np.ndarray:
    """Return what the team's own model predicts, in the shape of the task."""
    table = frame(rows)[FEATURES]
    if task == "regression":
        return np.asarray(model.predict(table))
    shares = np.asarray(model.predict_proba(table))
    return shares[:, 1] if task == "binary" else shares


def stored(folder: Path, model: Any, name: str) -> str:
    """Store a model by skops or joblib, and return the file's path."""
    (skops.io.dump if name.endswith(".skops") else joblib.dump)(model, folder / name)
    return str(folder / name)
