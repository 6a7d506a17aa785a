"""A model server as its own process: predicts with one version, logs every answer to a file, and can be made faulty.

    python -m tests.drill.serving MODEL VERSION ROLE LOG

It prints its port. `POST /fault` with a name and a time makes it answer rows from that time on with that fault. A prediction that is not finite
is answered with status 500, as a raised error is; haproxy then asks the champion.
"""

import hashlib
import json
import math
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa

from deployments.config.model import load_model_config
from tasks.adapters import registry
from tests.drill.faults import FAULTS, Raised, Row
from tests.support.haproxy import ModelServer, Refused

HEALTHY = FAULTS[0]


class VersionServer(ModelServer):
    """Answers with a registered version."""

    def __init__(self, model: str, version: str, role: str, log: Path) -> None:
        super().__init__(version)
        self.config = load_model_config(model)
        found = registry.version(self.config.name, version)
        self.scorer = registry.version_files.load_scorer(found, self.config.training.estimator)
        self.role, self.log, self.lock = role, log.open("a"), threading.Lock()
        self.fault, self.faulty_from = HEALTHY, ""

    def answer(self, path: str, unit: str, content: dict[str, object]) -> dict[str, object]:
        if path == "/fault":
            self.fault = next(fault for fault in FAULTS if fault.name == content["name"])
            self.faulty_from = str(content["from"])
            return {}
        begun, error, prediction = time.perf_counter(), None, math.nan
        rows = content["rows"]
        assert isinstance(rows, list)
        try:
            prediction = self._predict(rows[0])
        except Raised as raised:
            error = str(raised)
        entry = {
            "id": rows[0]["row"],
            "time": rows[0]["at"],
            "prediction": prediction if math.isfinite(prediction) else None,
            "unit": unit,
            "latency_s": time.perf_counter() - begun,
            "error": error,
        }
        with self.lock:
            self.log.write(json.dumps(entry) + "\n")
            self.log.flush()
        if not math.isfinite(prediction):
            raise Refused(error or "the prediction is not finite")
        return {"predictions": [prediction]}

    def _predict(self, row: Row) -> float:
        features = self.config.columns.features
        table = pa.table({name: [row[name]] for name in features.names})
        place = int(hashlib.sha256(str(row["row"]).encode()).hexdigest()[:8], 16) / 2**32
        prediction = float(self.scorer.predict(table)[0])
        return self.fault.answer(prediction, row, place) if str(row["at"]) >= self.faulty_from else prediction


if __name__ == "__main__":
    model, version, role, log = sys.argv[1:]
    server = VersionServer(model, version, role, Path(log))
    print(server.server_address[1], flush=True)
    server.serve_forever()
