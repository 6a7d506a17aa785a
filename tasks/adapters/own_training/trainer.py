"""Train a model in the way that its file names: an estimator, a pipeline and an estimator, a function, a command or a flow.

Probes, back-tests and replays train in this process. There, XGBoost stands in for a command or a flow: it shows what fresh
rows are worth, and starts nobody's jobs.
"""

import pyarrow as pa

from deployments.config.model import ModelConfig
from tasks.adapters.models import estimators
from tasks.adapters.models.estimators import PLAIN, FitPlan, Fitted
from tasks.adapters.own_training import command, flow, function, pipeline, pool
from tasks.adapters.own_training.command import TrainedElsewhere
from tasks.adapters.own_training.imports import check_parameters
from tasks.adapters.own_training.snapshot_files import TrainingJob


def fit(config: ModelConfig, rows: pa.Table, plan: FitPlan = PLAIN) -> Fitted:
    """Train on labelled rows in this process. Raises EstimatorError, FeatureError, and what the user's code raises.

    A function of the user's own takes the rows only, nothing else of the plan.
    """
    if config.training.is_foreign:
        config = config.with_stand_in()
    if config.training.function:
        return function.fit(config, rows)
    own = pipeline.PipelineEncoder(config) if config.training.pipeline else None
    return estimators.fit(config, rows, own, plan)


def train_elsewhere(config: ModelConfig, job: TrainingJob) -> TrainedElsewhere:
    """Train by the model's command or flow. Raises TrainingFailed."""
    here = config.training.command and not config.training.work_pool
    return command.train(config, job) if here else flow.train(config, job)


def check(config: ModelConfig) -> tuple[str, ...]:
    """Try what trains the model, without data, and describe what it does not offer. Raises EstimatorError."""
    training, found = config.training, []
    if training.function:
        check_parameters(config, "function", "rows", "config")
        found.append(
            "training: probes and back-tests call the function too; no rows are held back, so early stopping is its own affair."
        )
    elif training.flow or training.work_pool:
        missed = flow.check(config)
        found += [f"training: {missed}."] if missed else []
        found += [f"training: {pool.HAND_OVER}."] if training.work_pool and not pool.is_in_store() else []
    elif training.command:
        command.check(config)
    elif training.pipeline:
        pipeline.try_build(config)
        estimators.try_out(config)
    else:
        estimators.try_out(config)
    if training.is_foreign:
        found.append(
            "training: probes, back-tests and replays use XGBoost in its place; what a retrain costs is known once one has run; "
            "early stopping is its own affair."
        )
    if training.reads_other or training.is_foreign:
        found.append(
            "training: reports show no contributions of single features (SHAP), and weigh features equally in drift."
        )
    return tuple(found)
