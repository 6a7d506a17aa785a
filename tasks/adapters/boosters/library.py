"""What Perennial asks of a gradient boosting library: build, stop early, store in a file that runs no code, explain.

XGBoost, LightGBM and CatBoost differ in the names of their parameters, in how they are told which features are
categories, and in their files; nothing else in the project knows the differences. Every estimator here reads the matrix
of `models.encoding`: float32, categories as codes, NaN for a missing value.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.adapters.checkpoints.training import Phase
from tasks.adapters.engines.row_batches import Matrix, Target
from tasks.policy.records.errors import EstimatorError

Floats = NDArray[np.float64]
EXTRAS = ("lightgbm", "catboost")
"""Packages that come with an extra of Perennial of the same name."""


@dataclass(frozen=True, slots=True)
class EncodedInputs:
    """The features by position: their names, and the positions of categories."""

    names: tuple[str, ...]
    categorical: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Setup:
    """What a library needs to know of a model: features, task, metric, seed and threads. `classes` is 0 in a regression."""

    inputs: EncodedInputs
    task: Literal["binary", "multiclass", "regression"]
    classes: int
    metric: str
    quantile: float
    seed: int
    threads: int
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How a fit runs: `patience` are the rounds that early stopping waits, `weights` those of the rows fitted to, (n,).

    `phase` holds the checkpoints of this fit.
    """

    patience: int = 1
    weights: Floats | None = None
    phase: Phase | None = None


class BoostingLibrary(ABC):
    """One gradient boosting library. `package` is its import name, `file` the name of its model file.

    `refused_in_names` are the signs for which it refuses a data frame's column. Perennial's own estimators read matrices.
    """

    package: ClassVar[str]
    file: ClassVar[str]
    refused_in_names: ClassVar[str]

    def owns(self, kind: type) -> bool:
        """Return whether a class, or a class that it derives from, is this library's."""
        return any(base.__module__.partition(".")[0] == self.package for base in kind.__mro__)

    @abstractmethod
    def accepted(self, kind: Any) -> Iterable[str]:
        """Return the names of parameters that an estimator class takes."""

    @abstractmethod
    def build(self, kind: Any, setup: Setup, given: Mapping[str, Any]) -> Any:
        """Build the unfitted estimator; `given` parameters override ours."""

    @abstractmethod
    def can_stop_early(self, estimator: Any) -> bool: ...

    @abstractmethod
    def allowed_rounds(self, estimator: Any) -> int: ...

    @abstractmethod
    def with_rounds(self, estimator: Any, rounds: int) -> Any: ...

    @abstractmethod
    def stop_early(
        self, estimator: Any, fitted: tuple[Matrix, Target], held_back: tuple[Matrix, Target], options: FitOptions
    ) -> int:
        """Fit until the held-back rows improve no more, and return the best number of rounds.

        XGBoost continues from the checkpoint of the options' phase and writes others; so in `fit`.
        """

    def fit(self, estimator: Any, fitted: tuple[Matrix, Target], options: FitOptions) -> Any:
        """Fit the estimator to all rows and return it."""
        return estimator.fit(*fitted, sample_weight=options.weights)

    @abstractmethod
    def dump(self, estimator: Any, names: tuple[str, ...]) -> bytes:
        """Return the fitted estimator as its file, which holds the features' names as far as the library allows them.

        Without `names` it keeps those that it was fitted with.
        """

    @abstractmethod
    def load(self, content: bytes, task: str, threads: int) -> Any:
        """Return an estimator with `predict`, and for classes `predict_proba`, from its file."""

    @abstractmethod
    def rounds(self, estimator: Any) -> int:
        """Return the number of rounds of a loaded estimator."""

    @abstractmethod
    def gains(self, estimator: Any) -> Floats:
        """Return what each feature contributed to the loaded estimator's fit, of shape (features,)."""

    @abstractmethod
    def contributions(self, estimator: Any, matrix: Matrix, inputs: EncodedInputs, approximate: bool) -> Floats:
        """Return a loaded estimator's SHAP values, on the margin and with the expected value last.

        The shape is (n, features + 1), for a multiclass model (n, classes, features + 1). `approximate` allows for a faster way.
        """

    @property
    @abstractmethod
    def failures(self) -> tuple[type[Exception], ...]:
        """Exceptions that the library raises for a parameter's value."""


def import_extra(package: str) -> ModuleType:
    """Import a library. Raises EstimatorError that names the extra it comes with."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise EstimatorError(missing(package, str(error))) from error


def missing(package: str, reason: str) -> str:
    """Return why a package cannot be imported and how to install it."""
    if package not in EXTRAS:
        return f"{package} cannot be imported ({reason}); install it or fix the path"
    return (
        f"{package} cannot be imported ({reason}); it comes with an extra: pip install 'perennial[{package}]' on every machine "
        f"that trains or scores this model, and in its image docker build --build-arg EXTRAS={package}"
    )
