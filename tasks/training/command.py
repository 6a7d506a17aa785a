"""Run a model's training command on this host of a work pool, for a retrain that runs elsewhere."""

from deployments.config.model import ModelConfig
from tasks.adapters import own_training
from tasks.adapters.orchestration.stage import stage


@stage
def run_command(config: ModelConfig, command: tuple[str, ...], folder: str, output: str) -> None:
    """Run the command on the rows in this folder and leave its model at `output`; another command is refused.

    Raises TrainingFailed if the rows are not reached from here, or the command fails, takes too long or leaves no model.
    """
    own_training.pool.train_here(config, command, folder, output)
