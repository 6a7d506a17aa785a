"""Google Cloud Storage as a process: the JSON API of gcp-storage-emulator, and an XML API on the same objects.

Rust clients (obstore, deltalake) use the XML API with preconditions, which no emulator that was tried supports. This
module implements it after https://cloud.google.com/storage/docs/xml-api/reference-methods, …/reference-headers
(x-goog-if-generation-match), …/docs/multipart-uploads and …/docs/consistency: a write of one object is atomic and
immediately visible to reads and lists. Unsupported requests are answered with 400 (a client would retry 501); no
precondition is ignored silently. The JSON API ignores preconditions; its client, Arrow, only reads. A change of an
object within `pause_s` seconds of the last one is refused with 429 (…/quotas: about one write per second and object).

    python tests/support/gcs_emulator.py BUCKET PAUSE_S    prints its address; ends at the end of its input
"""

import hashlib
import re
import sys
import threading
import time
from base64 import b64decode
from datetime import datetime
from email.utils import format_datetime
from functools import partial
from http.server import ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit
from uuid import uuid4
from xml.sax.saxutils import escape

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets, objects
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

JSON_API = re.compile(r"/(storage|upload|download|batch|b)/")
IF_GENERATION = "x-goog-if-generation-match"
LISTED_AT_ONCE = 1000
SMALLEST_PART = 5 * 2**20  # for all parts but the last
ON_THE_WAY_S = 0.05  # delay of a conditional write; concurrent writers overlap as they do over a network

Answer = tuple[int, dict[str, str], bytes]


class Refused(Exception):
    def __init__(self, status: int, code: str) -> None:
        self.status, self.code = status, code


class Objects(Storage):
    """The emulator's objects, in memory, with the additional state of the XML API."""

    def __init__(self, pause_s: float) -> None:
        super().__init__(use_memory_fs=True)
        self.alone = threading.Lock()
        self.pause_s = pause_s
        self.changed: dict[str, float] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}

    def _write_config_to_file(self) -> None:
        """Write nothing: no state survives the process."""

    def found(self, bucket: str, name: str) -> dict[str, str] | None:
        if self.get_bucket(bucket) is None:
            raise Refused(404, "NoSuchBucket")
        return self.objects.get(bucket, {}).get(name)

    def change(self, bucket: str, name: str, generation: str | None) -> None:
        """Admit one change of an object. Raises Refused if its precondition fails or it comes within `pause_s`."""
        here = self.found(bucket, name)
        if generation is not None and generation != (here["generation"] if here else "0"):
            raise Refused(412, "PreconditionFailed")
        now, place = time.monotonic(), f"{bucket}/{name}"
        if now - self.changed.get(place, -self.pause_s) < self.pause_s:
            raise Refused(429, "TooManyRequests")
        self.changed[place] = now

    def write(self, bucket: str, name: str, content: bytes, kind: str) -> dict[str, str]:
        described = objects._make_object_resource("", bucket, name, kind, str(len(content)))
        self.create_file(bucket, name, content, objects._checksums(content, described))
        return described


