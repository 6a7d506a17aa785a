"""Register a fitted model: run, lineage, files, and finally the version itself.

An interrupted registration leaves a failed run and no version. MLflow has no unique tags, so two processes may register
for one decision at once. Both then see both versions; the lower number is kept and the other version is deleted.
"""

import json
import logging
import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from mlflow.entities import DatasetInput, LoggedModelOutput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.tracking import MlflowClient

from deployments.config.model import ModelConfig
from tasks.adapters.foreign import scorer as foreign_files
from tasks.adapters.foreign.scorer import ForeignScorer
from tasks.adapters.gates.expectation_suite import learned_suite
from tasks.adapters.models import files as model_files
from tasks.adapters.models.estimators import Fitted
from tasks.adapters.profiling import binned_rows, reference_sample
from tasks.adapters.profiling.reference_sample import ReferenceSample
from tasks.adapters.registry import known_answers, lineage, version_files, versions as registry
from tasks.adapters.storage import lease, relocation
from tasks.adapters.storage.workspace import keep_private, workspace
from tasks.policy.evidence.versions import USAGE, VALIDATED_SHA256, VALIDATED_UNTIL, ModelVersion, Usage
from tasks.policy.monitoring.attribution import AttributionProfile
from tasks.policy.records.base import Window, to_json
from tasks.policy.records.binned_rows import CodedRows
from tasks.policy.records.profile import ReferenceProfile
from tasks.policy.records.reports import Snapshot
from tasks.policy.records.text import plain
from tasks.policy.training.race import RaceReport
from tasks.policy.training.search import SearchReport

_EXISTS = ErrorCode.Name(RESOURCE_ALREADY_EXISTS)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)


@dataclass(frozen=True)
class Refit:
    """The model that serves: fitted once more, to the training rows and the holdout."""

    fitted: Fitted
    holdout: Snapshot


@dataclass(frozen=True)
class TrainedModel:
    """A fitted model, the rows it was trained on, and what monitoring later compares with, stored with the version.

    `attribution` is None for estimators without SHAP values.
    """

    fitted: Fitted
    training: Snapshot
    profile: ReferenceProfile
    attribution: AttributionProfile | None = None
    coded_rows: CodedRows | None = None
    sample: ReferenceSample | None = None
    usage: Usage | None = None
    origin: str | None = None
    """Which command or flow run made the model, and where it left it."""
    search: SearchReport | None = None
    """What was searched before the training."""
    refit: Refit | None = None
    """The model that serves in its place, fitted to the holdout too; None if this one serves."""
    base: ModelVersion | None = None
    """The version whose trees it shares, with leaf values that a device learned; None for any other model."""

    race: RaceReport | None = None
    """The race that decided which rows to learn from."""

    @property
    def serving(self) -> Fitted:
        return self.refit.fitted if self.refit else self.fitted

    @property
    def learned(self) -> Window:
        """The time span of the rows that the serving model was fitted to."""
        if self.base:
            return self.base.trained
        window = self.training.window
        return Window(window.start, self.refit.holdout.window.end) if self.refit else window


def register(config: ModelConfig, trained: TrainedModel, decision_id: str) -> ModelVersion:
    """Register the version of this decision; return the existing version if there is one.

    Raises RegistryError, and ModelFileError for an estimator that holds types of other packages.
    """
    known = registry.find(config.name, decision_id)
    if known is not None:
        return known
    client, training = registry.client(), trained.training
    with (
        tempfile.TemporaryDirectory() as place,
        registry.registry_errors(f"{config.name}: a version cannot be registered"),
    ):
        folder = Path(place)
        manifest = _write_files(folder, config, trained, decision_id)
        tags = _tags(config, trained, manifest)
        experiment = ensure_model(client, config)
        lease.check(config.name)
        run_id = client.create_run(experiment, run_name=f"{config.name} {training.window.name}").info.run_id
        finished = False
        try:
            held_back = {f"held_back_{name}": value for name, value in trained.fitted.metrics.items()}
            metrics = held_back | _search_metrics(trained.search)
            _log_run(client, run_id, manifest, metrics, lineage.dataset_input(config, training))
            client.log_artifacts(run_id, str(folder / "notes"))
            model = client.create_logged_model(experiment, name=config.name, source_run_id=run_id)
            client.log_model_artifacts(model.model_id, str(folder / "model"))
            client.finalize_logged_model(model.model_id, "READY")
            client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
            finished = True
        finally:
            client.set_terminated(run_id, "FINISHED" if finished else "FAILED")
        # by location: `models:/…` would be looked up in MLflow's global registry, which may be another one
        source = model.artifact_location
        token = lease.check(config.name)
        tags |= {"lease": str(token)} if token else {}
        stored = client.create_model_version(config.name, source, run_id, tags=tags, model_id=model.model_id)
        return _resolve_race(client, registry.as_record(stored))


