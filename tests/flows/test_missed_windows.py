"""A retrain refused because of missed windows names the back-fill that makes it possible."""

import re

import pytest

from flows.backfill import backfill
from flows.monitor import monitor
from flows.promote import promote
from flows.retrain import retrain
from flows.score import score
from tasks.policy.records.base import utc
from tasks.policy.records.errors import TrainingRefused
from tests.support.small_model import write_model

pytestmark = pytest.mark.usefixtures("prefect_server")
FIRST, LATER = utc("2024-01-21"), utc("2024-02-04")


@pytest.mark.slow("lives through several windows")
def test_retrain_after_missed_windows_names_the_backfill(tmp_path):
    model = write_model(tmp_path, **{"window_days: 8": "window_days: 4"})
    retrain(model, until=FIRST)
    promote(model, until=FIRST)
    score(model, until=LATER)
    monitor(model, until=LATER)  # stores only the last two days
    with pytest.raises(TrainingRefused, match="no row has a label in y") as refused:
        retrain(model, until=LATER)
    found = re.search(
        r"; 2 of 2 windows in it were never read, because they were neither scored nor judged; read them with the backfill form, or: "
        r"perennial run backfill --model small --start (\S+) --end (\S+) --no-dry-run$",
        str(refused.value),
    )
    assert found, str(refused.value)
    backfill(model, start=utc(found[1]), end=utc(found[2]), dry_run=False)
    assert retrain(model, until=LATER, reason="once more").rows
