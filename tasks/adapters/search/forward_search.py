"""Search better parameters and derived features for a model by Optuna, within a budget, on forward folds.

The first trial has the present settings, as they are; the next one those of the model's file, if the champion has others.
The best trials of earlier searches follow, then those of a
tree-structured Parzen estimator (Bergstra et al. 2011, NeurIPS), which also learns from the earlier searches. Trials that
are behind the median of the others after a fold are pruned. Each trial draws with a seed of its own, so a search that was
killed continues as if it had not been, and the same rows give the same trials.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter, process_time
from typing import Literal

import optuna
import pyarrow as pa
from pydantic import JsonValue

from deployments.config.model import ModelConfig
from tasks.adapters.models import eligibility
from tasks.adapters.models.estimators import Fitted
from tasks.adapters.models.resources import threads
from tasks.adapters.own_training import trainer
from tasks.adapters.search import features, folds, journal as journals, space, study
from tasks.adapters.search.journal import SearchJournal
from tasks.adapters.search.spending import Spending
from tasks.policy.records.base import digest
from tasks.policy.records.errors import EstimatorError
from tasks.policy.training.recipe import FeatureRecipe
from tasks.policy.training.search import (
    CONFIRMING,
    SearchGain,
    SearchPolicy,
    SearchRange,
    SearchReport,
    SearchTrial,
    judge_gain,
)

logger = logging.getLogger(__name__)
FEWEST_TRIALS = 20
"""Trials that the budget must pay for; where fits on all rows take too long for that, trials use a part of the rows."""
SAMPLES, LEAST_ROWS = (1_000, 4_000), 1_000
"""Rows on which a fit is timed, and the fewest that trials use."""
LONGER = 1.15
"""How much longer a fit on the rows before the latest folds takes than on those before the others."""
BLOCKS, BLOCK_ROWS = 12, 20
"""Blocks of each of the latest folds whose differences give the standard error, and the rows that a block has at least."""
REDRAWS = 10
State = Literal["complete", "pruned", "cut", "failed"]


@dataclass(frozen=True, slots=True)
class SearchJob:
    """What limits the search, the decision that trains, its rows' content hash and end, and the champion's settings."""

    policy: SearchPolicy
    decision_id: str
    snapshot: str
    until: str
    parameters: dict[str, JsonValue] | None = None
    """None for those of the model's file."""
    recipe: FeatureRecipe | None = None


def search(config: ModelConfig, rows: pa.Table, job: SearchJob) -> tuple[ModelConfig, SearchReport]:
    """Search on labelled rows; return the settings to train with and the report. Raises WorkspaceError, FeatureError.

    A trial whose settings the estimator refuses is a failed trial. If the present settings themselves cannot be judged,
    nothing is searched, and the report says why.
    """
    given = config.training.parameters if job.parameters is None else job.parameters
    present = with_settings(config, given, config.training.recipe if job.recipe is None else job.recipe)
    run = _Search(config, present, rows, job)
    fault, confirmed = "", None
    try:
        run.prepare()
        run.try_out()
        confirmed = run.confirm()
    except _NotSearchable as refusal:
        fault = str(refusal)
    parameters, recipe = given, present.training.recipe or FeatureRecipe()
    if confirmed and confirmed[1].is_adopted:
        parameters, recipe = confirmed[0].parameters, confirmed[0].recipe
    report = replace(run.report(config, confirmed, fault), parameters=dict(parameters), recipe=recipe)
    return with_settings(config, parameters, recipe), report


def with_settings(config: ModelConfig, parameters: dict[str, JsonValue], recipe: FeatureRecipe | None) -> ModelConfig:
    """Return the configuration with other parameters and another recipe."""
    own = None if recipe is None or recipe.is_empty else recipe
    training = config.training.model_copy(update={"parameters": parameters, "recipe": own})
    return config.model_copy(update={"training": training})


def asked_for(config: ModelConfig) -> str:
    """Return a digest of what the model's file asks for; found settings count as long as it stays the same."""
    # memory, the default engine, is not in the dump
    names = {"estimator", "parameters", "pipeline", "recipe", "engine"}
    return digest(config.training.model_dump_json(include=names))


