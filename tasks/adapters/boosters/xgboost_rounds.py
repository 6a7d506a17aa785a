"""Fit an XGBoost estimator so that a killed fit continues where it was and ends in the same model, bit for bit.

XGBoost draws the rows and columns of a round from generators whose state is not stored with a model. Where a fit samples,
each round therefore begins with generators of its own, seeded by the number of the round; a fit that samples nothing is
unchanged. Early stopping goes through the stored history again, and so finds the same best round.
Reference: https://xgboost.readthedocs.io/en/stable/python/callbacks.html
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from xgboost import Booster, DMatrix, XGBRFClassifier, XGBRFRegressor
from xgboost.callback import EarlyStopping, TrainingCallback
from xgboost.core import XGBoostError

from tasks.adapters.boosters.library import FitOptions
from tasks.adapters.checkpoints import notice
from tasks.adapters.checkpoints.training import History, Phase
from tasks.adapters.engines.row_batches import Matrix, Target

logger = logging.getLogger(__name__)
Labelled = tuple[Matrix, Target]
SHARES = ("subsample", "colsample_bytree", "colsample_bylevel", "colsample_bynode")
TREES = (None, "gbtree", "dart")
"""Kinds of booster whose rounds can be continued; None is XGBoost's default, gbtree."""


def can_continue(estimator: Any, options: FitOptions) -> bool:
    """Return whether this fit has checkpoints, and consists of rounds that can be continued: a random forest has only one."""
    parameters = estimator.get_xgb_params()
    own_updaters = parameters.get("updater") or parameters.get("process_type")
    is_forest = isinstance(estimator, XGBRFClassifier | XGBRFRegressor)
    return options.phase is not None and not is_forest and not own_updaters and parameters.get("booster") in TREES


def samples(parameters: Mapping[str, Any]) -> bool:
    """Return whether rounds draw rows, columns or trees at random."""
    return parameters.get("booster") == "dart" or any(parameters.get(name) not in (None, 1) for name in SHARES)


def fit(estimator: Any, fitted: Labelled, options: FitOptions, held_back: Labelled | None = None) -> None:
    """Fit the estimator from the phase's checkpoint, if there is one, and write checkpoints on the way.

    With `held_back`, stop once these rows have not improved for as many rounds as the options say. Raises ValueError for
    options without a phase.
    """
    phase, weights = options.phase, options.weights
    if phase is None:
        raise ValueError("a fit that can be continued needs a phase")
    patience = options.patience if held_back else 0
    allowed = estimator.get_num_boosting_rounds()
    if samples(estimator.get_xgb_params()):
        estimator.set_params(seed_per_iteration=True)
    phase.identify(
        {**estimator.get_xgb_params(), "rounds": allowed, "patience": patience},
        [*fitted, *(held_back or ()), *([] if weights is None else [weights])],
    )
    going = Continuation.of(phase, estimator.get_xgb_params(), allowed, patience if held_back else None)
    estimator.set_params(n_estimators=going.rounds_left, callbacks=going.callbacks, early_stopping_rounds=None)
    with going.interruptible():
        estimator.fit(
            *fitted,
            sample_weight=weights,
            eval_set=[held_back] if held_back else None,
            verbose=False,
            xgb_model=going.booster,
        )
    estimator.set_params(n_estimators=allowed, callbacks=None)


@dataclass(frozen=True)
class Progress:
    """A booster so far, and what its early stopping has seen."""

    booster: Booster
    history: History

    @property
    def rounds(self) -> int:
        return int(self.booster.num_boosted_rounds())


def load(phase: Phase, allowed: int) -> Progress | None:
    """Return the phase's checkpoint; None without a usable one. The booster itself says how many rounds it has."""
    found = phase.load()
    if found is None:
        return None
    try:
        before = Progress(Booster(model_file=bytearray(found[0])), found[1])
    except XGBoostError:
        phase.discard("holds a model that cannot be read")
        return None
    lengths = {len(values) for metrics in before.history.values() for values in metrics.values()}
    if lengths - {before.rounds} or not 0 < before.rounds <= allowed:
        phase.discard(
            f"holds {before.rounds} rounds, but a history of {lengths or 'none'} and at most {allowed} allowed"
        )
        return None
    logger.info("training: %s continues after round %d of a checkpoint", phase.name, before.rounds)
    return before


