"""S3 failures: lost responses, slow-down errors, and expired or profile-only keys."""

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.adapters import lake, ledger
from tasks.adapters.sources.files import file_system
from tasks.adapters.storage import aws_profile
from tasks.adapters.storage.object_store import store_at
from tasks.policy.evidence.ledger import Fact
from tasks.policy.records.base import utc
from tasks.policy.records.errors import LakeError, LedgerError, PerennialError
from tests.support.landed_model import CONFIG, SECOND, SPAN, labels
from tests.support.monitored_model import WINDOW, rows
from tests.support.object_store import object_store
from tests.support.troubled_store import Between

AT, MODEL = utc("2024-02-01"), "churn"


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Iterator[Between]:
    with object_store("s3", monkeypatch) as bucket, multiprocessing.Manager() as manager:
        proxy = Between(os.environ["AWS_ENDPOINT_URL"], manager.dict())
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        monkeypatch.setenv("PERENNIAL_LEDGER", f"{bucket}/ledger")
        monkeypatch.setenv("PERENNIAL_LAKE", f"{bucket}/lake")
        yield proxy
        proxy.process.terminate()
        proxy.process.join()


@pytest.mark.parametrize("decision_id", ["d2", None])
def test_entry_with_lost_response_is_recorded_once(between: Between, decision_id):
    ledger.append(MODEL, Fact("note", "first", AT))
    between.trouble("lose", "PUT", "00000002.json")
    entry = ledger.append(MODEL, Fact("note", "second", AT, decision_id))
    assert between.lost and entry.sequence == 2
    assert [entry.body for entry in ledger.entries(MODEL)] == ["first", "second"]
    assert ledger.verify(MODEL).problems == ()


def test_slow_down_response_is_retried(between: Between):
    between.trouble("slow", "PUT", "", times=3)
    assert ledger.append(MODEL, Fact("note", "first", AT)).sequence == 1


def test_keys_that_have_expired_are_named(between: Between):
    between.trouble("expired", times=10_000)
    with pytest.raises(LedgerError, match="renew credentials that are wrong or have expired"):
        ledger.append(MODEL, Fact("note", "first", AT))


@pytest.mark.parametrize(
    "part", ["_delta_log/00000000000000000000.json", "_delta_log/00000000000000000001.json", ".parquet"]
)
def test_rows_and_labels_with_lost_response_are_stored_once(between: Between, part: str):
    between.trouble("lose", "PUT", part)
    first = lake.land_rows(CONFIG, WINDOW, rows(4))
    again = lake.land_rows(CONFIG, WINDOW, rows(4))
    second = lake.land_rows(CONFIG, SECOND, rows(4, 1, SECOND))
    assert between.lost
    assert (first.rows, again.content_hash, second.rows) == (4, first.content_hash, 4)
    assert lake.read_rows(lake.landed_rows(CONFIG, WINDOW)).num_rows == 4
    between.trouble("lose", "PUT", "_delta_log")
    came = labels(["0-0", "0-1"], [1, 0], [WINDOW.end, SECOND.end])
    assert lake.land_labels(CONFIG, came, SECOND.end) == 2
    assert between.lost
    assert lake.land_labels(CONFIG, came, SECOND.end) == 0
    assert lake.labelled_snapshot(CONFIG, SPAN, SECOND.end).labelled_rows == 2


@pytest.mark.parametrize("method", ["PUT", "GET"])
def test_lake_retries_slow_down_responses(between: Between, method: str):
    between.trouble("slow", method, "", times=3)
    lake.land_rows(CONFIG, WINDOW, rows(4))
    assert lake.read_rows(lake.landed_rows(CONFIG, WINDOW)).num_rows == 4


def test_expired_keys_of_the_lake_are_named(between: Between):
    lake.land_rows(CONFIG, WINDOW, rows(4))
    between.trouble("expired", times=10_000)
    with pytest.raises(LakeError, match="expired"):
        lake.land_rows(CONFIG, SECOND, rows(4, 1, SECOND))
    between.trouble("none")
    assert lake.land_rows(CONFIG, SECOND, rows(4, 1, SECOND)).rows == 4


def write_profile(home: Path, *lines: str) -> None:
    (home / ".aws").mkdir()
    (home / ".aws" / "credentials").write_text("\n".join(("[work]", *lines)))
    (home / ".aws" / "config").write_text("[profile work]\nregion = us-east-1\n")


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Provide a bucket whose keys are in the profile `work` only."""
    with object_store("s3", monkeypatch) as bucket:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("AWS_PROFILE", "work")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("PERENNIAL_LEDGER", f"{bucket}/ledger")
        monkeypatch.setenv("PERENNIAL_LAKE", f"{bucket}/lake")
        aws_profile._session.cache_clear()
        store_at.cache_clear()
        yield bucket
        aws_profile._session.cache_clear()


def test_profile_keys_open_ledger_lake_and_sources(profile: str, tmp_path: Path):
    write_profile(tmp_path, "aws_access_key_id = testing", "aws_secret_access_key = testing")
    assert ledger.append(MODEL, Fact("note", "first", AT)).sequence == 1
    snapshot = lake.land_rows(CONFIG, WINDOW, rows(20))
    assert lake.read_rows(snapshot).num_rows == 20
    files, path = file_system(f"{profile}/ledger/{MODEL}/head.json", "here")
    assert files.get_file_info(path).is_file


def test_a_profile_without_usable_keys_is_named(profile: str, tmp_path: Path):
    write_profile(tmp_path)
    for attempt in (
        lambda: ledger.append(MODEL, Fact("note", "first", AT)),
        lambda: lake.land_rows(CONFIG, WINDOW, rows(20)),
        lambda: file_system(f"{profile}/rows", "here"),
    ):
        with pytest.raises(PerennialError, match="AWS profile 'work': its keys cannot be used"):
            attempt()


def test_environment_keys_override_profiles(profile: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    assert aws_profile.keys("s3://bucket/rows") is None
    assert aws_profile.keys("gs://bucket/rows") is None
