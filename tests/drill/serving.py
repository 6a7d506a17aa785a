"""A model server as its own process: it predicts with one version, logs every answer, and can be made faulty.

    python -m tests.drill.serving MODEL VERSION FAULT LOG

It prints its address. The file FAULT names a fault and the time of the first faulty row. What the model cannot answer gets
status 500, and haproxy asks the other server.
"""

import json
import math
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa

from deployments.config.loading import load_model_config
from tasks.adapters import registry
from tasks.policy.comparison.predictions import MISSING_PREDICTION
from tests.drill.faults import Raised, Row, apply_fault
from tests.support.haproxy import ModelServer, Refused


class VersionServer(ModelServer):
    """Answers with a registered version."""

    def __init__(self, model: str, version: str, fault: Path, log: Path) -> None:
        super().__init__(version)
        config = load_model_config(model)
        self.features = config.columns.features.names
        self.scorer = registry.version_files.load_scorer(
            registry.version(config.name, version), config.training.imported
        )
        self.fault, self.log, self.lock = fault, log.open("a"), threading.Lock()

    def answer(self, path: str, unit: str, content: dict[str, object]) -> dict[str, object]:
        rows = content["dataframe_records"]
        assert isinstance(rows, list)
        begun, error, prediction = time.perf_counter(), None, math.nan
        try:
            prediction = self._predict(rows[0])
            error = None if math.isfinite(prediction) else MISSING_PREDICTION
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
            raise Refused(str(error))
        return {"predictions": [prediction]}

    def _predict(self, row: Row) -> float:
        table = pa.table({name: [row[name]] for name in self.features})
        named = json.loads(self.fault.read_text())
        return apply_fault(named["name"], named["begins"], float(self.scorer.predict(table)[0]), row)


if __name__ == "__main__":
    model, version, fault, log = sys.argv[1:]
    server = VersionServer(model, version, Path(fault), Path(log))
    print(server.address, flush=True)
    server.serve_forever()
