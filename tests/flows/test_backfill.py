"""Back-fill: missed windows are judged once, others stay, and training windows are left out."""

import pytest

from deployments.config.loading import load_model_config
from flows.backfill import backfill
from flows.monitor import monitor
from flows.promote import promote
from flows.retrain import retrain
from flows.rollback import rollback
from flows.score import score
from tasks.adapters import ledger, registry
from tasks.policy.records.base import utc
from tasks.policy.records.errors import BackfillRefused
from tests.support.small_model import write_model

pytestmark = pytest.mark.usefixtures("prefect_server")
FIRST = utc("2024-01-21")


def facts() -> list[tuple[str, str | None]]:
    return [(entry.kind, entry.decision_id) for entry in ledger.entries("small")]


def test_missed_windows_get_the_ids_of_scheduled_runs(tmp_path, begin):
    model = begin(tmp_path)
    score(model, until=utc("2024-01-25"))
    monitor(model, until=utc("2024-01-25"))
    before = facts()
    shown = backfill(model, start=FIRST, end=utc("2024-01-27"))
    assert [window.name for window in shown.missing] == ["2024-01-21..2024-01-23", "2024-01-25..2024-01-27"]
    assert [window.name for window in shown.done] == ["2024-01-23..2024-01-25"]
    assert facts() == before, "a dry run changed something"
    backfill(model, start=FIRST, end=utc("2024-01-27"), dry_run=False)
    filled = facts()[len(before):]  # fmt: skip
    assert [kind for kind, _ in filled] == ["window.scored", "window.judged"] * 2
    judged = {decision for kind, decision in filled if kind == "window.judged"}
    for window in shown.missing:  # a late scheduled run finds its window judged, under the same id
        assert monitor(model, until=window.end).decision.decision_id in judged
    again = backfill(model, start=FIRST, end=utc("2024-01-27"), dry_run=False)
    assert again.missing == ()
    assert facts() == [*before, *filled]


def test_training_windows_are_left_out(tmp_path, begin):
    model = begin(tmp_path)
    for window in load_model_config(model).windows(end=utc("2024-01-27")):
        score(model, until=window.end)
    retrain(model, until=utc("2024-01-27"), reason="a champion that knows more")
    promote(model, until=utc("2024-01-27"))
    learned = registry.version("small", registry.CHAMPION).trained.end
    assert learned > FIRST
    plan = backfill(model, start=FIRST, end=utc("2024-01-31"))
    assert plan.learned and all(window.start < learned for window in plan.learned)
    assert plan.missing and all(window.start >= learned for window in plan.missing)


@pytest.mark.parametrize(
    ("start", "end", "limit", "words"),
    [
        ("2024-01-21", "2024-02-06", 2, "8 windows are to be filled in, max_windows allows 2"),
        ("2024-01-25", "2024-01-23", 60, "no window of 2 days between"),
        ("2023-01-01", "2024-01-20", 60, "both after 2024-01-21"),
    ],
)
def test_empty_or_too_long_range_is_refused(tmp_path, begin, start, end, limit, words):
    model = begin(tmp_path)
    before = facts()
    with pytest.raises(BackfillRefused, match=words):
        backfill(model, start=utc(start), end=utc(end), max_windows=limit, dry_run=False)
    assert facts() == before


def test_repeated_manual_runs_change_nothing(tmp_path, begin):
    model = begin(tmp_path)
    day = utc("2024-01-25")
    score(model, until=day)
    monitor(model, until=day)
    retrain(model, until=day, reason="by hand")
    once, aliases = facts(), registry.aliases("small")
    score(model, until=day)
    monitor(model, until=day)
    retrain(model, until=day, reason="by hand")
    assert (facts(), registry.aliases("small")) == (once, aliases)


def test_rollback_dry_run_changes_nothing(tmp_path, begin):
    model = begin(tmp_path)
    day = utc("2024-01-25")
    score(model, until=utc("2024-01-23"))
    score(model, until=day)
    retrain(model, until=day, reason="a second model")
    promote(model, until=day)
    before, aliases = facts(), registry.aliases("small")
    shown = rollback(model, reason="just a try", dry_run=True)
    assert shown.headline == (
        "rollback of small would go ahead: version 1 answers and would serve again; version 2 would be quarantined"
    )
    assert (facts(), registry.aliases("small")) == (before, aliases)
    assert rollback(model, reason="meant", requested_by="Ada").champion == "1"


def test_run_names_contain_flow_model_and_date(tmp_path):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.sorting import FlowRunSort

    model = write_model(tmp_path)
    retrain(model, until=FIRST)
    promote(model, until=FIRST)
    monitor(model, until=utc("2024-01-23"), dry_run=True)
    with get_client(sync_client=True) as client:
        names = [run.name for run in client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC)]
    assert f"monitor {model} until 2024-01-23 (dry run)" in names
    assert f"retrain {model} until 2024-01-21" in names
