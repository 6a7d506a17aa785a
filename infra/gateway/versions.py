"""Load the versions that answer, and follow the registry and the traffic split while serving.

A background thread reads alias and split about each second. A new version is loaded and has predicted before it takes
over, by one assignment, so no request sees a version that is half loaded. As in batch scoring, the champion is the
registry's, and answers everything when the split cannot be read or names another champion, or when the challenger is
quarantined or cannot be loaded.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

import numpy as np

from deployments.config.model import ModelConfig
from infra.gateway.requests import Row, RowEncoder, jsonable, raw_table
from infra.gateway.trees import Prediction, TreeEvaluator
from tasks.adapters import ledger, online, registry
from tasks.adapters.foreign.scorer import ForeignScorer
from tasks.adapters.models.encoding import RawEncoding
from tasks.adapters.models.files import Scorer
from tasks.adapters.traffic.split_store import read_split
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.errors import FeatureError, ModelFileError, PerennialError, PromotionRefused, RequestRefused
from tasks.policy.rollout.traffic import TrafficSplit
from tasks.policy.rollout.versions import why_not_approved, why_not_serve, why_not_trusted
from tasks.policy.training.online import OnlineState

logger = logging.getLogger(__name__)
FEW_ROWS = 8
"""Up to this many rows, one after the other through the evaluator is faster than one call of the booster."""
RELOAD_AFTER_S = 30.0
BARRED = ("quarantined", "rejected")
FAILURES = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, OSError, PerennialError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip
"""What a model's code may raise. A challenger's failure, whatever it is, must leave the answer to the champion."""


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """One version, loaded and ready to predict."""

    number: str
    scorer: Scorer
    encoder: RowEncoder
    evaluator: TreeEvaluator | None = None
    recorded: OnlineState | None = None
    """The online state that the ledger names for a champion; None for the frozen model."""
    state: int | None = None
    """Number of the online state in the scorer. None where its file cannot be used, so the frozen model answers."""

    @classmethod
    def of(cls, number: str, scorer: Scorer, recorded: OnlineState | None = None, state: int | None = None) -> Self:
        """Prepare a scorer, and predict once with it. Raises one of FAILURES if it cannot."""
        encoding = scorer.encoding
        evaluator = None
        is_raw = isinstance(encoding, RawEncoding)
        if hasattr(scorer.estimator, "get_booster") and not is_raw:
            try:
                sizes = [len(encoding.categories.get(name, ())) for name in encoding.inputs.names]
                evaluator = TreeEvaluator(scorer.estimator.get_booster(), sizes)
            except (ValueError, LookupError, RecursionError) as error:
                logger.info("version %s: predicts with XGBoost itself (%s)", number, error)
        if evaluator and not evaluator.matches(scorer.predict_encoded):
            logger.warning("version %s: predicts with XGBoost itself: the fast path is not equal", number)
            evaluator = None
        version = cls(number, scorer, RowEncoder(encoding), evaluator, recorded, state)
        tried = version.try_rows(FEW_ROWS + 1)
        for rows in (tried[:1], tried):
            version.predict(rows)
        return version

    def try_rows(self, count: int) -> list[Row]:
        """Return rows that any version of this model must be able to predict."""
        if isinstance(self.scorer, ForeignScorer):  # it may accept no nulls
            return list(self.scorer.synthetic_rows(count).to_pylist())
        if isinstance(self.scorer.encoding, RawEncoding):
            return [jsonable(row) for row in self.scorer.synthetic_rows(count).to_pylist()]
        return [dict.fromkeys(self.scorer.encoding.names)] * count

    @property
    def reads_times(self) -> bool:
        """Whether features are derived from a row's time."""
        return self.scorer.encoding.derived.time is not None

    def predict(
        self, rows: Sequence[Row], numbers: Sequence[int] | None = None, times: Sequence[datetime] = ()
    ) -> list[Prediction]:
        """Predict rows of JSON values as `Scorer.predict` does. `numbers` are the rows' numbers in the request.

        `times` are the rows' times; a request's row without one has the time of the request.

        Raises RequestRefused for a row that the model cannot read, and whatever the estimator raises.
        """
        if isinstance(self.scorer.encoding, RawEncoding):
            return self._predict_raw(self.scorer.encoding, rows)
        encoded = []
        for place, row in enumerate(rows):
            try:
                encoded.append(self.encoder.encode(row, times[place] if times else None))
            except FeatureError as error:
                raise RequestRefused(f"row {numbers[place] if numbers else place}: {error}") from None
        if isinstance(self.scorer, ForeignScorer):  # it reads the values themselves, which were checked above
            return self._predict_foreign(self.scorer, rows)
        if self.evaluator and len(encoded) <= FEW_ROWS:
            return [self.evaluator.predict(values) for values in encoded]
        predictions: list[Prediction] = self.scorer.predict_encoded(np.array(encoded, np.float32)).tolist()
        return predictions

    def _predict_raw(self, encoding: RawEncoding, rows: Sequence[Row]) -> list[Prediction]:
        try:
            table = raw_table(encoding, rows)
            predictions: list[Prediction] = self.scorer.predict(table).tolist()
        except FeatureError as error:
            raise RequestRefused(str(error)) from None
        return predictions

    @staticmethod
    def _predict_foreign(scorer: ForeignScorer, rows: Sequence[Row]) -> list[Prediction]:
        try:
            predictions: list[Prediction] = scorer.predict(scorer.table_of(rows)).tolist()
        except FeatureError as error:
            raise RequestRefused(str(error)) from None
        return predictions


