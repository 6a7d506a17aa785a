"""The champion's online state in the gateway: as in batch scoring, followed between requests, and logged."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tasks.adapters import lake, ledger, online, registry
from tasks.adapters.online.prequential import Lesson
from tasks.policy.evidence.ledger import Fact
from tasks.policy.records.base import Window, utc
from tasks.policy.training.online import ROLLED_BACK, UPDATED, OnlinePolicy, OnlineState, OnlineUpdate
from tests.support.gateway import NAME, ROW, ask, gateway_of, prepare, request

AT = "2024-05-02T10:00:00Z"
WINDOW = Window(utc("2024-04-01"), utc("2024-04-02"))
ROWS = [ROW | {"id": f"r{number}", "x": number / 10 - 1, "time": AT} for number in range(20)]


@pytest.fixture
def config(workspace):
    config = prepare(workspace)
    return config.model_copy(update={"training": config.training.model_copy(update={"online": OnlinePolicy()})})


def learn(number: int) -> OnlineState:
    """Store a state that moves every leaf by a little, and record that it serves."""
    champion = registry.version(NAME, "1")
    booster = registry.version_files.load_scorer(champion).estimator.get_booster()
    shape = booster.num_boosted_rounds(), online.booster.node_count(booster)
    changes = np.random.default_rng(number).normal(0, 0.1, shape).astype(np.float32)
    state = online.store.write_state(online.store.state_of(champion, number, (WINDOW,), Lesson(changes, 1.0)))
    record(OnlineUpdate("1", WINDOW, state, state, "it serves"), UPDATED, f"d{number}")
    return state


def record(update: OnlineUpdate, kind: str, decision_id: str) -> None:
    ledger.append(NAME, Fact(kind, update, WINDOW.end, decision_id))


def in_batch(config, number: int = 0) -> list[float]:
    """Return what batch scoring predicts for the rows now."""
    columns = {name: [row[name] for row in ROWS] for name in ("x", "noise", "colour", "flag")}
    served = online.serving.load_champion(config, registry.version(NAME, "1"))
    assert served.state == (number or None)
    return served.scorer.predict(pa.table(columns)).tolist()


def answered(gateway) -> list[float]:
    """Return the answers to the rows, in requests of a single row and of many."""
    single = [ask(gateway, row).json()["predictions"][0] for row in ROWS]
    assert ask(gateway, *ROWS).json()["predictions"] == single
    return single


def test_gateway_and_batch_agree(config):
    frozen = in_batch(config)
    learn(1)
    gateway = gateway_of(config)
    corrected = answered(gateway)
    assert corrected == in_batch(config, 1)
    assert corrected != frozen
    assert request(gateway, "/ready").json()["models"][NAME] == {"champion": "1", "online_state": 1}


def test_states_are_followed_and_logged(config):
    gateway = gateway_of(config)
    follower, log = gateway.services[NAME].follower, gateway.services[NAME].log
    ask(gateway, ROWS[0])
    state = learn(1)
    follower.refresh()
    ask(gateway, ROWS[1])
    newer = learn(2)
    follower.refresh()
    ask(gateway, ROWS[2])
    record(OnlineUpdate("1", WINDOW, newer, state, "it lost"), ROLLED_BACK, "d3")
    follower.refresh()
    ask(gateway, ROWS[3])
    record(OnlineUpdate("1", WINDOW, newer, None, "it lost"), ROLLED_BACK, "d4")
    follower.refresh()
    ask(gateway, ROWS[4])
    log.close_segment()
    log.land()
    landed = lake.read_predictions(config, config.window_at(utc(AT))).sort_by("id")
    assert landed["online_state"].to_pylist() == [None, 1, 2, 1, None]


def test_log_without_a_state_has_no_further_column(config):
    gateway = gateway_of(config)
    ask(gateway, ROWS[0])
    log = gateway.services[NAME].log
    log.close_segment()
    log.land()
    assert "online_state" not in lake.read_predictions(config, config.window_at(utc(AT))).column_names


def test_an_unchanged_state_is_not_loaded_again(config):
    learn(1)
    follower = gateway_of(config).services[NAME].follower
    champion = follower.serving.champion
    follower.refresh()
    assert follower.serving.champion is champion


def test_altered_state_leaves_the_answers_to_the_frozen_champion(config, caplog):
    frozen = in_batch(config)
    learn(1)
    (file,) = Path(online.store.folder(NAME)).rglob("*.json")
    file.write_bytes(file.read_bytes() + b" ")
    gateway = gateway_of(config)
    gateway.services[NAME].follower.refresh()
    assert answered(gateway) == frozen
    assert caplog.text.count("the frozen champion 1 serves: state 1") == 1, "not at each poll"


def test_without_the_setting_states_are_ignored(config):
    learn(1)
    off = config.model_copy(update={"training": config.training.model_copy(update={"online": None})})
    assert answered(gateway_of(off)) == in_batch(off)
