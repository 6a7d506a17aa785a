"""A search in Optuna's terms: its sampler, its pruner, and the trials that it knows before it draws.

Every trial is drawn by a sampler with a seed of its own, from the trials before it. A study that was filled from a journal
therefore draws what the interrupted one would have drawn.
"""

from collections.abc import Sequence

import optuna
from pydantic import JsonValue

from tasks.adapters.search import space
from tasks.adapters.search.journal import EarlierTrial, SearchJournal
from tasks.policy.training.search import SearchRange, SearchTrial

optuna.logging.set_verbosity(optuna.logging.WARNING)

STARTUP_TRIALS = 8
"""Trials that are drawn at random before the sampler models the losses; trials of earlier searches count."""
UNPRUNED_TRIALS = 4
WARM_TRIALS = 3
"""Best trials of earlier searches that are tried again on the new rows."""
_STATES = {
    "complete": optuna.trial.TrialState.COMPLETE,
    "pruned": optuna.trial.TrialState.PRUNED,
    "cut": optuna.trial.TrialState.FAIL,
    "failed": optuna.trial.TrialState.FAIL,
}


def sampler(seed: int) -> optuna.samplers.TPESampler:
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)


def suggest(running: optuna.Trial, name: str, each: SearchRange) -> JsonValue:
    value: JsonValue = running._suggest(name, space.distribution(each))
    return value


def open_study(ranges: dict[str, SearchRange], journal: SearchJournal) -> optuna.Study:
    """Return a study that knows the trials of the journal and those of earlier searches.

    The losses of earlier searches are of other rows; what counts is how they compared with the settings before.
    """
    pruner = optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED_TRIALS, n_warmup_steps=0)
    study = optuna.create_study(pruner=pruner)
    level = journal.trials[0].loss
    for earlier in journal.earlier:
        params = _fitting(earlier.drawn, ranges)
        _add(study, ranges, params, (level + earlier.excess * abs(level),), optuna.trial.TrialState.COMPLETE)
    for trial in journal.trials:
        _add(study, ranges, _fitting(trial.drawn, ranges), trial.losses, _STATES[trial.state])
    return study


def _add(
    study: optuna.Study,
    ranges: dict[str, SearchRange],
    params: dict[str, JsonValue],
    losses: Sequence[float],
    state: optuna.trial.TrialState,
) -> None:
    means = [sum(losses[:count]) / count for count in range(1, len(losses) + 1)]
    study.add_trial(
        optuna.create_trial(
            state=state,
            value=means[-1] if means and state != optuna.trial.TrialState.FAIL else None,
            params=dict(params),
            distributions={name: space.distribution(ranges[name]) for name in params},
            intermediate_values=dict(enumerate(means[: None if state == optuna.trial.TrialState.PRUNED else -1], 1)),
        )
    )


def tell(study: optuna.Study, running: optuna.Trial, trial: SearchTrial) -> None:
    state = _STATES[trial.state]
    study.tell(running, trial.loss if trial.state == "complete" else None, state=state)


def _fitting(drawn: dict[str, JsonValue], ranges: dict[str, SearchRange]) -> dict[str, JsonValue]:
    """Return the drawn values that are within the ranges of this search."""
    return {name: value for name, value in drawn.items() if name in ranges and _is_within(value, ranges[name])}


def _is_within(value: JsonValue, each: SearchRange) -> bool:
    if each.choices:
        return value in each.choices
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    low, high = each.bounds
    return low <= value <= high and (not each.is_whole or float(value).is_integer())


def warm_trials(earlier: Sequence[EarlierTrial], ranges: dict[str, SearchRange]) -> list[dict[str, JsonValue]]:
    """Return the settings of the best earlier trials that were better than those before them, each once."""
    ahead = sorted((trial for trial in earlier if trial.excess < 0), key=lambda trial: trial.excess)
    found: list[dict[str, JsonValue]] = []
    for trial in ahead:
        params = _fitting(trial.drawn, ranges)
        if params and params not in found:
            found.append(params)
    return found[:WARM_TRIALS]
