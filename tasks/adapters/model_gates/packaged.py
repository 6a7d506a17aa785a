"""Measure the infrastructure blessing: what the files of the challenger's version do, beside those of the champion's.

A version without files here, and one that may run code in its sandbox, say why a gate does not apply to them.
"""

import json

import pyarrow as pa

from deployments.config.model import ModelConfig
from tasks.adapters.evaluation.challenger import try_predict
from tasks.adapters.model_gates.clean_process import PackagedModel, deviation, try_models
from tasks.adapters.model_gates.malformed import malformed_rows
from tasks.adapters.model_gates.program import answered
from tasks.adapters.model_gates.stored_files import code_in_files, untrusted_types
from tasks.adapters.models.files import Scorer
from tasks.adapters.registry import version_files
from tasks.adapters.registry.known_answers import answers_in, with_answers, without_answers
from tasks.policy.evidence.validation import GateMeasure
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.model_gates import service
from tasks.policy.model_gates.service import ServiceTrial
from tasks.policy.records.errors import ModelFileError

AT_TRAINING, HERE = "its answers at training", "its answers in another process"
TIMED_ROWS = 128
"""Rows of the holdout that the clean process answers one at a time."""
NO_FILES = "the version is part of your own service, which has its files"
SANDBOXED = "it may run code, as training.trust allows, and has a process of its own with limits of its own"


def service_measures(
    config: ModelConfig, challenger: ModelVersion, champion: ModelVersion | None, rows: pa.Table
) -> tuple[GateMeasure, ...]:
    """The measures of the challenger's files and service; these rows are real ones."""
    if challenger.observed_as is not None:
        return (GateMeasure("no code", skipped=NO_FILES), *service.not_served(NO_FILES))
    try:
        new = _packaged(config, challenger, rows)
        old = None if champion is None or champion.observed_as is not None else _packaged(config, champion, rows)
    except ModelFileError as error:
        return (GateMeasure("no code", fault=f"not measured ({error})"), *service.unmeasured(f"not measured ({error})"))
    code = _code(new)
    if code.fault:  # files that may run code are not loaded at all
        return (code, *service.unmeasured("not measured, because the files may run code"))
    trials = _trials(config, new, old, rows)
    if isinstance(trials, str):
        return (code, *service.unmeasured(f"not measured: {trials}"))
    if champion is not None and champion.observed_as is not None:
        trials = (trials[0], ServiceTrial(champion.version, apart=f"champion {champion.version}: {NO_FILES}"))
    return (code, *service.judge_service(trials[0], trials[1] if len(trials) > 1 else None))


def _packaged(config: ModelConfig, version: ModelVersion, rows: pa.Table) -> PackagedModel:
    """The version's files with rows whose answers are known. Raises ModelFileError."""
    imported, files = config.training.imported, version_files.model_content(version)
    scorer = version_files.load_scorer(version, imported)
    known, source = version_files.sample_answers(version), AT_TRAINING
    if known is None:
        sample = rows.slice(0, TIMED_ROWS)
        known, source = with_answers(sample, scorer.predict(sample)), HERE
    cases = tuple(malformed_rows(config.columns.features, _read(scorer), rows))
    return PackagedModel(version, files, known, source, cases, imported)


def _read(scorer: Scorer) -> tuple[str, ...]:
    """The columns that the model reads."""
    inputs = getattr(scorer, "inputs", None)
    return inputs.given if inputs is not None else scorer.encoding.names


def _code(model: PackagedModel) -> GateMeasure:
    """Whether the files of a model hold code that would run when they are loaded."""
    if model.is_sandboxed:
        return GateMeasure("no code", skipped=SANDBOXED)
    found = code_in_files(model.files)
    trusted = tuple(json.loads(dict(model.version.tags).get("trusted_types", "[]")))
    types = [] if found else untrusted_types(model.files, trusted, model.imported)
    fault = None
    if found or types:
        what = (
            f"pickled objects ({', '.join(found)})"
            if found
            else f"types that training did not record ({', '.join(types)})"
        )
        fault = (
            f"version {model.version.version} holds {what}, which may run code when they are loaded; expected data only"
        )
    return GateMeasure("no code", "files that may run code", value=float(len(found) + len(types)), fault=fault)


def _trials(
    config: ModelConfig, new: PackagedModel, old: PackagedModel | None, rows: pa.Table
) -> tuple[ServiceTrial, ...] | str:
    """The trials of the challenger and of the champion, if there is one: both in one clean process where they can be."""
    models = [new] if old is None else [new, old]
    clean = [model for model in models if not model.is_sandboxed]
    found = try_models(clean, rows.slice(0, TIMED_ROWS)) if clean else ()
    if isinstance(found, str):
        return found
    tried = iter(found)
    return tuple(_in_sandbox(config, model) if model.is_sandboxed else next(tried) for model in models)


def _in_sandbox(config: ModelConfig, model: PackagedModel) -> ServiceTrial:
    """The trial of a model that may run code, in the sandbox that serves it too."""
    number = model.version.version
    outcome = try_predict(model.version, without_answers(model.known), config.training.imported, fresh=True)
    if isinstance(outcome, str):
        return ServiceTrial(number, fault=outcome)
    scorer, answers = outcome
    return ServiceTrial(
        version=number,
        deviation=deviation(answers, answers_in(model.known)),
        compared_rows=len(model.known),
        compared_with=model.known_from,
        answered=tuple(answered(scorer, model.malformed)),
        apart=SANDBOXED,
    )
