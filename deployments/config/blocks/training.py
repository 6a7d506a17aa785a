"""Settings of training: the block `training` of a model's YAML file.

One of four ways trains the model: an estimator, after a pipeline of the user's own if one is named; a function; a command;
or a Prefect deployment.
"""

import json
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from deployments.config.blocks.data import ImportPath
from tasks.policy.records.base import Settings
from tasks.policy.training.edge import EdgePolicy
from tasks.policy.training.online import OnlinePolicy
from tasks.policy.training.race import RacePolicy
from tasks.policy.training.recipe import FeatureRecipe
from tasks.policy.training.search import SearchPolicy

HANDED_OVER = ("snapshot", "decision_id", "output")
"""Parameters that a Prefect deployment of the user's own is always given."""
XGBOOST = ("xgboost:XGBClassifier", "xgboost:XGBRegressor")
"""XGBoost's estimators that can train in external memory, on a Dask cluster and on a GPU; None is one of them."""
INPUT, OUTPUT = "PERENNIAL_INPUT", "PERENNIAL_OUTPUT"
"""Environment variables of a training command: the folder with its rows, and the place for its model."""


def _finite(parameters: dict[str, JsonValue]) -> dict[str, JsonValue]:
    for name, value in parameters.items():
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            raise ValueError(f"{name} is {value!r}, expected finite numbers") from None
    return parameters


