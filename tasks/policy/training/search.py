"""The search for better settings: its budget, its ranges, and whether what it found replaces the champion's settings.

Trials are compared on forward folds: trained on what came before, judged on what came after (Bergmeir & Benítez 2012,
"On the use of cross-validation for time series predictor evaluation"). The best of many trials looks better than it is
(Cawley & Talbot 2010, JMLR 11), so the two latest folds take no part in the search. There the best trial, with or without
its derived features, meets the champion's settings once, and must be ahead by more than two standard errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, JsonValue, model_validator

from tasks.policy.economics.costs import HOUR_S, Budget
from tasks.policy.evidence.versions import Usage
from tasks.policy.records.base import Settings
from tasks.policy.training.recipe import FeatureRecipe

ERRORS = 2.0
"""Standard errors by which the best trial must be ahead."""
CONFIRMING = 2
"""Latest folds that take no part in the search; they confirm its best trial."""
MIN_BLOCKS = 5
"""Blocks of the latest folds below which a standard error means little; no settings are adopted then."""
TOLERANCE = 0.1
"""Share by which the search may miss its budget."""


class SearchRange(Settings):
    """Values of a parameter to try: numbers between `low` and `high`, or `choices`."""

    low: int | float | None = Field(None, examples=[0.01])
    """Smallest value. Whole numbers if `low` and `high` are whole."""
    high: int | float | None = Field(None, examples=[0.3])
    """Largest value."""
    log: bool = Field(False, examples=[True])
    """Try magnitudes evenly (0.01, 0.1, 1) instead of values."""
    choices: tuple[JsonValue, ...] = Field((), examples=[["gbtree", "dart"]])
    """Values to choose from."""

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if self.choices:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("choices are given beside low, high or log, expected either")
            return self
        if self.low is None or self.high is None:
            raise ValueError("low and high are not both given, expected low and high, or choices")
        if self.low > self.high:
            raise ValueError(f"low is {self.low:g} and high is {self.high:g}, expected low ≤ high")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low:g} with log: true, expected a number > 0")
        return self

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def bounds(self) -> tuple[float, float]:
        """(low, high); zeros for choices."""
        return (0 if self.low is None else self.low, 0 if self.high is None else self.high)

    def including(self, value: JsonValue) -> "SearchRange":
        """Return the range, widened to hold a value; unchanged for null and for a value of another type."""
        if value is None:
            return self
        if self.choices:
            return self if value in self.choices else self.model_copy(update={"choices": (*self.choices, value)})
        if isinstance(value, bool) or not isinstance(value, int | float) or (self.log and value <= 0):
            return self
        low, high = self.bounds
        return self.model_copy(update={"low": min(low, value), "high": max(high, value)})

    def describe(self) -> str:
        return " or ".join(map(str, self.choices)) if self.choices else f"{self.low:g} to {self.high:g}"


class SearchPolicy(Settings):
    """What the search may spend, and what it tries. At least one of `minutes`, `usd` and `trials` limits it."""

    minutes: float | None = Field(None, gt=0, le=7 * 24 * 60, examples=[10])
    """Minutes that the search takes before each training, within ±10 %."""
    usd: float | None = Field(None, gt=0, examples=[0.5])
    """USD that the search may cost, at the prices of `budget`."""
    trials: int | None = Field(None, ge=1, le=10_000, examples=[50])
    """Most trials. A search that only this limits is repeated exactly by the same rows."""
    parameters: dict[str, SearchRange] = Field({}, examples=[{"max_depth": {"low": 2, "high": 6}}])
    """Ranges of the estimator's parameters, beside or instead of the usual ones of XGBoost, LightGBM, CatBoost and
    scikit-learn's gradient boosting and linear models."""
    features: bool = Field(True, examples=[False])
    """Also try derived features: calendar parts, target encoding, interactions, scaling."""
    folds: int = Field(5, ge=3, le=20, examples=[8])
    """Forward folds of the latest half of the training rows. The two latest only confirm the best trial."""
    in_replays: bool = Field(False, examples=[True])
    """Search in each retrain of a replay too. Back-tests and probes never search."""

    @model_validator(mode="after")
    def _check_limit(self) -> Self:
        if self.minutes is None and self.usd is None and self.trials is None:
            raise ValueError("none of minutes, usd and trials is given, expected at least one, such as minutes: 10")
        return self

    def describe_limit(self) -> str:
        """Describe what limits the search, such as `5 minutes or 100 trials`."""
        limits = [f"{self.minutes:.3g} minutes"] if self.minutes is not None else []
        limits += [f"{self.usd:g} USD"] if self.usd is not None else []
        limits += [f"{self.trials} trials"] if self.trials is not None else []
        return " or ".join(limits)


def cost_of_search(budget: Budget, wall_s: float, cpu_s: float) -> float:
    """USD of a search that took this long, at the prices of a retrain's machine."""
    return (wall_s * budget.compute_usd_per_hour + cpu_s * budget.cpu_usd_per_hour) / HOUR_S


def limit_s(policy: SearchPolicy, budget: Budget, cpus: int = 1) -> float | None:
    """Seconds after which the search ends, with that many busy CPUs; None if only the number of trials limits it.

    >>> limit_s(SearchPolicy(usd=0.5, minutes=600), Budget(compute_usd_per_hour=0.1, cpu_usd_per_hour=0.05))
    12000.0
    """
    limits = [policy.minutes * 60] if policy.minutes is not None else []
    per_second = cost_of_search(budget, 1.0, float(cpus))
    if policy.usd is not None and per_second > 0:
        limits.append(policy.usd / per_second)
    return min(limits, default=None)


