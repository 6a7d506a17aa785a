"""Read rows from Parquet and CSV files or folders and from Delta tables: local, S3, GCS, and files over HTTP.

Arrow's file systems access S3 and GCS (credentials from the environment, AWS_ENDPOINT_URL for another S3 store). The
window is pushed down as a filter on the time column, and only named columns are read. A file over HTTP is downloaded
completely. A column that one file of a folder lacks is null for that file, and the quality gate evaluates it; a folder of
CSV files has the columns of its first file.
"""

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import httpx
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pa_dataset
import pyarrow.fs as pa_fs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from deployments.config.model import ModelConfig
from tasks.adapters.lake.casts import moment, to_utc
from tasks.adapters.lake.schemas import require_columns
from tasks.adapters.sources.csv_files import empty_is_missing
from tasks.adapters.sources.file_dataset import compares_alike, file_format, open_files
from tasks.adapters.sources.limits import check_file, local_path, opened_response
from tasks.adapters.storage.aws_profile import keys, storage_options
from tasks.policy.records.base import Window
from tasks.policy.records.errors import SourceError, SourceUnreachable
from tasks.policy.records.text import reason_of

CONNECT_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 60.0
DOWNLOAD_TIMEOUT_S = 600.0
FETCHED = "fetched"
WEB_PAGE = (b"<!doctype html", b"<html")
CSV_FORMS = {
    "double": "1234.5, without units or thousands separators (a decimal comma needs source.options: {decimal_point: ','})",
    "bool": "true or false, yes or no, t or f, or 1 and 0",
}
"""How values of a type are written in a CSV file, by Arrow's name of the type."""
CONVERSION = re.compile(r"In CSV column #(?P<place>\d+): .*CSV conversion error to (?P<kind>\w+)", re.DOTALL)


def read_files(config: ModelConfig, window: Window, columns: Sequence[str], where: str) -> pa.Table:
    """Read the window's rows in `columns`; may include rows just outside the window if times have no zone.

    Raises SourceError, or SourceUnreachable if a retry may help. Both are raised without a cause, because libraries
    quote the complete URL with credentials and signature, and the value that cannot be converted.
    """
    path = str(config.source.path)
    remote = local_path(path, where) is None
    with reported(config.source.kind, where, remote), _opened(config, path, columns, where) as dataset:
        require_columns(dataset.schema.names, columns, where)
        bounds = None
        if config.source.kind != "parquet" or compares_alike(dataset, config.columns.time):
            bounds = _pushed_down(config, dataset.schema, window, where)
        rows = dataset.to_table(columns=list(columns), filter=bounds)
        return empty_is_missing(config, rows) if config.source.kind == "csv" else rows


@contextmanager
def reported(kind: str, where: str, remote: bool) -> Iterator[None]:
    """Report what libraries raise while files are read. Raises SourceError, or SourceUnreachable if a retry may help."""
    try:
        yield
    except (FileNotFoundError, TableNotFoundError):
        raise SourceError(f"{where}: not found, expected a {kind} source; correct its address") from None
    except PermissionError:
        raise _denied(where) from None
    except httpx.HTTPStatusError as error:
        if error.response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise _denied(where) from None
        if error.response.status_code == HTTPStatus.NOT_FOUND:
            raise SourceError(f"{where}: not found, expected a {kind} source; correct its address") from None
        raise SourceUnreachable(
            f"{where}: cannot be fetched (status {error.response.status_code}); check the address and try again"
        ) from None
    except (httpx.HTTPError, TimeoutError) as error:
        raise SourceUnreachable(
            f"{where}: cannot be fetched ({type(error).__name__}); check the host and try again"
        ) from None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError) as error:
        raise _unreadable(kind, where, error) from None
    except (OSError, DeltaError) as error:
        if not remote:
            raise _unreadable(kind, where, error) from None
        raise SourceUnreachable(
            f"{where}: cannot be read ({_short(error)}); check host, bucket and credentials, which may have expired"
        ) from None


def _denied(where: str) -> SourceError:
    return SourceError(f"{where}: access is denied, expected read access; fix its permissions or credentials")


def without_credentials(path: str) -> str:
    """Return a path for messages, without credentials and query string."""
    parts = urlsplit(path)
    return path if not parts.scheme else f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _unreadable(kind: str, where: str, error: Exception) -> SourceError:
    unfit = CONVERSION.search(str(error))
    if unfit and unfit["kind"] != "string":  # a failed conversion to text means another encoding
        return SourceError(
            f"{where}: column {int(unfit['place']) + 1} of the file holds values that are not {unfit['kind']}, which "
            f"columns.features expects, written as {CSV_FORMS.get(unfit['kind'], 'numbers')}; list it under another kind, "
            "name the text that means a missing value (source.options: {null_values: '-'}) or fix the source"
        )
    written = " in UTF-8 or the encoding that source.options.encoding names" if kind == "csv" else ""
    return SourceError(
        f"{where}: cannot be read as {kind} ({_short(error)}); expected complete {kind} files of one schema{written}; "
        "the file may be truncated or still being written; write it elsewhere and rename it once it is complete"
    )


