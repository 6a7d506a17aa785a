"""Load models of formats that run no code when loaded, and predict in this process: XGBoost, LightGBM, CatBoost, ONNX, skops.

LightGBM, CatBoost and ONNX Runtime are extras, imported only where a model needs them. A skops file may hold only classes of
scikit-learn, NumPy and SciPy, and NumPy's universal functions: other functions could be called with any argument.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import import_module
from operator import attrgetter
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
from xgboost import Booster, DMatrix
from xgboost.core import XGBoostError

from tasks.adapters.boosters.with_catboost import has_log_link
from tasks.adapters.boosters.with_lightgbm import objective_of
from tasks.adapters.foreign.sandbox import Sandbox
from tasks.adapters.models.files import TRUSTED_PACKAGES, Floats
from tasks.adapters.models.resources import threads
from tasks.policy.records.errors import ForeignModelError
from tasks.policy.records.text import reason_of

UNSAFE_PARTS = frozenset(
    {"testing", "tests", "f2py", "distutils", "ctypeslib", "externals", "conftest", "_pytesttester"}
)
"""Modules of the trusted packages whose classes run commands or compile code."""


class Predictor(Protocol):
    """A loaded model: its type's name, what it says about its inputs and classes, and its predictions as it gives them."""

    @property
    def name(self) -> str: ...
    @property
    def features(self) -> tuple[str, ...] | None: ...
    @property
    def classes(self) -> tuple[str, ...] | None: ...
    @property
    def task(self) -> str | None:
        """The task that the model was trained for; None where it does not say."""

    @property
    def may_give_labels(self) -> bool:
        """Whether a classifier's predictions may be classes instead of probabilities, as its format does not say."""

    def predict(self, frame: pd.DataFrame) -> Floats: ...


def load(model_format: str, files: Mapping[str, bytes], task: str) -> Predictor:
    """Load a model of this format. Raises ForeignModelError if its files cannot be read."""
    if model_format not in LOADERS:
        return SandboxedModel(model_format, files, task)
    ((name, content),) = files.items()
    try:
        return LOADERS[model_format](content)
    except ForeignModelError:
        raise
    except Exception as error:  # noqa: BLE001 the libraries raise errors of many types for a damaged file
        raise ForeignModelError(
            f"{name}: cannot be read as {model_format} ({reason_of(error)[:200]}); expected a complete file"
        ) from None


