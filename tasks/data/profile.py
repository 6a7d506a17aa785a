"""Profile a window: reduce its rows to counts in one pass. Every check and drift score is computed from the counts."""

from functools import partial

from prefect import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import lake, profiling, registry
from tasks.adapters.orchestration.stage import stage
from tasks.adapters.storage.workspace import workspace
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.profile import ReferenceProfile, WindowProfile
from tasks.policy.records.reports import Snapshot

SAMPLE = "sample.parquet"


# Retried because the registry or the object store may be briefly unavailable.
@stage(
    name="profile window",
    task_run_name="profile {snapshot.window.name}",
    retries=2,
    timeout_seconds=3600,
)
def profile_window(config: ModelConfig, snapshot: Snapshot, champion: ModelVersion) -> WindowProfile:
    """Profile a snapshot against the champion's frozen reference in one pass; store a bounded sample for plots."""
    reference = registry.version_files.reference_profile(champion)
    profile = profile_snapshot(config, snapshot, reference)
    get_run_logger().info(
        "profile: %s rows, %s features, %s duplicated ids", profile.rows, len(profile.features), profile.duplicate_ids
    )
    return profile


def profile_snapshot(config: ModelConfig, snapshot: Snapshot, reference: ReferenceProfile) -> WindowProfile:
    """Profile a snapshot against a given reference. Raises LakeError (snapshot lost) and WorkspaceError (disk full)."""
    if not snapshot.rows:  # no rows to read
        return profiling.profile.profile_batches((), reference, config, snapshot.window)
    path = workspace().report(config.name, snapshot.window.name, SAMPLE)
    return profiling.profile.profile_columns(
        partial(lake.read_batches, snapshot), reference, config, snapshot.window, path
    )
