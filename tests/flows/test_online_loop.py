"""The online corrector in a replay: it closes part of the gap between a frozen champion and one retrained every window."""

import numpy as np
import pytest

from flows.replay import replay
from tasks.adapters import lake, ledger
from tasks.policy.records.base import from_json
from tasks.policy.records.evidence import Judgement
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
    model = write_model(tmp_path, gradual(), **NEVER_RETRAIN | {"  min_rows: 300": "  min_rows: 300\n  online: {}"})
    outcome = replay(model)
    means = outcome.means()
    assert outcome.count("retrained") == 0
    share = (means["never"] - means["loop"]) / (means["never"] - means["every"])
    print("MEANS", means, share)
    for e in ledger.entries("small"): print(e.kind, e.at)
    updates = [from_json(OnlineUpdate, entry.body) for entry in ledger.entries("small", kind=UPDATED)]
    for u in updates: print(u.window.name, u.newest.number, [w.name for w in u.newest.learned], u.sentence)
    assert share >= 0.3
