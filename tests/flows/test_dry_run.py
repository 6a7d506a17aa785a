"""Dry runs of retrain and promote describe what would happen and change nothing."""

import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from flows.promote import promote
from flows.retrain import retrain
from flows.rollback import rollback
from tasks.adapters import ledger, registry
from tasks.adapters.storage.lease import check, hold
from tasks.adapters.storage.workspace import workspace
from tasks.policy.records.base import utc
from tasks.policy.records.errors import NothingToPromote
from tests.support.small_model import write_model
from tests.support.waiting_promotion import HIGH

pytestmark = pytest.mark.usefixtures("prefect_server")
FIRST = utc("2024-01-21")
BUDGET = {"validation:": "budget: {fixed_usd_per_retrain: 60, max_usd_per_month: 100}\nvalidation:"}


def state() -> dict[str, str]:
    """Return every file of the workspace by its hash, and the registry's rows, without Prefect's own state."""
    home = workspace().home
    files = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in _files(home)}
    named = {str(path.relative_to(home)): found for path, found in files.items()}
    return named | {"mlflow.db": _rows(home / "mlflow.db")}


def _files(home: Path) -> Iterator[Path]:
    for path in home.rglob("*"):
        if path.is_file() and not path.name.startswith("mlflow.db") and "prefect" not in path.relative_to(home).parts:
            yield path


def _rows(database: Path) -> str:
    if not database.exists():
        return ""
    with sqlite3.connect(database) as connection:
        return "\n".join(connection.iterdump())


def said_in_dashboard(key: str) -> str:
    with get_client(sync_client=True) as client:
        found = client.request("GET", f"/artifacts/{key}/latest").json()
    return str(found["data"])


def trained(folder: Path, **replaced: str) -> str:
    """A model with a champion and a window stored since."""
    path = write_model(folder, **replaced)
    retrain(path, until=FIRST, requested_by="Ada")
    promote(path, until=FIRST, requested_by="Ada")
    return path


def test_retrain_preview_shows_rows_cost_place_and_budget(tmp_path):
    model = trained(tmp_path, **BUDGET)
    before = state()
    preview = retrain(model, until=FIRST, reason="to see", dry_run=True)
    assert state() == before
    assert check("small") is None
    assert preview.refusals == (
        "the budget of 100.00 USD a month refuses: 60.00 USD are spent and this retrain is expected to cost 60.00 USD",
    )
    learns, cost, place = preview.reasons
    assert "1,200 labelled rows of 1,200 in 2024-01-11..2024-01-19" in learns
    assert "champion 1 on 225 rows of 2024-01-19T000000..2024-01-20T120000" in learns
    assert cost == "cost: about 60.00 USD; 60.00 of 100.00 USD are spent in 30 days, so the budget refuses it"
    assert place == "place: dedicated, since every run of this model stays on dedicated hosts"
    assert preview.headline in said_in_dashboard("preview-retraining-small")
    assert "Nothing was changed" in said_in_dashboard("preview-retraining-small")


def test_retrain_preview_states_whether_it_would_run(tmp_path):
    model = trained(tmp_path)
    before = state()
    assert retrain(model, until=FIRST, reason="to see", dry_run=True).refusals == ()
    assert retrain(model, until=FIRST, dry_run=True).refusals == ("this decision was already carried out: version 1",)
    assert state() == before
    assert retrain(model, until=FIRST, reason="to see") is not None
    assert len(ledger.entries("small", kind="challenger.registered")) == 2


def test_first_model_preview_stores_no_rows(tmp_path):
    model = write_model(tmp_path)
    before = state()
    preview = retrain(model, until=FIRST, dry_run=True)
    after = state()
    assert preview.refusals == ()
    assert "it would be the first model: 3,000 rows of 2024-01-01..2024-01-21 would be stored" in preview.reasons[0]
    assert {name for name in after if not name.startswith("mlflow.db")} == set(before) - {"mlflow.db"}
    assert registry.aliases("small") == {}
    assert ledger.entries("small") == ()


