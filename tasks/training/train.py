"""Train a challenger on a snapshot of labelled rows and register it, once per decision.

Training is refused, with a reason, if the rows cannot support a sound model. The version is stored with its reference
profile, which monitoring compares with, and the manifest that reproduces the training.
"""

from dataclasses import dataclass, replace
from time import perf_counter, process_time
from typing import TYPE_CHECKING

import pyarrow as pa
from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import (
    candidates,
    checkpoints,
    engines,
    foreign,
    lake,
    models,
    orchestration,
    own_training,
    profiling,
    registry,
    search,
)
from tasks.adapters.orchestration.stage import stage
from tasks.policy.evidence.versions import ModelVersion, Usage
from tasks.policy.monitoring.attribution import freeze
from tasks.policy.records.base import Window
from tasks.policy.records.errors import ForeignModelError, TrainingRefused
from tasks.policy.records.events import RunMode
from tasks.policy.records.profile import ReferenceProfile
from tasks.policy.records.reports import Snapshot
from tasks.policy.records.text import without_secrets
from tasks.policy.training.race import RaceReport, Strategy
from tasks.policy.training.search import TOLERANCE, SearchReport, limit_s

if TYPE_CHECKING:  # loads MLflow
    from tasks.adapters.checkpoints.training import TrainingCheckpoints
    from tasks.adapters.engines.row_batches import Engine
    from tasks.adapters.models.estimators import FitPlan, Fitted
    from tasks.adapters.registry.registration import Refit, TrainedModel

TAKE_IN_S = 1800.0
"""Seconds to freeze the reference, take in a model that was trained elsewhere, and register the version."""


def _describe_missed_windows(config: ModelConfig, span: Window) -> str:
    """Describe the back-fill that would add missed windows to the training window; empty if none were missed."""
    if registry.CHAMPION not in registry.aliases(config.name):
        return ""
    learned_until = registry.version(config.name, registry.CHAMPION).trained.end
    end = min(span.end, config.period.end) if config.period.end else span.end
    due = [window for window in config.windows(end=end) if window.start >= max(span.start, learned_until)]
    missed = [window for window in due if lake.landed_rows(config, window) is None]
    if not missed:
        return ""
    start, until = (f"{moment:%Y-%m-%dT%H:%M}" for moment in (missed[0].start, missed[-1].end))
    return (
        f"; {len(missed)} of {len(due)} windows in it were never read, because they were neither scored nor judged; "
        f"read them with the backfill form, or: perennial run backfill --model {config.name} --start {start} "
        f"--end {until} --no-dry-run"
    )


def _unusable(config: ModelConfig, training: Snapshot, labels: int) -> str | None:
    """Return why the training window has too many unusable labels; None within `quality.labels.max_unusable_share`."""
    as_of = training.as_of or training.window.end
    found = lake.read_label_faults(config, training.window, as_of, training.excluding)
    unusable, _, conflicts = lake.label_faults.sorted_faults(found)
    faults = dict(unusable) | ({lake.label_faults.CONFLICT: conflicts} if conflicts else {})
    count, limit = sum(faults.values()), config.quality.labels.max_unusable_share
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in faults.items())
    if count <= limit * (labels + count):
        if count:
            get_run_logger().warning("labels: %s; they are left out", kinds)
        return None
    return (
        f"{count:,} of {labels + count:,} labels in {config.columns.label} cannot be used ({kinds}), expected at most "
        f"{limit:.1%} (quality.labels.max_unusable_share); fix the source"
    )


def _unknown_words(config: ModelConfig, training: Snapshot) -> str:
    """Describe words that count as missing labels; empty if there are none."""
    found = lake.read_label_faults(config, training.window, training.as_of or training.window.end, training.excluding)
    words = ", ".join(f"{word!r} {count:,} times" for word, count in lake.label_faults.sorted_faults(found)[1])
    return f"{words} count as missing; if one is a class, list the classes in columns.classes" if words else ""


