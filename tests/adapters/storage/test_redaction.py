"""No password, signed URL or personal value in a message, nor in the traceback that Prefect stores."""

import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import requests
from deltalake.exceptions import DeltaError

from tasks.adapters.delta import table as delta_table
from tasks.adapters.models.encoding import as_table
from tasks.adapters.orchestration.server import free_port
from tasks.adapters.registry import version_files, versions as registry
from tasks.adapters.sources.read import read_window
from tasks.adapters.sources.sql import _chunk
from tasks.adapters.storage import object_store
from tasks.adapters.storage.object_store import store_errors
from tasks.policy.records.errors import FeatureError, LakeError, LedgerError, PerennialError, RegistryError, SourceError
from tasks.policy.records.text import reason_of, without_secrets
from tests.support.source_tables import QUERY, WINDOW, database, source
from tests.support.trained_models import make_config, prepare_registry, register

SECRETS = ("hunter2", "SIGSECRET", "Erika")


def logged(kind: type[PerennialError], fails: Callable[[], object]) -> str:
    """Return the error's message and chain of causes as logged, after checking that they hold no secret."""
    with pytest.raises(kind) as caught:
        fails()
    shown = "".join(traceback.format_exception(caught.value))
    assert not [secret for secret in SECRETS if secret in shown], shown
    return str(caught.value)


@contextmanager
def refusing(status: int) -> Iterator[str]:
    """Run a server that answers every request with this status; yield its address."""

    class Refusal(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(status)

        do_HEAD = do_GET

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Refusal)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://bob:hunter2@127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("quoted", "shown"),
    [
        ("API request to http://bob:hunter2@host:1/api failed", "API request to http://***@host:1/api failed"),
        ("postgresql+psycopg://bob:hunt@er/2@db/x: no", "postgresql+psycopg://***@db/x: no"),
        ("GET https://host/x.parquet?sig=SIGSECRET failed", "GET https://host/x.parquet?*** failed"),
        ("url: /x.parquet?sig=SIGSECRET (Caused by)", "url: /x.parquet?*** (Caused by)"),
        ("did you mean x? No address is here", "did you mean x? No address is here"),
    ],
)
def test_quoted_url_loses_login_and_query(quoted: str, shown: str) -> None:
    assert without_secrets(quoted) == shown


def test_error_is_quoted_in_one_line() -> None:
    assert reason_of(ValueError("first\nsecond")) == "ValueError: first"
    assert reason_of(OSError()) == "OSError"


def test_registry_password_is_not_in_mlflow_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://bob:hunter2@127.0.0.1:{free_port()}?sig=SIGSECRET")
    assert "check MLFLOW_TRACKING_URI" in logged(RegistryError, lambda: registry.find("binary_model", "d1"))


def test_registry_outage_never_shows_the_password(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_registry(workspace)
    version = register(make_config())
    registry.client()

    def refuse(*_: object, **__: object) -> None:
        raise registry.MlflowException("API request to http://bob:hunter2@host/x?sig=SIGSECRET failed")

    for name in ("get_registered_model", "get_model_version", "get_run", "list_artifacts"):
        monkeypatch.setattr(registry.MlflowClient, name, refuse)
    logged(RegistryError, lambda: registry.aliases("binary_model"))
    logged(RegistryError, lambda: registry.stored_version("binary_model", "1"))
    logged(RegistryError, lambda: version_files.manifest(version))
    logged(RegistryError, lambda: version_files.attribution(version))


@pytest.mark.parametrize(
    ("status", "message"), [(404, "not found"), (403, "access is denied"), (503, "cannot be fetched")]
)
def test_a_refused_download_shows_neither_log_in_nor_signature(status: int, message: str) -> None:
    with refusing(status) as address:
        signed = source("parquet", f"{address}/rows.parquet?sig=SIGSECRET")
        assert message in logged(SourceError, lambda: read_window(signed, WINDOW))


def test_unconvertible_value_is_in_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,at,amount,age,country,member\na,2024-02-01T10:00:00Z,Erika,1,DE,true\n")
    logged(SourceError, lambda: read_window(source("csv", tmp_path / "rows.csv"), WINDOW))
    answered = [[1], ["Erika"]]
    logged(SourceError, lambda: _chunk(answered, ["amount"], [0], "rows"))
    mixed = pd.DataFrame({"amount": pd.Series([1, "Erika"], dtype=object)})
    logged(FeatureError, lambda: as_table(mixed, ("amount",)))


def test_url_parameter_names_are_redacted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password with an unescaped & or ?: the rest of it becomes the name of a parameter."""
    config = database(monkeypatch, tmp_path, QUERY)
    for unescaped in ("bob:x@127.0.0.1:1/rows?hunter2=1", "bob:x@127.0.0.1:1/rows?sslmode=1&hunter2=0"):
        monkeypatch.setenv("ROWS_URL", f"postgresql+psycopg://{unescaped}")
        assert "cannot connect" in logged(SourceError, lambda: read_window(config, WINDOW))


def fetch(*_: object) -> pa.Table:
    raise requests.HTTPError("403 for url: http://bob:hunter2@host/rows?sig=SIGSECRET")


def test_user_function_errors_are_redacted() -> None:
    message = logged(SourceError, lambda: read_window(source("python", function=f"{__name__}:fetch"), WINDOW))
    assert "403 for url: http://***@host/rows?*** on window" in message


def test_lake_and_ledger_errors_are_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise DeltaError("GET https://host/t/_delta_log?sig=SIGSECRET: 403")

    monkeypatch.setattr(delta_table, "DeltaTable", refuse)
    assert "DeltaError" in logged(LakeError, lambda: delta_table.LandedTable.open("az://lake/m/rows"))

    monkeypatch.setenv("PERENNIAL_LEDGER", "https://bob:hunter2@host/ledger?sig=SIGSECRET")

    def read() -> None:
        with store_errors("m/1"):
            raise object_store.BaseError("PUT https://host/ledger/m?sig=SIGSECRET: 403")

    assert "set PERENNIAL_LEDGER" in logged(LedgerError, read)