def test_preview_predicts_refusals_without_recording_them(tmp_path):
    barred = "access: {trigger: [Ada]}\nvalidation:"
    model = trained(tmp_path, **{"validation:": barred})
    path = Path(model)
    path.write_text(path.read_text().replace("min_rows: 300", "min_rows: 1201"))
    before = state()
    unauthorised, few = retrain(model, until=FIRST, reason="to see", requested_by="Mallory", dry_run=True).refusals
    assert "Mallory may not start this; access.trigger has Ada" in unauthorised
    assert "1,200 labelled rows are known" in few
    assert "may not start this" in promote(model, until=FIRST, requested_by="Mallory", dry_run=True).refusals[0]
    assert state() == before


def test_promotion_preview_shows_gates_and_approvers(tmp_path):
    model = write_model(tmp_path, **HIGH)
    retrain(model, until=FIRST, requested_by="Ada")
    before = state()
    preview = promote(model, until=FIRST, dry_run=True)
    assert state() == before
    assert registry.CHAMPION not in registry.aliases("small")
    assert preview.refusals == ()
    assert preview.reasons[:2] == (
        "version 1 would serve and it would be the first champion", "validation: pass on 225 rows",
    )  # fmt: skip
    assert "first model: mae" in preview.reasons[2]
    assert preview.reasons[-1] == "approval: one of Ada, Grace would be asked"
    assert "validation: pass on 225 rows" in said_in_dashboard("preview-promotion-small")
    assert promote(model, until=FIRST, approved_by="Grace").action == "promoted"
    assert promote(model, until=FIRST, dry_run=True).refusals == ("version 1 serves already",)


def test_promotion_preview_names_the_failed_gate(tmp_path):
    floor = "validation: {first_model_floor: 0.001, holdout_days: 1.5"
    model = write_model(tmp_path, **{"validation: {holdout_days: 1.5": floor})
    retrain(model, until=FIRST)
    before = state()
    (refusal,) = promote(model, until=FIRST, dry_run=True).refusals
    assert refusal.startswith("validation says fail (first model: mae")
    assert state() == before


def test_a_rollback_shows_what_would_stop_it_and_moves_nothing(tmp_path):
    model = trained(tmp_path, **{"validation:": "access: {trigger: [Ada]}\nvalidation:"})
    before = state()
    stranger, nothing = rollback(model, reason="to see", until=FIRST, requested_by="Mallory", dry_run=True).refusals
    assert "Mallory may not start this; access.trigger has Ada" in stranger
    assert nothing.startswith("nothing to roll back to: champion is 1, previous is none")
    shown = said_in_dashboard("preview-rollback-small")
    assert "Nothing was changed" in shown and "no version would be restored" in shown
    assert state() == before


def test_a_rollback_names_the_version_that_answers_and_refuses_one_that_no_longer_serves(tmp_path):
    model = trained(tmp_path)
    retrain(model, until=FIRST, reason="a second one", requested_by="Ada")
    promote(model, until=FIRST, requested_by="Ada")
    before = state()
    preview = rollback(model, reason="to see", until=FIRST, dry_run=True)
    assert (preview.refusals, preview.reasons) == (
        (), ("version 1 answers and would serve again; version 2 would be quarantined",),
    )  # fmt: skip
    assert preview.headline in said_in_dashboard("preview-rollback-small")
    (late,) = rollback(model, reason="to see", until=FIRST, champion="1", dry_run=True).refusals
    assert late == "version 2 serves now, not 1; nothing is rolled back"
    assert state() == before
    assert rollback(model, reason="meant", until=FIRST, requested_by="Ada").champion == "1"


def test_promotion_preview_without_challenger_names_the_command(tmp_path):
    model = write_model(tmp_path)
    with pytest.raises(NothingToPromote, match=r"perennial run retrain"):
        promote(model, until=FIRST, dry_run=True)


def test_dry_run_takes_no_lease(tmp_path):
    model = trained(tmp_path)
    with hold("small", "retrain"):
        held = check("small")
        assert retrain(model, until=FIRST, reason="to see", dry_run=True).refusals == ()
        assert promote(model, until=FIRST, dry_run=True).refusals
        assert rollback(model, reason="to see", dry_run=True).refusals
        assert check("small") == held