Parameters = Annotated[dict[str, JsonValue], AfterValidator(_finite)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Training(Settings):
    """How a challenger is trained: by an estimator, or by exactly one of `function`, `command` and `flow`."""

    estimator: ImportPath | None = Field(None, examples=["sklearn.linear_model:LogisticRegression"])
    """`module:Class` of a scikit-learn estimator, or of LightGBM or CatBoost, which are the extras `lightgbm` and `catboost`
    of the installation. Default: XGBoost."""
    parameters: Parameters = Field({}, examples=[{"n_estimators": 200, "monotone_constraints": {"tenure_days": 1}}])
    """Passed to the estimator; for XGBoost `n_estimators`, `max_depth`, `learning_rate`, … Constraints may name features."""
    pipeline: ImportPath | None = Field(None, examples=["mycompany.churn:build"], exclude_if=lambda path: path is None)
    """`module:function` that returns an unfitted scikit-learn transformer, which is put before the estimator. Called as
    `build()` or `build(config)`."""
    function: ImportPath | None = Field(None, examples=["mycompany.churn:fit"], exclude_if=lambda path: path is None)
    """`module:function`, called as `fit(rows, config)` with a pandas DataFrame. Returns a fitted scikit-learn model."""
    command: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), examples=[["python", "train.py"]], exclude_if=lambda words: not words
    )
    """A program and its arguments, run in the folder of the model's file, never by a shell. `{input}` and `{output}` in an
    argument stand for the folder with the rows and the place for the model, as do PERENNIAL_INPUT and PERENNIAL_OUTPUT."""
    environment: tuple[VariableName, ...] = Field(
        (), examples=[["MLFLOW_TRACKING_URI"]], exclude_if=lambda names: not names
    )
    """Environment variables that the command gets although their names begin with PERENNIAL_, PREFECT_ or MLFLOW_."""
    work_pool: str | None = Field(
        None, pattern=r"^[^/%&<>]+$", examples=["team-gpu"], exclude_if=lambda name: name is None
    )
    """Prefect work pool of your own on which the command runs. Its hosts or image have Perennial, and the model's file with its
    folder. Default: the command runs where the retrain does."""
    flow: str | None = Field(
        None, pattern=r"^[^/]+/[^/]+$", examples=["team/train-churn"], exclude_if=lambda name: name is None
    )
    """`flow/deployment` of a Prefect deployment of your own, which is run with the parameters `snapshot`, `decision_id` and
    `output`."""
    flow_parameters: Parameters = Field({}, examples=[{"epochs": 20}], exclude_if=lambda given: not given)
    """Further parameters of that deployment."""
    registered_model: str | None = Field(
        None, min_length=1, examples=["churn-training"], exclude_if=lambda name: name is None
    )
    """The registered model in MLflow where the flow registers its version, with the tag `decision_id`. Default: the flow
    writes its model to `output`."""
    timeout_hours: float = Field(6.0, gt=0, le=24 * 7, examples=[2.0], exclude_if=lambda hours: bool(hours == 6.0))
    """A training that takes longer is stopped, and refused."""
    checkpoint_seconds: float | None = Field(
        30.0, ge=0, examples=[120.0], exclude_if=lambda seconds: bool(seconds == 30.0)
    )
    """Store the rounds so far this often, beside the model's tables: a retrain that is killed continues from there and ends in
    the same model. Only XGBoost continues. `null` turns it off."""
    engine: Literal["memory", "external", "dask"] = Field(
        "memory", examples=["external"], exclude_if=lambda engine: bool(engine == "memory")
    )
    """Where XGBoost trains: in memory; in external memory, for rows larger than memory, at about three times the CPU time; or on
    a Dask cluster."""
    dask_scheduler: str | None = Field(
        None, min_length=1, examples=["tcp://10.0.0.5:8786"], exclude_if=lambda address: address is None
    )
    """Address of the scheduler of an existing Dask cluster, or the name of an environment variable that holds it."""
    device: Literal["cpu", "cuda"] = Field("cpu", examples=["cuda"], exclude_if=lambda device: bool(device == "cpu"))
    """Device that XGBoost trains on; where there is no such device, training is refused."""
    window_days: float | None = Field(None, gt=0, examples=[180.0])
    """Train on this many trailing days. Default: all history."""
    validation_share: float = Field(0.15, gt=0, lt=0.5, examples=[0.2])
    """Share of the training rows, the latest ones, held back for early stopping."""
    early_stopping_rounds: int | None = Field(20, ge=1, examples=[50])
    """Stop when the loss on the held-back rows has not improved for this many rounds; `null` turns early stopping off."""
    min_rows: int = Field(1000, ge=10, examples=[5000])
    """Fewest labelled rows to train on; with fewer, training is refused."""
    refit: bool = Field(True, examples=[False], exclude_if=lambda refit: bool(refit))
    """Fit the model that validation judges once more, on the training rows and the holdout together, with as many rounds.
    That model serves, once it is no worse on the holdout than the one that was validated. Not for a command or a flow."""
    edge: EdgePolicy = Field(
        EdgePolicy(), examples=[{"max_age_days": 7}], exclude_if=lambda rules: rules == EdgePolicy()
    )
    """What updates of devices must keep to."""
    race: RacePolicy | None = Field(None, examples=[{"windows": 4}], exclude_if=lambda race: race is None)
    """Before each training, let ways to choose the rows compete on the latest closed windows, and train by the best one.
    Default: no race, all rows count alike. Not for a command or a flow."""
    online: OnlinePolicy | None = Field(None, examples=[{"windows": 12}], exclude_if=lambda policy: policy is None)
    """Correct the champion between retrains: after each window whose labels have closed, the leaves of its trees learn from the
    latest ones. `{}` uses the defaults. For XGBoost with two classes or a regression. Default, and once it is removed: the
    champion stays as it was trained."""
    seed: int = Field(7, ge=0, examples=[7])
    """Random seed: the same seed and rows give the same model."""
    search: SearchPolicy | None = Field(None, exclude_if=lambda policy: policy is None)
    """Search better parameters and derived features before each training, within a budget. Default: no search."""
    recipe: FeatureRecipe | None = Field(None, exclude_if=lambda recipe: recipe is None)
    """Derived features. Default: none, or those that `search` finds."""
    trust: bool = Field(False, examples=[True], exclude_if=lambda trusted: not trusted)
    """Load models from elsewhere that can run code: joblib, pickle, and MLflow models without a safe file.

    They run in a process of their own, without credentials, with bounded memory and time (see "Your champion")."""

    @model_validator(mode="after")
    def _check_way(self) -> Self:
        ways = [name for name in ("estimator", "function", "command", "flow") if getattr(self, name)]
        if len(ways) > 1:
            raise ValueError(
                f"{' and '.join(ways)} are given, expected one of estimator, function, command and flow; remove the others"
            )
        way = ways[0] if ways else "estimator"
        only_for = {"pipeline": ("estimator",), "environment": ("command",), "work_pool": ("command",),
                    "flow_parameters": ("flow",), "registered_model": ("flow",),
                    "parameters": ("estimator", "function", "command")}  # fmt: skip
        for name, accepted in only_for.items():
            if getattr(self, name) and way not in accepted:
                rather = "; use flow_parameters" if name == "parameters" else ""
                raise ValueError(f"{name} is given with {way}, expected it with {' or '.join(accepted)} only{rather}")
        if self.race and self.is_foreign:
            raise ValueError(f"race is given with {way}, expected it with estimator or function only; remove it")
        taken = [name for name in HANDED_OVER if name in self.flow_parameters]
        if taken:
            raise ValueError(f"flow_parameters has {taken[0]}, which every flow is given, expected another name")
        return self

    @model_validator(mode="after")
    def _check_engine(self) -> Self:
        if (self.engine == "dask") != (self.dask_scheduler is not None):
            raise ValueError(
                f"engine is {self.engine} and dask_scheduler {self.dask_scheduler or 'not given'}, expected both engine: dask "
                "and the address of its scheduler, or neither"
            )
        is_xgboost = not (self.function or self.is_foreign) and self.estimator in (None, *XGBOOST)
        if self.engine != "memory" and (self.pipeline or not is_xgboost):
            raise ValueError(
                f"engine is {self.engine} with {self.trainer}, expected it with XGBoost alone, which can read rows in batches; "
                "set engine: memory"
            )
        if self.device != "cpu" and not is_xgboost:
            raise ValueError(
                f"device is {self.device} with {self.trainer}, expected it with XGBoost; see whether the estimator has "
                "a parameter for it"
            )
        return self

    @property
    def is_foreign(self) -> bool:
        """Whether a program or a flow of the user's own trains the model outside of this process."""
        return bool(self.command or self.flow)

    @property
    def is_estimator(self) -> bool:
        """Whether an estimator is trained here, XGBoost or a named one."""
        return not (self.function or self.is_foreign)

    @property
    def is_refitted(self) -> bool:
        """Whether the validated model is fitted once more with the holdout's rows."""
        return self.refit and not self.is_foreign

    @property
    def reads_other(self) -> bool:
        """Whether what trains the model can read text, dates and lists."""
        return bool(self.pipeline or self.function)

    @property
    def imported(self) -> tuple[str, ...]:
        """Import paths of the user's own code; a stored model may hold types of their packages."""
        return tuple(path for path in (self.estimator, self.pipeline, self.function) if path)

    @property
    def trainer(self) -> str | None:
        """What trains the model, in words; None for XGBoost alone."""
        if self.command:
            return f"the command {' '.join(self.command)}" + (
                f" on work pool {self.work_pool}" if self.work_pool else ""
            )
        if self.flow:
            return f"the Prefect deployment {self.flow}"
        if self.pipeline:
            return f"{self.estimator or 'XGBoost'} after the pipeline {self.pipeline}"
        return self.function or self.estimator

    def stand_in(self) -> "Training":
        """Return settings that train here what a command or a flow trains elsewhere: XGBoost with its defaults."""
        if not self.is_foreign:
            return self
        own: dict[str, object] = {
            "command": (),
            "environment": (),
            "work_pool": None,
            "flow": None,
            "flow_parameters": {},
            "registered_model": None,
        }
        return self.model_copy(update={**own, "parameters": {}})
