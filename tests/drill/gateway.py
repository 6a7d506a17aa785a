"""Perennial's gateway as its own process, with a challenger that can be made faulty.

    python -m tests.drill.gateway MODEL VERSION FAULT

It is the gateway as `perennial gateway` runs it, except that answers of VERSION are changed by the fault that the file FAULT
names, for rows from a time on, and that its log lands every second.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from infra.gateway import server
from infra.gateway.requests import Row
from infra.gateway.trees import Prediction
from infra.gateway.versions import ServedVersion
from tests.drill.faults import apply_fault

predict = ServedVersion.predict


if __name__ == "__main__":
    model, number, path = sys.argv[1:]

    def predict_with_fault(
        version: ServedVersion, rows: Sequence[Row], numbers: Sequence[int] | None = None
    ) -> list[Prediction]:
        found = predict(version, rows, numbers)
        if version.number != number:
            return found
        named = json.loads(Path(path).read_text())
        begins = str(named["begins"])
        return [apply_fault(named["name"], begins, float(each), row) for each, row in zip(found, rows, strict=True)]

    ServedVersion.predict = predict_with_fault
    sys.exit(server.run([model], server.GatewayOptions(port=0, land_s=1.0)))