@dataclass(frozen=True)
class Continuation:
    """A fit from its checkpoint on: the booster so far, the rounds left, and the callbacks that write checkpoints and stop."""

    booster: Booster | None
    rounds_left: int
    recorder: "Recorder"
    callbacks: list[TrainingCallback]

    @classmethod
    def of(cls, phase: Phase, parameters: Mapping[str, Any], allowed: int, patience: int | None) -> "Continuation":
        """Load the phase's checkpoint. With a `patience`, the fit watches rows that are held back."""
        before = load(phase, allowed)
        recorder = Recorder(phase, before, parameters, watches=patience is not None)
        stopping = [] if patience is None else [ContinuedStopping(patience, before.history if before else {})]
        left = allowed - (before.rounds if before else 0)
        return cls(before.booster if before else None, left, recorder, [recorder, *stopping])

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Write a checkpoint if the block is ended by SIGTERM or Ctrl-C, which arrive between two rounds' computations."""
        with notice.as_exception():
            try:
                yield
            except BaseException as ended:
                if not isinstance(ended, Exception):
                    self.recorder.save_interrupted()
                raise


class Continued(Booster):
    """A booster whose next round has the number after those that it holds; a round's seed depends on its number."""

    def __init__(self, booster: Booster) -> None:
        super().__init__(model_file=booster)
        self._first = booster.num_boosted_rounds()

    def update(self, dtrain: DMatrix, iteration: int, fobj: Any = None) -> None:
        super().update(dtrain, self._first + iteration, fobj)


class Recorder(TrainingCallback):
    """Write checkpoints when they are due; where rounds sample, give each one generators of its own."""

    def __init__(self, phase: Phase, before: Progress | None, parameters: Mapping[str, Any], watches: bool) -> None:
        super().__init__()
        self._phase, self._watches = phase, watches
        self._earlier: History = before.history if before else {}
        self._saved = before.rounds if before else 0
        self._method, self._samples = parameters.get("tree_method") or "auto", samples(parameters)
        self._is_dart = parameters.get("booster") == "dart"
        self._model: Any = None
        self._log: Mapping[str, Mapping[str, Any]] = {}

    def before_training(self, model: Any) -> Any:
        self._model = Continued(model) if model.num_boosted_rounds() else model
        return self._model

    def before_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        if self._samples:
            # a change of the method, taken up by any question to the booster, makes XGBoost build its samplers anew
            model.set_param({"tree_method": "hist" if self._method == "approx" else "approx"})
            model.num_features()
            model.set_param({"tree_method": self._method})
        return False

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        self._log = evals_log
        if self._phase.is_due():
            self.save()
        return False

    def after_training(self, model: Any) -> Any:
        if self._phase.is_worth_keeping():
            self.save()
        return model

    def save_interrupted(self) -> None:
        if self._model is not None:
            self.save()
            logger.warning("training: interrupted; %s has a checkpoint of round %d", self._phase.name, self._saved)

    def save(self) -> None:
        """Write the rounds that are complete: with early stopping, those whose loss is measured too."""
        rounds, history = self._model.num_boosted_rounds(), self._history()
        lengths = [len(values) for metrics in history.values() for values in metrics.values()]
        complete = min(lengths, default=0 if self._watches else rounds)
        if complete == self._saved or (complete < rounds and self._is_dart):  # dart weighs earlier trees anew
            return
        model = self._model if complete == rounds else self._model[:complete]
        self._phase.save(bytes(model.save_raw("ubj")), history)
        self._saved = complete

    def _history(self) -> History:
        data = {**self._earlier, **self._log}
        return {
            name: {
                metric: [*self._earlier.get(name, {}).get(metric, []), *self._log.get(name, {}).get(metric, [])]
                for metric in metrics
            }
            for name, metrics in data.items()
        }


class ContinuedStopping(EarlyStopping):
    """XGBoost's early stopping after the rounds of a checkpoint."""

    def __init__(self, patience: int, history: History) -> None:
        super().__init__(rounds=patience)
        self._history, self._ended = history, False

    def before_training(self, model: Any) -> Any:
        rounds = min((len(values) for metrics in self._history.values() for values in metrics.values()), default=0)
        for number in range(rounds):
            seen = {
                name: {metric: [values[number]] for metric, values in metrics.items()}
                for name, metrics in self._history.items()
            }
            self._ended = bool(self.after_iteration(model, number, seen))
        return super().before_training(model)

    def before_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        return self._ended
