"""Register what a device learned: the champion's trees with other leaf values, as a challenger.

Its reference is the champion's, because its trees were trained on the same rows. The rows that the device learned from
are not known here.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import edge, models, registry
from tasks.adapters.orchestration.stage import stage
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.monitoring.attribution import AttributionProfile, freeze
from tasks.policy.records.base import from_json

if TYPE_CHECKING:  # loads MLflow
    from tasks.adapters.edge.updates import SignedUpdate
    from tasks.adapters.models.estimators import Fitted
    from tasks.adapters.registry.registration import TrainedModel


# one retry: the registry may be briefly unavailable; a version that exists is not registered again
@stage(retries=1)
def take_in_update(config: ModelConfig, base: ModelVersion, signed: "SignedUpdate") -> ModelVersion:
    """Register the version that this update describes and give it the alias challenger; return an existing one unchanged.

    Raises UpdateBeyondLimits if the update moves predictions further than `training.edge` allows.
    """
    decision_id = signed.update.decision_id
    version = registry.find(config.name, decision_id)
    if version is None:
        version = registry.registration.register(config, _trained(config, base, signed), decision_id)
        get_run_logger().info("edge: version %s, from %s", version.version, signed.update.sentence)
    if dict(version.tags)["status"] == "registered":
        registry.set_aliases(config.name, {registry.CHALLENGER: version.version})
    return version


def _trained(config: ModelConfig, base: ModelVersion, signed: "SignedUpdate") -> "TrainedModel":
    """Return the corrected model with the base's references; the attribution is its own, as far as rows are stored."""
    stored = registry.version_files
    files, limit = stored.serving_files(base), config.training.edge.max_change
    fitted = edge.updates.corrected(base, files, signed, limit)
    fitted = replace(fitted, importance=stored.feature_importance(base))
    manifest = from_json(registry.lineage.TrainingManifest, stored.manifest(base))
    return registry.registration.TrainedModel(
        fitted,
        manifest.snapshot,
        stored.reference_profile(base),
        _attribution(base, fitted),
        stored.coded_rows(base),
        stored.reference_sample(base),
        search=stored.search_report(base),
        origin=signed.update.sentence,
        base=base,
    )


def _attribution(base: ModelVersion, fitted: "Fitted") -> AttributionProfile | None:
    sample = registry.version_files.reference_sample(base)
    rows = None if sample is None else sample.rows
    found = None if rows is None else models.shap.contributions(fitted.scorer, rows, models.shap.FROZEN_ROWS)
    if found is None:  # without stored rows, those of the champion are the nearest
        return registry.version_files.attribution(base)
    return freeze(fitted.scorer.encoding.names, found)
