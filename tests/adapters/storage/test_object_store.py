"""Conditional writes of object stores: an object is created by one writer only."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError

from tasks.adapters.storage.object_store import store_at
from tests.support.object_store import object_store, on_each_store


@on_each_store
def test_one_of_eight_concurrent_creates_succeeds(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with object_store(scheme, monkeypatch) as bucket, ThreadPoolExecutor(8) as pool:
        store, together = store_at(bucket), Barrier(8)

        def create(key: str, writer: int) -> int | None:
            together.wait()
            try:
                obstore.put(store, key, str(writer).encode(), mode="create")
            except AlreadyExistsError:
                return None
            return writer

        for number in range(10):
            key = f"taken/{number:08d}.json"
            created = [writer for writer in pool.map(lambda n, key=key: create(key, n), range(8)) if writer is not None]
            assert len(created) == 1
            assert bytes(obstore.get(store, key).bytes()) == str(created[0]).encode()


def test_gcs_listing_is_complete_across_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """GCS lists objects in pages of a thousand."""
    with object_store("gs", monkeypatch) as bucket:
        store = store_at(bucket)
        keys = [f"entries/{number:08d}.json" for number in range(1001)]
        for key in keys:
            obstore.put(store, key, b"{}")
        assert [found["path"] for found in obstore.list(store, "entries").collect()] == keys
        assert obstore.list_with_delimiter(store)["common_prefixes"] == ["entries"]
