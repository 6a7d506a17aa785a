"""Servers of the object stores' protocols. S3's (moto) is a process: clients in Rust may hold Python's lock meanwhile."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tasks.adapters.prefect_server import free_port

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
def s3(monkeypatch: pytest.MonkeyPatch, bucket: str) -> Iterator[str]:
    """Its address, on a port that the system assigned, with one bucket and the environment set up for it."""
    import boto3

    command = [sys.executable, "-c", SERVE]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdin is not None and server.stdout is not None
        try:
            address = server.stdout.readline().strip()
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
        finally:
            server.stdin.close()


@contextmanager
def gcs(monkeypatch: pytest.MonkeyPatch, bucket: str) -> Iterator[str]:
    """A server of Google's storage protocol with one bucket, as far as reading goes: no write on a condition."""
    from gcp_storage_emulator.server import create_server

    port = free_port()
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", f"http://127.0.0.1:{port}")
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=bucket)
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()