def _with_labelled_share(profile: ReferenceProfile, training: Snapshot) -> ReferenceProfile:
    """Add the share of training rows that had a label to the profile; later windows are compared with it."""
    if profile.labels is None or not training.labelled_rows:
        return profile
    return replace(profile, labels=replace(profile.labels, labelled_share=training.labelled_rows / training.rows))


def longest_training_s(config: ModelConfig) -> float:
    """Return the stage's time limit: that of training, of the search, and time to take the model in and register it."""
    policy = config.training.search
    searches = (limit_s(policy, config.budget) or 0.0) * (1 + TOLERANCE) if policy else 0.0
    return config.training.timeout_hours * 3600 + searches + TAKE_IN_S


# one retry: the registry or the lake may be briefly unavailable; a version that exists is not trained again
@stage(retries=1)
def train_challenger(
    config: ModelConfig,
    training: Snapshot,
    decision_id: str,
    holdout: Snapshot | None = None,
    race: RaceReport | None = None,
) -> ModelVersion:
    """Train and register this decision's version and give it the alias challenger; return an existing one unchanged.

    The model that validation judges is fitted to `training` alone; with a `holdout`, the one that serves is fitted to that too.
    Both are trained by the winner of the race.
    Raises TrainingRefused, with the reason, if the rows or labels cannot support a sound model.
    """
    version = registry.find(config.name, decision_id)
    if version is None:
        trained = _train(config, Rows(training, holdout, race), decision_id)
        version = registry.registration.register(config, trained, decision_id)
    checkpoints.store.CheckpointStore(config.name, decision_id).delete_all()
    if dict(version.tags)["status"] == "registered":  # a version that has served does not become a challenger again
        registry.set_aliases(config.name, {registry.CHALLENGER: version.version})
    return version


# one retry: the registry, the lake or the model's store may be briefly unavailable
@stage(
    retries=1,
    timeout_seconds=3600,
)
def adopt_model(config: ModelConfig, source: str, training: Snapshot, decision_id: str) -> ModelVersion:
    """Register the model at this address as this decision's version, with the reference profile of these rows.

    Raises ForeignModelError if it does not fit the model's file or is not the one that this decision registered, and
    TrainingRefused if the rows cannot be a reference.
    """
    known = registry.find(config.name, decision_id)
    if known is not None:
        if registry.aliases(config.name).get(registry.CHAMPION) != known.version:  # else the decision is complete
            _check_same(config, source, known)
        return known
    rows = lake.read_labelled(training)
    _check_rows(config, training, rows)
    profile = _freeze_profile(config, training, rows)
    fitted = foreign.take_in(config, source, rows)
    adopted = _with_references(config, training, rows, fitted, profile)
    get_run_logger().info(
        "adoption: %s, checked on %d rows, SHA-256 %s",
        fitted.parameters["format"], len(rows), fitted.parameters["original_sha256"],
    )  # fmt: skip
    return registry.registration.register(config, adopted, decision_id)