def _library(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ForeignModelError(
            f"this model needs {module}, which is not installed ({error}); run: uv pip install 'perennial[{extra}]'"
        ) from None


def _prepared(frame: pd.DataFrame, categories: Collection[str]) -> pd.DataFrame:
    """Return the frame with these columns as categories, and booleans with nulls, which are objects, as numbers."""
    kinds = {name: "category" for name in categories if name in frame.columns}
    kinds |= {name: "float64" for name in frame.columns if frame[name].dtype == object and name not in kinds}
    return frame.astype(kinds)


class XGBoostModel:
    """A booster. Its own objective says whether it gives probabilities."""

    name = "Booster"
    classes = None
    may_give_labels = False

    def __init__(self, content: bytes) -> None:
        self._booster = Booster({"nthread": threads()})
        self._booster.load_model(bytearray(content))
        self.features = tuple(self._booster.feature_names) if self._booster.feature_names else None
        objective = json.loads(self._booster.save_config())["learner"]["objective"]["name"]
        known = {"binary:logistic": "binary", "multi:softprob": "multiclass"}
        self.task = known.get(objective) or ("regression" if objective.startswith(("reg:", "count:")) else objective)
        types = self._booster.feature_types or []
        self._categories = {name for name, kind in zip(self.features or (), types, strict=False) if kind == "c"}
        best = self._booster.attr("best_iteration")
        self._rounds = (0, int(best) + 1) if best else (0, 0)
        if self._categories and not _stores_categories(self._booster):
            raise ForeignModelError(
                f"its features {', '.join(sorted(self._categories))} are categorical, but the file does not name their "
                "categories; expected a model that XGBoost 3.1 or later trained on a data frame"
            )

    def predict(self, frame: pd.DataFrame) -> Floats:
        own = _prepared(frame, self._categories)
        named = self.features is not None
        matrix = DMatrix(own if named else own.to_numpy(np.float32), enable_categorical=True, nthread=threads())
        return np.asarray(self._booster.predict(matrix, iteration_range=self._rounds), float)


def _stores_categories(booster: Booster) -> bool:
    try:
        return not booster.get_categories().empty()
    except (AttributeError, XGBoostError):  # a version of XGBoost that does not store them
        return False


class LightGBMModel:
    """A booster in LightGBM's text format."""

    name = "LightGBM"
    classes = None
    may_give_labels = False

    def __init__(self, content: bytes) -> None:
        lightgbm = _library("lightgbm", "lightgbm")
        self._booster = lightgbm.Booster(model_str=content.decode("utf-8"))
        names = self._booster.feature_name()
        self.features = None if names == [f"Column_{place}" for place in range(len(names))] else tuple(names)
        objective = objective_of(self._booster)
        known = {"binary": "binary", "multiclass": "multiclass", "multiclassova": "multiclass"}
        regressions = {
            "regression",
            "regression_l1",
            "huber",
            "fair",
            "poisson",
            "quantile",
            "mape",
            "gamma",
            "tweedie",
        }
        if not objective:  # its scores would be taken for predictions
            raise ForeignModelError(
                "it was trained with an objective of the team's own, which its file does not hold; expected one of LightGBM's"
            )
        self.task = known.get(objective) or ("regression" if objective in regressions else objective)
        listed = [names[place] for place in _categorical_places(self._booster.params.get("categorical_feature"))]
        given = self._booster.pandas_categorical or []
        self._categories: dict[str, Any] = dict(zip(listed, given, strict=True)) if len(listed) == len(given) else {}

    def predict(self, frame: pd.DataFrame) -> Floats:
        texts = {name for name in frame.columns if isinstance(frame[name].dtype, pd.StringDtype)} - set(
            self._categories
        )
        own = frame.assign(
            **{name: _as_categories(frame[name], known) for name, known in self._categories.items() if name in frame}
        )
        return np.asarray(self._booster.predict(_prepared(own, texts), num_threads=threads()), float)


def _categorical_places(setting: Any) -> list[int]:
    """Return the places of the categorical features, which LightGBM keeps as [1, 2] or "1,2"."""
    parts = setting.split(",") if isinstance(setting, str) else setting or []
    return sorted(int(part) for part in parts if str(part).strip().isdigit())


def _as_categories(column: Any, known: Sequence[Any]) -> pd.Categorical:
    """Return a column as these categories, in their type; a value that is none of them is missing."""
    meant = {class_text(each): each for each in known}
    values = {value: meant.get(class_text(value)) for value in column.dropna().unique()}
    return pd.Categorical(column.astype(object).map(values), categories=list(known))


class CatBoostModel:
    """A model in CatBoost's own format."""

    name = "CatBoost"
    may_give_labels = False

    def __init__(self, content: bytes) -> None:
        catboost = _library("catboost", "catboost")
        self._model = catboost.CatBoost()
        self._model.load_model(blob=content)
        self._pool = catboost.Pool
        self._kind = _catboost_prediction(str(self._model.get_all_params().get("loss_function", "")))
        names = list(self._model.feature_names_ or [])
        self.features = None if names == [str(place) for place in range(len(names))] else tuple(names)
        classes = list(getattr(self._model, "classes_", []))
        self.classes = tuple(map(class_text, classes)) or None
        self._categories = [names[place] for place in self._model.get_cat_feature_indices()]
        self.task = "regression" if not classes else "binary" if len(classes) == 2 else "multiclass"

    def predict(self, frame: pd.DataFrame) -> Floats:
        own = _prepared(frame, ()).assign(
            **{name: frame[name].astype(object) for name in self._categories if name in frame.columns}
        )
        pool = self._pool(own, cat_features=[name for name in self._categories if name in frame.columns])
        kind = self._kind if self.classes is None else "Probability"
        return np.asarray(self._model.predict(pool, prediction_type=kind, thread_count=threads()), float)


def _catboost_prediction(loss: str) -> str:
    """Return the prediction type of a regression in the label's unit. Raises ForeignModelError for several values a row."""
    name = loss.split(":")[0]
    if name == "RMSEWithUncertainty" or (name.startswith("Multi") and name not in ("MultiClass", "MultiClassOneVsAll")):
        raise ForeignModelError(
            f"its loss {loss} gives several values a row, expected one; train it with RMSE or another loss of one value"
        )
    return "Exponent" if has_log_link(loss) else "RawFormulaVal"


class OnnxModel:
    """A model for ONNX Runtime with one input per feature, or one matrix of all features in order."""

    name = "ONNX"
    task = None
    TYPES: Mapping[str, Any] = {
        "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64, "tensor(int32)": np.int32,
        "tensor(bool)": np.bool_, "tensor(string)": object,
    }  # fmt: skip

    def __init__(self, content: bytes) -> None:
        runtime = _library("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads()
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._inputs = self._session.get_inputs()
        unknown = [put.type for put in self._inputs if put.type not in self.TYPES]
        if unknown:
            raise ForeignModelError(f"it takes {unknown[0]}, expected numbers, text or booleans")
        width = self._inputs[0].shape[-1] if len(self._inputs[0].shape) > 1 else 1
        self._is_matrix = len(self._inputs) == 1 and width != 1
        self._width = width if isinstance(width, int) else None
        self.features = None if self._is_matrix else tuple(put.name for put in self._inputs)
        self.classes: tuple[str, ...] | None = None
        self.may_give_labels = len(self._session.get_outputs()) == 1

    def predict(self, frame: pd.DataFrame) -> Floats:
        if self._is_matrix:
            if self._width not in (None, frame.shape[1]):
                raise ForeignModelError(f"it takes {self._width} features, the model's file lists {frame.shape[1]}")
            given = {self._inputs[0].name: frame.to_numpy(self.TYPES[self._inputs[0].type])}
        else:
            given = {put.name: self._column(frame, put.name, self.TYPES[put.type]) for put in self._inputs}
        outputs = self._session.run(None, given)
        found = outputs[-1]
        if isinstance(found, list):  # ZipMap: a dictionary of class and probability for each row
            self.classes = tuple(class_text(name) for name in found[0]) if found else self.classes
            found = [list(row.values()) for row in found]
        values = np.asarray(found, float)
        return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values

    @staticmethod
    def _column(frame: pd.DataFrame, name: str, dtype: Any) -> Any:
        values = frame[name].astype(object) if dtype is object else frame[name]
        return values.to_numpy(dtype).reshape(-1, 1)


class SkopsModel:
    """A scikit-learn estimator or pipeline."""

    may_give_labels = False

    def __init__(self, content: bytes) -> None:
        import skops.io  # imports all of scikit-learn's estimators, which no other format needs

        needed = skops.io.get_untrusted_types(data=content)
        if refused := sorted(name for name in needed if not _is_harmless(name)):
            raise ForeignModelError(
                f"it holds {', '.join(refused[:5])}, expected classes of {', '.join(TRUSTED_PACKAGES)} only; save the pipeline "
                "without objects and functions of your own, or take in the joblib file with training.trust: true"
            )
        self._model = skops.io.loads(content, trusted=needed)
        inner = self._model.steps[-1][1] if hasattr(self._model, "steps") else self._model
        self.name = type(inner).__name__
        names, classes = getattr(self._model, "feature_names_in_", None), getattr(self._model, "classes_", None)
        self.features = None if names is None else tuple(map(str, names))
        self.classes = None if classes is None else tuple(map(class_text, classes))
        self.task = None if classes is None else "binary" if len(classes) == 2 else "multiclass"
        if classes is None:
            self.task = "regression"
        elif not hasattr(self._model, "predict_proba"):
            raise ForeignModelError(
                f"its {self.name} gives no probabilities, expected a classifier with predict_proba; fit it with "
                "probability=True if it has that, or wrap it in sklearn.calibration.CalibratedClassifierCV"
            )

    def predict(self, frame: pd.DataFrame) -> Floats:
        own = frame if self.features is not None else frame.to_numpy()
        found = self._model.predict(own) if self.classes is None else self._model.predict_proba(own)
        return np.asarray(found, float)


def _is_harmless(name: str) -> bool:
    """Whether a type that skops would build is a class of a trusted package, or a universal function of NumPy or SciPy."""
    module, _, attribute = name.rpartition(".")
    parts = module.split(".")
    if parts[0] not in TRUSTED_PACKAGES or UNSAFE_PARTS & set(parts):
        return False
    try:
        found = attrgetter(attribute)(import_module(module))
    except (ImportError, AttributeError):
        return False
    return isinstance(found, type | np.ufunc)


class SandboxedModel:
    """A model that may run code, in a process of its own."""

    def __init__(self, model_format: str, files: Mapping[str, bytes], task: str) -> None:
        self._sandbox = Sandbox(model_format, files, task)
        self._facts: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        return str(self._described["estimator"])

    @property
    def features(self) -> tuple[str, ...] | None:
        return _optional(self._described["features"])

    @property
    def classes(self) -> tuple[str, ...] | None:
        return _optional(self._described["classes"])

    @property
    def task(self) -> str | None:
        if self.classes is not None:
            return "binary" if len(self.classes) == 2 else "multiclass"
        return "regression" if self._described["is_regressor"] else None

    @property
    def may_give_labels(self) -> bool:
        return not self._described["has_probabilities"]

    def predict(self, frame: pd.DataFrame) -> Floats:
        return self._sandbox.predict(pa.Table.from_pandas(frame, preserve_index=False))

    @property
    def _described(self) -> dict[str, Any]:
        if self._facts is None:
            found = self._sandbox.describe()
            if found["is_classifier"] and not found["has_probabilities"]:
                raise ForeignModelError(
                    f"its {found['estimator']} gives no probabilities, expected a classifier with predict_proba; fit it with "
                    "probability=True if it has that, or wrap it in sklearn.calibration.CalibratedClassifierCV"
                )
            self._facts = found
        return self._facts


def _optional(names: Any) -> tuple[str, ...] | None:
    return None if names is None else tuple(str(name) for name in names)


def class_text(name: Any) -> str:
    """Return a class as text: 1.0 and True, as some libraries keep them, as 1 and true."""
    if isinstance(name, bool | np.bool_):
        return str(name).lower()
    if isinstance(name, float | np.floating) and float(name).is_integer():
        return str(int(name))
    return str(name)


LOADERS: dict[str, Callable[[bytes], Predictor]] = {
    "xgboost": XGBoostModel,
    "lightgbm": LightGBMModel,
    "catboost": CatBoostModel,
    "onnx": OnnxModel,
    "skops": SkopsModel,
}
