"""A model's file edited, renamed or incomplete while runs wait: each run reads it at its start."""

from pathlib import Path

import pytest

from flows.promote import promote
from flows.retrain import retrain
from tasks.adapters import ledger, registry
from tasks.policy.records.base import utc
from tasks.policy.records.errors import ModelConfigError
from tests.support.small_model import write_model

pytestmark = pytest.mark.usefixtures("prefect_server")
UNTIL = utc("2024-01-21")


def test_waiting_run_reads_the_current_file(tmp_path):
    model = Path(write_model(tmp_path))
    text = model.read_text(encoding="utf-8")
    retrain(str(model), until=UNTIL)
    model.write_text(text.replace("n_estimators: 30", "n_estimators: 7"), encoding="utf-8")
    promote(str(model), until=UNTIL)
    retrain(str(model), until=utc("2024-01-23"))
    first, second = (registry.client().get_run(registry.version("small", each).run_id) for each in ("1", "2"))
    assert (first.data.params["n_estimators"], second.data.params["n_estimators"]) == ("30", "7")


def test_renamed_model_is_not_found_by_its_old_name(tmp_path, monkeypatch):
    model = Path(write_model(tmp_path))
    text = model.read_text(encoding="utf-8")
    monkeypatch.setenv("PERENNIAL_MODELS", str(tmp_path))
    retrain("small", until=UNTIL)
    recorded = ledger.entries("small")
    model.unlink()
    (tmp_path / "smaller.yaml").write_text(text.replace("name: small", "name: smaller"), encoding="utf-8")
    with pytest.raises(ModelConfigError, match=r"small: no such model; .* did you mean smaller"):
        retrain("small", until=UNTIL)
    assert ledger.entries("small") == recorded
    retrain("smaller", until=UNTIL)
    assert ledger.entries("small") == recorded
    assert ledger.entries("smaller", kind="challenger.registered")


def test_incomplete_file_is_refused_until_complete(tmp_path):
    model = Path(write_model(tmp_path))
    text = model.read_text(encoding="utf-8")
    retrain(str(model), until=UNTIL)
    recorded = ledger.entries("small")
    model.write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(ModelConfigError, match=r"small\.yaml"):
        promote(str(model), until=UNTIL)
    assert ledger.entries("small") == recorded
    model.write_text(text, encoding="utf-8")
    promote(str(model), until=UNTIL)
    assert registry.version("small", registry.CHAMPION).version == "1"
