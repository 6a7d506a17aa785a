"""Register a version of somebody else's service: what monitoring compares with, and no model file.

All versions of a service share one reference, the rows of the history, because nobody says what they were trained on. They
share its run as well.
"""

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from deployments.config.model import ModelConfig
from tasks.adapters.gates.expectation_suite import learned_suite
from tasks.adapters.profiling import binned_rows, reference_sample
from tasks.adapters.profiling.reference_sample import ReferenceSample
from tasks.adapters.registry import lineage, registration, version_files, versions as registry
from tasks.adapters.storage import lease
from tasks.policy.evidence.versions import OBSERVED, USAGE, ModelVersion, Usage
from tasks.policy.records.base import to_json
from tasks.policy.records.binned_rows import CodedRows
from tasks.policy.records.profile import ReferenceProfile
from tasks.policy.records.reports import Snapshot


@dataclass(frozen=True)
class FrozenHistory:
    """The rows of a model's history, as monitoring compares later windows with them."""

    rows: Snapshot
    profile: ReferenceProfile
    classes: tuple[str, ...]
    coded_rows: CodedRows
    sample: ReferenceSample


def register_first(config: ModelConfig, frozen: FrozenHistory, name: str, decision_id: str) -> ModelVersion:
    """Register the first version of a service, with its reference; return an existing one. Raises RegistryError."""
    known = registry.find(config.name, decision_id)
    if known is not None:
        return known
    client, profile = registry.client(), frozen.profile
    with tempfile.TemporaryDirectory() as place, registry.registry_errors(f"{config.name}: nothing can be registered"):
        folder = Path(place)
        (folder / version_files.PROFILE).write_text(to_json(profile), encoding="utf-8")
        (folder / version_files.SUITE).write_text(learned_suite(config, profile), encoding="utf-8")
        (folder / version_files.IMPORTANCE).write_text("{}", encoding="utf-8")
        (folder / version_files.CODED_ROWS).write_bytes(binned_rows.to_parquet(frozen.coded_rows))
        (folder / version_files.REFERENCE_SAMPLE).write_bytes(reference_sample.to_parquet(frozen.sample))
        experiment = registration.ensure_model(client, config)
        lease.check(config.name)
        run_id = client.create_run(experiment, run_name=f"{config.name} {profile.window.name}").info.run_id
        finished = False
        try:
            client.log_inputs(run_id, datasets=[lineage.dataset_input(config, frozen.rows)])
            client.log_artifacts(run_id, str(folder))
            finished = True
        finally:
            client.set_terminated(run_id, "FINISHED" if finished else "FAILED")
    tags = {
        "decision_id": decision_id,
        "sha256": hashlib.sha256(to_json(profile).encode()).hexdigest(),
        "trained_from": profile.window.start.isoformat(),
        "trained_until": profile.window.end.isoformat(),
        "training_rows": str(profile.rows),
        "content_hash": frozen.rows.content_hash,
        "config_fingerprint": config.fingerprint,
        "task": config.task,
        "classes": json.dumps(frozen.classes),
        "status": "registered",
    }
    return _create(config, run_id, tags | _named(name))


def register_next(config: ModelConfig, before: ModelVersion, name: str, decision_id: str) -> ModelVersion:
    """Register another version of the service, with the reference of the one before; return an existing one."""
    known = registry.find(config.name, decision_id)
    if known is not None:
        return known
    fixed = {key: value for key, value in before.tags if key in _SHARED}
    own = {"decision_id": decision_id, "status": "registered"}
    return _create(config, before.run_id, fixed | own | _named(name))


_SHARED = frozenset(
    ("sha256", "trained_from", "trained_until", "training_rows", "content_hash", "config_fingerprint", "task", "classes")
)  # fmt: skip


def _named(name: str) -> dict[str, str]:
    """Return the tags that say whose version it is; it cost nothing here."""
    return {OBSERVED: name, USAGE: to_json(Usage(rows=0, wall_s=0.0))}


def _create(config: ModelConfig, run_id: str, tags: dict[str, str]) -> ModelVersion:
    with registry.registry_errors(f"{config.name}: a version cannot be registered"):
        source = registry.client().get_run(run_id).info.artifact_uri
        token = lease.check(config.name)
        tags |= {"lease": str(token)} if token else {}
        return registry.as_record(registry.client().create_model_version(config.name, source, run_id, tags=tags))