def _write_files(
    folder: Path, config: ModelConfig, trained: TrainedModel, decision_id: str
) -> lineage.TrainingManifest:
    """Write everything to upload: `model` in MLflow's format, and `notes` with the run's artifacts."""
    files, notes = folder / "files", folder / "notes"
    files.mkdir()
    notes.mkdir()
    fitted, profile = trained.serving, trained.profile
    if isinstance(fitted.scorer, ForeignScorer):
        foreign_files.save(fitted.scorer, files)
    else:
        model_files.save(fitted.scorer, files)
    manifest = lineage.manifest(config, _lineage(trained, decision_id), _hash_of(files))
    lineage.save_for_mlflow(config, fitted.scorer, files, folder / "model")
    if trained.refit:
        (notes / version_files.VALIDATED).mkdir()
        model_files.save(trained.fitted.scorer, notes / version_files.VALIDATED)
        manifest = replace(manifest, validated_sha256=_hash_of(notes / version_files.VALIDATED))
    (notes / version_files.PROFILE).write_text(to_json(profile), encoding="utf-8")
    (notes / version_files.SUITE).write_text(learned_suite(config, profile), encoding="utf-8")
    (notes / version_files.MANIFEST).write_text(to_json(manifest), encoding="utf-8")
    (notes / version_files.IMPORTANCE).write_text(json.dumps(fitted.importance), encoding="utf-8")
    answers = known_answers.answer_rows(fitted.scorer, trained.sample)
    if answers is not None:
        (notes / version_files.ANSWERS).write_bytes(known_answers.to_ipc(answers))
    if trained.search:
        (notes / version_files.SEARCH).write_text(to_json(trained.search), encoding="utf-8")
    if trained.attribution:
        (notes / version_files.ATTRIBUTION).write_text(to_json(trained.attribution), encoding="utf-8")
    if trained.coded_rows is not None:
        (notes / version_files.CODED_ROWS).write_bytes(binned_rows.to_parquet(trained.coded_rows))
    if trained.sample is not None:
        (notes / version_files.REFERENCE_SAMPLE).write_bytes(reference_sample.to_parquet(trained.sample))
    return manifest


def _hash_of(files: Path) -> str:
    return model_files.sha256(model_files.read(files))


def _lineage(trained: TrainedModel, decision_id: str) -> lineage.Lineage:
    """Return which rows and which decision the serving model comes from."""
    holdout = trained.refit.holdout if trained.refit else None
    return lineage.Lineage(
        trained.serving, trained.training, trained.learned, decision_id, holdout, trained.race, trained.search
    )


def ensure_model(client: MlflowClient, config: ModelConfig) -> str:
    """Create the registered model and its experiment, named after the model, if absent; return the experiment's id."""
    try:
        client.create_registered_model(config.name, tags={"owner": config.owner}, description=plain(config.purpose))
    except MlflowException as error:
        if error.error_code != _EXISTS:
            raise
    known = relocation.experiment_here(client, config.name)
    if known is not None:
        return known
    place = workspace()
    if not place.is_served:
        keep_private(place.artifacts)
    try:
        return str(
            client.create_experiment(config.name, None if place.is_served else f"{place.artifacts}/{config.name}")
        )
    except MlflowException as error:
        present = client.get_experiment_by_name(config.name)
        if error.error_code != _EXISTS or present is None:
            raise
        return str(present.experiment_id)


