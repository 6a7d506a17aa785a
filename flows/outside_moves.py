"""Follow a champion that someone else set in MLflow, where `registry.outside_moves` says to record it."""

from datetime import datetime

from deployments.config.model import ModelConfig
from tasks.data.split import history_rows
from tasks.record.history import find_outside_move
from tasks.record.publication import publish_followed, publish_taken_in
from tasks.rollout.promotion import follow_outside_move
from tasks.training.train import adopt_model


def follow_outside_moves(config: ModelConfig, as_of: datetime) -> None:
    """Take in a version that the ledger does not know, let it serve and record the move; nothing without one."""
    moved = find_outside_move(config)
    if moved is None:
        return
    version = moved.version
    if version is None:
        adopted = adopt_model(config, moved.address, history_rows(config, as_of), moved.decision_id)
        version = publish_taken_in(config, adopted, as_of)
    publish_followed(config, follow_outside_move(config, moved, version), as_of)
