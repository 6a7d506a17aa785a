"""The ranges that a search draws from: those of the model's file, and the usual ones of its estimator.

The usual ranges follow the libraries' tuning guides and Grinsztajn et al. 2022 (NeurIPS, "Why do tree-based models still
outperform deep learning on tabular data?"), without the extremes that take long and win rarely. A range always includes
the champion's value. What the champion's settings leave open has the library's own default.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import JsonValue

from deployments.config.model import ModelConfig
from tasks.adapters.boosters.known import library_of
from tasks.adapters.models.estimators import estimator_class
from tasks.policy.records.errors import EstimatorError
from tasks.policy.training.search import SearchPolicy, SearchRange


@dataclass(frozen=True, slots=True)
class UsualRange:
    """A range that is tried by default, and the library's own value of the parameter."""

    low: float
    high: float
    default: JsonValue
    log: bool = False

    def as_range(self) -> SearchRange:
        return SearchRange(low=self.low, high=self.high, log=self.log)


_LEARNING = UsualRange(0.02, 0.3, 0.1, log=True)
USUAL: dict[str, dict[str, UsualRange]] = {
    "xgboost": {
        "n_estimators": UsualRange(50, 600, 100, log=True),
        "learning_rate": UsualRange(0.02, 0.3, 0.3, log=True),
        "max_depth": UsualRange(2, 9, 6),
        "min_child_weight": UsualRange(1.0, 100.0, 1.0, log=True),
        "subsample": UsualRange(0.5, 1.0, 1.0),
        "colsample_bytree": UsualRange(0.4, 1.0, 1.0),
        "reg_lambda": UsualRange(0.1, 30.0, 1.0, log=True),
    },
    "lightgbm": {
        "n_estimators": UsualRange(50, 600, 100, log=True),
        "learning_rate": _LEARNING,
        "num_leaves": UsualRange(7, 127, 31, log=True),
        "min_child_samples": UsualRange(5, 200, 20, log=True),
        "colsample_bytree": UsualRange(0.4, 1.0, 1.0),
        "reg_lambda": UsualRange(0.001, 30.0, 0.001, log=True),
    },
    "catboost": {
        "iterations": UsualRange(50, 600, 100, log=True),
        "learning_rate": _LEARNING,
        "depth": UsualRange(3, 8, 6),
        "l2_leaf_reg": UsualRange(1.0, 30.0, 3.0, log=True),
    },
    "sklearn.ensemble._hist_gradient_boosting": {
        "max_iter": UsualRange(50, 600, 100, log=True),
        "learning_rate": _LEARNING,
        "max_leaf_nodes": UsualRange(7, 127, 31, log=True),
        "min_samples_leaf": UsualRange(5, 200, 20, log=True),
        "l2_regularization": UsualRange(0.001, 30.0, 0.001, log=True),
    },
    "sklearn.linear_model._logistic": {"C": UsualRange(0.001, 1000.0, 1.0, log=True)},
    "sklearn.linear_model._ridge": {"alpha": UsualRange(0.001, 1000.0, 1.0, log=True)},
}
"""By the module of the estimator's class, or a package that it is in."""


def usual_ranges(config: ModelConfig) -> Mapping[str, UsualRange]:
    """Return the usual ranges of the model's estimator; empty for one that has none. Raises EstimatorError."""
    modules = [base.__module__ for base in estimator_class(config).__mro__]
    return next((USUAL[key] for module in modules for key in USUAL if f"{module}.".startswith(f"{key}.")), {})


def ranges(config: ModelConfig, policy: SearchPolicy) -> dict[str, SearchRange]:
    """Return the range of each parameter that is searched, wide enough for the settings of `config`."""
    found = {name: usual.as_range() for name, usual in usual_ranges(config).items()} | policy.parameters
    given = known_values(config, found)
    return {name: each.including(given[name]) if name in given else each for name, each in sorted(found.items())}


def known_values(config: ModelConfig, searched: Mapping[str, Any]) -> dict[str, JsonValue]:
    """Return the searched parameters as `config` has them: from its settings, else the library's default where known."""
    usual, given = usual_ranges(config), config.training.parameters
    defaults = {name: usual[name].default for name in searched if name in usual}
    return {name: value for name, value in {**defaults, **given}.items() if name in searched and value is not None}


def distribution(each: SearchRange) -> BaseDistribution:
    """Return a range in Optuna's form."""
    if each.choices:
        return CategoricalDistribution(list(each.choices))
    low, high = each.bounds
    if each.is_whole:
        return IntDistribution(int(low), int(high), log=each.log)
    return FloatDistribution(low, high, log=each.log)


def check(config: ModelConfig) -> tuple[str, ...]:
    """Say what the search does not do. Raises EstimatorError for ranges that the estimator does not know or cannot use."""
    policy = config.training.search
    if policy is None:
        return ()
    kind = estimator_class(config)
    library = library_of(kind)
    accepted = set(library.accepted(kind) if library else kind().get_params())
    for name in policy.parameters:
        if name not in accepted:
            near = difflib.get_close_matches(name, accepted, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(sorted(accepted))}."
            raise EstimatorError(
                f"{config.name}: training.search.parameters.{name} is not known to {kind.__name__}; {hint}"
            )
    if not ranges(config, policy) and not policy.features:
        raise EstimatorError(
            f"{config.name}: training.search has nothing to try for {kind.__name__}; expected training.search.parameters with "
            "ranges, or features: true"
        )
    replays = "" if policy.in_replays else "replays, "
    return (
        f"training: {replays}back-tests and probes do not search, which would take the search's budget each time; they train "
        "with the settings of the model's file.",
    )


def describe(config: ModelConfig, usd: float | None) -> str | None:
    """Describe what the next search would try and cost; None if the model's file asks for none."""
    policy = config.training.search
    if policy is None:
        return None
    tried = [f"{name} {each.describe()}" for name, each in ranges(config, policy).items()]
    tried += ["derived features"] if policy.features and not config.training.pipeline else []
    cost = "its cost is known once one has run" if usd is None else f"about {usd:,.4f} USD"
    return f"search: it would spend {policy.describe_limit()} ({cost}) on {', '.join(tried)}; it starts from the present settings"
