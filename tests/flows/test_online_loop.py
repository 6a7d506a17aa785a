"""The online corrector in a replay: it closes part of the gap between a frozen champion and one retrained every window."""

import numpy as np
import pytest

from deployments.config.loading import load_model_config
from flows.replay import replay
from tasks.adapters import lake, ledger
from tasks.policy.evidence.monitoring import Judgement
from tasks.policy.records.base import from_json
from tasks.policy.training.online import UPDATED, OnlineUpdate
from tests.support.small_model import START, rows, write_model

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow("replays a whole record")]

NEVER_RETRAIN = {"limit: 1.0, k: 2": "limit: 100.0, k: 2"}


def gradual():
    """Return the small model's rows with an effect of x that fades from the end of history on."""
    table = rows()
    days = (table["at"] - START).dt.total_seconds() / 86400
    slope = 2 - np.clip((days - 20) / 8, 0, 1) * 1.5
    noise = np.random.default_rng(1).normal(scale=0.2, size=len(table))
    return table.assign(y=slope * table["x"] + noise)


def test_gradual_change_is_followed_between_retrains(tmp_path):
    """Never retrained, it closes a third of the gap to a model that is retrained every window; states are made in time order."""
    model = write_model(tmp_path, gradual(), **NEVER_RETRAIN | {"  min_rows: 300": "  min_rows: 300\n  online: {}"})
    outcome = replay(model)
    means = outcome.means()
    assert outcome.count("retrained") == 0
    assert means["never"] - means["loop"] >= 0.3 * (means["never"] - means["every"])
    judged = [from_json(Judgement, entry.body) for entry in ledger.entries("small", kind="window.judged")]
    states = {update.window: update for update in updates()}
    for judgement in judged:
        update = states.get(judgement.decision.window)
        if update:
            assert judgement.online == update.sentence
            assert max(update.newest.learned) < update.window, "its last labels come after it was judged"
    served = [one.serving and one.serving.number for one in states.values()]
    assert served == [None, None, None, 4, 5, 6, 7]
    config = load_model_config(model)
    logs = [lake.read_predictions(config, window) for window in config.windows()]
    used = [set(log["online_state"].to_pylist()) if "online_state" in log.column_names else {None} for log in logs]
    assert used == [{None}] * 5 + [{4}, {5}, {6}]


def updates() -> list[OnlineUpdate]:
    return [from_json(OnlineUpdate, entry.body) for entry in ledger.entries("small", kind=UPDATED)]
