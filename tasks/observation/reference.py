"""Freeze the history of a model that somebody else serves: the reference of its drift, quality and labels.

It is registered once, as version 1 of the service, without a model file. Nothing is fitted, so features have no importance
and there are no SHAP values.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import lake, ledger, models, profiling, registry, sources, storage
from tasks.adapters.orchestration.stage import stage
from tasks.policy.evidence.ledger import Fact
from tasks.policy.evidence.versions import ModelVersion, Promotion
from tasks.policy.records.base import Window, digest
from tasks.policy.records.errors import ObservationRefused
from tasks.policy.records.profile import ReferenceProfile
from tasks.policy.records.reports import Snapshot

HISTORY_WINDOWS = 6
"""Latest windows of the history whose log is read as well: the first estimates learn from them."""


def history_to_read(config: ModelConfig) -> tuple[Window, ...]:
    """Return the windows of the history whose log is read."""
    return config.history_windows()[-HISTORY_WINDOWS:]


# two retries: the lake or the registry may be briefly unavailable; a version that exists is not registered again
@stage(retries=2, timeout_seconds=3600)
def freeze_history(config: ModelConfig, history: Snapshot, window: Window, as_of: datetime) -> ModelVersion:
    """Register the history as the reference of the version that serves, and make that the champion.

    The version is named as the log of the history's end names it, else as that of `window`, the first one to be judged.
    Raises ObservationRefused, SourceError.
    """
    frozen = _freeze(config, history, as_of)
    name = _first_name(config, (*history_to_read(config), window), frozen.classes)
    since, model = history.window.start, config.name
    with storage.lease.hold(model, "score"):
        version = registry.observed.register_first(config, frozen, name, digest(model, "observed", name))
        reason = f"version {version.version} is {name!r} of your own service, as its log names it"
        decision_id = digest(model, "observed from", history.window.name)
        moved = Promotion(model, decision_id, version.version, None, "promoted", (reason,))
        ledger.append(model, Fact("challenger.registered", version, since, version.decision_id, "service"))
        ledger.append(model, Fact("champion.promoted", moved, since, moved.decision_id, "service"))
        registry.set_aliases(model, {registry.CHAMPION: version.version})
        registry.tag(model, version.version, status="champion", promoted_by=moved.decision_id)
    get_run_logger().info("observation: %s; %d rows of %s are its reference", reason, history.rows, history.window.name)
    return version


def _freeze(config: ModelConfig, history: Snapshot, as_of: datetime) -> "registry.observed.FrozenHistory":
    rows = lake.read_rows(history)
    labelled = lake.labelled_rows(config, history.window, as_of)
    classes = _classes(config, labelled)
    profile = profiling.profile.freeze_reference(rows.to_batches(), config, history.window, history.content_hash)
    profile = _with_labels(config, profile, labelled)
    profile = profiling.baseline_drift.with_stable_effects(config, profile, rows)
    coded = profiling.binned_rows.draw_rows(config, profile, rows)
    profile = profiling.domain_classifier.with_stable_auc(config, profile, coded, {})
    sample = profiling.reference_sample.draw_sample(config, profile, rows)
    return registry.observed.FrozenHistory(history, profile, classes, coded, sample)


def _with_labels(config: ModelConfig, profile: ReferenceProfile, labelled: pa.Table) -> ReferenceProfile:
    """Return the profile with that of the labels known so far. Raises ObservationRefused if a feature reveals them."""
    if not len(labelled):
        return profile
    own = profiling.profile.freeze_reference(labelled.to_batches(), config, profile.window, profile.content_hash)
    if own.leaking:
        raise ObservationRefused(f"{config.name}: {profile.window.name}: {'; '.join(own.leaking)}")
    labels = own.labels and replace(own.labels, labelled_share=len(labelled) / profile.rows)
    return replace(profile, labels=labels)


def _classes(config: ModelConfig, labelled: pa.Table) -> tuple[str, ...]:
    """Return the classes in the order of the codes that metrics use; empty for a regression."""
    if config.task == "regression":
        return ()
    listed = pa.chunked_array([pa.array(config.columns.classes, pa.string())])
    found = models.eligibility.classes_of(config, listed if config.columns.classes else labelled[config.columns.label])
    least, most = (2, 2) if config.task == "binary" else (2, math.inf)
    if not least <= len(found) <= most:
        raise ObservationRefused(
            f"{config.name}: the labels of {config.history().name} have {len(found)} classes ({', '.join(found[:12])}), expected "
            f"{'2' if config.task == 'binary' else 'at least 2'}; list them in columns.classes, or fix the labels' source"
        )
    return found


def _first_name(config: ModelConfig, windows: Sequence[Window], classes: Sequence[str]) -> str:
    """Return how the log names the version that answered first in these windows."""
    for window in windows:
        keys = lake.landed_keys(config, window)
        log = sources.own_predictions.read_own_predictions(config, window, keys, classes).log
        names = log.filter(pc.equal(log["role"], "champion"))["version"]
        if len(names):
            return str(names[0].as_py())
    return sources.own_predictions.UNNAMED
