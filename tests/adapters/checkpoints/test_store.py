"""A checkpoint is used only if it is complete and was made from the same rows and settings, on disk and in a bucket."""

import logging
from contextlib import nullcontext
from pathlib import Path

import pytest

from tasks.adapters.checkpoints.store import CheckpointStore
from tasks.adapters.storage.workspace import workspace as places
from tests.support.object_store import object_store

STORE = CheckpointStore("churn", "decision")


def of(identity):
    return lambda: identity


@pytest.fixture(params=["disk", "s3"])
def lake(request, monkeypatch, workspace):
    with object_store("s3", monkeypatch) if request.param == "s3" else nullcontext(None) as bucket:
        if bucket:
            monkeypatch.setenv("PERENNIAL_LAKE", f"{bucket}/lake")
        yield places().lake


def test_the_latest_content_comes_back_until_it_is_deleted(lake):
    assert STORE.get("trial 7", of("a")) is None
    for content in (b"first", b"\x00second\nline"):
        assert STORE.put("trial 7", "a", content)
    assert STORE.get("trial 7", of("a")) == b"\x00second\nline"
    assert CheckpointStore("churn", "another").get("trial 7", of("a")) is None
    STORE.delete_all()
    assert STORE.get("trial 7", of("a")) is None
    assert "://" in lake or not Path(lake, "churn", "checkpoints").exists()


def test_one_of_other_settings_is_deleted(lake, caplog):
    STORE.put("trial", "a", b"content")
    with caplog.at_level(logging.WARNING):
        assert STORE.get("trial", of("b")) is None
    assert [record.message for record in caplog.records] == [
        "churn: checkpoint trial was made from other rows or settings; it is deleted, starting over"
    ]
    assert STORE.get("trial", of("a")) is None


@pytest.mark.parametrize("damage", [lambda blob: blob[:-1], lambda blob: b"", lambda blob: b"\xff[1]\n" + blob])
def test_a_damaged_one_is_deleted(workspace, caplog, damage):
    STORE.put("trial", "a", b"content")
    (path,) = Path(places().lake).rglob("trial")
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert STORE.get("trial", of("a")) is None
    assert [record.message for record in caplog.records] == [
        "churn: checkpoint trial is damaged; it is deleted, starting over"
    ]
    assert not path.exists()


def test_a_store_that_fails_is_a_warning(workspace, caplog):
    folder = Path(places().lake, "churn")
    folder.mkdir(parents=True)
    (folder / "checkpoints").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert not STORE.put("trial", "a", b"content")
        assert STORE.get("trial", of("a")) is None
    assert "checkpoint trial not written" in caplog.records[0].message
