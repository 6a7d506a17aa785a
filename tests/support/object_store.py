"""Object stores on this machine, each in its own process, because Rust clients may hold Python's GIL during a request.

S3 is moto. Google Cloud Storage is gcp-storage-emulator, with the XML API and its preconditions from gcs_emulator.py.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from tasks.adapters.storage.object_store import store_at

on_each_store = pytest.mark.parametrize("scheme", ["s3", "gs"])

SERVE = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://%s:%s" % server.get_host_and_port(), flush=True)
sys.stdin.read()
server.stop()
"""


@contextmanager
def object_store(scheme: str, monkeypatch: pytest.MonkeyPatch, pause_s: float = 0.0) -> Iterator[str]:
    """Yield the URI of an empty bucket, with the environment set up for it.

    On gs://, an object may change again only after `pause_s` seconds. The bucket's name is unique, because processes
    cache tables by their URI.
    """
    bucket = f"bucket-{uuid4().hex[:12]}"
    with s3(monkeypatch, bucket) if scheme == "s3" else gcs(monkeypatch, bucket, pause_s):
        yield f"{scheme}://{bucket}"
    store_at.cache_clear()


@contextmanager
def s3(monkeypatch: pytest.MonkeyPatch, bucket: str) -> Iterator[str]:
    """Run moto on a free port with one bucket and the environment set up for it; yield its address."""
    import boto3

    with _serving("-c", SERVE) as address:
        settings = {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=bucket)
        yield address


@contextmanager
def gcs(monkeypatch: pytest.MonkeyPatch, bucket: str, pause_s: float = 0.0) -> Iterator[str]:
    """Run the emulator of Google Cloud Storage; yield its address. Arrow and Rust clients use different settings."""
    with _serving(str(Path(__file__).with_name("gcs_emulator.py")), bucket, str(pause_s)) as address:
        account = {"gcs_base_url": address, "disable_oauth": True, "client_email": "", "private_key": ""}
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(account | {"private_key_id": ""}))
        monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", address)
        for name in ("SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_APPLICATION_CREDENTIALS"):
            monkeypatch.delenv(name, raising=False)
        yield address


@contextmanager
def _serving(*arguments: str) -> Iterator[str]:
    """Run a server process until exit; yield the address that it prints."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdin is not None and server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.stdin.close()
