"""Probes in the loop: they detect the change, cost a fraction, use no later data, and can be retrained."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from deployments.config.loading import load_model_config
from deployments.config.model import ModelConfig
from flows.backtest import backtest
from flows.replay import replay
from tasks.adapters import ledger
from tasks.adapters.evaluation import probes
from tasks.adapters.storage.workspace import workspace
from tasks.monitoring.probes import new_columns
from tasks.policy.evidence.monitoring import Judgement, MonitorRun
from tasks.policy.records.base import from_json
from tasks.record.history import find_champion, load_history, load_past
from tasks.replay.candidates import Plan, plan_candidates
from tests.support.small_model import CHANGE, write_model

pytestmark = pytest.mark.usefixtures("prefect_server")
BREACH = "{trigger: metric_breach, metric: mae, limit: 1.0, k: 2, m: 3}"


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory, prefect_server: None):
    """(outcome, judgements, configuration, workspace) of the small model under the trigger `probe`."""
    folder = tmp_path_factory.mktemp("probed")
    model = write_model(folder / "model", **{BREACH: "{trigger: probe, alpha: 0.2}"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_HOME", str(folder / "home"))
        outcome = replay(model)
        judged = [from_json(Judgement, entry.body) for entry in ledger.entries("small", kind="window.judged")]
        return outcome, judged, load_model_config(model), folder / "home"


def test_probe_trigger_retrains_after_the_change(probed):
    asked = [record.window for record in probed[0].windows if record.retrain]
    assert asked and all(window.end > CHANGE for window in asked)
    assert probed[0].means()["loop"] < probed[0].means()["never"]


def test_every_window_is_scored_once_by_probes(probed):
    columns = [column for judgement in probed[1] for column in judgement.evidence.probes]
    names = [column.window.name for column in columns]
    assert len(names) == len(set(names))
    assert len([column for column in columns if column.champion_until]) == len(probed[0].windows)


def test_no_probe_is_scored_on_its_training_window(probed):
    columns = [column for judgement in probed[1] for column in judgement.evidence.probes]
    assert all(until <= column.window.start for column in columns for until, _ in column.losses)


def test_lost_probes_are_retrained_with_equal_scores(probed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    _, judged, config, home = probed
    shutil.copytree(home, tmp_path / "copy")
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "copy"))
    monkeypatch.setenv("PERENNIAL_LAKE", str(home / "lake"))
    shutil.rmtree(workspace().home / "probes")
    probes._loaded.cache_clear()
    probes._samples.clear()
    first = judged[0]
    champion, window = find_champion(config, required=True), first.evidence.window
    past = load_past(config)
    run = MonitorRun(window, first.as_of, champion, load_history(config, past, champion, window), past)
    columns = new_columns(config, run, (first.evidence.performance,))
    assert [column.losses for column in columns] == [column.losses for column in first.evidence.probes]


def test_probes_depend_on_features_not_on_lookback(tmp_path):
    delay, features = "label_delay_hours: 12", "numeric: [x, noise]"
    own = probes.probe_folder(load_model_config(write_model(tmp_path / "own")))
    longer = write_model(tmp_path / "longer", **{delay: f"{delay}\n  label_lookback_days: 90"})
    assert probes.probe_folder(load_model_config(longer)) == own
    fewer = write_model(tmp_path / "fewer", **{features: "numeric: [x]"})
    assert probes.probe_folder(load_model_config(fewer)) != own


def test_backtest_uses_the_same_probes_as_monitor(probed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    _, judged, config, home = probed
    shutil.copytree(home, tmp_path / "copy")
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "copy"))
    check_probes_of_back_test(config, judged)


@pytest.mark.slow("replays a second model with very late labels")
def test_backtest_uses_the_same_probes_with_late_labels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    late = {BREACH: "{trigger: perennial, alpha: 0.2}", "label_delay_hours: 12": "label_delay_hours: 60"}
    model = write_model(tmp_path / "model", **late)
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
    replay(model)
    judged = [from_json(Judgement, entry.body) for entry in ledger.entries("small", kind="window.judged")]
    assert check_probes_of_back_test(load_model_config(model), judged).lag == 1


def check_probes_of_back_test(config: ModelConfig, judged: list[Judgement]) -> Plan:
    """Check that every loss written by `monitor` equals the back-test's exactly; the back-test also scores older probes."""
    columns = [column for judgement in judged for column in judgement.evidence.probes]
    assert sum(len(column.losses) for column in columns) > 80
    backtest(str(config._file), (0.05,), ("never",))
    plan = plan_candidates(config, config.period.end)
    places = {window.end: place for place, window in enumerate(plan.windows)}
    with np.load(plan.folder / "probes.npz") as stored:
        found = stored["probe"]
    for column in columns:
        for until, loss in column.losses:
            assert found[places[until], places[column.window.end]] == loss
    return plan
