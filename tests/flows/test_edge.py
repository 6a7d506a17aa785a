"""From an export to a champion: a device adapts to drifted rows without Perennial, and its update is validated like any other."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from deployments.cli import main
from deployments.config.loading import load_model_config
from flows.promote import promote
from flows.retrain import retrain
from tasks.adapters import ledger, registry
from tasks.adapters.edge.device import EdgeModel
from tasks.data.snapshot import take_snapshot
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.base import from_json, utc
from tasks.policy.records.errors import AccessRefused, ReplayedUpdate, StaleUpdate, TooEarly, UpdateRefused
from tasks.policy.training.edge import EdgeUpdate
from tests.support.edge_folders import run_on_device
from tests.support.small_model import CHANGE, rows

pytestmark = pytest.mark.usefixtures("prefect_server", "quiet")
ADA, FIRST, END = "ada@example.com", utc("2024-01-21"), utc("2024-02-06")


def drifted() -> pd.DataFrame:
    """Return the small model's rows, where from CHANGE on the label is higher by 1.5, for red rows by 2.5."""
    table = rows()
    late = table["at"] >= CHANGE
    table.loc[late, "y"] += 4 * table.loc[late, "x"] + 1.5 + (table.loc[late, "colour"] == "red")
    return table


def batches(count: int = 3) -> list[pd.DataFrame]:
    """Return the rows of each two days after the change, as the device has them."""
    table, length = drifted(), timedelta(days=2)
    return [table[table["at"].between(CHANGE + n * length, CHANGE + (n + 1) * length, "left")] for n in range(count)]


@pytest.fixture
def model(begin: Any, tmp_path: Path) -> str:
    """The small model with its first champion, and the rows of the latest days in the lake."""
    path: str = begin(tmp_path / "model", drifted())
    config = load_model_config(path)
    for window in config.windows(start=END - timedelta(days=4)):
        take_snapshot(config, window)
    return path


def export(model: str, folder: Path) -> Path:
    assert main(["edge", "export", model, str(folder), "--requested-by", ADA]) == 0
    return folder


def adapted(folder: Path) -> Path:
    """Adapt on the device, and return its update."""
    with EdgeModel(folder) as device:
        for batch in batches():
            device.adapt(batch.to_dict("list"), batch["y"].tolist())
        device.update(folder / "update.json")
    return folder / "update.json"


def import_update(model: str, update: Path, **given: Any) -> Any:
    return retrain(model, **{"update": str(update), "until": END, "requested_by": ADA} | given)


def check_ledger(folder: Path) -> None:
    """The ledger names who exported and who imported, and what the device measured, but not the key."""
    (exported,), (imported,) = (ledger.entries("small", kind=kind) for kind in ("edge.exported", "edge.imported"))
    record = from_json(EdgeUpdate, imported.body)
    assert (exported.actor, imported.actor) == (ADA, ADA)
    assert record.number == 1 and record.counts["adapted_rows"] == 900 and record.losses["before"].high < 0
    (registered,) = [
        each
        for each in ledger.entries("small", kind="challenger.registered")
        if each.decision_id == imported.decision_id
    ]
    assert from_json(ModelVersion, registered.body).version == "2"
    key = (folder / "signing.key").read_text(encoding="ascii")
    assert not [entry for entry in ledger.entries("small") if key in entry.body]


def test_device_adapts_and_its_update_becomes_the_champion(model, tmp_path, capsys):
    folder = export(model, tmp_path / "device")
    for number, batch in enumerate(batches()):
        batch.to_json(folder / f"{number}.jsonl", orient="records", lines=True, date_format="iso")
    done = run_on_device(folder, *(f"adapt {number}.jsonl" for number in range(3)), "update update.json")
    assert [code for code, _, _ in done] == [0] * 4, done
    words = ["edge", "import", model, str(folder / "update.json"), "--until", END.isoformat(), "--requested-by", ADA]
    assert main(words) == 0
    assert "version 2: pass" in capsys.readouterr().out
    (validated,) = [
        from_json(ValidationReport, each.body) for each in ledger.entries("small", kind="challenger.validated")
    ][1:]
    assert validated.champion == "1" and validated.differences[0].low > 0, "better on rows that neither has seen"
    version = registry.version("small", "2")
    assert version.trained == registry.version("small", "1").trained
    assert dict(version.tags)["origin"].startswith("update 1 of the device with key")
    check_ledger(folder)
    assert promote(model, until=END).champion == "2"
    served = registry.version_files.load_scorer(registry.version("small", registry.CHAMPION))
    table = drifted().tail(200)
    with EdgeModel(folder) as device:
        assert device.predict(table.to_dict("list")).tolist() == served.predict(table).tolist()


def test_import_is_refused_twice_and_for_an_earlier_champion(model, tmp_path):
    first, other = (adapted(export(model, tmp_path / name)) for name in ("device", "other"))
    shown = import_update(model, first, dry_run=True)
    assert shown.refusals == () and "it would be compared with champion 1" in shown.reasons[0]
    import_update(model, first)
    versions = len(registry.all_tags("small"))
    with pytest.raises(ReplayedUpdate, match="was imported before"):
        import_update(model, first)
    promote(model, until=END)
    with pytest.raises(StaleUpdate, match="changes version 1, but version 2 is the champion now"):
        import_update(model, other)
    assert len(registry.all_tags("small")) == versions


def test_import_needs_a_person_a_file_and_rows_to_compare_on(model, tmp_path, capsys):
    update = adapted(export(model, tmp_path / "device"))
    with pytest.raises(AccessRefused, match="expected a person's name in requested_by"):
        import_update(model, update, requested_by="unnamed")
    with pytest.raises(UpdateRefused, match=r"absent\.json cannot be read"):
        import_update(model, update.with_name("absent.json"))
    with pytest.raises(TooEarly, match="the model has seen rows until 2024-02-01"):
        import_update(model, update, until=utc("2024-02-01"))
    shown = import_update(model, update, until=utc("2024-02-03T12:00"), dry_run=True)
    assert "rows of 2024-02-01T2" in shown.reasons[0], "the holdout's earlier rows may be among the device's"
    update.write_bytes(update.read_bytes().replace(b'"version":"1"', b'"version":"2"'))
    assert main(["edge", "import", model, str(update), "--until", END.isoformat(), "--requested-by", ADA]) == 1
    assert "its signature does not fit its content" in capsys.readouterr().err
    assert not ledger.entries("small", kind="edge.imported") and len(registry.all_tags("small")) == 1


def test_folder_of_another_device_is_not_overwritten(model, tmp_path, capsys):
    folder = export(model, tmp_path / "device")
    assert main(["edge", "export", model, str(folder)]) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert len(ledger.entries("small", kind="edge.exported")) == 1