def _short(error: Exception) -> str:
    """Return the error's type and first line, without a temporary path and the values that CSV errors quote."""
    reason = reason_of(error).split(": invalid value")[0]
    reason = re.sub(r"(Expected \d+ columns, got \d+): .*", r"\1", reason, flags=re.DOTALL)
    return re.sub(rf"'[^']*/{FETCHED}'", "the fetched file", reason)


@contextmanager
def _opened(config: ModelConfig, path: str, columns: Sequence[str], where: str) -> Iterator[pa_dataset.Dataset]:
    local = local_path(path, where)
    if local is not None:
        check_file(local, where)
        path = local
    if config.source.kind == "delta":
        yield DeltaTable(path, storage_options=storage_options(path)).to_pyarrow_dataset()
        return
    if local is not None or urlsplit(path).scheme not in ("http", "https"):
        files, inner = (pa_fs.LocalFileSystem(), path) if local is not None else file_system(path, where)
        yield open_files(config, files, inner, columns, where)
        return
    with fetched(path, where) as file:
        yield pa_dataset.dataset(str(file), format=file_format(config))


@contextmanager
def fetched(url: str, where: str) -> Iterator[Path]:
    """Download a file over HTTP to a temporary one. Raises SourceError, httpx.HTTPError, TimeoutError."""
    with tempfile.TemporaryDirectory() as folder:
        path, deadline = Path(folder) / FETCHED, monotonic() + DOWNLOAD_TIMEOUT_S
        timeout = httpx.Timeout(REQUEST_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        with opened_response(url, where, timeout) as response, path.open("wb") as file:
            for chunk in response.iter_bytes():
                file.write(chunk)
                if monotonic() > deadline:
                    raise TimeoutError
        with path.open("rb") as file:
            if file.read(512).lstrip().lower().startswith(WEB_PAGE):
                raise SourceError(
                    f"{where}: is a web page, expected the address of a file; an address that asks for a login is not read"
                )
        yield path


def file_system(path: str, where: str) -> tuple[pa_fs.FileSystem, str]:
    """Return the file system of a remote path and the path in it. Raises SourceError for another scheme."""
    scheme, _, inner = path.partition("://")
    if scheme in ("s3", "s3a", "gs", "gcs") and not inner.partition("/")[0]:
        raise SourceError(f"{where}: names no bucket, expected an address such as {scheme}://bucket/folder")
    if scheme in ("s3", "s3a"):
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        own = keys(path)
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or (own and own.region)
        if region is None and endpoint is None:
            region = pa_fs.resolve_s3_region(inner.partition("/")[0])
        files = pa_fs.S3FileSystem(
            access_key=own.access_key if own else None,
            secret_key=own.secret_key if own else None,
            session_token=own.token if own else None,
            region=region,
            endpoint_override=endpoint,
            connect_timeout=CONNECT_TIMEOUT_S,
            request_timeout=REQUEST_TIMEOUT_S,
            retry_strategy=pa_fs.AwsStandardS3RetryStrategy(max_attempts=3),
        )
        return files, inner
    if scheme in ("gs", "gcs"):
        emulated = "CLOUD_STORAGE_EMULATOR_ENDPOINT" in os.environ  # Google's variable; the emulator has no login
        return pa_fs.GcsFileSystem(anonymous=emulated, retry_time_limit=timedelta(seconds=REQUEST_TIMEOUT_S)), inner
    raise SourceError(
        f"{where}: Parquet and CSV are not read from {scheme}://; expected a path, or an address with https://, s3:// or gs://"
    )


def _pushed_down(config: ModelConfig, schema: pa.Schema, window: Window, where: str) -> pc.Expression | None:
    """Return the window as a filter on the stored time column; None if that is neither a timestamp nor ISO text."""
    name = config.columns.time
    kind = schema.field(name).type
    if "time_format" in config.source.options:
        return None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _near(pc.field(name), window)
    if not pa.types.is_timestamp(kind):
        return None
    if kind.tz is not None:
        low, high = moment(window.start), moment(window.end)
    else:
        zone = config.source.options.get("time_zone")
        to_utc(pa.chunked_array([pa.array([], kind)]), f"{where}: column {name!r}", str(zone) if zone else None)
        low, high = (_local(bound, str(zone), hours, where) for bound, hours in ((window.start, -2), (window.end, 2)))
    return (pc.field(name) >= low.cast(kind)) & (pc.field(name) < high.cast(kind))


def _near(text: pc.Expression, window: Window) -> pc.Expression:
    """Filter ISO dates as text, two days wider than the window for any zone; non-dates pass and are rejected later."""
    low, high = (f"{bound:%Y-%m-%d}" for bound in (window.start - timedelta(days=2), window.end + timedelta(days=2)))
    is_date = pc.match_substring_regex(text, r"^\d{4}-\d\d-\d\d")
    return ((text >= low) & (text < high)) | ~is_date


def _local(bound: datetime, zone: str, hours: int, where: str) -> pa.Scalar:
    """Return a bound as local time, shifted by `hours`, more than a clock change; the exact cut follows conversion."""
    try:
        local = bound.astimezone(ZoneInfo(zone)).replace(tzinfo=None) + timedelta(hours=hours)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise SourceError(f"{where}: time_zone is {zone!r}, expected an IANA name such as Europe/Berlin") from error
    return pa.scalar(local, pa.timestamp("us"))
