"""Clients as their own process: send rows at a steady rate, each to the URL of its unit, and print a line per answer.

    python -m tests.drill.load ROWS URL RATE

Each line has the number of the row, the status, the version that answered, the seconds since the epoch, and the seconds that
the client waited. Rows are sent
in their order by `CLIENTS` threads; closing standard input ends the load.
"""

import json
import sys
import threading
import time
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pyarrow.parquet as pq

CLIENTS = 4


def send(client: int, rows: list[dict[str, object]], url: str, rate: float, ended: threading.Event) -> None:
    """Send every `CLIENTS`-th row when it is due."""
    parts, begun = urlsplit(url), time.monotonic()
    connection = HTTPConnection(parts.netloc, timeout=10)
    for number in range(client, len(rows), CLIENTS):
        if ended.wait(max(0.0, begun + number / rate - time.monotonic())):
            return
        row = rows[number]
        headers = {"x-unit": str(row["customer"]), "content-type": "application/json"}
        status, version, asked = 0, "", time.perf_counter()
        try:
            connection.request("POST", parts.path, json.dumps({"dataframe_records": [row]}), headers)
            response = connection.getresponse()
            response.read()
            status, version = response.status, response.headers.get("x-model-version", "")
        except OSError:
            connection.close()
        sys.stdout.write(
            f"{number} {status} {version or '-'} {time.time()} {time.perf_counter() - asked}\n"
        )  # one write, as the threads share it
        sys.stdout.flush()


if __name__ == "__main__":
    path, url, rate = sys.argv[1:]
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        row["at"] = row["at"].isoformat()
        del row["y"]
    ended = threading.Event()
    clients = [threading.Thread(target=send, args=(client, rows, url, float(rate), ended)) for client in range(CLIENTS)]
    for each in clients:
        each.start()
    sys.stdin.read()
    ended.set()