class Handler(RequestHandler):
    def answer(self) -> None:
        store, method = self.storage, self.command
        if JSON_API.match(self.path):
            with store.alone:
                getattr(super(), f"do_{method}")()
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        address = urlsplit(self.path)
        bucket, _, name = (unquote(part) for part in address.path.lstrip("/").partition("/"))
        query = dict(parse_qsl(address.query, keep_blank_values=True))
        if IF_GENERATION in self.headers:
            time.sleep(ON_THE_WAY_S)
        try:
            with store.alone:
                status, headers, content = self.xml(store, method, bucket, name, query, body)
        except Refused as refused:
            status, headers, content = refused.status, {}, document("Error", [("Code", refused.code)])
        self.send_response(status)
        for header, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(header, value)
        self.end_headers()
        if method != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def xml(self, store: Objects, method: str, bucket: str, name: str, query: dict[str, str], body: bytes) -> Answer:
        conditions = {key for key in map(str.lower, self.headers) if "if-" in key or "copy-source" in key}
        if conditions - {IF_GENERATION} or (conditions and method in ("GET", "HEAD")):
            raise Refused(400, "NotImplemented")
        kind, condition = self.headers.get("Content-Type", "application/octet-stream"), self.headers.get(IF_GENERATION)
        match method, bool(name), sorted(query):
            case "GET", False, _:
                return listed(store, bucket, query)
            case (("GET" | "HEAD"), True, []):
                return read(store, bucket, name, self.headers.get("Range"))
            case "PUT", True, []:
                store.change(bucket, name, condition)
                return 200, facts(store.write(bucket, name, body, kind)), b""
            case "DELETE", True, []:
                if store.found(bucket, name) is None:
                    raise Refused(404, "NoSuchKey")
                store.change(bucket, name, condition)
                store._hard_delete_file(bucket, name)
                return 204, {}, b""
            case "POST", True, ["uploads"]:
                store.found(bucket, name)
                upload = uuid4().hex
                store.uploads[upload] = {}
                return 200, {}, document("InitiateMultipartUploadResult", [("UploadId", upload)])
            case "PUT", True, ["partNumber", "uploadId"]:
                parts_of(store, query)[int(query["partNumber"])] = body
                return 200, {"ETag": f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'}, b""
            case "POST", True, ["uploadId"]:
                content = joined(parts_of(store, query), body)
                store.change(bucket, name, condition)
                del store.uploads[query["uploadId"]]
                written = facts(store.write(bucket, name, content, kind))
                return 200, written, document("CompleteMultipartUploadResult", [("ETag", written["ETag"])])
            case "DELETE", True, ["uploadId"]:
                parts_of(store, query)
                del store.uploads[query["uploadId"]]
                return 204, {}, b""
        raise Refused(400, "NotImplemented")


def facts(described: dict[str, str]) -> dict[str, str]:
    """Return an object's response headers."""
    return {
        "ETag": f'"{b64decode(described["md5Hash"]).hex()}"',
        "Last-Modified": format_datetime(datetime.fromisoformat(described["updated"]), usegmt=True),
        "x-goog-generation": described["generation"],
        "x-goog-metageneration": described["metageneration"],
        "x-goog-hash": f"crc32c={described['crc32c']},md5={described['md5Hash']}",
        "Content-Type": described["contentType"],
    }


def read(store: Objects, bucket: str, name: str, part: str | None) -> Answer:
    described = store.found(bucket, name)
    if described is None:
        raise Refused(404, "NoSuchKey")
    content, headers = store.get_file(bucket, name), facts(described)
    if part is None:
        return 200, headers, content
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", part)
    if asked is None or not any(asked.groups()):
        raise Refused(400, "NotImplemented")
    first, last = asked.groups()
    start = int(first) if first else max(0, len(content) - int(last))
    end = min(len(content), int(last) + 1) if first and last else len(content)
    if start >= len(content):
        raise Refused(416, "InvalidRange")
    return 206, headers | {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}, content[start:end]


def listed(store: Objects, bucket: str, query: dict[str, str]) -> Answer:
    """Return one page of names and common prefixes, sorted."""
    if query.get("list-type") != "2" or set(query) - {
        "list-type", "prefix", "delimiter", "start-after", "continuation-token", "max-keys",
    }:  # fmt: skip
        raise Refused(400, "NotImplemented")
    try:
        here, prefixes = store.get_file_list(bucket, query.get("prefix"), query.get("delimiter"))
    except NotFound:
        raise Refused(404, "NoSuchBucket") from None
    found = dict.fromkeys(prefixes) | {described["name"]: described for described in here}
    after = query.get("continuation-token", query.get("start-after", ""))
    names = sorted(name for name in found if name > after)
    page = names[: min(LISTED_AT_ONCE, int(query.get("max-keys", LISTED_AT_ONCE)))]
    cut = len(page) < len(names)
    shown: list[tuple[str, object]] = [("Name", bucket), ("KeyCount", len(page)), ("IsTruncated", str(cut).lower())]
    if cut:
        shown.append(("NextContinuationToken", page[-1]))
    for name in page:
        described = found[name]
        if described is None:
            shown.append(("CommonPrefixes", [("Prefix", name)]))
        else:
            attributes = [("Key", name), ("Generation", described["generation"]), ("Size", described["size"])]
            attributes += [("LastModified", described["updated"]), ("ETag", facts(described)["ETag"])]
            shown.append(("Contents", attributes))
    return 200, {"Content-Type": "application/xml; charset=UTF-8"}, document("ListBucketResult", shown)


def parts_of(store: Objects, query: dict[str, str]) -> dict[int, bytes]:
    if query["uploadId"] not in store.uploads:
        raise Refused(404, "NoSuchUpload")
    return store.uploads[query["uploadId"]]


def joined(parts: dict[int, bytes], body: bytes) -> bytes:
    """Join the parts that the client lists. Raises Refused for unknown, unordered or too small parts."""
    named = [int(number) for number in re.findall(rb"<PartNumber>(\d+)</PartNumber>", body)]
    if not named or named != sorted(set(named)) or not set(named) <= set(parts):
        raise Refused(400, "InvalidPart")
    if any(len(parts[number]) < SMALLEST_PART for number in named[:-1]):
        raise Refused(400, "EntityTooSmall")
    return b"".join(parts[number] for number in named)


def document(name: str, content: list[tuple[str, object]]) -> bytes:
    return ('<?xml version="1.0" encoding="UTF-8"?>' + element(name, content)).encode()


def element(name: str, content: object) -> str:
    inner = "".join(element(*each) for each in content) if isinstance(content, list) else escape(str(content))
    return f"<{name}>{inner}</{name}>"


class Server(ThreadingHTTPServer):
    request_queue_size = 128


def main() -> None:
    store = Objects(pause_s=float(sys.argv[2]))
    buckets.create_bucket(sys.argv[1], store)
    server = Server(("127.0.0.1", 0), partial(Handler, store))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