@dataclass(frozen=True, slots=True)
class Serving:
    """Who answers now: the versions, and the split between them."""

    split: TrafficSplit
    champion: ServedVersion
    challenger: ServedVersion | None = None


@dataclass
class Follower:
    """Follow one model: `serving` is replaced, never changed, so a request reads it once."""

    config: ModelConfig
    serving: Serving | None = None
    fault: str = "its champion is not loaded yet"
    """Why the split is not followed, or why nothing answers; empty if neither."""
    _failed_at: dict[str, float] = field(default_factory=dict)
    """When a challenger could not be loaded; it is tried again after RELOAD_AFTER_S."""

    def refresh(self) -> None:
        """Read alias and split, and load versions that are new. Failures are logged; what was loaded keeps answering."""
        name, loaded = self.config.name, self.serving
        try:
            number = registry.aliases(name).get(registry.CHAMPION)
            if number is None:
                registry.version(name, registry.CHAMPION)  # raises NoChampion with what to do
            if loaded is None or loaded.champion.number != number:
                self._check_moved(str(number))
            champion = self._champion(str(number))
        except FAILURES as error:
            self._set_fault(f"the champion cannot be read: {error}")
            return
        split, challenger, refusal = read_split(name), None, ""
        if split.challenger and (split.serves_challenger or split.shadows_challenger):
            challenger, refusal = self._challenger(split, champion.number)
        self.serving = Serving(split if challenger else split.without_challenger(), champion, challenger)
        if self.serving != loaded:
            beside = f", challenger {challenger.number} ({split.step})" if challenger else ""
            logger.info("%s: champion %s answers%s", name, champion.number, beside)
        self._set_fault(refusal and f"champion {champion.number} answers everything: {refusal}")

    def _check_moved(self, number: str) -> None:
        """Raise PromotionRefused for a champion that someone set in MLflow against the ledger's verdict or unapproved."""
        name, entries = self.config.name, ledger.entries(self.config.name)
        refusal = why_not_serve(entries, number)
        if refusal is None and self.config.needs_approval:
            refusal = why_not_approved(entries, registry.state(name), number)
        if refusal:
            raise PromotionRefused(refusal)

    def _champion(self, number: str) -> ServedVersion:
        """Return the champion with the online state that serves now, as it is loaded already, or frozen without a state."""
        recorded = online.serving.current_state(self.config, number)
        if recorded is None:
            return self._load(number)
        loaded = self.serving.champion if self.serving else None
        if loaded is not None and (loaded.number, loaded.recorded) == (number, recorded):
            return loaded
        served = online.serving.load_champion(self.config, self._trusted_version(number))
        return ServedVersion.of(number, served.scorer, recorded, served.state)

    def _challenger(self, split: TrafficSplit, champion: str) -> tuple[ServedVersion | None, str]:
        """Return the split's challenger, or None and why it is not followed."""
        number = str(split.challenger)
        if split.champion != champion:
            return None, f"the split is between {split.champion} and {number}, but champion {champion} serves"
        if time.monotonic() - self._failed_at.get(number, -RELOAD_AFTER_S) < RELOAD_AFTER_S:
            return None, self.fault.partition(": ")[2]
        try:
            status = registry.tags(self.config.name, number).get("status")
            if status in BARRED:
                return None, f"challenger {number} is {status}"
            return self._load(number, split.shadows_challenger), ""
        except FAILURES as error:
            self._failed_at[number] = time.monotonic()
            return None, f"challenger {number} cannot be loaded: {error}"

    def _load(self, number: str, as_shadow: bool = False) -> ServedVersion:
        """Return the version, as it is loaded already in this role: a shadow predicts in a thread of its own."""
        loaded = self.serving
        if loaded is not None:
            shadow = loaded.challenger if loaded.split.shadows_challenger else None
            known = (shadow,) if as_shadow else (loaded.champion, None if shadow else loaded.challenger)
            for each in known:
                if each is not None and each.number == number and each.recorded is None:
                    return each
        version = self._trusted_version(number)
        return ServedVersion.of(number, registry.version_files.load_scorer(version, self.config.training.imported))

    def _trusted_version(self, number: str) -> ModelVersion:
        version = registry.version(self.config.name, number)
        if refusal := why_not_trusted(version, self.config.training.trust):
            raise ModelFileError(refusal)
        return version

    def _set_fault(self, fault: str) -> None:
        """Log a fault once, not at each poll."""
        if fault and fault != self.fault:
            logger.warning("%s: %s", self.config.name, fault)
        self.fault = fault


def statuses(followers: Mapping[str, Follower]) -> dict[str, Any]:
    """Return each model's versions and share, for `/ready`."""
    return {name: _status(follower) for name, follower in followers.items()}


def _status(follower: Follower) -> dict[str, Any]:
    found, fault = follower.serving, {"fault": follower.fault} if follower.fault else {}
    if found is None:
        return fault
    challenger = found.challenger.number if found.challenger else None
    split = {"challenger": challenger, "share": found.split.share, "step": found.split.step} if challenger else {}
    state = {"online_state": found.champion.state} if found.champion.state is not None else {}
    return {"champion": found.champion.number, **state, **split, **fault}