def _check_same(config: ModelConfig, source: str, known: ModelVersion) -> None:
    """Raise ForeignModelError if the address holds another model now. One that cannot be read any more is not compared."""
    registered = dict(known.tags).get("original_sha256")
    address = without_secrets(source)
    try:
        found = foreign.artefact.fetch(source).lineage["original_sha256"]
    except ForeignModelError as error:
        get_run_logger().warning("adoption: version %s is not compared with its source: %s", known.version, error)
        return
    if registered is not None and found != registered:
        raise ForeignModelError(
            f"{config.name}: {address} holds a model of SHA-256 {found} now, but this decision took in one of SHA-256 "
            f"{registered} as version {known.version}; restore that one to complete the decision, or adopt the present one by a "
            "decision of its own: with another --until, or decision_id"
        )


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a training, those that the model is judged on, and the race that decided what to learn from."""

    training: Snapshot
    holdout: Snapshot | None
    race: RaceReport | None

    @property
    def strategy(self) -> Strategy:
        return self.race.winner if self.race else Strategy()


def _train(config: ModelConfig, given: Rows, decision_id: str) -> "TrainedModel":
    """Fit the model, and freeze what monitoring compares later windows with."""
    began = perf_counter(), process_time()
    with engines.mapped_rows.labelled_rows(given.training, config.training.engine) as rows:
        return _train_on(config, given, decision_id, rows, began)


def _train_on(
    config: ModelConfig, given: Rows, decision_id: str, rows: pa.Table, began: tuple[float, float]
) -> "TrainedModel":
    training = given.training
    _check_rows(config, training, rows)
    profile = _freeze_profile(config, training, rows)
    elsewhere, in_replay = None, orchestration.runs.run_mode() == RunMode.REPLAY
    if config.training.is_foreign and in_replay:
        get_run_logger().info("training: XGBoost stands in for %s in a replay", config.training.trainer)
    elif config.training.is_foreign:
        job = own_training.snapshot_files.TrainingJob(training, decision_id, rows)
        elsewhere = own_training.trainer.train_elsewhere(config, job)
    chosen, searched = _search(config, training, decision_id, rows)
    plan = models.estimators.FitPlan(
        checkpoints=None if in_replay else _checkpoints(config, training, decision_id), engine=_engine(config)
    )
    fitted = elsewhere.fitted if elsewhere else _fit(chosen, given, rows, plan)
    trained = _with_references(config, training, rows, fitted, profile)
    refit = None if elsewhere else _refit(chosen, given, rows, replace(plan, validated=fitted))
    trained = replace(trained, race=given.race, search=searched, refit=refit)
    used = _used(began, refit.fitted.rows if refit else len(rows), given.race, searched)
    if elsewhere:
        trained, used = replace(trained, origin=elsewhere.origin), elsewhere.charged(used)
    _log_training(config, fitted, used)
    return replace(trained, usage=used)


def _log_training(config: ModelConfig, fitted: "Fitted", used: Usage) -> None:
    reached = fitted.metrics.get(config.performance.metric)
    get_run_logger().info(
        "training: %d rows in %.1f CPU s and %s rounds; held-back %s %s",
        used.rows,
        used.cpu_s,
        fitted.rounds if fitted.rounds is not None else "no",
        config.performance.metric,
        "not measured" if reached is None else f"{reached:.4g}",
    )


def _checkpoints(config: ModelConfig, training: Snapshot, decision_id: str) -> "TrainingCheckpoints | None":
    every_s = config.training.checkpoint_seconds
    if every_s is None:
        return None
    store = checkpoints.store.CheckpointStore(config.name, decision_id)
    return checkpoints.training.TrainingCheckpoints(store, training.content_hash, every_s)


def _engine(config: ModelConfig) -> "Engine | None":
    kind = config.training.engine
    if kind == "memory":
        return None
    return engines.row_batches.Engine(config.name, kind, config.training.dask_scheduler)


def _used(began: tuple[float, float], rows: int, race: RaceReport | None, searched: SearchReport | None) -> Usage:
    """Return what training used since it `began`, with the race before it, and the search's part of it."""
    wall_s, cpu_s = perf_counter() - began[0], process_time() - began[1]
    if searched is not None:  # what a search spent before it was interrupted is charged too
        wall_s, cpu_s = max(wall_s, searched.wall_s), max(cpu_s, searched.cpu_s)
    wall_s, cpu_s = wall_s + (race.wall_s if race else 0.0), cpu_s + (race.cpu_s if race else 0.0)
    spent = (searched.wall_s, searched.cpu_s) if searched else (0.0, 0.0)
    return Usage(rows, wall_s, cpu_s, models.resources.peak_memory_mb(), search_wall_s=spent[0], search_cpu_s=spent[1])