def expected_search_usd(policy: SearchPolicy, budget: Budget, past: Sequence[Usage]) -> float | None:
    """USD that the next search is forecast to cost; that of the latest one if only trials limit it, None before it."""
    seconds = limit_s(policy, budget)
    if seconds is not None:
        return cost_of_search(budget, seconds, seconds)
    searched = [usage for usage in past if usage.search_wall_s]
    return cost_of_search(budget, searched[-1].search_wall_s, searched[-1].search_cpu_s) if searched else None


@dataclass(frozen=True, slots=True)
class SearchTrial:
    """One trial: what was drawn, the settings that it means, and its loss on each fold that it reached.

    `origin` is the champion's settings, those of the model's file, an earlier search, or the sampler. `cut` trials ran out of
    the search's time.
    """

    number: int
    origin: Literal["champion", "file", "earlier", "sampled"]
    state: Literal["complete", "pruned", "cut", "failed"]
    drawn: dict[str, JsonValue]
    parameters: dict[str, JsonValue]
    recipe: FeatureRecipe
    seed: int
    losses: tuple[float, ...]
    wall_s: float
    cpu_s: float
    reason: str = ""

    @property
    def loss(self) -> float:
        """Mean loss of the folds that it reached; infinite without one."""
        return float(np.mean(self.losses)) if self.losses else float("inf")

    def describe(self) -> str:
        """Describe its parameters and derived features in words."""
        return describe_settings(
            {n: self.parameters[n] for n in sorted(self.drawn) if n in self.parameters}, self.recipe
        )


@dataclass(frozen=True, slots=True)
class SearchGain:
    """By how much the best trial is ahead of the champion's settings on the latest folds, in units of the loss."""

    gain: float
    error: float
    blocks: int
    champion: float
    best: float

    @property
    def is_adopted(self) -> bool:
        return self.blocks >= MIN_BLOCKS and self.gain > ERRORS * self.error and self.gain > 0


def judge_gain(champion: Sequence[float], best: Sequence[float]) -> SearchGain:
    """Compare the losses of both settings on the same blocks of rows in time; undefined blocks are left out.

    >>> judge_gain([1.0, 1.2, 1.1, 1.0, 1.3], [0.9, 1.0, 1.0, 0.9, 1.1]).is_adopted
    True
    """
    pairs = np.column_stack([np.asarray(champion, float), np.asarray(best, float)])
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    if len(pairs) < 2:
        return SearchGain(0.0, float("inf") if not len(pairs) else 0.0, len(pairs), float("nan"), float("nan"))
    gains = pairs[:, 0] - pairs[:, 1]
    error = float(gains.std(ddof=1) / np.sqrt(len(gains)))
    return SearchGain(float(gains.mean()), error, len(pairs), *map(float, pairs.mean(axis=0)))


@dataclass(frozen=True, slots=True)
class SearchReport:
    """What a search tried, what it cost, and whether its best settings replace the champion's."""

    decision_id: str
    snapshot: str
    """Content hash of the training rows."""
    seed: int
    rows: int
    searched_rows: int
    """Rows that trials used; fewer than `rows` where the budget would not pay for a few trials on all."""
    metric: str
    limit: str
    """What the model's file gives it, in words."""
    wall_s: float
    cpu_s: float
    usd: float
    trials: tuple[SearchTrial, ...]
    asked_for: str
    """Digest of the estimator, its parameters and the recipe in the model's file at that time."""
    parameters: dict[str, JsonValue]
    """The settings to train with: the best trial's if they are adopted, else the champion's."""
    recipe: FeatureRecipe
    confirmed: Annotated[SearchTrial | None, Field(exclude_if=lambda trial: trial is None)] = None
    """The best trial as it was compared on the latest folds: without its derived features if these did not hold there."""
    gain: Annotated[SearchGain | None, Field(exclude_if=lambda gain: gain is None)] = None
    """None if no trial was better than the champion's settings on the folds of the search, or nothing was searched."""
    fault: str = ""
    """Why nothing could be searched; empty if it was."""

    @property
    def adopted(self) -> bool:
        return self.gain is not None and self.gain.is_adopted

    @property
    def sentence(self) -> str:
        """The result in a sentence with its numbers."""
        if self.fault:
            return f"search: nothing was searched: {self.fault}; the present settings stay"
        spent = f"{len(self.trials)} trials in {_duration(self.wall_s)} of {self.limit}"
        if self.gain is None:
            return f"search: {spent}; no gain: no trial was better than the present settings; these stay"
        settings = self.confirmed.describe() if self.confirmed else "none"
        figures = f"gain {self.gain.gain:.3g} ± {self.gain.error:.2g} {self.metric} on the latest folds"
        if self.adopted:
            return f"search: {spent}; best {settings}; {figures}; adopted"
        return (
            f"search: {spent}; best {settings}; no gain: {figures}, expected more than {ERRORS:g} standard errors "
            f"({ERRORS * self.gain.error:.2g}); the present settings stay"
        )


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.0f} seconds"


def describe_settings(drawn: dict[str, JsonValue], recipe: FeatureRecipe) -> str:
    """Describe parameters and derived features in words.

    >>> describe_settings({"max_depth": 4, "learning_rate": 0.0812345}, FeatureRecipe(calendar="numbers"))
    'max_depth 4, learning_rate 0.0812; calendar parts as numbers'
    """
    named = [f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in drawn.items()]
    features = "" if recipe.is_empty else recipe.describe()
    return "; ".join(part for part in (", ".join(named), features) if part) or "the present settings"


def best_so_far(trials: Sequence[SearchTrial]) -> tuple[float, ...]:
    """The smallest mean loss of the complete trials up to each one, for the plot of the search's history."""
    losses = [trial.loss if trial.state == "complete" else np.inf for trial in trials]
    return tuple(np.minimum.accumulate(losses).tolist()) if losses else ()
