"""`perennial new` from addresses: the file it writes passes `check --data`, and an address without a table is refused by name."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pandas as pd
import pytest
from deltalake import write_deltalake
from typer.testing import CliRunner

from deployments.cli import app
from tests.support.object_store import s3

ROWS = pd.DataFrame(
    {
        "order_id": [f"o{number}" for number in range(30)],
        "ordered_at": pd.date_range("2025-01-01", periods=30, freq="6h", tz="UTC"),
        "amount": [float(number * 7 % 11) for number in range(30)],
        "returned": [number * 5 % 3 % 2 for number in range(30)],
    }
)
"""So few that the back-test is refused once the file is written."""
ANSWERS = (
    "--yes",
    "--owner",
    "ada",
    "--purpose",
    "Refunds.",
    "--risk",
    "low",
    "--value-usd",
    "1",
    "--label",
    "returned",
)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PERENNIAL_MODELS", raising=False)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the rows, a page that asks for a login, and a file that is truncated."""
    folder = tmp_path_factory.mktemp("site")
    ROWS.to_parquet(folder / "rows.parquet")
    ROWS.to_csv(folder / "rows.csv", index=False)
    (folder / "login.parquet").write_text("<!DOCTYPE html><title>Log in</title>")
    (folder / "login.csv").write_text("\n<html><title>Log in</title></html>")
    (folder / "cut.parquet").write_bytes((folder / "rows.parquet").read_bytes()[:500])
    (folder / "uneven.csv").write_text("order_id,amount\no1,1\no2,2,Erika Mustermann\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Site, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Site(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/private"):
            self.send_error(401)
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with s3(monkeypatch, "orders"):
        yield "s3://orders"


def run(*words: str) -> tuple[int, str]:
    shown = CliRunner().invoke(app, list(words), env={"COLUMNS": "250", "NO_COLOR": "1"})
    assert shown.exception is None or isinstance(shown.exception, SystemExit)
    return shown.exit_code, shown.output


def is_written_and_passes(address: str, folder: Path) -> None:
    path = folder / "refunds.yaml"
    path.unlink(missing_ok=True)
    _, output = run("new", "refunds", "--data", address, "--label-delay-hours", "0", *ANSWERS)
    assert "to train a first model; the model's file is written" in output
    text = path.read_text(encoding="utf-8")
    assert address in text
    path.write_text(text.replace('feedback: "?"', "feedback: false"), encoding="utf-8")
    code, output = run("check", str(path), "--data")
    assert code == 0, output
    assert "with a label so far" in output
    assert "each order_id occurs once" in output


def refusal(address: str, folder: Path) -> str:
    """Return why the address is refused; nothing is written."""
    code, output = run("new", "refunds", "--data", address, *ANSWERS)
    assert code == 2
    assert not list(folder.iterdir())
    return output.partition("--data ")[2]


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv", "rows.parquet?version=2"])
def test_a_file_of_a_web_server(name, site, empty_folder):
    is_written_and_passes(f"{site}/{name}", empty_folder)
    text = (empty_folder / "refunds.yaml").read_text(encoding="utf-8")
    assert ("# the address may hold a key, so keep this file private" in text) == ("?" in name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.parquet", "not found, expected a parquet source; correct its address"),
        ("private.parquet", "access is denied, expected read access"),
        ("login.parquet", "is a web page, expected the address of a file"),
        ("login.csv", "is a web page, expected the address of a file"),
        ("cut.parquet", "cannot be read as parquet"),
        ("uneven.csv", "cannot be read as csv"),
        ("rows", "its name ends neither in .parquet nor in .csv"),
    ],
)
def test_a_web_address_without_a_table_is_refused(name, message, site, empty_folder):
    found = refusal(f"{site}/{name}?token=secret", empty_folder)
    assert message in found
    for hidden in ("secret", "Erika", "/tmp", "Traceback"):
        assert hidden not in found


def test_no_server_answers(empty_folder):
    assert "cannot be fetched (ConnectError)" in refusal("http://127.0.0.1:9/rows.parquet", empty_folder)


def test_files_folders_and_delta_tables_in_a_bucket(store, empty_folder, tmp_path):
    client = boto3.client("s3")
    ROWS.to_csv(tmp_path / "rows.csv", index=False)
    client.upload_file(str(tmp_path / "rows.csv"), "orders", "texts/rows.csv")
    for place, part in enumerate((ROWS[:12], ROWS[12:])):
        part.to_parquet(tmp_path / "part.parquet")
        client.upload_file(str(tmp_path / "part.parquet"), "orders", f"rows/part={place}/p.parquet")
    ROWS.to_parquet(tmp_path / "rows.parquet")
    client.upload_file(str(tmp_path / "rows.parquet"), "orders", "one/rows.parquet")
    client.put_object(Bucket="orders", Key="rows/_SUCCESS", Body=b"")
    write_deltalake(f"{store}/table", ROWS)
    for name in ("one/rows.parquet", "texts/rows.csv", "rows/", "rows", "texts/", "table"):
        is_written_and_passes(f"{store}/{name}", empty_folder)


def test_an_address_in_a_bucket_without_a_table_is_refused(store, empty_folder, monkeypatch):
    client = boto3.client("s3")
    client.put_object(Bucket="orders", Key="bad/rows.parquet", Body=b"no table")
    client.put_object(Bucket="orders", Key="both/rows.csv", Body=b"a,b\n1,2\n")
    client.put_object(Bucket="orders", Key="both/rows.parquet", Body=b"no table")
    client.put_object(Bucket="orders", Key="notes/read.me", Body=b"no table")
    for name, message in (
        ("none/rows.parquet", "not found, expected a parquet source; correct its address"),
        ("none/", "not found, expected a Parquet, CSV or Delta source; correct its address"),
        ("bad/", "cannot be read as parquet"),
        ("both/", "holds Parquet and CSV files, expected files of one kind"),
        ("notes/", "holds no .parquet or .csv file and no Delta table"),
    ):
        assert message in refusal(f"{store}/{name}", empty_folder)
    assert "NO_SUCH_BUCKET" in refusal("s3://nobody/rows/", empty_folder)
    assert "names no bucket, expected an address such as s3://bucket/folder" in refusal("s3://", empty_folder)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("bad/rows.parquet", "bad/"):
        found = refusal(f"{store}/{name}", empty_folder)
        assert "ACCESS_DENIED" in found
        assert "check host, bucket and credentials" in found