class _NotSearchable(Exception):
    """The present settings cannot be judged on forward folds of these rows."""


class _Search:
    """One search: its journal, its study and its budget."""

    def __init__(self, asked: ModelConfig, present: ModelConfig, rows: pa.Table, job: SearchJob) -> None:
        """`asked` has the settings of the model's file, `present` those of the champion."""
        self.asked = asked
        self.present, self.policy, self.rows, self.job = present, job.policy, rows, job
        training, columns = present.training, present.columns
        family = digest(
            training.estimator or "", present.task, present.performance.metric, columns.features.model_dump_json()
        )
        settings = training.model_dump_json(exclude={"timeout_hours"})
        identity = digest(job.decision_id, job.snapshot, settings, family, str(threads()))
        stored = journals.read(present.name, job.decision_id, identity)
        self.journal = stored or SearchJournal(job.decision_id, identity, family, job.until)
        self.spending = Spending(job.policy, present.budget, self.journal.spent_s, self.journal.spent_cpu_s)
        self.folds: tuple[folds.ForwardFold, ...] = ()
        self.ranges: dict[str, SearchRange] = {}

    def prepare(self) -> None:
        """Choose the rows, judge the present settings, and continue the study of the journal. Raises _NotSearchable."""
        if not self.journal.trials:
            self.journal = replace(self.journal, share=self._affordable_share())
        self._check_rows()
        self.folds = folds.forward_folds(self.present, folds.thinned(self.rows, self.journal.share), self.policy.folds)
        if not self.journal.trials:
            self._judge_present()
        found = features.choices(self.present, self.journal.derivable) if self.policy.features else {}
        self.ranges = space.ranges(self.present, self.policy) | found
        for config in (self.asked, self.present):
            known = self._known(config)
            self.ranges = {name: each.including(known.get(name)) for name, each in self.ranges.items()}
        if not self.ranges:
            raise _NotSearchable("training.search has no ranges for this estimator; give training.search.parameters")
        self.study = study.open_study(self.ranges, self.journal)

    def _known(self, config: ModelConfig) -> dict[str, JsonValue]:
        """Return what the sampler would have drawn for these settings."""
        recipe = config.training.recipe or FeatureRecipe()
        return {**space.known_values(config, self.ranges), **features.choices_of(recipe)}

    def _check_rows(self) -> None:
        wanted = self.policy.folds * BLOCK_ROWS * 2
        if len(self.rows) < wanted:
            raise _NotSearchable(
                f"{len(self.rows):,} labelled rows, expected at least {wanted:,} for its forward folds"
            )
        if refusal := eligibility.why_not_train(self.present, self.rows):
            raise _NotSearchable(refusal)

    def _affordable_share(self) -> float:
        """Return the share of the rows on which the budget pays for FEWEST_TRIALS trials; 1 without a time limit."""
        limit = self.spending.limit_s
        if limit is None or len(self.rows) <= SAMPLES[1]:
            return 1.0
        self._seconds_of_fit(SAMPLES[0])  # loads libraries
        seconds = [self._seconds_of_fit(count) for count in SAMPLES]
        per_row = max(0.0, seconds[1] - seconds[0]) / (SAMPLES[1] - SAMPLES[0])
        trial_s = max(seconds[1], seconds[0] + per_row * (len(self.rows) - SAMPLES[0])) * self.policy.folds
        affordable = min(1.0, limit / FEWEST_TRIALS / trial_s)
        return max(affordable, min(1.0, LEAST_ROWS / len(self.rows)))

    def _seconds_of_fit(self, count: int) -> float:
        """Return how long the present settings take to fit the latest rows."""
        began = perf_counter()
        try:
            trainer.fit(self.present, self.rows.slice(len(self.rows) - count))
        except EstimatorError as error:
            raise _NotSearchable(str(error)) from error
        return perf_counter() - began

    def _judge_present(self) -> None:
        """Record the trial of the present settings, and what others may be derived from."""
        first = self._fit(self.present, self.folds[0])
        found = features.derivable(self.present, first)
        drawn = space.known_values(self.present, space.ranges(self.present, self.policy))
        recipe = self.present.training.recipe or FeatureRecipe()
        if self.policy.features:
            own, offered = features.choices_of(recipe), features.choices(self.present, found)
            drawn |= {name: own[name] for name in offered}
        trial = self._execute(SearchTrial(
            0, "champion", "complete", drawn, dict(self.present.training.parameters), recipe,
            self.present.training.seed, (), 0.0, 0.0,
        ), None)  # fmt: skip
        if trial.state != "complete":
            raise _NotSearchable(trial.reason)
        earlier = journals.read_earlier(self.present.name, self.journal)
        self.journal = replace(self.journal, derivable=found, earlier=earlier)
        self._record(trial)

    def try_out(self) -> None:
        """Try settings until a limit is reached, or nothing new can be drawn."""
        warm = study.warm_trials(self.journal.earlier, self.ranges)
        asks_for_others = asked_for(self.asked) != asked_for(self.present)
        if asks_for_others:
            warm = [{name: value for name, value in self._known(self.asked).items() if name in self.ranges}, *warm]
        while not (self.policy.trials and len(self.journal.trials) >= self.policy.trials):
            number = len(self.journal.trials)
            if not self.spending.allows(None, self._reserve_s()):
                return
            fixed = warm[number - 1] if number <= len(warm) else None
            trial, running = self._draw(number, fixed)
            if running is None:
                return
            if asks_for_others and number == 1 and trial.origin == "earlier":
                own = self.asked.training
                trial = replace(trial, origin="file", parameters=own.parameters, recipe=own.recipe or FeatureRecipe())
            done = self._execute(trial, running)
            if done.state == "cut" and not done.losses:
                return
            study.tell(self.study, running, done)
            self._record(done)

    def _draw(self, number: int, fixed: dict[str, JsonValue] | None) -> tuple[SearchTrial, optuna.Trial | None]:
        """Draw settings that were not tried yet; no running trial if there seem to be none."""
        tried = [trial.drawn for trial in self.journal.trials]
        seed = self.present.training.seed
        for again in range(REDRAWS):
            self.study.sampler = study.sampler(int(digest(str(seed), str(number), str(again), length=8), 16))
            if fixed is not None:
                self.study.enqueue_trial(dict(fixed))
            running = self.study.ask()
            drawn = {name: study.suggest(running, name, each) for name, each in self.ranges.items()}
            if drawn not in tried:
                break
            self.study.tell(running, state=optuna.trial.TrialState.FAIL)
            fixed = None
        else:
            return self.journal.trials[0], None
        chosen = {name: value for name, value in drawn.items() if not name.startswith(features.PREFIX)}
        recipe = features.recipe_of(self.present, drawn, self.journal.derivable)
        parameters = {**self.present.training.parameters, **chosen}
        origin: Literal["earlier", "sampled"] = "sampled" if fixed is None else "earlier"
        return SearchTrial(number, origin, "complete", drawn, parameters, recipe, seed, (), 0.0, 0.0), running

    def _execute(self, trial: SearchTrial, running: optuna.Trial | None) -> SearchTrial:
        """Fit and judge a trial fold by fold, until it is pruned, fails or runs out of time."""
        began, config = (perf_counter(), process_time()), with_settings(self.present, trial.parameters, trial.recipe)
        losses: list[float] = []
        state: State = "complete"
        reason, seconds = "", None
        for step, fold in enumerate(self.folds[:-CONFIRMING]):
            if running and not self.spending.allows(seconds, self._reserve_s()):
                state, reason = "cut", "the search's time was over"
                break
            started = perf_counter()
            try:
                losses.append(float(folds.block_losses(config, self._fit(config, fold).scorer, fold.judged)[0]))
            except EstimatorError as error:
                state, reason = "failed", str(error)
                break
            seconds = perf_counter() - started
            self.spending.note([seconds])
            if not losses[-1] < float("inf"):
                state, reason = "failed", f"its loss on fold {step + 1} is {losses.pop()}"
                break
            if running and step < len(self.folds) - CONFIRMING - 1 and self._is_behind(running, losses):
                state = "pruned"
                break
        spent = perf_counter() - began[0], process_time() - began[1]
        return replace(trial, state=state, losses=tuple(losses), wall_s=spent[0], cpu_s=spent[1], reason=reason)

    def _fit(self, config: ModelConfig, fold: folds.ForwardFold) -> Fitted:
        return trainer.fit(config, fold.training)

    @staticmethod
    def _is_behind(running: optuna.Trial, losses: Sequence[float]) -> bool:
        running.report(sum(losses) / len(losses), len(losses))
        return running.should_prune()

    def _record(self, trial: SearchTrial) -> None:
        """Write the journal with one more trial."""
        trials, spending = (*self.journal.trials, trial), self.spending
        self.journal = replace(self.journal, trials=trials, spent_s=spending.wall_s, spent_cpu_s=spending.cpu_s)
        journals.write(self.present.name, self.journal)

    def _reserve_s(self) -> float:
        """Return the seconds that the comparison on the latest folds is expected to take; half while none seems needed."""
        best = self.best
        needed = 1.0 if best and best.number else 0.5
        ends = [*self.journal.trials[:1], *([best, best] if best else [])]  # with and without derived features
        return needed * sum(LONGER * CONFIRMING * trial.wall_s / len(trial.losses) for trial in ends if trial.losses)

    @property
    def best(self) -> SearchTrial | None:
        complete = [trial for trial in self.journal.trials if trial.state == "complete"]
        return min(complete, key=lambda trial: (trial.loss, trial.number), default=None)

    def confirm(self) -> tuple[SearchTrial, SearchGain] | None:
        """Compare the best trial with the present settings on the latest folds; None if it has these settings.

        Derived features have to hold there too: the trial's parameters without them are preferred if they do better.
        """
        best, own = self.best, self.present.training.recipe or FeatureRecipe()
        if best is None or best.number == 0:
            return None
        try:
            present, found = self._confirming_losses(self.present), self._confirming_losses(self._settings_of(best))
            if best.recipe != own:
                plain = replace(best, recipe=own)
                without = self._confirming_losses(self._settings_of(plain))
                if judge_gain(found, without).gain > 0:
                    best, found = plain, without
        except EstimatorError as error:
            raise _NotSearchable(f"the best trial cannot be judged on the latest folds: {error}") from error
        return best, judge_gain(present, found)

    def _confirming_losses(self, config: ModelConfig) -> list[float]:
        """Return the losses on blocks of the folds that the search did not use."""
        losses: list[float] = []
        for fold in self.folds[-CONFIRMING:]:
            blocks = max(1, min(BLOCKS, len(fold.judged) // BLOCK_ROWS))
            losses += folds.block_losses(config, self._fit(config, fold).scorer, fold.judged, blocks).tolist()
        return losses

    def _settings_of(self, trial: SearchTrial) -> ModelConfig:
        return with_settings(self.present, trial.parameters, trial.recipe)

    def report(self, asked: ModelConfig, confirmed: tuple[SearchTrial, SearchGain] | None, fault: str) -> SearchReport:
        """Return the report; its settings are those of the model's file."""
        return SearchReport(
            decision_id=self.job.decision_id,
            snapshot=self.job.snapshot,
            seed=asked.training.seed,
            rows=len(self.rows),
            searched_rows=sum(len(part) for part in (self.folds[-1].training, self.folds[-1].judged))
            if self.folds
            else 0,
            metric=asked.performance.metric,
            limit=self.policy.describe_limit(),
            wall_s=self.spending.wall_s,
            cpu_s=self.spending.cpu_s,
            usd=self.spending.usd,
            trials=self.journal.trials,
            asked_for=asked_for(asked),
            parameters=dict(asked.training.parameters),
            recipe=asked.training.recipe or FeatureRecipe(),
            confirmed=confirmed[0] if confirmed else None,
            gain=confirmed[1] if confirmed else None,
            fault=fault,
        )
