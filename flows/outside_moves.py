"""Follow a champion that someone else set in MLflow, where `registry.outside_moves` says to record it."""

from datetime import datetime

from deployments.config.model import ModelConfig
from tasks.data.snapshot import land_labels
from tasks.data.split import span_of, split_labelled_rows
from tasks.policy.rollout.validation import as_adopted
from tasks.record.history import find_outside_move
from tasks.record.publication import publish_followed, publish_taken_in
from tasks.rollout.promotion import follow_outside_move
from tasks.training.train import adopt_model
from tasks.training.validation import validate_challenger


def follow_outside_moves(config: ModelConfig, as_of: datetime) -> None:
    """Take in a version that the ledger does not know, let it serve and record the move; nothing without one."""
    moved = find_outside_move(config)
    if moved is None:
        return
    version, validation = moved.version, None
    if version is None:
        land_labels(config, as_of)
        training, holdout = split_labelled_rows(config, as_of)
        version = adopt_model(config, moved.address, span_of(config, training, None, None), moved.decision_id)
        validation = as_adopted(validate_challenger(config, version, None, holdout), version)
        publish_taken_in(config, version, validation, as_of)
    publish_followed(config, follow_outside_move(config, moved, version, validation), as_of)