def _search_metrics(search: SearchReport | None) -> dict[str, float]:
    """Return the figures of a search as metrics of the run; empty without one."""
    if search is None:
        return {}
    figures = {"search_trials": float(len(search.trials)), "search_wall_s": search.wall_s, "search_cpu_s": search.cpu_s,
               "search_usd": search.usd, "search_adopted": float(search.adopted)}  # fmt: skip
    gain = search.gain
    return figures | ({"search_gain": gain.gain, "search_gain_error": gain.error} if gain else {})


def _log_run(
    client: MlflowClient,
    run_id: str,
    manifest: lineage.TrainingManifest,
    measured: dict[str, float],
    dataset: DatasetInput,
) -> None:
    params = {
        **manifest.parameters,
        "estimator": manifest.estimator,
        "seed": str(manifest.seed),
        "threads": str(manifest.threads),
        "rounds": str(manifest.rounds),
        "fitted_rows": str(manifest.fitted_rows),
        "held_back_rows": str(manifest.held_back_rows),
    }
    run_tags = {
        "decision_id": manifest.decision_id,
        "mlflow.source.name": "perennial",
        "mlflow.source.git.commit": manifest.code_version,
        "config_fingerprint": manifest.config_fingerprint,
    }
    client.log_batch(
        run_id,
        # one value per metric, so the run's own time suffices
        metrics=[Metric(name, value, timestamp=0, step=0) for name, value in measured.items() if math.isfinite(value)],
        params=[Param(name, value) for name, value in params.items()],
        tags=[RunTag(name, value) for name, value in run_tags.items()],
    )
    client.log_inputs(run_id, datasets=[dataset])


def _tags(config: ModelConfig, trained: TrainedModel, manifest: lineage.TrainingManifest) -> dict[str, str]:
    """Return the metadata that is read without opening the version's files."""
    fitted = trained.serving
    is_foreign = isinstance(fitted.scorer, ForeignScorer)
    vouched = model_files.trusted_packages(config.training.imported)
    trusted = () if is_foreign else model_files.scorer_types(fitted.scorer, vouched)
    return {
        "decision_id": manifest.decision_id,
        "sha256": manifest.sha256,
        "trained_from": manifest.trained.start.isoformat(),
        "trained_until": manifest.trained.end.isoformat(),
        "training_rows": str(manifest.training_rows),
        "snapshot": f"{manifest.snapshot.uri}@{manifest.snapshot.version}",
        "content_hash": manifest.snapshot.content_hash,
        "config_fingerprint": manifest.config_fingerprint,
        "code_version": manifest.code_version,
        "task": config.task,
        "classes": json.dumps(fitted.scorer.classes),
        "trusted_types": json.dumps(trusted),
        "status": "registered",
        **_validated(trained, manifest),
        **({registry.REMARKS: json.dumps(fitted.remarks)} if fitted.remarks else {}),
        **({USAGE: to_json(trained.usage)} if trained.usage else {}),
        **({registry.SEARCHED: plain(trained.search.sentence)} if trained.search else {}),
        **({"origin": plain(trained.origin)} if trained.origin else {}),
        **(_origin(fitted) if isinstance(fitted.scorer, ForeignScorer) else {}),
    }


def _validated(trained: TrainedModel, manifest: lineage.TrainingManifest) -> dict[str, str]:
    """Return where the rows of the validated model end, and its hash; empty if that model itself serves."""
    if manifest.validated_sha256 is None:
        return {}
    return {VALIDATED_UNTIL: trained.training.window.end.isoformat(), VALIDATED_SHA256: manifest.validated_sha256}


def _origin(fitted: Fitted) -> dict[str, str]:
    """Return where a model from elsewhere comes from, and the format of its files."""
    return {**fitted.parameters, registry.FOREIGN: fitted.parameters["format"]}


def _resolve_race(client: MlflowClient, mine: ModelVersion) -> ModelVersion:
    """Keep the lower of two versions for one decision; numbers only grow, so both processes see the lower one."""
    first = registry.find(mine.model, mine.decision_id)
    if first is None or first.version == mine.version:
        return mine
    client.delete_model_version(mine.model, mine.version)
    return first
