"""One iteration with source, lake and ledger in an object store, and none of them on this disk."""

import obstore
import pytest

from flows.monitor import monitor
from flows.promote import promote
from flows.retrain import retrain
from flows.score import score
from tasks.adapters import lake, ledger
from tasks.adapters.storage.object_store import store_at
from tasks.policy.records.base import utc
from tests.support.object_store import object_store, on_each_store
from tests.support.small_model import write_model

pytestmark = pytest.mark.usefixtures("prefect_server")


@on_each_store
@pytest.mark.slow("the whole loop, on two object stores")
def test_full_loop_in_an_object_store(scheme, tmp_path, workspace, monkeypatch: pytest.MonkeyPatch):
    until = utc("2024-01-23")
    with object_store(scheme, monkeypatch) as bucket:
        monkeypatch.setenv("PERENNIAL_LAKE", f"{bucket}/lake")
        monkeypatch.setenv("PERENNIAL_LEDGER", f"{bucket}/ledger")
        model = write_model(tmp_path, **{"path: rows.parquet": f"path: {bucket}/in/rows.parquet"})
        obstore.put(store_at(bucket), "in/rows.parquet", tmp_path / "rows.parquet")
        (tmp_path / "rows.parquet").unlink()

        retrain(model, until=utc("2024-01-21"))
        promote(model, until=utc("2024-01-21"))
        scoring = score(model, until=until)
        monitor(model, until=until)

        assert scoring.rows == lake.read_rows(scoring.snapshot).num_rows == 300
        assert [entry.kind for entry in ledger.entries("small")][:5] == [
            "model.bound", "challenger.registered", "challenger.validated", "champion.promoted", "window.scored",
        ]  # fmt: skip
        assert ledger.entries("small")[-1].kind == "window.judged"
        assert ledger.verify("small").problems == ()
        assert score(model, until=until) == scoring, "a window is scored once"
    assert not (workspace / "lake").exists() and not (workspace / "ledger").exists()