def _search(
    config: ModelConfig, training: Snapshot, decision_id: str, rows: pa.Table
) -> tuple[ModelConfig, SearchReport | None]:
    """Search better settings if the model's file asks for it; return the settings to train with, and what was searched."""
    policy = config.training.search
    if policy is None or (orchestration.runs.run_mode() == RunMode.REPLAY and not policy.in_replays):
        return config, None
    job = search.forward_search.SearchJob(policy, decision_id, training.content_hash, training.window.end.isoformat())
    if earlier := search.found_settings.champions_search(config):
        job = replace(job, parameters=earlier.parameters, recipe=earlier.recipe)
    chosen, searched = search.forward_search.search(config, rows, job)
    get_run_logger().info("%s", searched.sentence)
    return chosen, searched


def _fit(config: ModelConfig, given: Rows, rows: pa.Table, plan: "FitPlan") -> "Fitted":
    """Train by the winner of the race, if there was one; its reasons become remarks, which validation shows."""
    base = candidates.bases.load_base(config, given.strategy, given.training.window.end)
    fitted = candidates.strategies.fit(config, given.strategy, rows, base, plan)
    return replace(fitted, remarks=(*given.race.reasons[:1], *fitted.remarks)) if given.race else fitted


def _refit(config: ModelConfig, given: Rows, rows: pa.Table, plan: "FitPlan") -> "Refit | None":
    """Fit the model that serves to the training rows and the holdout; None if the validated one serves."""
    holdout, validated = given.holdout, plan.validated
    newest = lake.read_labelled(holdout) if holdout and config.training.is_refitted else None
    if holdout is None or newest is None or validated is None or not len(newest):
        return None
    fitted = _fit(config, given, pa.concat_tables([rows, newest]), plan)
    get_run_logger().info(
        "training: fitted again with the %d rows of the holdout, %s", len(newest), holdout.window.name
    )
    measured = replace(fitted, metrics=validated.metrics, held_back_rows=validated.held_back_rows)
    return registry.registration.Refit(replace(measured, remarks=validated.remarks), holdout)


def _freeze_profile(config: ModelConfig, training: Snapshot, rows: pa.Table) -> ReferenceProfile:
    """Freeze the rows' profile. Raises TrainingRefused if a feature gives the label away."""
    profile = profiling.profile.freeze_reference(rows.to_batches(), config, training.window, training.content_hash)
    if profile.leaking:
        raise TrainingRefused(f"{config.name}: {training.window.name}: {'; '.join(profile.leaking)}")
    return _with_labelled_share(profile, training)


def _with_references(
    config: ModelConfig, training: Snapshot, rows: pa.Table, fitted: "Fitted", profile: ReferenceProfile
) -> "TrainedModel":
    """Freeze what monitoring compares later windows with, beside the profile: coded rows, a sample and the attribution."""
    profile = profiling.baseline_drift.with_stable_effects(config, profile, rows)
    coded = profiling.binned_rows.draw_rows(config, profile, rows)
    profile = profiling.domain_classifier.with_stable_auc(config, profile, coded, fitted.importance)
    contributed = models.shap.contributions(fitted.scorer, rows, models.shap.FROZEN_ROWS)
    attribution = None if contributed is None else freeze(fitted.scorer.encoding.names, contributed)
    sample = profiling.reference_sample.draw_sample(config, profile, rows)
    return registry.registration.TrainedModel(fitted, training, profile, attribution, coded, sample)


def _check_rows(config: ModelConfig, training: Snapshot, rows: pa.Table) -> None:
    """Raise TrainingRefused if these rows or their labels cannot support a sound model."""
    refusal = models.eligibility.why_not_train(config, rows) or _unusable(config, training, len(rows))
    words = _unknown_words(config, training)
    if words:
        get_run_logger().warning("labels: %s", words)
    if refusal:
        refusal += f"; {words}" if words else ""
        raise TrainingRefused(
            f"{config.name}: {training.window.name}: {refusal}{_describe_missed_windows(config, training.window)}"
        )
