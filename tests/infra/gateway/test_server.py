"""What the gateway refuses to start with."""

import socket

import pytest

from deployments.cli import main
from tests.support.gateway import write_config


@pytest.fixture
def path(tmp_path):
    return str(write_config(tmp_path / "models"))


def test_other_machines_are_not_answered_without_a_key(path, capsys):
    assert main(["gateway", "--model", path, "--host", "0.0.0.0"]) == 2  # noqa: S104
    assert "expected --api-key-file FILE, or --no-api-key" in capsys.readouterr().err


def test_a_taken_port_is_named(path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["gateway", "--model", path, "--port", str(port)]) == 2
    assert f"127.0.0.1:{port}: cannot listen (Address already in use)" in capsys.readouterr().err


def test_a_key_that_others_may_read_is_refused(path, tmp_path, capsys):
    key = tmp_path / "key"
    key.write_text("long enough for a key")
    key.chmod(0o644)
    assert main(["gateway", "--model", path, "--api-key-file", str(key)]) == 2
    assert "chmod 600" in capsys.readouterr().err


def test_an_unknown_model_is_named(capsys):
    assert main(["gateway", "--model", "nothing"]) == 2
    assert "nothing: no such model" in capsys.readouterr().err
