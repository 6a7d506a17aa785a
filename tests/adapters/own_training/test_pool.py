"""The side of the pool: what it reads and leaves in an object store, and what it refuses."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.logging import disable_run_logger
from prefect.states import Completed, Crashed, Failed, Running
from pydantic import ValidationError

from deployments.apply.definitions import read_definitions
from deployments.apply.storage_preflight import refuse_ephemeral_storage
from deployments.config.blocks.training import Training
from deployments.config.loading import load_model_config
from deployments.config.model import ModelConfig
from flows.train import train
from tasks.adapters.own_training import flow, output, pool
from tasks.adapters.own_training.snapshot_files import ROWS, training_rows
from tasks.policy.records.errors import TrainingFailed
from tests.adapters.own_training.test_command import job, model as with_command
from tests.support.deployed_models import churn, models
from tests.support.object_store import object_store
from tests.support.small_model import write_model

LEAVES_A_FOLDER = """
import json, os, pandas as pd, xgboost
given, output = os.environ["PERENNIAL_INPUT"], os.environ["PERENNIAL_OUTPUT"]
job = json.load(open(given + "/training.json"))
assert job["output"] == output and job["classes"] == ["0", "1"] and job["decision_id"] == "d1"
rows = pd.read_parquet(given + "/rows.parquet")
model = xgboost.XGBClassifier(n_estimators=9).fit(rows[job["features"]["numeric"]], rows["label"])
os.makedirs(output + "/data")
model.save_model(output + "/data/model.ubj")
open(output + "/MLmodel", "w").write("flavors: {xgboost: {data: data/model.ubj}}")
"""


def model(folder: Path, script: str = LEAVES_A_FOLDER) -> ModelConfig:
    config = with_command(folder, script, work_pool="team-gpu")
    features = config.columns.features.model_copy(update={"categorical": (), "boolean": ()})
    return config.model_copy(update={"columns": config.columns.model_copy(update={"features": features})})


def trained(config: ModelConfig, folder: str) -> object:
    """Hand over, train and take in, in one process."""
    given = job()
    output.put_rows(training_rows(config, given.rows), f"{folder}/{ROWS}")
    pool.hand_over(config, given, folder)
    with disable_run_logger():
        pool.train_here(config, config.training.command, folder, f"{folder}/output-1")
        return output.take_in_model(config, output.model_at(f"{folder}/output-1", "here"), given.rows).parameters[
            "format"
        ]


def test_rows_and_model_pass_through_an_object_store(tmp_path, monkeypatch):
    with object_store("s3", monkeypatch) as bucket:
        assert trained(model(tmp_path), f"{bucket}/lake/churn/training/d1") == "xgboost"
        monkeypatch.setenv("PERENNIAL_LAKE", f"{bucket}/lake")
        assert pool.is_in_store() and output.job_address(model(tmp_path), "d1").startswith(f"{bucket}/lake/")


def test_a_folder_that_is_not_reached_is_named(tmp_path):
    config, elsewhere = model(tmp_path), tmp_path / "elsewhere"
    with pytest.raises(
        TrainingFailed, match=r"training.work_pool is team-gpu, but on this host of it there is no folder"
    ):
        pool.train_here(config, config.training.command, str(elsewhere), str(elsewhere / "output-1"))
    assert not elsewhere.exists()
    with pytest.raises(TrainingFailed, match=r"cannot be read .*set PERENNIAL_LAKE to an object store"):
        pool.train_here(config, config.training.command, str(tmp_path), str(tmp_path / "output-1"))


def test_another_command_than_the_asked_one_is_refused(tmp_path):
    with pytest.raises(TrainingFailed, match=r"train.py in the model's file on this host, expected python new.py"):
        pool.train_here(model(tmp_path), ("python", "new.py"), str(tmp_path), str(tmp_path))


def test_an_output_elsewhere_than_beside_the_rows_is_refused(tmp_path):
    config = model(tmp_path)
    with pytest.raises(TrainingFailed, match=r"expected a place in the folder of the rows"):
        pool.train_here(config, config.training.command, str(tmp_path / "d1"), str(tmp_path / "other" / "output-1"))


def test_a_run_names_the_file_as_the_pool_finds_it(tmp_path, monkeypatch):
    path = Path(write_model(tmp_path))
    assert pool.file_of(load_model_config(path)) == str(path)
    monkeypatch.setenv("PERENNIAL_MODELS", str(tmp_path))
    assert load_model_config(pool.file_of(load_model_config(path))).name == "small"


def test_the_flow_takes_what_the_retrain_gives():
    assert set(train.parameters.required) == {"model", "command", "snapshot", "decision_id", "output"}


def test_a_crashed_run_gets_time_to_be_taken_up_again(tmp_path):
    config, now = model(tmp_path), datetime.now(UTC)
    own = config.model_copy(update={"training": Training(flow="a/b")})

    def is_over(state: object, config: ModelConfig = config) -> bool:
        return flow._is_over(config, FlowRun(flow_id=uuid4(), state=state))

    crashed = Crashed(timestamp=now)
    assert not is_over(Running()) and not is_over(crashed)
    assert is_over(crashed, own), "nobody takes up a run of the user's own"
    assert is_over(Crashed(timestamp=now - timedelta(minutes=2))) and is_over(Failed()) and is_over(Completed())


@pytest.mark.parametrize("way", [{}, {"flow": "team/train"}, {"function": "a:fit"}, {"estimator": "a:B"}])
def test_a_pool_needs_a_command(way):
    with pytest.raises(ValidationError, match=r"work_pool is given with .*, expected it with command only"):
        Training(work_pool="team-gpu", **way)
    assert not Training(command=[sys.executable], work_pool="team-gpu").stand_in().work_pool


def test_each_pool_gets_one_deployment():
    """A pool of the user's own is not created by apply, and its containers need no workspace."""
    on_gpu = Training(command=["python", "train.py"], work_pool="team-gpu")
    on_docker = on_gpu.model_copy(update={"work_pool": "perennial-docker"})
    named = {"a": on_gpu, "b": on_gpu, "c": on_docker}
    definitions = read_definitions(models(*(churn(name=name, training=training) for name, training in named.items())))
    found = {each["name"]: each for each in definitions.deployments if each["entrypoint"] == "flows.train.train"}
    assert set(found) == {"train-team-gpu", "train-perennial-docker"}
    assert found["train-team-gpu"]["work_pool"]["name"] == "team-gpu"
    assert "For a, b." in found["train-team-gpu"]["description"]
    assert definitions.own_pools == ("team-gpu",) and definitions.pools == ("perennial", "perennial-docker")
    assert "train-team-gpu" not in {each["name"] for each in definitions.without("team-gpu").deployments}
    refuse_ephemeral_storage(definitions, {})
    assert not [each for each in read_definitions(models()).deployments if each["name"].startswith("train")]
